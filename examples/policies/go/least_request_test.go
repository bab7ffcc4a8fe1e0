package main

import (
	"testing"

	"my_policy/waymark"
)

// A host that answers what the test tells it to.
type fakeHost struct {
	waymark.HostFunctions
	inFlight []uint32
	tried    map[uint32]bool
}

func (h fakeHost) InFlight(endpoint uint32) uint32 { return h.inFlight[endpoint] }
func (h fakeHost) Tried(endpoint uint32) bool      { return h.tried[endpoint] }

func built(t *testing.T, config string, host fakeHost, weights ...uint32) *policy {
	t.Helper()
	// What it does not answer itself is as without a host.
	host.HostFunctions = waymark.Host
	waymark.Host = host
	var endpoints []waymark.Endpoint
	for _, weight := range weights {
		endpoints = append(endpoints, waymark.Endpoint{Weight: weight})
	}
	made := new(policy)
	if plan, err := made.Build(config, waymark.Scope{}, endpoints); err != nil || plan.Kind != waymark.EachRequest {
		t.Fatalf("not asked for each request: %v %v", plan, err)
	}
	return made
}

func TestTwoAreDrawnAndTheHostComparesThem(t *testing.T) {
	got := built(t, "{}", fakeHost{}, 1, 1, 1, 1).Pick(waymark.Context{Random: [2]uint32{0, 1<<32 - 1}})
	if want := (waymark.Decision{Kind: waymark.Either, A: 0, B: 3}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestOfMoreTheTwoLeastBusyAreLeft(t *testing.T) {
	host := fakeHost{inFlight: []uint32{9, 1, 7, 0}}
	got := built(t, `{"choices": 4}`, host, 1, 1, 1, 1).Pick(waymark.Context{Random: [2]uint32{1 << 30, 5}})
	if want := (waymark.Decision{Kind: waymark.Either, A: 3, B: 1}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestAFurtherAttemptGoesElsewhereWhileThereIsAnybody(t *testing.T) {
	for _, c := range []struct {
		tried map[uint32]bool
		want  uint32
	}{{map[uint32]bool{0: true}, 2}, {map[uint32]bool{0: true, 2: true}, 0}} {
		got := built(t, "{}", fakeHost{tried: c.tried}, 1, 0, 1).Pick(waymark.Context{Attempt: 1})
		if want := (waymark.Decision{Kind: waymark.ToEndpoint, A: c.want}); got != want {
			t.Errorf("tried %v: got %v, want %v", c.tried, got, want)
		}
	}
}

func TestNobodyIsAnEmptyPlan(t *testing.T) {
	plan, err := new(policy).Build("{}", waymark.Scope{}, []waymark.Endpoint{{Weight: 0}})
	if err != nil || plan.Kind != waymark.Rotation || len(plan.Entries) != 0 {
		t.Errorf("got %v %v", plan, err)
	}
}
