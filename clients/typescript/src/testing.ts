import { type Backend, type Entitlements, overBackend } from "./entitlements.js";
import { requireId } from "./questions.js";
import type { Decision, FeatureQuestion, Listing, PlanQuestion, Subject } from "./types.js";

/** The features of a test: `true` and `false` allow and deny, a number allows with this limit. */
export type FakeFeatures<F extends string = string> = { readonly [feature in F]?: boolean | number };

/** The settings of a test double. */
export interface FakeOptions<P extends string = string> {
  /** The plans that every customer has. */
  readonly plans?: readonly P[];
}

/**
 * Answers like a client, from memory: `fakeEntitlements({ export: true, projects: 25 })`. A feature that is not given
 * is denied with `REASON_UNKNOWN_FEATURE`. Pass a function to answer by customer, or one that throws an
 * `EntitlementsError` to test an outage.
 */
export function fakeEntitlements<F extends string = string, P extends string = string>(
  features: FakeFeatures<NoInfer<F>> | ((subject: Subject) => FakeFeatures<NoInfer<F>>),
  { plans = [] }: FakeOptions<NoInfer<P>> = {},
): Entitlements<F, P> {
  const of = typeof features === "function" ? features : () => features;
  return overBackend(new Fake<F, P>(of as (subject: Subject) => FakeFeatures, plans));
}

class Fake<F extends string, P extends string> implements Backend<F, P> {
  readonly defaultsUsed = 0;
  readonly #features: (subject: Subject) => FakeFeatures;
  readonly #plans: readonly string[];

  constructor(features: (subject: Subject) => FakeFeatures, plans: readonly string[]) {
    this.#features = features;
    this.#plans = plans;
  }

  async feature(question: FeatureQuestion<F>): Promise<Decision> {
    const features = this.#of(question);
    const slug = Object.hasOwn(features, question.feature) ? question.feature : unscoped(question.feature);
    const value = Object.hasOwn(features, slug) ? features[slug] : undefined;
    if (value === undefined) return decision(question, false, "REASON_UNKNOWN_FEATURE");
    if (value === false) return decision(question, false, "REASON_NOT_IN_PLAN");
    return { ...decision(question, true, "REASON_PLAN"), limit: value === true ? undefined : value };
  }

  async features(questions: readonly FeatureQuestion<F>[]): Promise<Decision[]> {
    return Promise.all(questions.map((question) => this.feature(question)));
  }

  async plan(question: PlanQuestion<P>): Promise<Decision> {
    requireId(question);
    const allowed = this.#plans.includes(question.plan) || this.#plans.includes(unscoped(question.plan));
    return decision(question, allowed, allowed ? "REASON_PLAN" : "REASON_NOT_IN_PLAN");
  }

  async list(subject: Subject): Promise<Listing> {
    const granted = Object.entries(this.#of(subject)).filter(([, value]) => value !== false && value !== undefined);
    const entitlements = granted.sort().map(([feature, value]) => ({
      feature,
      reason: "REASON_PLAN" as const,
      limit: typeof value === "number" ? value : undefined,
      exactLimit: false,
    }));
    const ids = [subject.userId, subject.orgId].filter((id) => typeof id === "string" && id !== "") as string[];
    const accounts = ids.map((id) => ({ subject: id, entitlements, items: [], denied: [] }));
    const receipt = { revision: "fake", checkedAt: new Date(), stale: false };
    return { accounts, ...receipt, catalog: 1, freshness: "FRESHNESS_FRESH" };
  }

  #of(subject: Subject): FakeFeatures {
    requireId(subject);
    return this.#features(subject);
  }
}

function decision(subject: Subject, allowed: boolean, reason: Decision["reason"]): Decision {
  const id = subject.userId || subject.orgId || undefined;
  return { allowed, reason, subject: id, revision: "fake", checkedAt: new Date(), stale: false };
}

function unscoped(slug: string): string {
  return slug.replace(/^(user|u|org|o|organization):/, "");
}
