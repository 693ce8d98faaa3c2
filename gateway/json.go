package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
)

// depthLimit is how deep objects and arrays may lie in each other.
const depthLimit = 100

// rawJSON is JSON that is passed on as it is.
type rawJSON = json.RawMessage

// checkJSON returns nil when text is exactly one strict JSON value: no key twice in an object, valid UTF-8, nothing behind it, at most
// depthLimit deep. Otherwise it returns a *jsonFault.
func checkJSON(text []byte) error {
	end, err := firstValue(text)
	if err != nil {
		return err
	}
	if rest := bytes.TrimLeft(text[end:], jsonSpace); len(rest) > 0 {
		return &jsonFault{what: "something follows the JSON value", offset: int64(len(text) - len(rest))}
	}
	return nil
}

// jsonSpace holds the white space of JSON.
const jsonSpace = " \t\r\n"

// firstValue returns where the first JSON value of text ends, or a *jsonFault when it is not a strict one.
func firstValue(text []byte) (end int64, err error) {
	if len(bytes.TrimLeft(text, jsonSpace)) == 0 {
		return 0, &jsonFault{what: "the JSON value is missing"}
	}
	if at := tooDeep(text); at >= 0 {
		return 0, &jsonFault{what: "nested more than 100 deep", offset: at}
	}
	dec := jsontext.NewDecoder(bytes.NewBuffer(text))
	if _, err := dec.ReadValue(); err != nil {
		return 0, faultOf(err, int64(len(text)))
	}
	return dec.InputOffset(), nil
}

// tooDeep returns the offset of the first bracket of the first value that is nested more than depthLimit deep, or -1.
func tooDeep(text []byte) int64 {
	if bytes.Count(text, []byte{'{'})+bytes.Count(text, []byte{'['}) <= depthLimit {
		return -1
	}
	depth, inString := 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			if depth++; depth > depthLimit {
				return int64(i)
			}
		case c == '}' || c == ']':
			if depth--; depth <= 0 {
				return -1
			}
		}
	}
	return -1
}

// jsonFault is what is wrong with a JSON text, in words that hold nothing of it.
type jsonFault struct {
	what   string
	offset int64 // bytes from the start of the body
}

// Error names the fault and its place.
func (f *jsonFault) Error() string { return f.what + " at byte " + strconv.FormatInt(f.offset, 10) }

// faultOf translates an error of the JSON library about a text of size bytes.
func faultOf(err error, size int64) *jsonFault {
	f := &jsonFault{what: "the JSON value is not well formed", offset: size}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		f.what = "the JSON value ends too early"
	}
	var at *jsontext.SyntacticError
	if errors.As(err, &at) {
		f.offset = at.ByteOffset
	}
	if errors.Is(err, jsontext.ErrDuplicateName) {
		f.what = "a key stands twice in one object"
	}
	if at != nil && at.Err != nil && at.Err.Error() == "invalid UTF-8" {
		f.what = "invalid UTF-8"
	}
	return f
}

// elements returns the offsets of the elements of a JSON array that is well formed but for repeated keys and invalid UTF-8 in
// its elements, so that one bad element does not spoil the others.
func elements(text []byte, limit int) (spans [][2]int64, err error) {
	dec := jsontext.NewDecoder(bytes.NewBuffer(text), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	if _, err := dec.ReadToken(); err != nil {
		return nil, faultOf(err, int64(len(text)))
	}
	for dec.PeekKind() != ']' {
		value, err := dec.ReadValue()
		if err != nil {
			return nil, faultOf(err, int64(len(text)))
		}
		if len(spans) == limit {
			return nil, errTooMany
		}
		end := dec.InputOffset()
		spans = append(spans, [2]int64{end - int64(len(value)), end})
	}
	if _, err := dec.ReadToken(); err != nil {
		return nil, faultOf(err, int64(len(text)))
	}
	if rest := bytes.TrimLeft(text[dec.InputOffset():], jsonSpace); len(rest) > 0 {
		return nil, &jsonFault{what: "something follows the JSON value", offset: int64(len(text) - len(rest))}
	}
	return spans, nil
}
