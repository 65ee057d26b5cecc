import assert from "node:assert/strict";
import { test } from "node:test";
import { createEntitlements, type Fetch, type Options } from "@entitlements/client";
import { KEY, startService, USER } from "./service.js";

const URL = "http://127.0.0.1:50051";

function rejects(options: Partial<Options>, message: RegExp): void {
  assert.throws(() => createEntitlements({ url: URL, ...options }), {
    name: "EntitlementsError",
    code: "invalid_argument",
    message,
  });
}

test("wrong options are found at once, and the message says the fix", () => {
  rejects({ url: "localhost:50051" }, /url: "localhost:50051" is not an HTTP URL; pass one such as/);
  rejects({ timeoutMs: 0 }, /timeoutMs: 0 is out of range/);
  rejects({ timeoutMs: Infinity }, /timeoutMs: Infinity is out of range/);
  rejects({ retries: -1 }, /retries: -1/);
  rejects({ key: "" }, /key: is empty/);
});

test("a missing URL is found by the first call, so that a program can be built without it", async () => {
  const e = createEntitlements({ url: undefined, onError: true });
  await assert.rejects(e.for({ userId: USER }).can("export"), { code: "invalid_argument", message: /url: undefined/ });
});

test("a key with a line break is rejected without being shown", () => {
  assert.throws(
    () => createEntitlements({ url: URL, key: "ent_secret\n" }),
    (error: Error) => /line break/.test(error.message) && !error.message.includes("secret"),
  );
});

test("a key never reaches a browser", () => {
  Object.assign(globalThis, { window: {}, document: {} });
  try {
    rejects({ key: KEY }, /this program runs in a browser.*ask on your server/);
    createEntitlements({ url: URL });
    createEntitlements({ url: URL, key: KEY, dangerouslyAllowBrowser: true });
  } finally {
    Reflect.deleteProperty(globalThis, "window");
    Reflect.deleteProperty(globalThis, "document");
  }
});

test("a printed client does not show the key", async () => {
  const { inspect } = await import("node:util");
  const e = createEntitlements({ url: URL, key: KEY });
  assert.ok(!inspect([e, e.for({ userId: USER })], { depth: 9, showHidden: true }).includes(KEY));
});

test("the caller's fetch gets only the fields that every runtime accepts", async (t) => {
  const service = await startService();
  t.after(service.close);
  const fields: string[][] = [];
  const spy: Fetch = (input, init) => {
    fields.push([typeof input, ...Object.keys(init), String(init.redirect)]);
    return fetch(input, init);
  };
  const e = createEntitlements({ url: service.url, key: KEY, fetch: spy });
  assert.equal(await e.for({ userId: USER }).can("export"), true);
  assert.deepEqual(fields, [["string", "method", "headers", "body", "signal", "redirect", "manual"]]);
});
