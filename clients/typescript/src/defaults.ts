import type { EntitlementsError, ErrorCode } from "./errors.js";
import type { Default, OnError, Options } from "./options.js";
import type { Decision, Question } from "./types.js";

/** Mistakes of the caller and the caller's own abort: no default replaces these errors. */
const ALWAYS_THROWN: readonly ErrorCode[] = ["invalid_argument", "canceled"];

/** Chooses, counts and reports the answers that replace those of the service. */
export class Defaults<F extends string, P extends string> {
  used = 0;
  readonly #options: Options<F, P>;
  readonly #warned = new Set<ErrorCode>();

  constructor(options: Options<F, P>) {
    this.#options = options;
  }

  /** The default of each question. Throws the error if one question has none. */
  decide(questions: readonly Question<F, P>[], error: EntitlementsError, ofCall: OnError<F, P>): Decision[] {
    if (ALWAYS_THROWN.includes(error.code)) throw error;
    const chosen = questions.map((question) => choose(ofCall ?? this.#options.onError, question, error));
    return questions.map((question, i) => {
      const value = chosen[i];
      if (value === undefined || chosen.includes(undefined)) throw error;
      this.#report(question, value !== false, error);
      return decision(value, error);
    });
  }

  #report(question: Question<F, P>, allowed: boolean, error: EntitlementsError): void {
    this.used += 1;
    const { onDefault } = this.#options;
    if (!onDefault) return this.#warnOnce(error);
    try {
      onDefault({ question, allowed, error });
    } catch (thrown) {
      console.error("entitlements: `onDefault` failed", thrown); // a failing hook must not fail a check
    }
  }

  #warnOnce(error: EntitlementsError): void {
    if (this.#warned.has(error.code)) return;
    this.#warned.add(error.code);
    console.warn(`entitlements: answering with the default of \`onError\`, because ${error.message}`);
  }
}

function choose<F extends string, P extends string>(
  onError: OnError<F, P>,
  question: Question<F, P>,
  error: EntitlementsError,
): Default {
  return typeof onError === "function" ? onError(question, error) : onError;
}

function decision(value: boolean | number, error: EntitlementsError): Decision {
  return {
    allowed: value !== false,
    reason: "REASON_UNSPECIFIED",
    limit: typeof value === "number" ? value : undefined,
    checkedAt: new Date(),
    stale: false,
    error,
  };
}
