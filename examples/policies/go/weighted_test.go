package main

import (
	"reflect"
	"testing"

	"my_policy/waymark"
)

func rotation(t *testing.T, config, zone string, endpoints ...waymark.Endpoint) []uint32 {
	t.Helper()
	plan, err := policy{}.Build(config, waymark.Scope{Zone: zone}, endpoints)
	if err != nil || plan.Kind != waymark.Rotation {
		t.Fatalf("not a rotation: %v %v", plan, err)
	}
	return plan.Entries
}

func TestTurnsFollowTheWeightsAndAreSpreadOut(t *testing.T) {
	got := rotation(t, "{}", "", waymark.Endpoint{Weight: 2}, waymark.Endpoint{Weight: 1}, waymark.Endpoint{Weight: 1}, waymark.Endpoint{})
	if want := []uint32{0, 1, 0, 2}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := rotation(t, "{}", ""); len(got) != 0 {
		t.Errorf("got %v for nobody", got)
	}
}

func TestTheOwnZoneCountsAsOftenAsIsConfigured(t *testing.T) {
	endpoints := []waymark.Endpoint{{Zone: "here", Weight: 1}, {Zone: "there", Weight: 1}}
	for zone, want := range map[string][]uint32{"here": {0, 0, 0, 1}, "": {0, 1}} {
		if got := rotation(t, `{"zone_factor": 3}`, zone, endpoints...); !reflect.DeepEqual(got, want) {
			t.Errorf("in zone %q: got %v, want %v", zone, got, want)
		}
	}
}

func TestABadConfigurationIsRefusedByTheNameOfItsField(t *testing.T) {
	for config, want := range map[string]string{
		`{"zone_factor": 0}`:   "`zone_factor` must be a whole number from 1 to 100, not 0",
		`{"zone_factor": 1.5}`: "`zone_factor` must be a whole number from 1 to 100, not 1.5",
		`{"zone": 1}`:          "unknown field `zone`; there is `zone_factor`",
		`[]`:                   `the configuration must be an object like {"zone_factor": 4}`,
	} {
		if _, err := (policy{}).Build(config, waymark.Scope{}, nil); err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", config, err, want)
		}
	}
}
