import { type Client, createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-web";
import { toDecision, toListing } from "./answers.js";
import { type Try, withRetries } from "./call.js";
import { Defaults } from "./defaults.js";
import { type Backend, type Entitlements, overBackend } from "./entitlements.js";
import { EntitlementsError } from "./errors.js";
import { portableFetch } from "./fetch.js";
import { Entitlements as Service } from "./gen/entitlements/v1/entitlements_pb.js";
import { type CallOptions, type Options, validate, validateTimeout, validateUrl } from "./options.js";
import { toIds, toRecency } from "./questions.js";
import type { Decision, FeatureQuestion, Listing, PlanQuestion, Question, Subject } from "./types.js";

const DEFAULT_TIMEOUT_MS = 500;
const DEFAULT_RETRIES = 2;

/**
 * Creates a client of the service. It opens no connection; create one for the whole program.
 *
 * `F` and `P` are the slugs of your features and plans, so that a mistyped one does not compile:
 * `createEntitlements<Feature>(…)`. `entitlements catalog types --language ts` writes the type `Feature`.
 *
 * Throws an `EntitlementsError` with the code `invalid_argument` if an option is wrong, or if a key would reach a
 * browser.
 */
export function createEntitlements<F extends string = string, P extends string = string>(
  options: Options<F, P>,
): Entitlements<F, P> {
  validate(options as Options<never, never>);
  return overBackend(new Remote(options));
}

class Remote<F extends string, P extends string> implements Backend<F, P> {
  readonly #rpc: Client<typeof Service>;
  readonly #headers: HeadersInit;
  readonly #options: Options<F, P>;
  readonly #defaults: Defaults<F, P>;

  constructor(options: Options<F, P>) {
    const { url = "", key, fetch } = options;
    // Binary, because it keeps the number of a reason that is newer than this package; JSON would lose it.
    const transport = createConnectTransport({ baseUrl: url, useBinaryFormat: true, fetch: portableFetch(fetch) });
    this.#rpc = createClient(Service, transport);
    this.#headers = key === undefined ? {} : { authorization: `Bearer ${key}` };
    this.#options = options;
    this.#defaults = new Defaults(options);
  }

  get defaultsUsed(): number {
    return this.#defaults.used;
  }

  async feature(question: FeatureQuestion<F>, options: CallOptions<F, P>): Promise<Decision> {
    const request = { ...toIds(question), feature: question.feature, ...toRecency(options) };
    const decide = async (tried: Try) => [toDecision(await this.#rpc.checkFeature(request, this.#with(tried)))];
    return only(await this.#orDefaults([question], options, decide));
  }

  async features(questions: readonly FeatureQuestion<F>[], options: CallOptions<F, P>): Promise<Decision[]> {
    if (questions.length === 0) return [];
    const asked = questions.map((question) => ({ ...toIds(question), feature: question.feature }));
    const request = { questions: asked, ...toRecency(options) };
    return this.#orDefaults(questions, options, async (tried) => {
      const { answers } = await this.#rpc.checkFeatures(request, this.#with(tried));
      if (answers.length !== questions.length) {
        throw new EntitlementsError(
          "internal",
          `internal: ${questions.length} questions got ${answers.length} answers`,
        );
      }
      return answers.map(toDecision);
    });
  }

  async plan(question: PlanQuestion<P>, options: CallOptions<F, P>): Promise<Decision> {
    const request = { ...toIds(question), plan: question.plan, ...toRecency(options) };
    const decide = async (tried: Try) => [toDecision(await this.#rpc.checkPlan(request, this.#with(tried)))];
    return only(await this.#orDefaults([question], options, decide));
  }

  async list(subject: Subject, options: CallOptions<F, P>): Promise<Listing> {
    const request = { ...toIds(subject), ...toRecency(options) };
    return this.#call(options, async (tried) =>
      toListing(await this.#rpc.listEntitlements(request, this.#with(tried))),
    );
  }

  async #orDefaults(
    questions: readonly Question<F, P>[],
    options: CallOptions<F, P>,
    decide: (tried: Try) => Promise<Decision[]>,
  ): Promise<Decision[]> {
    try {
      return await this.#call(options, decide);
    } catch (error) {
      if (!(error instanceof EntitlementsError)) throw error;
      return this.#defaults.decide(questions, error, options.onError);
    }
  }

  async #call<T>(options: CallOptions<F, P>, run: (tried: Try) => Promise<T>): Promise<T> {
    const { url, retries = DEFAULT_RETRIES } = this.#options;
    validateUrl(url);
    const timeoutMs = options.timeoutMs ?? this.#options.timeoutMs ?? DEFAULT_TIMEOUT_MS;
    validateTimeout(timeoutMs);
    return withRetries({ url, retries, timeoutMs, signal: options.signal }, run);
  }

  #with(tried: Try): Try & { headers: HeadersInit } {
    return { ...tried, headers: this.#headers };
  }
}

function only(decisions: Decision[]): Decision {
  const [decision] = decisions;
  if (!decision) throw new EntitlementsError("internal", "internal: no answer");
  return decision;
}
