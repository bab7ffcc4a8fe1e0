import assert from "node:assert";
import { register } from "node:module";
import test from "node:test";

import { fake } from "./fake_host.js";

// The host's interfaces are there only inside of a component.
const host = JSON.stringify(new URL("./fake_host.js", import.meta.url).href);
const hooks = `export const resolve = (name, context, next) =>
  name.startsWith("waymark:") ? { url: ${host}, shortCircuit: true } : next(name, context);`;
register(`data:text/javascript,${encodeURIComponent(hooks)}`);
const { balancer } = await import("./policy.js");

const build = (config, weights) => balancer.build(config, {}, weights.map((weight) => ({ weight })));

test("two are drawn and the host compares them", () => {
  assert.deepEqual(build("{}", [1, 1, 1, 1]), { tag: "each-request" });
  assert.deepEqual(balancer.pick({ random: [0, 2 ** 32 - 1], attempt: 0 }), { tag: "either", val: [0, 3] });
});

test("of more the two least busy are left", () => {
  build('{"choices": 4}', [1, 1, 1, 1]);
  fake.inFlight = [9, 1, 7, 0];
  assert.deepEqual(balancer.pick({ random: [2 ** 30, 5], attempt: 0 }), { tag: "either", val: [3, 1] });
});

test("a further attempt goes elsewhere while there is anybody", () => {
  build("{}", [1, 0, 1]);
  for (const [tried, val] of [[[0], 2], [[0, 2], 0]]) {
    fake.tried = tried;
    assert.deepEqual(balancer.pick({ random: [0, 0], attempt: 1 }), { tag: "endpoint", val });
  }
});

test("nobody is an empty plan", () => {
  assert.deepEqual(build("{}", [0]), { tag: "rotation", val: [] });
});
