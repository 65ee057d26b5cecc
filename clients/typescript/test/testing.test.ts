import assert from "node:assert/strict";
import { test } from "node:test";
import { type Entitlements, EntitlementsError } from "@entitlements/client";
import { fakeEntitlements } from "@entitlements/client/testing";

type Feature = "export" | "projects" | "sso";

const fake: Entitlements<Feature> = fakeEntitlements<Feature>(
  { export: true, projects: 25, sso: false },
  { plans: ["pro"] },
);
const user = fake.for({ userId: "user_1", orgId: "org_1" });

test("a test double answers like a client", async () => {
  assert.deepEqual(
    await Promise.all([user.can("export"), user.can("sso"), user.limit("projects"), user.limit("export")]),
    [true, false, 25, Infinity],
  );
  assert.deepEqual(await Promise.all([user.plan("pro"), user.plan("org:pro"), user.plan("max")]), [true, true, false]);
  const { "org:export": exports, projects } = await user.checkAll(["org:export", "projects"]);
  assert.deepEqual([exports.allowed, projects.limit, fake.defaultsUsed], [true, 25, 0]);
});

test("a feature that is not given is unknown, also if every object has a property of its name", async () => {
  const e = fakeEntitlements({});
  assert.equal((await e.for({ userId: "user_1" }).check("export")).reason, "REASON_UNKNOWN_FEATURE");
  assert.equal(await e.for({ userId: "user_1" }).can("toString"), false);
});

test("a test double lists what it allows", async () => {
  const { accounts } = await user.list();
  assert.deepEqual(
    accounts.map((a) => a.subject),
    ["user_1", "org_1"],
  );
  assert.deepEqual(
    accounts[0]?.entitlements.map((e) => [e.feature, e.limit]),
    [
      ["export", undefined],
      ["projects", 25],
    ],
  );
});

test("a test double can answer by customer, and can be away", async () => {
  const e = fakeEntitlements(({ userId }) => ({ export: userId === "user_pro" }));
  const answers = await e.checkMany([
    { userId: "user_pro", feature: "export" },
    { userId: "user_free", feature: "export" },
  ]);
  assert.deepEqual(
    answers.map((a) => a.allowed),
    [true, false],
  );
  const away = fakeEntitlements(() => {
    throw new EntitlementsError("unavailable", "the test says so");
  });
  await assert.rejects(away.for({ userId: "user_1" }).can("export"), { code: "unavailable" });
});

test("a test double asks for an id, as the service does", async () => {
  await assert.rejects(fake.for({}).can("export"), { code: "invalid_argument" });
});
