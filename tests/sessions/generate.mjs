// Asks Clerk's own backend SDK who is signed in, for many requests, and prints all of it as JSON.
//
//     npm install && npm run generate
//
// First the tokens of tokens.json, each in the header and as a cookie, then 2,000 requests made of random parts.
// A request holds no tokens but what they are made of: `<0>` stands for the first of its tokens, `<now-30>` for a
// moment, so that whoever repeats it signs with a key of their own and by their own clock. A token is told by what
// differs from a plain session of the instance; "absent" removes a field.
import { createClerkClient } from "@clerk/backend";
import { createHmac, createSign, generateKeyPairSync } from "node:crypto";
import { readFileSync } from "node:fs";

// The same numbers and the same moment on every run.
let state = 20261128;
const roll = (n) => {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return Math.floor((state / 2 ** 32) * n);
};
const NOW = 1795881600;
Date.now = () => NOW * 1000;
const pick = (things) => things[roll(things.length)];
// The first of these most of the time.
const mostly = (first, ...others) => (roll(100) < 70 ? first : pick(others));

const pem = (key) => key.export({ type: "spki", format: "pem" });
const keys = { own: generateKeyPairSync("rsa", { modulusLength: 2048 }) };
keys.other = generateKeyPairSync("rsa", { modulusLength: 2048 });

const APP = "https://app.example.com";
const instance = (kind, host) => ({ key: `pk_${kind}_${btoa(`${host}$`).replace(/=+$/, "")}`, iss: `https://${host}` });
const live = instance("live", "clerk.example.com");
const dev = instance("test", "happy-panda-12.clerk.accounts.dev");
const captured = instance("live", "clerk.h5.example");
const other = instance("live", "clerk.other.example");
const settings = [
  { ...live, parties: [], issuers: [] },
  { ...live, parties: [APP, "https://admin.example.com"], issuers: [] },
  { ...live, parties: [APP], issuers: [live.iss] },
  { ...dev, parties: [], issuers: [] },
  { ...captured, parties: [], issuers: [] },
  { ...captured, parties: ["https://app.h5.example"], issuers: [] },
];

const suffix = async ({ key }) => {
  const hash = await crypto.subtle.digest("sha-1", new TextEncoder().encode(key));
  return Buffer.from(hash).toString("base64url").slice(0, 8);
};
const OTHER = await suffix(other);

// As they are told in the output, to what is signed.
const moment = (value) => {
  const found = /^now([+-]\d+)$/.exec(value);
  return found ? NOW + Number(found[1]) : value;
};
const filled = (base, changes) => {
  const all = Object.entries({ ...base, ...changes }).filter(([, value]) => value !== "absent");
  return Object.fromEntries(all.map(([name, value]) => [name, moment(value)]));
};
const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
const mint = (token, iss) => {
  const header = filled({ alg: "RS256", kid: "ins_1", typ: "JWT" }, token.h);
  const usual = { sub: "user_ada", sid: "sess_1", iat: "now+0", nbf: "now-10", exp: "now+60", iss, azp: APP, v: 2 };
  const claims = token.only ? filled({}, token.only) : filled(usual, token.c);
  const message = `${part(header)}.${part(claims)}`;
  const hash = { RS384: "RSA-SHA384", RS512: "RSA-SHA512" }[header.alg] ?? "RSA-SHA256";
  const sign = () => createSign(hash).update(message).sign(keys[token.k ?? "own"].privateKey).toString("base64url");
  const signatures = {
    none: () => "",
    HS256: () => createHmac("sha256", pem(keys.own.publicKey)).update(message).digest("base64url"),
  };
  return `${message}.${(signatures[header.alg] ?? sign)()}`;
};

const ask = async ({ s, t, a, k }) => {
  const { key, iss, parties, issuers } = settings[s];
  const tokens = t.map((token) => mint(token, iss));
  const text = (told) => told.replace(/<(\d)>/g, (_, n) => tokens[n]).replace(/<(now[+-]\d+)>/g, (_, at) => moment(at));
  const headers = new Headers();
  for (const value of a) headers.append("authorization", text(value));
  for (const value of k) headers.append("cookie", text(value));
  const options = { publishableKey: key, secretKey: "sk_test_1", jwtKey: pem(keys.own.publicKey) };
  const quiet = { telemetry: { disabled: true } };
  const request = new Request(`${APP}/export`, { headers });
  const found = await createClerkClient({ ...options, ...quiet }).authenticateRequest(request, {
    authorizedParties: parties,
    issuer: issuers,
  });
  const auth = found.isAuthenticated ? found.toAuth() : null;
  if (auth?.isAuthenticated) return { in: [auth.userId, auth.orgId ?? null] };
  return { out: found.reason ?? "session-pending" };
};

const cases = [];
const put = async (request) => cases.push({ ...request, ...(await ask(request)) });

for (const { id, header, claims } of JSON.parse(readFileSync("tokens.json"))) {
  const absent = Object.fromEntries(["alg", "kid", "typ"].filter((name) => !(name in header)).map((name) => [name, "absent"]));
  const token = { h: { ...absent, ...header }, only: claims };
  if (id === "t56") token.k = "other";
  for (const s of [4, 5]) {
    await put({ id, s, t: [token], a: ["Bearer <0>"], k: [] });
    await put({ id, s, t: [token], a: [], k: ["__session=<0>; __client_uat=<now-300>"] });
  }
}

const header = () => ({
  alg: mostly("RS256", "RS512", "RS384", "HS256", "none", "absent"),
  kid: mostly("ins_1", "ins_2", "absent", 5, null),
  typ: mostly("JWT", "absent", "absent", "jwt", "at+jwt", "application/at+jwt", null, 5, "JWS"),
  cat: mostly("absent", "cl_B7d4PD111AAA", "cl_I7d4PD111III", "cl_B7d4PD222AAA", "cl_B7d4PD333AAA", "cl_future", "", null, 5),
  crit: mostly("absent", ["x"], ["exp"], []),
});
const claims = (iss) => ({
  sub: mostly("user_ada", "user_grace", "user_grace", "", "mch_1", 5, "absent", "org_acme", "ada", null),
  sid: mostly("sess_1", "absent"),
  iss: mostly(iss, other.iss, "absent", "", null, 5, `${iss}/`, iss.replace("https:", "http:"), iss.toUpperCase()),
  azp: mostly(APP, "https://admin.example.com", "https://evil.example", "absent", null, "", [APP], `${APP}/`, 5),
  iat: mostly("now+0", "now-30", "now-30", "now-3", "now+3", "now+60", "absent", "text", null),
  nbf: mostly("now-10", "absent", "now+3", "now+60", "text", null),
  exp: mostly("now+60", "now+20", "now-2", "now-60", "absent", "text", null),
  sts: mostly("absent", "active", "pending", "ended", null, 5),
  v: mostly(2, "absent", 1, 1, "2", 3, null),
  o: mostly("absent", { id: "org_acme", rol: "admin" }, { id: "org_acme" }, {}, null, "org_acme", { id: 5 }, { id: "" }, { id: null }, [], false, { id: "acme" }),
  org_id: mostly("absent", "org_other", "org_other", null, "", 5, "acme"),
});
// Of many possible deviations, few: most tokens should be nearly right.
const few = (all, usual) => {
  const odd = Object.entries(all).filter(([name, value]) => JSON.stringify(value) !== JSON.stringify(usual[name] ?? "absent"));
  const kept = new Set([pick(odd), pick(odd)].slice(0, roll(3)));
  return Object.fromEntries(odd.filter((entry) => kept.has(entry) || roll(12) === 0));
};
const token = (iss) => {
  const made = {};
  const h = roll(3) === 0 ? few(header(), { alg: "RS256", kid: "ins_1", typ: "JWT" }) : {};
  const usual = { sub: "user_ada", sid: "sess_1", iss, azp: APP, iat: "now+0", nbf: "now-10", exp: "now+60", v: 2 };
  const c = roll(4) === 0 ? {} : few(claims(iss), usual);
  if (Object.keys(h).length > 0) made.h = h;
  if (Object.keys(c).length > 0) made.c = c;
  if (roll(15) === 0) made.k = "other";
  return made;
};
const authorization = () =>
  mostly(
    ["Bearer <0>"],
    ["<0>"],
    ["<0>"],
    ["bearer <0>"],
    ["BEARER <0>"],
    ["Bearer  <0>"],
    ["Bearer <0> x"],
    [" Bearer <0> "],
    ["Bearer\t<0>"],
    ["Basic dXNlcjpwYXNz"],
    ["Basic"],
    ["Bearer"],
    ["Bearer x"],
    [""],
    ["Token <0>"],
    ["Digest username=a, realm=b"],
    ["Basic x", "Bearer <0>"],
    ["Bearer <0>", "Basic x"],
  );
const uat = () => mostly("<now-100>", "<now-20>", "0", "0", "<now+30>", "", "abc", "-5", "<now-90>x", undefined, undefined);
const cookies = (s, own) => {
  const tokens = [token(settings[s].iss), token(settings[s].iss), { c: { iss: other.iss, sub: "user_eve" }, k: "other" }];
  if (roll(6) === 0) tokens[1] = { ...tokens[1], c: { ...tokens[1].c, sub: "user_grace" } };
  const all = [];
  const set = (name, value) => value !== undefined && all.push(`${name}=${value}`);
  set("__session", mostly("<0>", undefined, undefined, "", "nonsense", '"<0>"', "<2>", "<1>"));
  set("__client_uat", uat());
  if (roll(2) === 0) {
    set(`__session_${own}`, mostly(pick(["<0>", "<1>"]), undefined, undefined, "", "nonsense", "<2>"));
    set(`__client_uat_${own}`, uat());
  }
  if (roll(4) === 0) {
    set(`__session_${OTHER}`, "<2>");
    set(`__client_uat_${OTHER}`, uat());
  }
  if (settings[s].key === dev.key) {
    set("__clerk_db_jwt", mostly("dvb_1", undefined, ""));
    set(`__clerk_db_jwt_${own}`, mostly("dvb_1", undefined));
  }
  if (roll(5) === 0) all.push(pick(["a=b", "theme=\u00fc", "__session_id=5", "__session=<1>", "__client_uat=5", "noise", "__sessions=1"]));
  for (let i = all.length - 1; i > 0; i--) {
    const j = roll(i + 1);
    [all[i], all[j]] = [all[j], all[i]];
  }
  const cut = roll(4) === 0 ? roll(all.length + 1) : all.length;
  const joined = [all.slice(0, cut), all.slice(cut)].filter((some) => some.length > 0);
  return { tokens, k: joined.map((some) => some.join(roll(10) === 0 ? ";" : "; ")) };
};
// Only the tokens that are named, under new numbers.
const trimmed = ({ s, t, a, k }) => {
  const used = [...new Set([...a, ...k].join().match(/<\d>/g) ?? [])].map((name) => Number(name[1])).sort();
  const text = (told) => told.replace(/<(\d)>/g, (_, n) => `<${used.indexOf(Number(n))}>`);
  return { s, t: used.map((n) => t[n]), a: a.map(text), k: k.map(text) };
};
const suffixes = await Promise.all(settings.map(suffix));
for (let n = 0; n < 2000; n++) {
  const s = mostly(pick([0, 1, 2]), 3);
  const kind = roll(10);
  let request = { s, t: [token(settings[s].iss)], a: kind < 5 ? authorization() : [], k: [] };
  if (kind >= 3) {
    const { tokens, k } = cookies(s, suffixes[s]);
    request = { ...request, t: tokens, k };
  }
  await put(trimmed(request));
}

const lines = (all) => all.map((one) => JSON.stringify(one)).join(",\n    ");
console.log(`{
  "clerk": "@clerk/backend 3.25.0",
  "settings": [
    ${lines(settings)}
  ],
  "cases": [
    ${lines(cases)}
  ]
}`);
