// Runs every function that policy_test.ts exports, each in an instance of its own, with a host that answers what the test tells it to.

import { readFileSync } from "node:fs";
import { test } from "node:test";

const module = new WebAssembly.Module(readFileSync(new URL("test.wasm", import.meta.url)));

function instance() {
  const inFlight = [];
  const tried = [];
  const { exports } = new WebAssembly.Instance(module, {
    "waymark:plugin/request@0.1.1": { tried: (endpoint) => tried.includes(endpoint) },
    "waymark:plugin/load@0.1.1": {
      "in-flight": (endpoint) => inFlight[endpoint] ?? 0,
      "latency-us": () => 0,
      "failure-rate": () => 0,
      // No instance spoke of its load.
      report: (endpoint, said) => new DataView(exports.memory.buffer).setUint8(said, 0),
      metric: (endpoint, name, length, said) => new DataView(exports.memory.buffer).setUint8(said, 0),
    },
    fake: { inFlight: (endpoint, calls) => (inFlight[endpoint] = calls), tried: (endpoint) => tried.push(endpoint) },
    env: {
      abort(message, file, line) {
        throw new Error(`${text(exports.memory, message)} (${text(exports.memory, file)}:${line})`);
      },
    },
  });
  return exports;
}

// A string of the module: UTF-16, its length in bytes before it.
function text(memory, address) {
  if (address === 0) return "";
  const length = new DataView(memory.buffer).getUint32(address - 4, true);
  return Buffer.from(memory.buffer, address, length).toString("utf16le");
}

for (const { name, kind } of WebAssembly.Module.exports(module)) {
  if (kind === "function") test(name, () => instance()[name]());
}
