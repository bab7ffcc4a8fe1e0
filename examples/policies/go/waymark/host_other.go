//go:build !wasip1

package waymark

// There is no host in a test unless the test brings one.
type granted struct{}

func (granted) Path() string                          { return "" }
func (granted) Header(string) (string, bool)          { return "", false }
func (granted) Tried(uint32) bool                     { return false }
func (granted) InFlight(uint32) uint32                { return 0 }
func (granted) LatencyUs(uint32) uint32               { return 0 }
func (granted) FailureRate(uint32) float64            { return 0 }
func (granted) Report(uint32) (LoadReport, bool)      { return LoadReport{}, false }
func (granted) Metric(uint32, string) (float64, bool) { return 0, false }
func (granted) Log(level Level, message string)       {}

// Export makes a component of a policy; in a test it does nothing.
func Export(Policy) {}
