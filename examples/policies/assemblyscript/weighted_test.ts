import { build } from "./policy";
import { Endpoint, Scope } from "./waymark";

function endpoint(zone: string, weight: u32): Endpoint {
  const made = new Endpoint();
  made.zone = zone;
  made.weight = weight;
  return made;
}

function rotation(config: string, zone: string, endpoints: Endpoint[]): string {
  const scope = new Scope();
  scope.zone = zone;
  const plan = build(config, scope, endpoints);
  return plan.refusal != "" ? plan.refusal : plan.entries.toString();
}

function expect(got: string, wanted: string): void {
  assert(got == wanted, `expected: ${wanted}, got: ${got}`);
}

export function turnsFollowTheWeightsAndAreSpreadOut(): void {
  expect(rotation("{}", "", [endpoint("", 2), endpoint("", 1), endpoint("", 1), endpoint("", 0)]), "0,1,0,2");
  expect(rotation(" {} ", "", []), "");
}

export function theOwnZoneCountsAsOftenAsIsConfigured(): void {
  const zones = [endpoint("here", 1), endpoint("there", 1)];
  expect(rotation('{"zone_factor": 3}', "here", zones), "0,0,0,1");
  expect(rotation('{"zone_factor": 3}', "", zones), "0,1");
}

export function aBadConfigurationIsRefusedByTheNameOfItsField(): void {
  expect(rotation('{"zone_factor": 0}', "", []), "`zone_factor` must be a whole number from 1 to 100, not 0");
  expect(rotation('{"zone_factor": "4"}', "", []), '`zone_factor` must be a whole number from 1 to 100, not "4"');
  expect(rotation('{"zone": 1}', "", []), "unknown field `zone`; there is `zone_factor`");
  const wrong = ["", "[]", "{", '{"zone_factor"', '{"zone_factor": 3} x', '{"zone_factor": 3,}'];
  for (let i = 0; i < wrong.length; i++) {
    expect(rotation(wrong[i], "", []), 'the configuration must be an object of whole numbers, like {"zone_factor": 4}');
  }
}
