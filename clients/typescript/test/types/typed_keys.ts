/** Compiles only if each marked line does not: TypeScript reports an unused `@ts-expect-error`. */
import { createEntitlements, type Entitlements } from "@entitlements/client";
import { fakeEntitlements } from "@entitlements/client/testing";

type Feature = "export" | "projects" | "sso";
type Plan = "pro" | "team";

const e = createEntitlements<Feature, Plan>({
  url: "http://127.0.0.1:50051",
  onError: ({ feature }) => feature === "export",
});
const user = e.for({ userId: "user_1", orgId: null });

export async function correct(): Promise<void> {
  const yes: boolean = await user.can("export");
  const scoped: boolean = await user.can("org:sso");
  const most: number = await user.limit("projects");
  const both = await user.checkAll(["export", "sso"]);
  const decisions: boolean[] = [both.export.allowed, both.sso.allowed, await user.plan("org:team")];
  await e.checkMany([{ userId: "user_1", feature: "export" }]);
  console.log(yes, scoped, most, decisions);
}

export async function mistyped(): Promise<void> {
  // @ts-expect-error: the feature is mistyped
  await user.can("exprot");
  // @ts-expect-error: the scope is mistyped
  await user.can("orgs:sso");
  // @ts-expect-error: a plan is not a feature
  await user.limit("pro");
  // @ts-expect-error: one of the features is mistyped
  await user.checkAll(["export", "ss0"]);
  // @ts-expect-error: the plan is mistyped
  await user.plan("prro");
  // @ts-expect-error: the feature is mistyped
  await e.checkMany([{ userId: "user_1", feature: "exprot" }]);
  // @ts-expect-error: this feature was not asked about
  (await user.checkAll(["export"])).sso;
  // @ts-expect-error: the id is mistyped
  e.for({ userID: "user_1" });
  // @ts-expect-error: a default is compared with a feature that does not exist
  createEntitlements<Feature>({ url: "", onError: ({ feature }) => feature === "exprot" });
}

export async function misused(): Promise<void> {
  // @ts-expect-error: the promise is not awaited, so it would always allow
  if (user.can("export")) console.log("allowed");
}

export const fake: Entitlements<Feature, Plan> = fakeEntitlements<Feature, Plan>(
  { export: true, projects: 25 },
  { plans: ["pro"] },
);
export const untyped: Entitlements<Feature, Plan> = fakeEntitlements({ export: true });
// @ts-expect-error: the feature of the test double is mistyped
export const wrong = fakeEntitlements<Feature>({ exprot: true });

const free = createEntitlements({ url: "http://127.0.0.1:50051" });
export const any: Promise<boolean> = free.for({ userId: "user_1" }).can("whatever");
