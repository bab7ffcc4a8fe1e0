package waymark

import (
	"encoding/json"
	"fmt"
	"strings"
)

// ReadInteger takes over a configuration's field if it is there. Its error names what is wrong: a field that there is not,
// or a value that is no whole number in range.
func ReadInteger(config, name string, least, most uint32, value *uint32) error {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal([]byte(config), &fields); err != nil || fields == nil {
		return fmt.Errorf("the configuration must be an object like {%q: %d}", name, *value)
	}
	for field := range fields {
		if field != name {
			return fmt.Errorf("unknown field `%.60s`; there is `%s`", field, name)
		}
	}
	written, given := fields[name]
	if !given {
		return nil
	}
	number := json.Number(strings.TrimSpace(string(written)))
	whole, err := number.Int64()
	if err != nil || whole < int64(least) || whole > int64(most) {
		return fmt.Errorf("`%s` must be a whole number from %d to %d, not %.40s", name, least, most, written)
	}
	*value = uint32(whole)
	return nil
}
