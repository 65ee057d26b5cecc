import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { createEntitlements } from "@entitlements/client";
import { CHECKED_AT, KEY, type Service, startService, USER, VALID_UNTIL } from "./service.js";

let service: Service;
before(async () => {
  service = await startService();
});
after(() => service.close());

const asUser = () => createEntitlements({ url: service.url, key: KEY }).for({ userId: USER });

test("can answers yes or no", async () => {
  assert.equal(await asUser().can("export"), true);
  assert.equal(await asUser().can("sso"), false);
  assert.equal(await asUser().can("no_such_feature"), false);
});

test("check gives the whole decision, in plain types", async () => {
  assert.deepEqual(await asUser().check("projects"), {
    allowed: true,
    reason: "REASON_PLAN",
    subject: USER,
    plan: "pro",
    limit: 25,
    validUntil: VALID_UNTIL,
    revision: "1.1_57236434cfa1cdc0.1",
    checkedAt: CHECKED_AT,
    stale: false,
    staleForMs: undefined,
  });
});

test("an unknown feature is a denial with a reason, about no subject", async () => {
  const { allowed, reason, subject, plan } = await asUser().check("no_such_feature");
  assert.deepEqual(
    { allowed, reason, subject, plan },
    { allowed: false, reason: "REASON_UNKNOWN_FEATURE", subject: undefined, plan: undefined },
  );
});

test("a reason that is newer than this package keeps its number", async () => {
  assert.equal((await asUser().check("newer")).reason, "REASON_42");
});

test("a stale answer says how stale it is", async () => {
  const { stale, staleForMs } = await asUser().check("stale");
  assert.deepEqual({ stale, staleForMs }, { stale: true, staleForMs: 2500 });
});

test("a limit is 0 if denied, Infinity if there is none, and always a safe number", async () => {
  assert.equal(await asUser().limit("projects"), 25);
  assert.equal(await asUser().limit("sso"), 0);
  assert.equal(await asUser().limit("export"), Infinity);
  assert.equal(await asUser().limit("events"), Number.MAX_SAFE_INTEGER);
});

test("checkAll asks once about many features", async () => {
  const calls = service.requests.length;
  const { export: exports, sso, nope } = await asUser().checkAll(["export", "sso", "nope"]);
  assert.deepEqual([exports.allowed, sso.reason, nope.reason], [true, "REASON_NOT_IN_PLAN", "REASON_UNKNOWN_FEATURE"]);
  assert.deepEqual(
    service.requests.slice(calls).map((r) => r.method),
    ["CheckFeatures"],
  );
  assert.deepEqual(await asUser().checkAll([]), {});
});

test("checkMany asks about several customers, and keeps the order", async () => {
  const e = createEntitlements({ url: service.url, key: KEY });
  const answers = await e.checkMany([
    { userId: USER, feature: "sso" },
    { orgId: "org_1", feature: "export" },
  ]);
  assert.deepEqual(
    answers.map((a) => a.allowed),
    [false, true],
  );
});

test("plan answers yes or no, and checkPlan says why", async () => {
  assert.equal(await asUser().plan("pro"), true);
  assert.equal(await asUser().plan("max"), false);
  assert.equal((await asUser().checkPlan("max")).reason, "REASON_NOT_IN_PLAN");
});

test("list gives the accounts in plain types", async () => {
  const { accounts, catalog, freshness, checkedAt } = await asUser().list();
  assert.deepEqual(
    { catalog, freshness, checkedAt },
    { catalog: 3, freshness: "FRESHNESS_FRESH", checkedAt: CHECKED_AT },
  );
  const [account] = accounts;
  assert.equal(account?.subject, USER);
  assert.deepEqual(account?.entitlements[1], {
    feature: "projects",
    reason: "REASON_PLAN",
    plan: "pro",
    limit: 25,
    validUntil: undefined,
    exactLimit: false,
  });
  assert.deepEqual(account?.denied, [{ feature: "sso", validUntil: undefined }]);
  assert.equal(account?.items[0]?.seats, 5);
});

test("the ids, the key and the consistency are sent", async () => {
  const e = createEntitlements({ url: `${service.url}/`, key: KEY });
  await e.for({ userId: USER, orgId: "org_1" }).can("export", { atLeast: "1.1_a.1", maxStalenessMs: 1500 });
  await e.for({ userId: null, orgId: "org_1" }).can("export", { fullyConsistent: true, atLeast: "1.1_a.1" });
  const [first, second] = service.requests
    .slice(-2)
    .map((r) => JSON.stringify(r.message, (_, v) => (typeof v === "bigint" ? Number(v) : v)));
  assert.match(
    first ?? "",
    new RegExp(
      `"userId":"${USER}","organizationId":"org_1".*"atLeast","value":"1.1_a.1".*"seconds":1,"nanos":500000000`,
    ),
  );
  assert.match(second ?? "", /"userId":"","organizationId":"org_1".*"case":"fullyConsistent","value":true/);
  assert.equal(service.requests.at(-1)?.headers.get("authorization"), `Bearer ${KEY}`);
  assert.equal(service.requests.at(-1)?.headers.get("content-type"), "application/proto");
  assert.match(service.requests.at(-1)?.headers.get("connect-timeout-ms") ?? "", /^\d+$/);
});
