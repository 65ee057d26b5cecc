import type { EntitlementsError } from "./errors.js";
import type { Freshness as FreshnessEnum, Reason as ReasonEnum } from "./gen/entitlements/v1/entitlements_pb.js";

/**
 * Why a feature or plan is allowed or denied: the names of the enum `Reason` in entitlements.proto. A reason that is
 * newer than this package appears with its number, such as `REASON_99`.
 */
export type Reason = `REASON_${keyof typeof ReasonEnum}` | `REASON_${number}`;

/** How current the replica that answered is: the names of the enum `Freshness` in entitlements.proto. */
export type Freshness = `FRESHNESS_${keyof typeof FreshnessEnum}` | `FRESHNESS_${number}`;

/**
 * The customer that a question is about. At least one id is required. Clerk's `auth()` returns an object of this shape.
 */
export interface Subject {
  /** The user, `user_…`. */
  readonly userId?: string | null | undefined;
  /** The active organization, `org_…`. */
  readonly orgId?: string | null | undefined;
}

/** A slug, with or without a scope: `sso`, or `org:sso` if only what the organization has counts. */
export type Scoped<S extends string> = S | `${"user" | "u" | "org" | "o" | "organization"}:${S}`;

/** A question about a feature. */
export interface FeatureQuestion<F extends string = string> extends Subject {
  readonly feature: Scoped<F>;
  readonly plan?: undefined;
}

/** A question about a plan. */
export interface PlanQuestion<P extends string = string> extends Subject {
  readonly plan: Scoped<P>;
  readonly feature?: undefined;
}

/** A question that the service could not be asked. */
export type Question<F extends string = string, P extends string = string> = FeatureQuestion<F> | PlanQuestion<P>;

/** The answer to one question. */
export interface Decision {
  /** Whether the feature may be used now, or whether the subject has the plan. */
  readonly allowed: boolean;
  /** Why. `REASON_UNSPECIFIED` if `error` is set. */
  readonly reason: Reason;
  /** The id of the user or organization that the answer is about. */
  readonly subject?: string | undefined;
  /** The slug of the plan behind the reason. */
  readonly plan?: string | undefined;
  /**
   * The number that comes with the feature, such as 25 projects. Absent if the feature has no limit or is denied. A
   * limit above `Number.MAX_SAFE_INTEGER` is reported as `Number.MAX_SAFE_INTEGER`.
   */
  readonly limit?: number | undefined;
  /** The first instant at which the passing of time alone can change the answer. Absent: never. */
  readonly validUntil?: Date | undefined;
  /** A token for the state behind the answer, for `atLeast`. Absent if `error` is set. */
  readonly revision?: string | undefined;
  /** When the question was decided. */
  readonly checkedAt: Date;
  /** Whether the answer comes from the memory of a service that cannot reach its database. */
  readonly stale: boolean;
  /** How long ago the service last read all changes, in milliseconds. Absent unless `stale`. */
  readonly staleForMs?: number | undefined;
  /** Why the service could not be asked. If it is set, `allowed` is the default that `onError` chose. */
  readonly error?: EntitlementsError | undefined;
}

/** What a user or organization may use, and why. */
export interface Listing {
  /** One account for each id of the question: the user first, then the organization. */
  readonly accounts: readonly Account[];
  readonly revision: string;
  readonly checkedAt: Date;
  readonly stale: boolean;
  /** How long ago the service last read all changes, in milliseconds. */
  readonly staleForMs?: number | undefined;
  /** The version of the catalog in use; 0 if there is no catalog yet. */
  readonly catalog: number;
  readonly freshness: Freshness;
}

/** The entitlements and subscription items of one user or organization. */
export interface Account {
  readonly subject: string;
  /** Every feature that may be used now, ordered by slug. */
  readonly entitlements: readonly Entitlement[];
  /** Every stored subscription item, live or not, newest period first. */
  readonly items: readonly Item[];
  /** The default plan, if it applies. */
  readonly defaultPlan?: string | undefined;
  /** When the user or organization was deleted in Clerk. */
  readonly deletedAt?: Date | undefined;
  /** Every feature that an override denies now, ordered by slug. */
  readonly denied: readonly DeniedFeature[];
  /** The first instant at which the passing of time alone can change this account. Absent: never. */
  readonly validUntil?: Date | undefined;
}

/** One feature that may be used now. */
export interface Entitlement {
  readonly feature: string;
  readonly reason: Reason;
  /** The plan that grants the feature longest. Absent if an override grants it. */
  readonly plan?: string | undefined;
  readonly limit?: number | undefined;
  readonly validUntil?: Date | undefined;
  /** Whether an override sets the limit exactly, even if another grant has a larger one. */
  readonly exactLimit: boolean;
}

/** One feature that an override denies. */
export interface DeniedFeature {
  readonly feature: string;
  readonly validUntil?: Date | undefined;
}

/** One Clerk subscription item: one plan that a subject holds over a period. */
export interface Item {
  /** Clerk's id, `csub_item_…`. */
  readonly id: string;
  readonly plan?: string | undefined;
  /** Clerk's last reported status, or `withdrawn`. */
  readonly status: string;
  /** Whether the item grants its plan now. */
  readonly live: boolean;
  readonly reason: Reason;
  readonly freeTrial: boolean;
  readonly periodStart?: Date | undefined;
  readonly periodEnd?: Date | undefined;
  readonly canceledAt?: Date | undefined;
  /** The number of seats bought; `Infinity` if unlimited. Absent if the plan has no seats. */
  readonly seats?: number | undefined;
  readonly updatedAt?: Date | undefined;
}
