/** Converts questions to the messages of the service. */
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import { EntitlementsError } from "./errors.js";
import type { CallOptions } from "./options.js";
import type { Subject } from "./types.js";

/** Throws if the subject has no id. */
export function requireId({ userId, orgId }: Subject): void {
  if (!userId && !orgId) {
    throw new EntitlementsError(
      "invalid_argument",
      "invalid_argument: `userId` and `orgId` are both empty; if nobody is signed in, decide without asking",
    );
  }
}

export function toIds(subject: Subject): { userId: string; organizationId: string } {
  requireId(subject);
  return { userId: subject.userId ?? "", organizationId: subject.orgId ?? "" };
}

/** How recent the answer must be. */
export function toRecency({ atLeast, fullyConsistent, maxStalenessMs }: CallOptions<never, never>) {
  return {
    ...(fullyConsistent
      ? { consistency: { requirement: { case: "fullyConsistent" as const, value: true } } }
      : atLeast
        ? { consistency: { requirement: { case: "atLeast" as const, value: atLeast } } }
        : {}),
    ...(maxStalenessMs === undefined ? {} : { maxStaleness: durationFromMs(maxStalenessMs) }),
  };
}
