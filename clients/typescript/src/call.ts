import { abortError, type Call, EntitlementsError, toError } from "./errors.js";

const FIRST_PAUSE_MS = 20;
const LONGEST_PAUSE_MS = 200;

/** The limits of one call. */
export interface Limits extends Call {
  readonly retries: number;
}

/** The part of Connect's call options that a try needs. */
export interface Try {
  readonly timeoutMs: number;
  readonly signal?: AbortSignal;
}

/**
 * Runs a read, and repeats it while the service is unavailable, within the timeout. All calls of this package are
 * reads, so repeating one is always safe.
 */
export async function withRetries<T>(limits: Limits, run: (options: Try) => Promise<T>): Promise<T> {
  const { timeoutMs, signal, retries } = limits;
  const deadline = performance.now() + timeoutMs;
  for (let failures = 0; ; failures += 1) {
    try {
      const left = Math.max(1, Math.ceil(deadline - performance.now()));
      return await run(signal ? { timeoutMs: left, signal } : { timeoutMs: left });
    } catch (thrown) {
      const error = toError(thrown, limits);
      const pause = pauseMs(failures);
      const inTime = performance.now() + pause < deadline;
      if (error.code !== "unavailable" || failures >= retries || !inTime) throw error;
      await sleep(pause, signal);
    }
  }
}

/** A random pause, so that callers that failed together do not return together. */
function pauseMs(failures: number): number {
  return Math.random() * Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** failures);
}

function sleep(ms: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(done, ms);
    signal?.addEventListener("abort", aborted);
    function done(): void {
      signal?.removeEventListener("abort", aborted);
      resolve();
    }
    function aborted(): void {
      clearTimeout(timer);
      signal?.removeEventListener("abort", aborted);
      reject(abortError(signal?.reason) satisfies EntitlementsError);
    }
  });
}
