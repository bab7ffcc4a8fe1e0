// my_policy: the endpoint with the fewest calls in flight among a few chosen at random.
//
// Asked for each request, because load is not known before. The host compares the last two itself, by the newest figures.

import { inFlight } from "waymark:plugin/load@0.1.1";
import { tried } from "waymark:plugin/request@0.1.1";
import { readInteger, unsigned } from "./config.js";

// What `build` leaves for `pick`: the endpoints that may get anything, and how many of them to look at.
let receiving = [];
let choices = 2;

// A number below `below`, of a uniform random number of 32 bits.
const scale = (random, below) => Math.floor((unsigned(random) * below) / 2 ** 32);

export const balancer = {
  describe() {
    return {
      name: "my_policy",
      version: "0.1.0",
      summary: "The endpoint with the fewest calls in flight among a few chosen at random.",
      fields: [
        {
          name: "choices",
          default: "2",
          doc: "how many endpoints are compared for each request, 2 to 10",
        },
      ],
      warning: "",
    };
  },

  build(config, scope, endpoints) {
    choices = readInteger(config, "choices", 2, 10, 2);
    // A weight of 0 means: send it nothing.
    receiving = [...endpoints.keys()].filter((index) => endpoints[index].weight !== 0);
    // Nobody to choose from: an empty plan lets the host say why.
    return receiving.length > 0 ? { tag: "each-request" } : { tag: "rotation", val: [] };
  },

  pick(context) {
    const n = receiving.length;
    // Places at equal distances: two of them are any pair.
    const first = scale(context.random[0], n);
    const step = n > 1 ? 1 + scale(context.random[1], n - 1) : 0;
    const chosen = [];
    for (let nth = 0; nth < Math.min(choices, n); nth++) {
      // Whoever was chosen already, or failed this same request, is passed over for the next.
      for (let offset = 0; offset < n; offset++) {
        const endpoint = receiving[(first + nth * step + offset) % n];
        if (chosen.includes(endpoint) || (context.attempt > 0 && tried(endpoint))) continue;
        chosen.push(endpoint);
        break;
      }
    }
    if (chosen.length < 2) {
      // Where everything was tried, a second try is better than none.
      return { tag: "endpoint", val: chosen[0] ?? receiving[first] };
    }
    if (chosen.length > 2) {
      // Sorting is stable: among equals the first drawn.
      const load = new Map(chosen.map((endpoint) => [endpoint, unsigned(inFlight(endpoint))]));
      chosen.sort((a, b) => load.get(a) - load.get(b));
    }
    return { tag: "either", val: [chosen[0], chosen[1]] };
  },
};
