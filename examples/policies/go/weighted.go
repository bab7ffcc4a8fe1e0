// my_policy: every endpoint in turn, as often as its weight says; those in the node's own zone count several times.
//
// A plan: weights and zones are known before the first request comes, so no request costs a call in here. The host keeps
// what Build answers and walks it for ever; every change of the endpoints is a new Build in a fresh instance.
package main

import (
	"cmp"
	"slices"

	"my_policy/waymark"
)

// A plan has at most so many entries, unless there are more endpoints than that.
const maxTurns = 16384

type policy struct{}

func init() { waymark.Export(policy{}) }

func main() {}

func (policy) Describe() waymark.Description {
	return waymark.Description{
		Name:    "my_policy",
		Version: "0.1.0",
		Summary: "In turn by weight; endpoints of the own zone count several times.",
		Fields: []waymark.Field{{
			Name:    "zone_factor",
			Default: "4",
			Doc:     "how many times its weight an endpoint of the node's own zone counts, 1 to 100",
		}},
	}
}

// One turn of an endpoint: when it is due, as a part of the round.
type turn struct {
	due      float64
	endpoint uint32
}

func (policy) Build(config string, scope waymark.Scope, endpoints []waymark.Endpoint) (waymark.Plan, error) {
	zoneFactor := uint32(4)
	if err := waymark.ReadInteger(config, "zone_factor", 1, 100, &zoneFactor); err != nil {
		return waymark.Plan{}, err
	}

	var receiving []uint32
	var shares []uint64
	for index, endpoint := range endpoints {
		if endpoint.Weight == 0 {
			continue // It means: send it nothing.
		}
		share := uint64(endpoint.Weight)
		if scope.Zone != "" && endpoint.Zone == scope.Zone {
			share *= uint64(zoneFactor)
		}
		receiving, shares = append(receiving, uint32(index)), append(shares, share)
	}

	// The turns of each are spread evenly over the round, and the endpoints begin one after the other.
	n := uint64(len(shares))
	turns := make([]turn, 0, countTurns(shares))
	for i, share := range shares {
		for k := range share {
			due := float64(2*n*k+2*uint64(i)+1) / float64(share)
			turns = append(turns, turn{due, receiving[i]})
		}
	}
	slices.SortFunc(turns, func(a, b turn) int {
		return cmp.Or(cmp.Compare(a.due, b.due), cmp.Compare(a.endpoint, b.endpoint))
	})

	plan := waymark.Plan{Kind: waymark.Rotation, Entries: make([]uint32, len(turns))}
	for at, turn := range turns {
		plan.Entries[at] = turn.endpoint
	}
	return plan, nil
}

// countTurns bounds how often each endpoint comes in one round: all are halved until the round is short enough, and nobody
// falls to nothing.
func countTurns(shares []uint64) uint64 {
	for {
		var total uint64
		for _, share := range shares {
			total += share
		}
		if total <= uint64(max(maxTurns, len(shares))) {
			return total
		}
		for i, share := range shares {
			shares[i] = (share + 1) / 2
		}
	}
}

// Pick is never called: Build answers a plan.
func (policy) Pick(waymark.Context) waymark.Decision { return waymark.Decision{Kind: waymark.Queue} }
