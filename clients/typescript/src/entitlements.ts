import type { CallOptions } from "./options.js";
import type { Decision, FeatureQuestion, Listing, PlanQuestion, Scoped, Subject } from "./types.js";

/**
 * Asks about features and plans. Every method rejects with an `EntitlementsError` if the service cannot be asked and
 * `onError` chose no default, if a question is wrong, or if the caller's `signal` is aborted.
 */
export interface Entitlements<F extends string = string, P extends string = string> {
  /** Chooses the customer to ask about. Makes no call. */
  for(subject: Subject): SubjectEntitlements<F, P>;
  /** Asks up to 100 questions about any customers in one call. The answers are in the order of the questions. */
  checkMany(questions: readonly FeatureQuestion<F>[], options?: CallOptions<F, P>): Promise<Decision[]>;
  /** How many answers of this client were defaults that `onError` chose. */
  readonly defaultsUsed: number;
}

/** Asks about one user, one organization, or a user in an organization. */
export interface SubjectEntitlements<F extends string = string, P extends string = string> {
  /** Whether the feature may be used now. */
  can(feature: Scoped<F>, options?: CallOptions<F, P>): Promise<boolean>;
  /** The whole decision about a feature. It is an object even for a denial: test `allowed`. */
  check(feature: Scoped<F>, options?: CallOptions<F, P>): Promise<Decision>;
  /** The number that comes with a feature: 0 if it is denied, `Infinity` if it has no limit. */
  limit(feature: Scoped<F>, options?: CallOptions<F, P>): Promise<number>;
  /** The decisions about up to 100 features in one call, by feature, all from the same state. */
  checkAll<K extends Scoped<F>>(features: readonly K[], options?: CallOptions<F, P>): Promise<Record<K, Decision>>;
  /** Whether the customer has the plan, as Clerk's `has({ plan })` does. */
  plan(plan: Scoped<P>, options?: CallOptions<F, P>): Promise<boolean>;
  /** The whole decision about a plan. It is an object even for a denial: test `allowed`. */
  checkPlan(plan: Scoped<P>, options?: CallOptions<F, P>): Promise<Decision>;
  /** Everything that the customer may use, and the subscription items. `onError` does not apply: a failure throws. */
  list(options?: CallOptions<F, P>): Promise<Listing>;
}

/** The calls behind the interface: to the service, or to a test double. */
export interface Backend<F extends string, P extends string> {
  feature(question: FeatureQuestion<F>, options: CallOptions<F, P>): Promise<Decision>;
  features(questions: readonly FeatureQuestion<F>[], options: CallOptions<F, P>): Promise<Decision[]>;
  plan(question: PlanQuestion<P>, options: CallOptions<F, P>): Promise<Decision>;
  list(subject: Subject, options: CallOptions<F, P>): Promise<Listing>;
  readonly defaultsUsed: number;
}

/** Gives a backend the interface that people use. */
export function overBackend<F extends string, P extends string>(backend: Backend<F, P>): Entitlements<F, P> {
  return {
    for: (subject) => forSubject(backend, subject),
    checkMany: (questions, options = {}) => backend.features(questions, options),
    get defaultsUsed() {
      return backend.defaultsUsed;
    },
  };
}

function forSubject<F extends string, P extends string>(
  backend: Backend<F, P>,
  { userId, orgId }: Subject,
): SubjectEntitlements<F, P> {
  const subject = { userId, orgId };
  const check = (feature: Scoped<F>, options = {}) => backend.feature({ ...subject, feature }, options);
  const checkPlan = (plan: Scoped<P>, options = {}) => backend.plan({ ...subject, plan }, options);
  return {
    can: async (feature, options) => (await check(feature, options)).allowed,
    check,
    limit: async (feature, options) => limitOf(await check(feature, options)),
    async checkAll<K extends Scoped<F>>(features: readonly K[], options = {}) {
      const questions = features.map((feature) => ({ ...subject, feature }));
      const answers = await backend.features(questions, options);
      return Object.fromEntries(features.map((feature, i) => [feature, answers[i]])) as Record<K, Decision>;
    },
    plan: async (plan, options) => (await checkPlan(plan, options)).allowed,
    checkPlan,
    list: (options = {}) => backend.list(subject, options),
  };
}

function limitOf({ allowed, limit }: Decision): number {
  return allowed ? (limit ?? Infinity) : 0;
}
