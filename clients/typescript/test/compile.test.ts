/** Compiles programs that use the package, and one that must not compile. */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import * as fs from "node:fs";
import * as path from "node:path";
import { test } from "node:test";

function tsc(...args: string[]): Promise<{ passed: boolean; output: string }> {
  return new Promise((resolve) => {
    execFile("node_modules/.bin/tsc", args, (error, stdout, stderr) =>
      resolve({ passed: !error, output: stdout + stderr }),
    );
  });
}

test("a mistyped feature, scope, plan or id does not compile", async () => {
  assert.deepEqual(await tsc("-p", "test/types"), { passed: true, output: "" });
});

test("the compiler names the mistyped feature", async () => {
  const folder = "build/mistyped";
  fs.mkdirSync(folder, { recursive: true });
  fs.writeFileSync(`${folder}/tsconfig.json`, '{ "extends": "../../test/types/tsconfig.json", "include": ["*.ts"] }');
  fs.writeFileSync(
    `${folder}/mistyped.ts`,
    `import { createEntitlements } from "@entitlements/client";
export const answer = createEntitlements<"export">({ url: "" }).for({ userId: "user_1" }).can("exprot");\n`,
  );
  const { passed, output } = await tsc("-p", folder);
  assert.equal(passed, false);
  assert.match(output, /"exprot"' is not assignable/);
});

test("each program of the README compiles", async () => {
  const folder = "build/readme";
  fs.rmSync(folder, { recursive: true, force: true });
  fs.cpSync("test/readme", folder, { recursive: true });
  const programs = [...fs.readFileSync("README.md", "utf8").matchAll(/^```tsx? (\S+)\n(.*?)^```/gms)];
  const blocks = fs.readFileSync("README.md", "utf8").match(/^```ts/gm)?.length;
  assert.equal(programs.length, blocks, "each program needs a file name after its language");
  for (const [, name = "", text = ""] of programs) {
    fs.mkdirSync(path.dirname(`${folder}/${name}`), { recursive: true });
    fs.writeFileSync(`${folder}/${name}`, text);
  }
  assert.deepEqual(await tsc("-p", folder), { passed: true, output: "" });
});
