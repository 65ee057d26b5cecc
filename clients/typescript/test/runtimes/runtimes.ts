/** How each runtime runs the program. */
import { execFile } from "node:child_process";
import * as fs from "node:fs";
import { createRequire } from "node:module";
import * as path from "node:path";
import type { Consumer } from "./consumer.js";
import type { Settings } from "./program.js";

export interface Runtime {
  readonly name: string;
  readonly command: string;
  /** Returns the lines of the program. */
  run(program: string, consumer: Consumer, settings: Settings): Promise<string[]>;
}

export const RUNTIMES: readonly Runtime[] = [
  { name: "Node", command: "node", run: (program, ...rest) => runScript([program], ...rest) },
  { name: "Bun", command: "bun", run: (program, ...rest) => runScript([program], ...rest) },
  {
    name: "Deno",
    command: "deno",
    run: (program, ...rest) =>
      runScript(
        [program, "run", "--no-lock", "--node-modules-dir=manual", "--allow-net", "--allow-read", "--allow-env"],
        ...rest,
      ),
  },
  // An old date, because event listeners and fetch are the least standard there.
  { name: "workerd 2023-07-01", command: "workerd", run: runWorker("2023-07-01") },
  { name: "workerd 2026-01-01", command: "workerd", run: runWorker("2026-01-01") },
  { name: "edge-runtime", command: "edge-runtime", run: runEdge },
];

/** Runs an unbundled script, so the runtime itself resolves the package. */
function runScript(command: string[], { folder }: Consumer, settings: Settings): Promise<string[]> {
  const main = path.join(folder, "main.js");
  const run = `await run(${JSON.stringify(settings)})`;
  fs.writeFileSync(main, `import { run } from "./program.js";\nfor (const line of ${run}) console.log(line);\n`);
  return output([...command, main], folder);
}

/** A worker without Node's modules. */
const WORKER = (settings: Settings, compatibilityDate: string) => `using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (services = [
  (name = "main", worker = .main),
  (name = "internet", network = (allow = ["public", "private"], tlsOptions = (trustBrowserCas = true))),
]);
const main :Workerd.Worker = (
  compatibilityDate = "${compatibilityDate}",
  modules = [(name = "main", esModule = embed "worker.js"), (name = "bundle.js", esModule = embed "bundle.js")],
  bindings = [(name = "settings", json = ${JSON.stringify(JSON.stringify(settings))})],
);
`;

function runWorker(date: string): Runtime["run"] {
  return (program, { folder }, settings) => {
    const main = `import { run } from "bundle.js";
export default { async test(_, { settings }) { for (const line of await run(settings)) console.log(line); } };
`;
    fs.writeFileSync(path.join(folder, "worker.js"), main);
    fs.writeFileSync(path.join(folder, "worker.capnp"), WORKER(settings, date));
    return output([program, "test", "worker.capnp"], folder);
  };
}

async function runEdge(program: string, { bundle }: Consumer, settings: Settings): Promise<string[]> {
  const { EdgeRuntime } = createRequire(fs.realpathSync(program))("edge-runtime");
  const script = bundle.replace(/export \{[^}]*\};?\s*$/, "");
  const runtime = new EdgeRuntime({
    initialCode: `${script}
addEventListener("fetch", (event) =>
  event.respondWith(run(${JSON.stringify(settings)}).then((lines) => new Response(lines.join("\\n")))));`,
  });
  const response = await runtime.dispatchFetch("http://edge.local/");
  return (await response.text()).split("\n");
}

function output([program = "", ...args]: string[], cwd: string): Promise<string[]> {
  return new Promise((resolve, reject) => {
    execFile(program, args, { cwd, timeout: 60_000 }, (error, stdout, stderr) => {
      const lines = `${stdout}\n${stderr}`.split("\n").filter((line) => /^(ok|FAILED) /.test(line));
      if (lines.length > 0) resolve(lines);
      else reject(error ?? new Error(`no output: ${stderr}`));
    });
  });
}
