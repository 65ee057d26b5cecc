/** Converts the messages of the service to plain objects: dates, numbers, and `undefined` for what is empty. */
import { type Duration, type Timestamp, timestampDate } from "@bufbuild/protobuf/wkt";
import * as pb from "./gen/entitlements/v1/entitlements_pb.js";
import type { Account, Decision, Item, Listing, Reason } from "./types.js";

export function toDecision(answer: pb.CheckFeatureResponse | pb.CheckPlanResponse): Decision {
  return {
    allowed: answer.allowed,
    reason: toReason(answer.reason),
    subject: answer.subject || undefined,
    plan: answer.plan || undefined,
    limit: "limit" in answer ? toNumber(answer.limit) : undefined,
    validUntil: toDate(answer.validUntil),
    revision: answer.revision,
    checkedAt: toDate(answer.checkedAt) ?? new Date(),
    stale: answer.staleFor !== undefined,
    staleForMs: toMs(answer.staleFor),
  };
}

export function toListing(answer: pb.ListEntitlementsResponse): Listing {
  return {
    accounts: answer.accounts.map(toAccount),
    revision: answer.revision,
    checkedAt: toDate(answer.checkedAt) ?? new Date(),
    stale: answer.staleFor !== undefined,
    staleForMs: toMs(answer.staleFor),
    catalog: toNumber(answer.catalog),
    freshness: `FRESHNESS_${(pb.Freshness[answer.freshness] ?? answer.freshness) as keyof typeof pb.Freshness}`,
  };
}

function toAccount(account: pb.Account): Account {
  return {
    subject: account.subject,
    entitlements: account.entitlements.map((e) => ({
      feature: e.feature,
      reason: toReason(e.reason),
      plan: e.plan || undefined,
      limit: toNumber(e.limit),
      validUntil: toDate(e.validUntil),
      exactLimit: e.exactLimit,
    })),
    items: account.items.map(toItem),
    defaultPlan: account.defaultPlan || undefined,
    deletedAt: toDate(account.deletedAt),
    denied: account.denied.map((d) => ({ feature: d.feature, validUntil: toDate(d.validUntil) })),
    validUntil: toDate(account.validUntil),
  };
}

function toItem(item: pb.Item): Item {
  return {
    id: item.id,
    plan: item.plan || undefined,
    status: item.status,
    live: item.live,
    reason: toReason(item.reason),
    freeTrial: item.freeTrial,
    periodStart: toDate(item.periodStart),
    periodEnd: toDate(item.periodEnd),
    canceledAt: toDate(item.canceledAt),
    seats: item.seats && (toNumber(item.seats.quantity) ?? Infinity),
    updatedAt: toDate(item.updatedAt),
  };
}

function toReason(reason: pb.Reason): Reason {
  return `REASON_${(pb.Reason[reason] ?? reason) as keyof typeof pb.Reason}`;
}

function toNumber(value: bigint): number;
function toNumber(value: bigint | undefined): number | undefined;
function toNumber(value: bigint | undefined): number | undefined {
  return value === undefined ? undefined : Math.min(Number(value), Number.MAX_SAFE_INTEGER);
}

function toDate(value: Timestamp | undefined): Date | undefined {
  return value && timestampDate(value);
}

function toMs(value: Duration | undefined): number | undefined {
  return value && Number(value.seconds) * 1000 + value.nanos / 1e6;
}
