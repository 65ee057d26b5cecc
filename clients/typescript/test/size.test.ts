import assert from "node:assert/strict";
import * as fs from "node:fs";
import { test } from "node:test";
import { gzipSync } from "node:zlib";

const LIMIT = 15_000;

test("the code that is written by hand packs to at most 15 kB", () => {
  const files = fs.readdirSync("dist").filter((name) => /\.(js|d\.ts)$/.test(name)); // dist/gen is generated
  assert.ok(files.length > 10);
  const all = Buffer.concat(files.map((name) => fs.readFileSync(`dist/${name}`)));
  const packed = gzipSync(all, { level: 9 }).length;
  console.log(`${files.length} files by hand: ${all.length} bytes, packed ${packed}`);
  assert.ok(packed <= LIMIT, `${packed} bytes`);
});
