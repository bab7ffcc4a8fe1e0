// Package waymark is the interface waymark:plugin@0.1.1 in Go. What it means is in wit/; abi.go crosses the border.
package waymark

// Endpoint is one endpoint of a service. Elsewhere it goes by its index in the list that Build got.
type Endpoint struct {
	ID      string
	Address string
	// Zone is empty when it is unknown.
	Zone string
	// Weight is its share relative to the others; 0 means: send it nothing.
	Weight   uint32
	Metadata map[string]string
}

// Scope is what a policy balances for: the service, and the zone of this node (empty when it was not told).
type Scope struct {
	Service, Zone string
}

// Field is one field of the configuration. Default is JSON; empty when it must be given.
type Field struct {
	Name, Default, Doc string
}

// Description is what a policy says of itself.
type Description struct {
	Name, Version, Summary, Warning string
	Fields                          []Field
}

// PlanKind tells how the host turns a plan into picks.
type PlanKind uint8

const (
	// Rotation walks the list for ever, one entry a request.
	Rotation PlanKind = iota
	// HashTable takes the entry at (hash of the request's key) modulo the length.
	HashTable
	// EachRequest calls Pick for every request.
	EachRequest
)

// Plan is what Build answers.
type Plan struct {
	Kind    PlanKind
	Entries []uint32
}

// Context is what differs from one request to the next.
type Context struct {
	Sequence uint32
	Random   [2]uint32
	// Hash is of the request's key, if HasHash.
	Hash    uint32
	HasHash bool
	// Attempt is 0 for a request's first attempt.
	Attempt uint32
}

// DecisionKind tells what becomes of a request.
type DecisionKind uint8

const (
	// ToEndpoint sends it to A.
	ToEndpoint DecisionKind = iota
	// Either sends it to A or B, whichever has less load.
	Either
	// Queue holds it until the next snapshot or policy.
	Queue
	// Fail answers UNAVAILABLE with Message.
	Fail
	// Drop does so whatever the call says, and is never retried.
	Drop
)

// Decision is what Pick answers.
type Decision struct {
	Kind    DecisionKind
	A, B    uint32
	Message string
}

// Policy is a load-balancing policy: a pure function of configuration, endpoints and context.
type Policy interface {
	Describe() Description
	// Build gets ready for these endpoints. The configuration is JSON, {} when there is none. Its error is shown to people.
	Build(config string, scope Scope, endpoints []Endpoint) (Plan, error)
	// Pick is called only after Build answered EachRequest, on the same instance.
	Pick(context Context) Decision
}

// LoadReport is what an instance says of its own load. A figure that it does not give is 0.
type LoadReport struct {
	// CPUUtilization is the part of its processor time that is used; may be over 1.
	CPUUtilization float64
	// MemoryUtilization is the part of its memory that is used.
	MemoryUtilization float64
	// ApplicationUtilization is how much it is used by its own measure; may be over 1.
	ApplicationUtilization float64
	// RPS are the calls a second that it serves, of all its clients; EPS those that it answers with an error.
	RPS, EPS float64
	// AgeMs is how long ago it said so, in milliseconds.
	AgeMs uint32
}

// Level says how much a message to the host's log matters.
type Level uint32

const (
	Debug Level = iota
	Info
	Warn
	Error
)

// Host is what may be asked while Pick runs. Tests put their own in place of the real one.
var Host HostFunctions = granted{}

// HostFunctions are the imports of a policy.
type HostFunctions interface {
	Path() string
	Header(name string) (string, bool)
	Tried(endpoint uint32) bool
	InFlight(endpoint uint32) uint32
	LatencyUs(endpoint uint32) uint32
	// FailureRate is the part of its calls that failed of late, from 0 to 1.
	FailureRate(endpoint uint32) float64
	// Report is what the instance said last of its own load; false when it never did.
	Report(endpoint uint32) (LoadReport, bool)
	// Metric is a figure of its own that its last report named; false when that did not.
	Metric(endpoint uint32, name string) (float64, bool)
	Log(level Level, message string)
}
