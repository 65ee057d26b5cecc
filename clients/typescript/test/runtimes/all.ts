/**
 * Runs the program in every runtime that is found, on the packed package. `npm --prefix runtimes ci` installs the
 * runtimes; one that is on the PATH is found too. Asks the service of ENTITLEMENTS_URL, else the one of the tests.
 */
import { execFileSync } from "node:child_process";
import * as fs from "node:fs";
import * as path from "node:path";
import { awayUrl, KEY, redirectTo, startService, USER } from "../service.js";
import { unpackConsumer } from "./consumer.js";
import { RUNTIMES, type Runtime } from "./runtimes.js";
import { LAST_LINE, type Settings } from "./program.js";

const service = process.env["ENTITLEMENTS_URL"] ? undefined : await startService();
const url = service?.url ?? process.env["ENTITLEMENTS_URL"] ?? "";
const redirecting = await redirectTo(url);
const settings: Settings = {
  ENTITLEMENTS_URL: url,
  ENTITLEMENTS_KEY: service ? KEY : process.env["ENTITLEMENTS_KEY"],
  ENTITLEMENTS_USER: process.env["ENTITLEMENTS_USER"] ?? USER,
  ENTITLEMENTS_ALLOWED: process.env["ENTITLEMENTS_ALLOWED"] ?? "export",
  ENTITLEMENTS_DENIED: process.env["ENTITLEMENTS_DENIED"] ?? "sso",
  ENTITLEMENTS_PLAN: process.env["ENTITLEMENTS_PLAN"] ?? "pro",
  AWAY_URL: await awayUrl(),
  REDIRECT_URL: redirecting.url,
};

console.log(`the service is ${service ? "the one of the tests" : settings.ENTITLEMENTS_URL}`);
const consumer = await unpackConsumer();
let failed = 0;
for (const runtime of RUNTIMES) failed += (await passes(runtime)) ? 0 : 1;
await redirecting.close();
await service?.close();
process.exitCode = failed;

async function passes(runtime: Runtime): Promise<boolean> {
  const program = find(runtime.command);
  if (!program) {
    console.log(`skipped ${runtime.name}: no ${runtime.command} in runtimes/node_modules or on the PATH`);
    return true;
  }
  const lines = await runtime
    .run(program, consumer, settings)
    .catch((thrown: unknown) => [`FAILED to run: ${String(thrown)}`]);
  const failures = lines.filter((line) => !line.startsWith("ok "));
  const passed = lines.at(-1) === LAST_LINE && failures.length === 0;
  const count = `${lines.length - failures.length} of ${lines.length} lines are as expected`;
  console.log(`${passed ? "passed" : "FAILED"} ${runtime.name}: ${count}`);
  for (const line of failures) console.log(`  ${line}`);
  return passed;
}

function find(command: string): string | undefined {
  const installed = path.resolve("runtimes/node_modules/.bin", command);
  if (fs.existsSync(installed)) return installed;
  try {
    return execFileSync("which", [command], { encoding: "utf8", stdio: "pipe" }).trim();
  } catch {
    return undefined;
  }
}
