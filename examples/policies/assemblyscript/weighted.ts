// my_policy: every endpoint in turn, as often as its weight says; those in the node's own zone count several times.
//
// A plan: weights and zones are known before the first request comes, so no request costs a call in here. The host keeps
// what `build` answers and walks it for ever; every change of the endpoints is a new `build` in a fresh instance.

import { readInteger } from "./config";
import { Context, Decision, Description, Endpoint, Field, Plan, Scope } from "./waymark";

// A plan has at most so many entries, unless there are more endpoints than that.
const MAX_TURNS: u64 = 16384;

/** One turn of an endpoint: when it is due, as a part of the round. */
class Turn {
  constructor(
    public due: f64,
    public endpoint: u32,
  ) {}
}

export function describe(): Description {
  const doc = "how many times its weight an endpoint of the node's own zone counts, 1 to 100";
  return new Description("my_policy", "0.1.0", "In turn by weight; endpoints of the own zone count several times.", [
    new Field("zone_factor", "4", doc),
  ]);
}

export function build(config: string, scope: Scope, endpoints: Endpoint[]): Plan {
  const zoneFactor = readInteger(config, "zone_factor", 1, 100, 4);
  if (zoneFactor.refusal != "") return Plan.refuse(zoneFactor.refusal);

  // A weight of 0 means: send it nothing.
  const receiving: u32[] = [];
  const shares: u64[] = [];
  for (let index = 0; index < endpoints.length; index++) {
    const endpoint = endpoints[index];
    if (endpoint.weight == 0) continue;
    const isHome = scope.zone != "" && endpoint.zone == scope.zone;
    receiving.push(index);
    shares.push(<u64>endpoint.weight * <u64>(isHome ? zoneFactor.value : 1));
  }

  // Halved until the round is short enough, so that nobody falls to nothing.
  const n: u64 = shares.length;
  while (sum(shares) > max(MAX_TURNS, n)) {
    for (let i = 0; i < shares.length; i++) shares[i] = (shares[i] + 1) / 2;
  }

  // The turns of each are spread evenly over the round, and the endpoints begin one after the other.
  const turns: Turn[] = [];
  for (let i = 0; i < shares.length; i++) {
    for (let k: u64 = 0; k < shares[i]; k++) {
      const halves: u64 = 2 * n * k + 2 * i + 1;
      turns.push(new Turn(<f64>halves / <f64>shares[i], receiving[i]));
    }
  }
  turns.sort((a, b) => (a.due != b.due ? (a.due < b.due ? -1 : 1) : a.endpoint < b.endpoint ? -1 : 1));
  return Plan.rotation(turns.map<u32>((turn) => turn.endpoint));
}

function sum(shares: u64[]): u64 {
  let total: u64 = 0;
  for (let i = 0; i < shares.length; i++) total += shares[i];
  return total;
}

/** Never called: `build` answers a plan. */
export function pick(context: Context): Decision {
  return Decision.queue();
}
