// my_policy: every endpoint in turn, as often as its weight says; those in the node's own zone count several times.
//
// A plan: weights and zones are known before the first request comes, so no request costs a call in here. The host keeps
// what `build` answers and walks it for ever; every change of the endpoints is a new `build` in a fresh instance.

import { readInteger, unsigned } from "./config.js";

// A plan has at most so many entries, unless there are more endpoints than that.
const MAX_TURNS = 16384;

export const balancer = {
  describe() {
    return {
      name: "my_policy",
      version: "0.1.0",
      summary: "In turn by weight; endpoints of the own zone count several times.",
      fields: [
        {
          name: "zone_factor",
          default: "4",
          doc: "how many times its weight an endpoint of the node's own zone counts, 1 to 100",
        },
      ],
      warning: "",
    };
  },

  build(config, scope, endpoints) {
    const zoneFactor = readInteger(config, "zone_factor", 1, 100, 4);

    // A weight of 0 means: send it nothing.
    const receiving = [...endpoints.keys()].filter((index) => endpoints[index].weight !== 0);
    const isHome = (endpoint) => scope.zone !== "" && endpoint.zone === scope.zone;
    let shares = receiving.map((index) => {
      const endpoint = endpoints[index];
      return unsigned(endpoint.weight) * (isHome(endpoint) ? zoneFactor : 1);
    });

    // Halved until the round is short enough, so that nobody falls to nothing.
    while (shares.reduce((sum, share) => sum + share, 0) > Math.max(MAX_TURNS, shares.length)) {
      shares = shares.map((share) => Math.ceil(share / 2));
    }

    // The turns of each are spread evenly over the round, and the endpoints begin one after the other.
    const n = shares.length;
    const turns = [];
    shares.forEach((share, i) => {
      for (let k = 0; k < share; k++) {
        turns.push({ due: (2 * n * k + 2 * i + 1) / share, index: receiving[i] });
      }
    });
    turns.sort((a, b) => a.due - b.due || a.index - b.index);
    return { tag: "rotation", val: turns.map((turn) => turn.index) };
  },

  // Never called: `build` answers a plan.
  pick() {
    return { tag: "queue" };
  },
};
