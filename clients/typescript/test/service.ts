/** A small service with the protocol of the real one, for tests: fixed answers, API keys, and faults on demand. */
import * as http from "node:http";
import type { AddressInfo } from "node:net";
import { Code, ConnectError, type ConnectRouter, type Interceptor } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { create } from "@bufbuild/protobuf";
import { durationFromMs, timestampFromDate } from "@bufbuild/protobuf/wkt";
import * as pb from "@entitlements/client/proto";

export const KEY = "ent_test_key";
export const USER = "user_3jKRaOPcHB95IyjLKz2dmcVGvBR";
export const CHECKED_AT = new Date("2026-11-24T01:20:26.711Z");
export const VALID_UNTIL = new Date("2026-12-01T00:00:00Z");

/** What happens to the next calls, before they are answered: a status, a wait, or `undefined` for nothing. */
export type Fault = Code | { waitMs: number } | undefined;

export interface Service {
  readonly url: string;
  /** The requests so far. */
  readonly requests: { method: string; headers: Headers; message: unknown }[];
  /** One fault for each of the next calls. */
  faults: Fault[];
  close(): Promise<void>;
}

export async function startService(): Promise<Service> {
  const requests: Service["requests"] = [];
  const service = { requests, faults: [] as Fault[] };
  const record: Interceptor = (next) => async (request) => {
    requests.push({ method: request.method.name, headers: request.header, message: request.message });
    if (request.header.get("authorization") !== `Bearer ${KEY}`) {
      throw new ConnectError("a valid API key is required", Code.Unauthenticated);
    }
    await suffer(service.faults.shift(), request.signal);
    return next(request);
  };
  return Object.assign(service, await serve(connectNodeAdapter({ routes, interceptors: [record] })));
}

/** An address at which nothing listens. */
export async function awayUrl(): Promise<string> {
  const { url, close } = await startService();
  await close();
  return url;
}

/** A server that redirects each request to another server. */
export async function redirectTo(target: string): Promise<{ url: string; close(): Promise<void> }> {
  return serve((request, response) => response.writeHead(307, { location: target + request.url }).end());
}

/** A server on a free port of this machine. */
export async function serve(handler: http.RequestListener): Promise<{ url: string; close(): Promise<void> }> {
  const server = http.createServer(handler);
  await new Promise<void>((listening) => server.listen(0, "127.0.0.1", listening));
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, close: () => close(server) };
}

async function suffer(fault: Fault, signal: AbortSignal): Promise<void> {
  if (typeof fault === "number") throw new ConnectError("a fault of the test", fault);
  if (fault === undefined) return;
  await new Promise((resolve) => {
    const timer = setTimeout(resolve, fault.waitMs);
    signal.addEventListener("abort", () => (clearTimeout(timer), resolve(undefined)));
  });
}

function close(server: http.Server): Promise<void> {
  server.closeAllConnections();
  return new Promise((closed) => server.close(() => closed()));
}

function routes(router: ConnectRouter): void {
  router.service(pb.Entitlements, {
    checkFeature: answer,
    checkFeatures: ({ questions }) => ({ answers: questions.map(answer) }),
    checkPlan: (request) => {
      requireId(request);
      const { limit: _, ...plain } = decision(request.plan === "pro", pb.Reason.PLAN, pb.Reason.NOT_IN_PLAN);
      return create(pb.CheckPlanResponseSchema, { ...plain, $typeName: "entitlements.v1.CheckPlanResponse" });
    },
    listEntitlements: (request) => {
      requireId(request);
      return listing();
    },
  });
}

function answer(request: pb.CheckFeatureRequest): pb.CheckFeatureResponse {
  requireId(request);
  switch (request.feature) {
    case "export":
      return decision(true, pb.Reason.PLAN);
    case "projects":
      return { ...decision(true, pb.Reason.PLAN), limit: 25n };
    case "events":
      return { ...decision(true, pb.Reason.PLAN), limit: 2n ** 64n - 1n };
    case "stale":
      return create(pb.CheckFeatureResponseSchema, {
        ...decision(true, pb.Reason.PLAN),
        staleFor: durationFromMs(2500),
      });
    case "newer":
      return decision(true, 42 as pb.Reason);
    case "sso":
      return decision(false, pb.Reason.NOT_IN_PLAN);
    default:
      return { ...decision(false, pb.Reason.UNKNOWN_FEATURE), subject: "", plan: "" };
  }
}

function decision(allowed: boolean, reason: pb.Reason, otherwise = reason): pb.CheckFeatureResponse {
  return create(pb.CheckFeatureResponseSchema, {
    allowed,
    reason: allowed ? reason : otherwise,
    subject: USER,
    plan: "pro",
    revision: "1.1_57236434cfa1cdc0.1",
    checkedAt: timestampFromDate(CHECKED_AT),
    ...(allowed ? { validUntil: timestampFromDate(VALID_UNTIL) } : {}),
  });
}

function requireId({ userId, organizationId }: { userId: string; organizationId: string }): void {
  if (userId !== "" && !userId.startsWith("user_"))
    throw new ConnectError("user_id: is not the id of a user", Code.InvalidArgument);
  if (userId === "" && organizationId === "") throw new ConnectError("user_id: is empty", Code.InvalidArgument);
}

function listing(): pb.ListEntitlementsResponse {
  return create(pb.ListEntitlementsResponseSchema, {
    revision: "1.1_57236434cfa1cdc0.1",
    checkedAt: timestampFromDate(CHECKED_AT),
    catalog: 3n,
    freshness: pb.Freshness.FRESH,
    accounts: [
      {
        subject: USER,
        entitlements: [
          { feature: "export", reason: pb.Reason.PLAN, plan: "pro" },
          { feature: "projects", reason: pb.Reason.PLAN, plan: "pro", limit: 25n },
        ],
        denied: [{ feature: "sso" }],
        items: [
          {
            id: "csub_item_1",
            plan: "pro",
            status: "active",
            live: true,
            reason: pb.Reason.PLAN,
            seats: { quantity: 5n },
          },
        ],
      },
    ],
  });
}
