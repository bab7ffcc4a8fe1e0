import assert from "node:assert";
import test from "node:test";

import { balancer } from "./policy.js";

const endpoint = (zone, weight) => ({ id: "", address: "", zone, weight, metadata: [] });
const rotation = (config, zone, endpoints) => balancer.build(config, { service: "svc", zone }, endpoints).val;

test("turns follow the weights and are spread out", () => {
  assert.deepEqual(rotation("{}", "", [2, 1, 1, 0].map((weight) => endpoint("", weight))), [0, 1, 0, 2]);
  assert.deepEqual(rotation("{}", "", []), []);
});

test("the own zone counts as often as is configured", () => {
  const endpoints = [endpoint("here", 1), endpoint("there", 1)];
  assert.deepEqual(rotation('{"zone_factor": 3}', "here", endpoints), [0, 0, 0, 1]);
  assert.deepEqual(rotation('{"zone_factor": 3}', "", endpoints), [0, 1]);
});

test("a bad configuration is refused by the name of its field", () => {
  for (const [config, message] of [
    ['{"zone_factor": 0}', "`zone_factor` must be a whole number from 1 to 100, not 0"],
    ['{"zone_factor": null}', "`zone_factor` must be a whole number from 1 to 100, not null"],
    ['{"zone": 1}', "unknown field `zone`; there is `zone_factor`"],
    ["[]", 'the configuration must be an object like {"zone_factor": 4}'],
  ]) {
    let refusal;
    try {
      rotation(config, "", []);
    } catch (thrown) {
      refusal = thrown;
    }
    assert.equal(refusal, message);
  }
});
