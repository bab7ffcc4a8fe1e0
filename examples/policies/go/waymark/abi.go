//go:build wasip1

// The canonical ABI by hand: what crosses the border are 32-bit addresses into this module's memory, and Go's own pointers
// have 64 bits, so that no struct of Go's has the right layout.

package waymark

import (
	"fmt"
	"math"
	"unsafe"
)

var (
	policy Policy
	// What the host has been given an address of, or has written to, until the next call.
	kept [][]uint64
	// What an export answers, read by the host when it returns.
	answer [16]uint32
)

// Export makes a component of a policy: call it from init.
func Export(p Policy) { policy = p }

//go:wasmexport cabi_realloc
func realloc(old unsafe.Pointer, oldSize, align, size uint32) unsafe.Pointer {
	block := make([]uint64, size/8+1)
	kept = append(kept, block)
	start := unsafe.Pointer(&block[0])
	copy(unsafe.Slice((*byte)(start), size), unsafe.Slice((*byte)(old), min(oldSize, size)))
	return start
}

func at(address uint32) unsafe.Pointer { return unsafe.Add(unsafe.Pointer(nil), address) }

func address(pointer unsafe.Pointer) uint32 { return uint32(uintptr(pointer)) }

func words(address, count uint32) []uint32 { return unsafe.Slice((*uint32)(at(address)), count) }

// text copies: what the host wrote is given up when the call ends.
func text(address, length uint32) string {
	if length == 0 {
		return ""
	}
	return string(unsafe.Slice((*byte)(at(address)), length))
}

// lend hands a text to the host. It stays where it is until the next call.
func lend(into []uint32, s string) {
	start := realloc(nil, 0, 1, uint32(len(s)))
	copy(unsafe.Slice((*byte)(start), len(s)), s)
	into[0], into[1] = address(start), uint32(len(s))
}

func lendWords(into []uint32, list []uint32) {
	start := realloc(nil, 0, 4, uint32(len(list)*4))
	copy(unsafe.Slice((*uint32)(start), len(list)), list)
	into[0], into[1] = address(start), uint32(len(list))
}

// reportPanic lets the host log what a panic said; the trap that follows says only "unreachable".
func reportPanic() {
	if cause := recover(); cause != nil {
		Host.Log(Error, fmt.Sprint("panic: ", cause))
		panic(cause)
	}
}

//go:wasmexport waymark:plugin/balancer@0.1.1#describe
func describe() unsafe.Pointer {
	defer reportPanic()
	about := policy.Describe()
	fields := make([]uint32, 0, 6*len(about.Fields))
	for _, field := range about.Fields {
		var words [6]uint32
		lend(words[0:], field.Name)
		lend(words[2:], field.Default)
		lend(words[4:], field.Doc)
		fields = append(fields, words[:]...)
	}
	lend(answer[0:], about.Name)
	lend(answer[2:], about.Version)
	lend(answer[4:], about.Summary)
	lendWords(answer[6:], fields)
	answer[7] = uint32(len(about.Fields))
	lend(answer[8:], about.Warning)
	return unsafe.Pointer(&answer)
}

//go:wasmexport waymark:plugin/balancer@0.1.1#build
func build(config, configLen, service, serviceLen, zone, zoneLen, list, count uint32) unsafe.Pointer {
	defer reportPanic()
	endpoints := make([]Endpoint, count)
	for i := range endpoints {
		record := words(list+uint32(i)*36, 9)
		metadata := make(map[string]string, record[8])
		for n := range record[8] {
			pair := words(record[7]+n*16, 4)
			metadata[text(pair[0], pair[1])] = text(pair[2], pair[3])
		}
		endpoints[i] = Endpoint{
			ID: text(record[0], record[1]), Address: text(record[2], record[3]), Zone: text(record[4], record[5]),
			Weight: record[6], Metadata: metadata,
		}
	}
	scope := Scope{Service: text(service, serviceLen), Zone: text(zone, zoneLen)}
	settings := text(config, configLen)
	kept = nil
	plan, err := policy.Build(settings, scope, endpoints)
	if err != nil {
		answer[0] = 1
		lend(answer[1:], err.Error())
		return unsafe.Pointer(&answer)
	}
	answer[0], answer[1] = 0, uint32(plan.Kind)
	lendWords(answer[2:], plan.Entries)
	return unsafe.Pointer(&answer)
}

//go:wasmexport waymark:plugin/balancer@0.1.1#pick
func pick(sequence, random0, random1, hasHash, hash, attempt uint32) unsafe.Pointer {
	defer reportPanic()
	kept = kept[:0]
	decision := policy.Pick(Context{
		Sequence: sequence, Random: [2]uint32{random0, random1}, Hash: hash, HasHash: hasHash != 0, Attempt: attempt,
	})
	answer[0] = uint32(decision.Kind)
	switch decision.Kind {
	case ToEndpoint:
		answer[1] = decision.A
	case Either:
		answer[1], answer[2] = decision.A, decision.B
	case Fail, Drop:
		lend(answer[1:], decision.Message)
	}
	return unsafe.Pointer(&answer)
}

//go:wasmimport waymark:plugin/request@0.1.1 path
func requestPath(answer unsafe.Pointer)

//go:wasmimport waymark:plugin/request@0.1.1 header
func requestHeader(name unsafe.Pointer, nameLen uint32, answer unsafe.Pointer)

//go:wasmimport waymark:plugin/request@0.1.1 tried
func requestTried(endpoint uint32) uint32

//go:wasmimport waymark:plugin/load@0.1.1 in-flight
func loadInFlight(endpoint uint32) uint32

//go:wasmimport waymark:plugin/load@0.1.1 latency-us
func loadLatencyUs(endpoint uint32) uint32

//go:wasmimport waymark:plugin/load@0.1.1 failure-rate
func loadFailureRate(endpoint uint32) float64

//go:wasmimport waymark:plugin/load@0.1.1 report
func loadReport(endpoint uint32, answer unsafe.Pointer)

//go:wasmimport waymark:plugin/load@0.1.1 metric
func loadMetric(endpoint uint32, name unsafe.Pointer, nameLen uint32, answer unsafe.Pointer)

//go:wasmimport waymark:plugin/log@0.1.1 log
func logLog(level uint32, message unsafe.Pointer, messageLen uint32)

type granted struct{}

func (granted) Path() string {
	var said [2]uint32
	requestPath(unsafe.Pointer(&said))
	return text(said[0], said[1])
}

func (granted) Header(name string) (string, bool) {
	var said [3]uint32
	requestHeader(unsafe.Pointer(unsafe.StringData(name)), uint32(len(name)), unsafe.Pointer(&said))
	if said[0]&0xff == 0 {
		return "", false
	}
	return text(said[1], said[2]), true
}

func (granted) Report(endpoint uint32) (LoadReport, bool) {
	// Whether there is one, five doubles, and the age.
	var said [7]uint64
	loadReport(endpoint, unsafe.Pointer(&said))
	if said[0]&0xff == 0 {
		return LoadReport{}, false
	}
	figure := func(nth int) float64 { return math.Float64frombits(said[nth]) }
	return LoadReport{
		CPUUtilization: figure(1), MemoryUtilization: figure(2), ApplicationUtilization: figure(3),
		RPS: figure(4), EPS: figure(5), AgeMs: uint32(said[6]),
	}, true
}

func (granted) Metric(endpoint uint32, name string) (float64, bool) {
	var said [2]uint64
	loadMetric(endpoint, unsafe.Pointer(unsafe.StringData(name)), uint32(len(name)), unsafe.Pointer(&said))
	return math.Float64frombits(said[1]), said[0]&0xff != 0
}

func (granted) Tried(endpoint uint32) bool          { return requestTried(endpoint) != 0 }
func (granted) InFlight(endpoint uint32) uint32     { return loadInFlight(endpoint) }
func (granted) LatencyUs(endpoint uint32) uint32    { return loadLatencyUs(endpoint) }
func (granted) FailureRate(endpoint uint32) float64 { return loadFailureRate(endpoint) }
func (granted) Log(level Level, message string) {
	logLog(uint32(level), unsafe.Pointer(unsafe.StringData(message)), uint32(len(message)))
}
