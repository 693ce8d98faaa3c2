package gateway

import (
	"bytes"
	"encoding/json"
	"strings"
	"time"
)

// fields reads the members of a JSON object whose types may be wrong, and gathers every problem instead of stopping at the first.
// Names are exact, null and the empty string count as absent, members that nobody asks for are ignored.
type fields struct {
	members  map[string]json.RawMessage
	prefix   string // "contact.", or empty at the top
	problems *[]string
}

// readFields returns the members of a body, or an error when the body is no strict JSON object.
func readFields(body []byte) (fields, error) {
	f := fields{problems: new([]string)}
	if err := checkJSON(body); err != nil {
		return f, say(errBad, "The body is not valid JSON: "+err.Error())
	}
	if bytes.TrimLeft(body, jsonSpace)[0] != '{' {
		return f, say(errBad, "The body must be a JSON object")
	}
	if err := json.Unmarshal(body, &f.members); err != nil {
		return f, say(errBad, "The body is not valid JSON")
	}
	return f, nil
}

// raw is a member as it was written; nil when it is absent, null or the empty string.
func (f fields) raw(name string) json.RawMessage {
	if v := f.members[name]; string(v) != "null" && string(v) != `""` {
		return v
	}
	return nil
}

// wrong notes that a member is not of the type that it should be.
func (f fields) wrong(name, should string) {
	*f.problems = append(*f.problems, f.prefix+name+" must be "+should)
}

// read puts a member into v; what should says what type it should have.
func (f fields) read(name, should string, v any) {
	raw := f.raw(name)
	if raw != nil && json.Unmarshal(raw, v) != nil {
		f.wrong(name, should)
	}
}

// text is a string.
func (f fields) text(name string) (s string) {
	f.read(name, "a string", &s)
	return s
}

// whole is an integer.
func (f fields) whole(name string) (n int64) {
	f.read(name, "an integer", &n)
	return n
}

// positive is an integer that 0 stands for the absence of; a 0 that is written is out of all bounds, and so -1.
func (f fields) positive(name string) int64 {
	n := f.whole(name)
	if n == 0 && f.raw(name) != nil {
		return -1
	}
	return n
}

// millis is a time in milliseconds, positive in the same way. One that is out of all bounds is cut to one that is out of them too.
func (f fields) millis(name string) time.Duration {
	return time.Duration(max(-1, min(f.positive(name), 1e11))) * time.Millisecond
}

// flag is true or false.
func (f fields) flag(name string) (b bool) {
	f.read(name, "true or false", &b)
	return b
}

// wholes is a list of integers.
func (f fields) wholes(name string) (list []int64) {
	f.read(name, "a list of integers", &list)
	return list
}

// moment is a time: epoch milliseconds, or a text in the form of RFC 3339.
func (f fields) moment(name string) (t time.Time) {
	raw := f.raw(name)
	if raw == nil {
		return time.Time{}
	}
	var ms int64
	if json.Unmarshal(raw, &ms) == nil {
		if ms == 0 {
			return time.Time{}
		}
		return time.UnixMilli(ms)
	}
	f.read(name, "a time in epoch milliseconds", &t)
	return t
}

// object is a nested object; ok is false when it is absent or not an object.
func (f fields) object(name string) (inner fields, ok bool) {
	inner = fields{prefix: f.prefix + name + ".", problems: f.problems}
	raw := f.raw(name)
	if raw == nil {
		return inner, false
	}
	f.read(name, "an object", &inner.members)
	return inner, inner.members != nil
}

// flat is an object without objects or lists in it, as it was written; nil when it is absent.
func (f fields) flat(name string) []byte {
	inner, ok := f.object(name)
	if !ok {
		return nil
	}
	for _, v := range inner.members {
		if strings.HasPrefix(string(v), "{") || strings.HasPrefix(string(v), "[") {
			f.wrong(name, "a flat object: no objects or lists in it")
			return nil
		}
	}
	return f.raw(name)
}
