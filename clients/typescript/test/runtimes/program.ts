/**
 * The program that every runtime runs: it asks the service, and compares the answers with what is expected. It uses
 * nothing but the package and the web's globals.
 */
import { createEntitlements, EntitlementsError, type Fetch, type Options } from "@entitlements/client";

/** The service, and what it must answer. All values are texts, as in environment variables. */
export interface Settings {
  readonly ENTITLEMENTS_URL: string;
  /** Absent if the service asks for no key. */
  readonly ENTITLEMENTS_KEY?: string | undefined;
  /** A user who may use the allowed feature, but not the denied one. */
  readonly ENTITLEMENTS_USER: string;
  readonly ENTITLEMENTS_ALLOWED: string;
  readonly ENTITLEMENTS_DENIED: string;
  /** A plan of the user. */
  readonly ENTITLEMENTS_PLAN: string;
  /** An address at which nothing listens. */
  readonly AWAY_URL: string;
  /** An address that redirects to the service. */
  readonly REDIRECT_URL: string;
}

/** The last line, so that a program that ends early is noticed. */
export const LAST_LINE = "ok end";

/** Returns one line for each behaviour. A line that does not begin with "ok" is a failure. */
export async function run(settings: Settings): Promise<string[]> {
  const lines: string[] = [];
  for (const [name, behaves] of Object.entries(behaviours(settings))) {
    const result = await behaves().catch((thrown: unknown) => `threw ${String(thrown)}`);
    lines.push(result === true ? `ok ${name}` : `FAILED ${name}: ${JSON.stringify(result)}`);
  }
  return [...lines, LAST_LINE];
}

/** Each returns `true`, or what it saw instead. */
function behaviours(settings: Settings): Record<string, () => Promise<unknown>> {
  const { ENTITLEMENTS_URL: url, ENTITLEMENTS_KEY: key, ENTITLEMENTS_USER: userId } = settings;
  const { ENTITLEMENTS_ALLOWED: allowed, ENTITLEMENTS_DENIED: denied, ENTITLEMENTS_PLAN: plan } = settings;
  const client = (options: Partial<Options> = {}) => createEntitlements({ url, key, timeoutMs: 5000, ...options });
  const user = (options?: Partial<Options>) => client(options).for({ userId });

  return {
    "a granted feature is allowed": async () => same(await user().can(allowed), true),
    "a feature of another plan is denied": async () => same(await user().can(denied), false),
    "an unknown feature is denied with a reason": async () =>
      same((await user().check("no_such_feature")).reason, "REASON_UNKNOWN_FEATURE"),
    "a decision has a revision and a date": async () => {
      const { revision, checkedAt } = await user().check(allowed);
      return (typeof revision === "string" && checkedAt instanceof Date) || { revision, checkedAt };
    },
    "a denied feature has the limit 0": async () => same(await user().limit(denied), 0),
    "several features are answered at once": async () => {
      const answers = await user().checkAll([allowed, denied]);
      return same([answers[allowed]?.allowed, answers[denied]?.allowed], [true, false]);
    },
    "a plan is found": async () => same(await user().plan(plan), true),
    "a list names the user and the feature": async () => {
      const [account] = (await user().list()).accounts;
      return same([account?.subject, account?.entitlements.some((e) => e.feature === allowed)], [userId, true]);
    },
    "a wrong key is unauthenticated": async () =>
      key ? same(await codeOf(user({ key: "ent_nobody_wrong" }).can(allowed)), "unauthenticated") : true,
    "an invalid id is an invalid argument": async () =>
      same(await codeOf(client({ onError: true }).for({ userId: "nobody" }).can(allowed)), "invalid_argument"),
    "a default replaces a service that is away, and is counted": async () => {
      const events: unknown[] = [];
      const away = client({ url: settings.AWAY_URL, onError: true, onDefault: ({ error }) => events.push(error.code) });
      return same([await away.for({ userId }).can(denied), away.defaultsUsed, events], [true, 1, ["unavailable"]]);
    },
    "a call ends at its timeout": async () =>
      same(await codeOf(user({ fetch: silent, timeoutMs: 50 }).can(allowed)), "deadline_exceeded"),
    "an abort ends a call": async () => {
      const controller = new AbortController();
      setTimeout(() => controller.abort(), 20);
      return same(await codeOf(user({ fetch: silent }).can(allowed, { signal: controller.signal })), "canceled");
    },
    "UNAVAILABLE is retried until success": async () => {
      let calls = 0;
      const flaky: Fetch = async (input, init) => {
        calls += 1;
        return calls === 1 ? new Response("starting", { status: 503 }) : fetch(input, init);
      };
      return same([await user({ fetch: flaky }).can(allowed), calls], [true, 2]);
    },
    "a redirect is not followed": async () =>
      same(await codeOf(user({ url: settings.REDIRECT_URL }).can(allowed)), "unimplemented"),
  };
}

/** A fetch that answers never, and ends when its signal is aborted. */
const silent: Fetch = (_, init) =>
  new Promise((_, reject) => init.signal?.addEventListener("abort", () => reject(init.signal?.reason)));

async function codeOf(call: Promise<unknown>): Promise<unknown> {
  try {
    return { answered: await call };
  } catch (thrown) {
    return thrown instanceof EntitlementsError ? thrown.code : String(thrown);
  }
}

function same(actual: unknown, expected: unknown): unknown {
  return JSON.stringify(actual) === JSON.stringify(expected) || { actual, expected };
}
