import { build, pick } from "./policy";
import { Context, DecisionKind, Endpoint, PlanKind, Scope } from "./waymark";

// What the host of test.mjs answers.
@external("fake", "inFlight")
declare function setInFlight(endpoint: u32, calls: u32): void;

@external("fake", "tried")
declare function setTried(endpoint: u32): void;

function built(config: string, weights: u32[]): PlanKind {
  const endpoints: Endpoint[] = [];
  for (let i = 0; i < weights.length; i++) {
    const endpoint = new Endpoint();
    endpoint.weight = weights[i];
    endpoints.push(endpoint);
  }
  const plan = build(config, new Scope(), endpoints);
  assert(plan.refusal == "", plan.refusal);
  return plan.kind;
}

function picked(random0: u32, random1: u32, attempt: u32): string {
  const context = new Context();
  context.random0 = random0;
  context.random1 = random1;
  context.attempt = attempt;
  const decision = pick(context);
  if (decision.kind == DecisionKind.Either) return `either ${decision.a} ${decision.b}`;
  return decision.kind == DecisionKind.Endpoint ? `endpoint ${decision.a}` : "nothing";
}

function expect(got: string, wanted: string): void {
  assert(got == wanted, `expected: ${wanted}, got: ${got}`);
}

export function twoAreDrawnAndTheHostComparesThem(): void {
  assert(built("{}", [1, 1, 1, 1]) == PlanKind.EachRequest);
  expect(picked(0, u32.MAX_VALUE, 0), "either 0 3");
}

export function ofMoreTheTwoLeastBusyAreLeft(): void {
  built('{"choices": 4}', [1, 1, 1, 1]);
  expect(picked(1 << 30, 5, 0), "either 1 2");
  setInFlight(0, 9);
  setInFlight(1, 1);
  setInFlight(2, 7);
  expect(picked(1 << 30, 5, 0), "either 3 1");
}

export function aFurtherAttemptGoesElsewhereWhileThereIsAnybody(): void {
  built("{}", [1, 0, 1]);
  setTried(0);
  expect(picked(0, 0, 1), "endpoint 2");
  setTried(2);
  expect(picked(0, 0, 1), "endpoint 0");
}

export function nobodyIsAnEmptyPlan(): void {
  assert(built("{}", [0]) == PlanKind.Rotation);
  const refusal = build('{"choices": 11}', new Scope(), []).refusal;
  expect(refusal, "`choices` must be a whole number from 2 to 10, not 11");
}
