import { Code, ConnectError } from "@connectrpc/connect";

/** The kinds of errors: the status codes of gRPC and Connect. */
export type ErrorCode =
  | "canceled"
  | "unknown"
  | "invalid_argument"
  | "deadline_exceeded"
  | "not_found"
  | "already_exists"
  | "permission_denied"
  | "resource_exhausted"
  | "failed_precondition"
  | "aborted"
  | "out_of_range"
  | "unimplemented"
  | "internal"
  | "unavailable"
  | "data_loss"
  | "unauthenticated";

/** A question without an answer. A denial is an answer, so it is never an error. */
export class EntitlementsError extends Error {
  /**
   * What happened: `unauthenticated` (wrong key), `permission_denied` (the key lacks the scope `check`), `unavailable`
   * (no connection, or the service is overloaded), `deadline_exceeded` (no answer in time), `invalid_argument` (a wrong
   * id, slug or option), `canceled` (the caller's signal), `unimplemented` (the URL is not the service), or another
   * status code.
   */
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }

  override get name(): string {
    return "EntitlementsError";
  }
}

/** The circumstances of a call, for its error message. */
export interface Call {
  readonly url: string;
  readonly timeoutMs: number;
  readonly signal?: AbortSignal | undefined;
}

/** Converts whatever a call threw. The message says what is wrong, and then what to do about it. */
export function toError(thrown: unknown, call: Call): EntitlementsError {
  if (thrown instanceof EntitlementsError) return thrown;
  if (call.signal?.aborted) return abortError(call.signal.reason);
  const { code, rawMessage } = ConnectError.from(thrown);
  // The caller did not abort, so the timeout did. Connect loses this reason in Workers of an older compatibility date.
  const name = code === Code.Canceled ? "deadline_exceeded" : codeName(code);
  const fix = FIXES[name] ?? "look for this time in the service's log";
  return new EntitlementsError(name, `${name}: ${problem(name, rawMessage, call)}; ${fix}`, { cause: thrown });
}

/** The error of a call that its caller aborted. */
export function abortError(reason: unknown): EntitlementsError {
  const timedOut = (reason as { name?: unknown } | undefined)?.name === "TimeoutError";
  const code = timedOut ? "deadline_exceeded" : "canceled";
  return new EntitlementsError(code, `${code}: the caller's \`signal\` ended the call`, { cause: reason });
}

function codeName(code: Code): ErrorCode {
  return (Code[code] ?? "Unknown").replace(/\B[A-Z]/g, "_$&").toLowerCase() as ErrorCode;
}

function problem(code: ErrorCode, message: string, { url, timeoutMs }: Call): string {
  switch (code) {
    case "unauthenticated":
      return `${url} requires a valid key (${message})`;
    case "permission_denied":
      return `the key lacks a scope (${message})`;
    case "unavailable":
      return `no answer from ${url} (${message})`;
    case "deadline_exceeded":
      return `no answer from ${url} within ${timeoutMs} ms`;
    case "resource_exhausted":
      return `${url} is overloaded (${message})`;
    case "unimplemented":
      return `${url} does not answer Connect calls (${message})`;
    case "invalid_argument":
      return message;
    default:
      return `${url} failed (${message})`;
  }
}

const FIXES: { readonly [code in ErrorCode]?: string } = {
  unauthenticated: "pass a key from `entitlements keys create NAME --scope check` as `key`",
  permission_denied: "create a key with `--scope check`",
  unavailable: "check `url`, and that the service runs and is ready; to answer without it, set `onError`",
  deadline_exceeded: "raise `timeoutMs`, or set `onError` to answer without the service",
  resource_exhausted: "ask again later, or ask with fewer calls at once",
  unimplemented: "check `url`, and that the service serves the Connect protocol there",
  invalid_argument: "correct the question",
};
