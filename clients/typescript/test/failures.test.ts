import assert from "node:assert/strict";
import type * as http from "node:http";
import { after, before, beforeEach, test } from "node:test";
import { Code } from "@connectrpc/connect";
import { createEntitlements, type DefaultEvent, EntitlementsError, type Options } from "@entitlements/client";
import { awayUrl, KEY, redirectTo, serve, type Service, startService, USER } from "./service.js";

let service: Service;
let AWAY: string;
before(async () => {
  AWAY = await awayUrl();
  service = await startService();
});
after(() => service.close());
beforeEach(() => {
  service.faults = [];
  service.requests.length = 0;
});

const client = (options: Partial<Options> = {}) => createEntitlements({ url: service.url, key: KEY, ...options });

async function failure(call: Promise<unknown>): Promise<EntitlementsError> {
  const error = await call.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  assert.ok(error instanceof EntitlementsError, `not an EntitlementsError: ${String(error)}`);
  return error;
}

async function failsWith(call: Promise<unknown>, code: string, message: RegExp): Promise<void> {
  const error = await failure(call);
  assert.equal(error.code, code);
  assert.match(error.message, message);
}

test("a wrong key says where to get one, without a retry and without showing the key", async () => {
  const error = await failure(client({ key: "ent_wrong" }).for({ userId: USER }).can("export"));
  assert.equal(error.code, "unauthenticated");
  assert.match(error.message, /requires a valid key .*; pass a key from `entitlements keys create/);
  assert.doesNotMatch(error.message + error.stack, /ent_wrong/);
  assert.equal(service.requests.length, 1);
});

test("a missing scope says which one to give", async () => {
  service.faults = [Code.PermissionDenied];
  await failsWith(client().for({ userId: USER }).can("export"), "permission_denied", /--scope check/);
});

test("a service that is away is unavailable, with the reason of the connection", async () => {
  await failsWith(
    client({ url: AWAY }).for({ userId: USER }).can("export"),
    "unavailable",
    /ECONNREFUSED.*; check `url`/,
  );
});

test("UNAVAILABLE is retried until success", async () => {
  service.faults = [Code.Unavailable, Code.Unavailable];
  assert.equal(await client().for({ userId: USER }).can("export"), true);
  assert.equal(service.requests.length, 3);
});

test("retries are bounded", async () => {
  service.faults = Array(9).fill(Code.Unavailable);
  await failsWith(client({ retries: 1 }).for({ userId: USER }).can("export"), "unavailable", /a fault of the test/);
  assert.equal(service.requests.length, 2);
});

test("retries end with the timeout", async () => {
  service.faults = Array(1000).fill(Code.Unavailable);
  const started = performance.now();
  await failure(client({ retries: 1000, timeoutMs: 150 }).for({ userId: USER }).can("export"));
  assert.ok(performance.now() - started < 600, "must end soon after 150 ms");
  assert.ok(service.requests.length > 1);
});

for (const code of [Code.InvalidArgument, Code.ResourceExhausted, Code.Internal, Code.DeadlineExceeded] as const) {
  test(`${Code[code]} is not retried`, async () => {
    service.faults = [code];
    await failure(client().for({ userId: USER }).can("export"));
    assert.equal(service.requests.length, 1);
  });
}

test("an invalid id is a mistake of the caller, which no default hides", async () => {
  const e = client({ onError: true });
  await failsWith(e.for({ userId: "nobody" }).can("export"), "invalid_argument", /user_id: .*; correct the question/);
  await failsWith(e.for({ userId: null }).can("export"), "invalid_argument", /both empty; if nobody is signed in/);
  assert.equal(e.defaultsUsed, 0);
  assert.equal(service.requests.length, 1);
});

test("a slow answer ends at the timeout of the client or of the call", async () => {
  service.faults = [{ waitMs: 2000 }, { waitMs: 2000 }];
  await failsWith(
    client({ timeoutMs: 50 }).for({ userId: USER }).can("export"),
    "deadline_exceeded",
    /within 50 ms; raise `timeoutMs`/,
  );
  await failsWith(client().for({ userId: USER }).can("export", { timeoutMs: 60 }), "deadline_exceeded", /within 60 ms/);
});

test("a wrong timeout of a call is a mistake of the caller", async () => {
  const call = client({ onError: true }).for({ userId: USER }).can("export", { timeoutMs: 0 });
  await failsWith(call, "invalid_argument", /timeoutMs: 0 is out of range/);
});

test("an abort ends the call at once, and no default hides it", async () => {
  service.faults = [{ waitMs: 2000 }];
  const e = client({ onError: true, timeoutMs: 5000 });
  const controller = new AbortController();
  setTimeout(() => controller.abort(new Error("left the page")), 30);
  const error = await failure(e.for({ userId: USER }).can("export", { signal: controller.signal }));
  assert.deepEqual([error.code, (error.cause as Error).message, e.defaultsUsed], ["canceled", "left the page", 0]);
});

test("an abort ends the pause before a retry", async (t) => {
  t.mock.method(Math, "random", () => 1000); // a pause of 20 seconds
  service.faults = [Code.Unavailable];
  const user = client({ timeoutMs: 60_000 }).for({ userId: USER });
  const started = performance.now();
  const call = user.can("export", { signal: AbortSignal.timeout(100) });
  await failsWith(call, "deadline_exceeded", /`signal` ended the call/);
  assert.ok(performance.now() - started < 10_000, "must not wait for the retry");
});

test("a retry that would come too late is not waited for", async (t) => {
  t.mock.method(Math, "random", () => 1000);
  service.faults = [Code.Unavailable];
  const started = performance.now();
  await failsWith(
    client({ timeoutMs: 5000 }).for({ userId: USER }).can("export"),
    "unavailable",
    /a fault of the test/,
  );
  assert.ok(performance.now() - started < 4000);
});

test("a signal that is aborted before the call makes no request", async () => {
  await failsWith(
    client().for({ userId: USER }).can("export", { signal: AbortSignal.abort() }),
    "canceled",
    /`signal` ended the call/,
  );
  assert.equal(service.requests.length, 0);
});

test("a default answers in place of the service, and is counted and reported", async () => {
  const events: DefaultEvent[] = [];
  const e = client({ url: AWAY, onError: true, onDefault: (event) => events.push(event) });
  const subject = e.for({ userId: USER });
  assert.equal(await subject.can("export"), true);
  assert.equal(await subject.can("export", { onError: false }), false);
  assert.equal(await subject.limit("projects", { onError: 10 }), 10);
  assert.equal(await subject.plan("pro"), true);
  assert.equal(e.defaultsUsed, 4);
  assert.deepEqual(
    events.map(({ question, allowed, error }) => [
      question.feature ?? question.plan,
      question.userId,
      allowed,
      error.code,
    ]),
    [
      ["export", USER, true, "unavailable"],
      ["export", USER, false, "unavailable"],
      ["projects", USER, true, "unavailable"],
      ["pro", USER, true, "unavailable"],
    ],
  );
});

test("the decision of a default carries the error", async () => {
  const decision = await client({ url: AWAY, onError: false, onDefault() {} })
    .for({ userId: USER })
    .check("export");
  assert.deepEqual(
    [decision.allowed, decision.reason, decision.error?.code],
    [false, "REASON_UNSPECIFIED", "unavailable"],
  );
});

test("a function chooses the default of each feature; without one, the call throws", async () => {
  const onError: Options["onError"] = ({ feature }, error) =>
    error.code !== "unavailable" ? undefined : feature === "projects" ? 5 : feature === "export" ? true : undefined;
  const e = client({ url: AWAY, onError, onDefault() {} });
  const subject = e.for({ userId: USER });
  assert.equal(await subject.limit("projects"), 5);
  const { export: exports } = await subject.checkAll(["export", "projects"]);
  assert.equal(exports.allowed, true);
  assert.equal(e.defaultsUsed, 3);
  await failsWith(subject.can("sso"), "unavailable", /./);
  await failsWith(subject.checkAll(["export", "sso"]), "unavailable", /./);
  assert.equal(e.defaultsUsed, 3, "a call that throws uses no default");
});

test("a default also replaces a rejected key and a late answer", async () => {
  service.faults = [{ waitMs: 2000 }];
  assert.equal(
    await client({ timeoutMs: 30, onError: true, onDefault() {} })
      .for({ userId: USER })
      .can("sso"),
    true,
  );
  assert.equal(
    await client({ key: "ent_wrong", onError: true, onDefault() {} })
      .for({ userId: USER })
      .can("sso"),
    true,
  );
});

test("list has no default", async () => {
  await failsWith(client({ url: AWAY, onError: true }).for({ userId: USER }).list(), "unavailable", /./);
});

test("without onDefault, the first default for each code is logged", async (t) => {
  const warn = t.mock.method(console, "warn", () => {});
  const subject = client({ url: AWAY, onError: false }).for({ userId: USER });
  await subject.can("export");
  await subject.can("export");
  assert.equal(warn.mock.callCount(), 1);
  assert.match(String(warn.mock.calls[0]?.arguments[0]), /default of `onError`, because unavailable/);
});

test("a failing hook does not fail the check", async (t) => {
  const logged = t.mock.method(console, "error", () => {});
  const onDefault = () => {
    throw new Error("no metrics");
  };
  assert.equal(await client({ url: AWAY, onError: true, onDefault }).for({ userId: USER }).can("export"), true);
  assert.equal(logged.mock.callCount(), 1);
});

async function serving(handler: http.RequestListener, test: (url: string) => Promise<void>): Promise<void> {
  const server = await serve(handler);
  await test(server.url).finally(server.close);
}

test("a redirect is not followed, so the key reaches no other host", async (t) => {
  const { url, close } = await redirectTo(service.url);
  t.after(close);
  await failsWith(client({ url }).for({ userId: USER }).can("export"), "unimplemented", /redirects.*check `url`/);
  assert.equal(service.requests.length, 0);
});

test("a URL of another server says so", async () => {
  const other: http.RequestListener = (_, response) =>
    response.writeHead(404, { "content-type": "text/html" }).end("<h1>no</h1>");
  await serving(other, async (url) => {
    await failsWith(
      client({ url }).for({ userId: USER }).can("export"),
      "unimplemented",
      /does not answer Connect calls.*check `url`/,
    );
  });
});

test("a gateway's error page is unavailable, and is retried", async () => {
  let calls = 0;
  const gateway: http.RequestListener = (_, response) => {
    calls += 1;
    response.writeHead(502, { "content-type": "text/html" }).end("<h1>bad gateway</h1>");
  };
  await serving(gateway, async (url) => {
    await failsWith(client({ url }).for({ userId: USER }).can("export"), "unavailable", /HTTP 502/);
  });
  assert.equal(calls, 3);
});

test("an answer that is cut in its body is unavailable", async () => {
  const cut: http.RequestListener = (_, response) => {
    response.writeHead(200, { "content-type": "application/proto", "content-length": "100" }).write("x");
    setTimeout(() => response.destroy(), 10);
  };
  await serving(cut, async (url) => {
    await failsWith(client({ url, retries: 0 }).for({ userId: USER }).can("export"), "unavailable", /./);
  });
});
