/** A program that has installed the package: the packed files, beside the dependencies of this checkout. */
import { execFileSync } from "node:child_process";
import * as fs from "node:fs";
import * as path from "node:path";
import { build } from "esbuild";

export interface Consumer {
  readonly folder: string;
  /** The program as one file, for runtimes that load no packages. */
  readonly bundle: string;
}

export async function unpackConsumer(): Promise<Consumer> {
  const folder = path.resolve("build/consumer");
  const installed = path.join(folder, "node_modules/@entitlements/client");
  fs.rmSync(folder, { recursive: true, force: true });
  fs.mkdirSync(installed, { recursive: true });
  const [packed] = JSON.parse(npm("pack", "--json", "--ignore-scripts", "--pack-destination", folder));
  execFileSync("tar", ["-xzf", path.join(folder, packed.filename), "--strip-components=1", "-C", installed]);
  for (const scope of ["@connectrpc", "@bufbuild"]) {
    fs.symlinkSync(path.resolve("node_modules", scope), path.join(folder, "node_modules", scope));
  }
  fs.writeFileSync(path.join(folder, "package.json"), '{ "type": "module" }');
  fs.copyFileSync("build/test/runtimes/program.js", path.join(folder, "program.js"));
  return { folder, bundle: await bundle(folder) };
}

async function bundle(folder: string): Promise<string> {
  const outfile = path.join(folder, "bundle.js");
  const options = { entryPoints: [path.join(folder, "program.js")], preserveSymlinks: true };
  await build({
    ...options,
    outfile,
    bundle: true,
    format: "esm",
    platform: "neutral",
    mainFields: ["module", "main"],
  });
  return fs.readFileSync(outfile, "utf8");
}

function npm(...args: string[]): string {
  return execFileSync("npm", args, { encoding: "utf8" });
}
