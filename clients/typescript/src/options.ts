import { EntitlementsError } from "./errors.js";
import type { Question } from "./types.js";

/**
 * The answer to use if the service cannot be asked: `false` denies, `true` allows without a limit, a number allows with
 * this limit. `undefined` means that there is none, so the call throws.
 */
export type Default = boolean | number | undefined;

/**
 * A default for all questions, or a function that chooses one for each question:
 * `({ feature }) => feature === "export"`.
 */
export type OnError<F extends string = string, P extends string = string> =
  Default | ((question: Question<F, P>, error: EntitlementsError) => Default);

/** Reports that a default was used instead of an answer. */
export interface DefaultEvent<F extends string = string, P extends string = string> {
  readonly question: Question<F, P>;
  /** The answer that the caller got. */
  readonly allowed: boolean;
  /** Why the service could not be asked. */
  readonly error: EntitlementsError;
}

/** What a client needs of `fetch`. */
export type Fetch = (url: string, init: RequestInit) => Promise<Response>;

/** The settings of a client. */
export interface Options<F extends string = string, P extends string = string> {
  /**
   * The service, such as `https://entitlements.internal:50051`. It must serve the Connect protocol. If it is undefined,
   * each call throws, not `createEntitlements`: frameworks load modules also to build, where no variable may be set.
   */
  readonly url: string | undefined;
  /**
   * An API key with the scope `check`, from `entitlements keys create`. It stays on the server: in a browser, a key
   * throws.
   */
  readonly key?: string | undefined;
  /** The time for one call with all its retries, in milliseconds. Default: 500. */
  readonly timeoutMs?: number | undefined;
  /** How often a call is repeated if the service is unavailable. Default: 2. */
  readonly retries?: number | undefined;
  /** The answer if the service cannot be asked. Default: none, so the call throws an `EntitlementsError`. */
  readonly onError?: OnError<F, P>;
  /** Called each time a default is used. Without it, the first use for each error code is logged as a warning. */
  readonly onDefault?: ((event: DefaultEvent<F, P>) => void) | undefined;
  /** The `fetch` to use. It must observe `signal`. Default: the global one. */
  readonly fetch?: Fetch | undefined;
  /** Allows a key where `window` and `document` exist, such as in jsdom. Never set it in code that browsers load. */
  readonly dangerouslyAllowBrowser?: boolean | undefined;
}

/** The settings of one call. */
export interface CallOptions<F extends string = string, P extends string = string> {
  /** The time for this call with all its retries, in milliseconds. */
  readonly timeoutMs?: number | undefined;
  /** Ends the call when it is aborted; the call then throws, even if there is a default. */
  readonly signal?: AbortSignal | undefined;
  /** A `revision` from an earlier answer: this answer comes from the same state or a newer one. */
  readonly atLeast?: string | undefined;
  /** Reads the database instead of the cache, for example after a checkout. Outranks `atLeast`. */
  readonly fullyConsistent?: boolean | undefined;
  /** How stale the answer may be while the service cannot reach its database, in milliseconds. */
  readonly maxStalenessMs?: number | undefined;
  /** The default of this call, instead of the default of the client. */
  readonly onError?: OnError<F, P>;
}

const LONGEST_TIMEOUT_MS = 2 ** 31 - 1; // setTimeout fires at once for a larger number

/** Throws if an option is wrong, so that a mistake is found when the program starts. */
export function validate(options: Options<never, never>): void {
  const { url, key, timeoutMs = 1, retries = 0 } = options;
  if (url !== undefined) validateUrl(url);
  validateTimeout(timeoutMs);
  if (!Number.isInteger(retries) || retries < 0) {
    throw invalid(`retries: ${retries} is not a whole number of at least 0`);
  }
  if (key !== undefined) validateKey(key, options.dangerouslyAllowBrowser === true);
}

/** Throws if the URL is missing or wrong. */
export function validateUrl(url: string | undefined): asserts url is string {
  if (url === undefined || !/^https?:\/\/[^/]/.test(url)) {
    throw invalid(`url: ${JSON.stringify(url)} is not an HTTP URL; pass one such as "http://127.0.0.1:50051"`);
  }
}

/** Throws if the timeout is not a positive number of milliseconds. */
export function validateTimeout(timeoutMs: number): void {
  if (!(timeoutMs > 0 && timeoutMs <= LONGEST_TIMEOUT_MS)) {
    throw invalid(`timeoutMs: ${timeoutMs} is out of range; pass milliseconds from 1 to ${LONGEST_TIMEOUT_MS}`);
  }
}

function validateKey(key: string, browserAllowed: boolean): void {
  // The messages must not contain the key.
  if (!/^[\x21-\x7e]+$/.test(key)) {
    throw invalid(
      "key: is empty, or contains a space or line break; pass the key as `entitlements keys create` printed it",
    );
  }
  if (!browserAllowed && "window" in globalThis && "document" in globalThis) {
    throw invalid(
      "key: this program runs in a browser, where every visitor can read the key; ask on your server, and send only " +
        "the answer to the browser. In tests with jsdom, use `fakeEntitlements`, or set `dangerouslyAllowBrowser`",
    );
  }
}

function invalid(message: string): EntitlementsError {
  return new EntitlementsError("invalid_argument", message);
}
