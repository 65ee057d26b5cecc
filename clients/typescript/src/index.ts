export { createEntitlements } from "./client.js";
export type { Entitlements, SubjectEntitlements } from "./entitlements.js";
export { EntitlementsError, type ErrorCode } from "./errors.js";
export type { CallOptions, Default, DefaultEvent, Fetch, OnError, Options } from "./options.js";
export type * from "./types.js";
