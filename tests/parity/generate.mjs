// Asks Clerk's own `has()` what it decides, for many sessions and questions, and prints all of it as JSON.
//
//     npm install && npm run generate
//
// A session's claims are made as Clerk makes them: `pla` and `fea` list what the user (u:), the active
// organization (o:) or both (ou:) have.
import { createCheckAuthorization } from "@clerk/shared/authorization";

// The same numbers on every run.
let state = 20261124;
const roll = (n) => {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return Math.floor((state / 2 ** 32) * n);
};
const some = (all) => all.filter(() => roll(2) === 0);

// `basic` is a plan of both kinds with other features in each; `sso` and `export` are features of both.
const catalog = {
  user: {
    basic: ["reports"],
    pro: ["reports", "export", "api"],
    max: ["reports", "export", "api", "sso"],
    bare: [],
  },
  organization: {
    basic: ["audit"],
    team: ["sso", "audit"],
    business: ["sso", "audit", "export", "seats_50"],
    bare: [],
  },
};

const claim = (user, organization) => {
  const all = [...new Set([...organization, ...user])];
  const scope = (slug) => (organization.includes(slug) ? "o" : "") + (user.includes(slug) ? "u" : "");
  return all.map((slug) => `${scope(slug)}:${slug}`).join(",");
};
const features = (plans, held) => [...new Set(held.flatMap((plan) => plans[plan]))];

const scopes = ["", "u:", "user:", "o:", "org:", "organization:", "ou:", "x:", "User:", "ORG:", " org:", ":"];
const names = {
  feature: ["reports", "export", "sso", "audit", "seats_50", "api", "nonesuch", "SSO", "sso ", "s", "o", "org"],
  plan: ["basic", "pro", "team", "business", "bare", "free", "Pro"],
};
// Not slugs: Clerk's session cannot contain them, whatever it says of them is an accident of splitting.
const odd = ["", "org:", "u:", ":", "org:sso:", "org:sso:x", "org:user:sso", "user::export"];

const sessions = [];
for (let n = 0; n < 20; n++) {
  const held = { user: some(Object.keys(catalog.user)), organization: null };
  if (n % 4 !== 0) held.organization = some(Object.keys(catalog.organization));
  const own = { user: held.user, organization: held.organization ?? [] };
  const has = createCheckAuthorization({
    userId: "user_1",
    orgId: held.organization ? "org_1" : undefined,
    plans: claim(own.user, own.organization),
    features: claim(features(catalog.user, own.user), features(catalog.organization, own.organization)),
  });
  const answers = {};
  for (const asked of ["feature", "plan"]) {
    const texts = [...names[asked].flatMap((name) => scopes.map((scope) => scope + name)), ...odd];
    answers[asked] = Object.fromEntries(texts.map((text) => [text, has({ [asked]: text })]));
  }
  sessions.push({ ...held, answers });
}

const compact = sessions.map((session) => JSON.stringify(session)).join(",\n    ");
console.log(`{
  "clerk": "@clerk/shared 4.41.0",
  "catalog": ${JSON.stringify(catalog)},
  "sessions": [
    ${compact}
  ]
}`);
