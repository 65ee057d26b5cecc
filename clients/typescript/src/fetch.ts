import { Code, ConnectError } from "@connectrpc/connect";
import type { Fetch } from "./options.js";

/**
 * Adapts `fetch` to every runtime, for Connect:
 *
 * - Only the fields that each runtime accepts are passed. Cloudflare Workers reject `redirect: "error"`, which Connect
 *   sets, and the fields `mode`, `credentials` and `cache`.
 * - A redirect is an error. Some runtimes send the `authorization` header on to another host.
 * - A broken connection is UNAVAILABLE, also if it breaks within the body. Each runtime throws another error then.
 */
export function portableFetch(custom: Fetch | undefined): typeof globalThis.fetch {
  return async (url, init) => {
    const { method, headers, body, signal } = init as Required<RequestInit>;
    try {
      // The global fetch is read at each call, because frameworks replace it.
      const send = custom ?? globalThis.fetch;
      const response = await send(String(url), { method, headers, body, signal, redirect: "manual" });
      rejectRedirect(response);
      return await inMemory(response);
    } catch (thrown) {
      if (signal?.aborted || thrown instanceof ConnectError) throw thrown;
      throw new ConnectError(causes(thrown), Code.Unavailable, undefined, undefined, thrown);
    }
  };
}

function rejectRedirect({ type, status }: Response): void {
  if (type === "opaqueredirect" || (status >= 300 && status < 400)) {
    throw new ConnectError("it redirects to another address", Code.Unimplemented);
  }
}

async function inMemory(response: Response): Promise<Response> {
  const { status, headers } = response;
  const body = await response.arrayBuffer();
  return new Response(body.byteLength === 0 ? null : body, { status, headers });
}

/** The messages of an error and its causes. Node says only "fetch failed"; the cause says why. */
function causes(thrown: unknown): string {
  const { message, code, cause } = thrown as { message?: unknown; code?: unknown; cause?: unknown };
  const text = String(message || code || thrown);
  return cause === undefined || cause === null ? text : `${text}: ${causes(cause)}`;
}
