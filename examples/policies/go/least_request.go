// my_policy: the endpoint with the fewest calls in flight among a few chosen at random.
//
// Asked for each request, because load is not known before. The host compares the last two itself, by the newest figures.
package main

import (
	"slices"

	"my_policy/waymark"
)

// What Build leaves for Pick: the endpoints that may get anything, and how many of them to look at.
type policy struct {
	receiving []uint32
	choices   uint32
	chosen    []uint32
}

func init() { waymark.Export(&policy{}) }

func main() {}

func (*policy) Describe() waymark.Description {
	return waymark.Description{
		Name:    "my_policy",
		Version: "0.1.0",
		Summary: "The endpoint with the fewest calls in flight among a few chosen at random.",
		Fields: []waymark.Field{{
			Name:    "choices",
			Default: "2",
			Doc:     "how many endpoints are compared for each request, 2 to 10",
		}},
	}
}

func (p *policy) Build(config string, _ waymark.Scope, endpoints []waymark.Endpoint) (waymark.Plan, error) {
	p.choices = 2
	if err := waymark.ReadInteger(config, "choices", 2, 10, &p.choices); err != nil {
		return waymark.Plan{}, err
	}
	p.receiving = nil
	for index, endpoint := range endpoints {
		if endpoint.Weight > 0 { // 0 means: send it nothing.
			p.receiving = append(p.receiving, uint32(index))
		}
	}
	if len(p.receiving) == 0 {
		// Nobody to choose from: an empty plan lets the host say why.
		return waymark.Plan{Kind: waymark.Rotation}, nil
	}
	return waymark.Plan{Kind: waymark.EachRequest}, nil
}

// scale makes a number below `below` of a uniform random number.
func scale(random, below uint32) uint32 { return uint32(uint64(random) * uint64(below) >> 32) }

func (p *policy) Pick(context waymark.Context) waymark.Decision {
	n := uint32(len(p.receiving))
	// Places at equal distances: two of them are any pair.
	first, step := scale(context.Random[0], n), uint32(0)
	if n > 1 {
		step = 1 + scale(context.Random[1], n-1)
	}
	chosen := p.chosen[:0]
	for nth := range min(p.choices, n) {
		// Whoever was chosen already, or failed this same request, is passed over for the next.
		for offset := range n {
			endpoint := p.receiving[(first+nth*step+offset)%n]
			if slices.Contains(chosen, endpoint) || context.Attempt > 0 && waymark.Host.Tried(endpoint) {
				continue
			}
			chosen = append(chosen, endpoint)
			break
		}
	}
	p.chosen = chosen
	switch len(chosen) {
	case 0:
		// Everything was tried: a second try is better than none.
		return waymark.Decision{Kind: waymark.ToEndpoint, A: p.receiving[first]}
	case 1:
		return waymark.Decision{Kind: waymark.ToEndpoint, A: chosen[0]}
	case 2:
		return waymark.Decision{Kind: waymark.Either, A: chosen[0], B: chosen[1]}
	}
	load := waymark.Host.InFlight
	least, next := chosen[0], chosen[1]
	leastLoad, nextLoad := load(least), load(next)
	if nextLoad < leastLoad {
		least, next, leastLoad, nextLoad = next, least, nextLoad, leastLoad
	}
	for _, endpoint := range chosen[2:] {
		if load := load(endpoint); load < leastLoad {
			least, next, leastLoad, nextLoad = endpoint, least, load, leastLoad
		} else if load < nextLoad {
			next, nextLoad = endpoint, load
		}
	}
	return waymark.Decision{Kind: waymark.Either, A: least, B: next}
}
