// my_policy: the endpoint with the fewest calls in flight among a few chosen at random.
//
// Asked for each request, because load is not known before. The host compares the last two itself, by the newest figures.

import { readInteger } from "./config";
import { Context, Decision, Description, Endpoint, Field, Plan, Scope, inFlight, tried } from "./waymark";

const MOST_CHOICES: u32 = 10;

// What `build` leaves for `pick`: the endpoints that may get anything, and how many of them to look at.
let receiving: u32[] = [];
let choices: u32 = 2;

// What a pick has chosen, with the load of each. Here, so that a pick makes no garbage of them.
const chosen = new StaticArray<u32>(MOST_CHOICES);
const loads = new StaticArray<u32>(MOST_CHOICES);

export function describe(): Description {
  const summary = "The endpoint with the fewest calls in flight among a few chosen at random.";
  return new Description("my_policy", "0.1.0", summary, [
    new Field("choices", "2", "how many endpoints are compared for each request, 2 to 10"),
  ]);
}

export function build(config: string, scope: Scope, endpoints: Endpoint[]): Plan {
  const given = readInteger(config, "choices", 2, MOST_CHOICES, 2);
  if (given.refusal != "") return Plan.refuse(given.refusal);
  choices = given.value;
  receiving = [];
  // A weight of 0 means: send it nothing.
  for (let index = 0; index < endpoints.length; index++) {
    if (endpoints[index].weight > 0) receiving.push(index);
  }
  // Nobody to choose from: an empty plan lets the host say why.
  return receiving.length > 0 ? Plan.eachRequest() : Plan.rotation([]);
}

/** A number below `below`, of a uniform random number. */
function scale(random: u32, below: u32): u32 {
  return <u32>((<u64>random * <u64>below) >> 32);
}

function isChosen(endpoint: u32, count: u32): bool {
  for (let i: u32 = 0; i < count; i++) if (chosen[i] == endpoint) return true;
  return false;
}

export function pick(context: Context): Decision {
  const n: u32 = receiving.length;
  // Places at equal distances: two of them are any pair.
  const first = scale(context.random0, n);
  const step: u32 = n > 1 ? 1 + scale(context.random1, n - 1) : 0;
  let count: u32 = 0;
  for (let nth: u32 = 0; nth < min(choices, n); nth++) {
    // Whoever was chosen already, or failed this same request, is passed over for the next.
    for (let offset: u32 = 0; offset < n; offset++) {
      const endpoint = receiving[(first + nth * step + offset) % n];
      if (isChosen(endpoint, count) || (context.attempt > 0 && tried(endpoint))) continue;
      chosen[count++] = endpoint;
      break;
    }
  }
  // Where everything was tried, a second try is better than none.
  if (count < 2) return Decision.endpoint(count == 1 ? chosen[0] : receiving[first]);
  if (count > 2) sortByLoad(count);
  return Decision.either(chosen[0], chosen[1]);
}

/** Stable: among equals the first drawn. */
function sortByLoad(count: u32): void {
  for (let i: u32 = 0; i < count; i++) {
    const endpoint = chosen[i];
    const load = inFlight(endpoint);
    let at = i;
    for (; at > 0 && loads[at - 1] > load; at--) {
      chosen[at] = chosen[at - 1];
      loads[at] = loads[at - 1];
    }
    chosen[at] = endpoint;
    loads[at] = load;
  }
}
