package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
)

// allRows matches the tests of all rows.
const allRows = "^Test[RHCDMEG][0-9][0-9]"

// areas are the parts of the checklist, in its order.
const areas = "RHCDEMG"

// requiredRows are those that must have a test.
func requiredRows() []string {
	var rows []string
	for _, part := range []struct {
		area string
		last int
	}{{"R", 23}, {"H", 10}, {"C", 6}, {"D", 10}} {
		for n := range part.last {
			rows = append(rows, fmt.Sprintf("%s%02d", part.area, n+1))
		}
	}
	return append(rows, "D14", "M02", "M05")
}

// entry is what one test came to.
type entry struct {
	row, pkg, name string
	measured       []string
	result         result
	seconds        float64
	output         []string
}

// result is how a test ended.
type result string

// The results. A test that is still running when its package has ended did not end.
const (
	running result = "did not end"
	passed  result = "passed"
	failed  result = "FAILED"
	skipped result = "skipped"
)

// report gathers what the tests of all packages came to.
type report struct {
	required []string
	entries  []*entry
	broken   []string // packages that failed without a failing test, and what they said
	said     map[string][]string
}

func newReport(required []string) *report {
	return &report{required: required, said: map[string][]string{}}
}

// event is one line of `go test -json`.
type event struct {
	Action, Package, ImportPath, Test, Output, Key, Value string
	Elapsed                                               float64
}

var rowOf = regexp.MustCompile(`^Test([RHCDMEG][0-9][0-9])`)

// read takes in every line, and tells of each test that ends.
func (r *report) read(lines io.Reader, out io.Writer) error {
	scanner := bufio.NewScanner(lines)
	scanner.Buffer(nil, 16<<20)
	for scanner.Scan() {
		var e event
		if err := json.Unmarshal(scanner.Bytes(), &e); err != nil {
			r.broken = append(r.broken, scanner.Text())
			continue
		}
		r.take(e, out)
	}
	if err := scanner.Err(); err != nil {
		return fmt.Errorf("read results: %w", err)
	}
	return nil
}

// take takes in one event.
func (r *report) take(e event, out io.Writer) {
	name, _, sub := strings.Cut(e.Test, "/")
	match := rowOf.FindStringSubmatch(name)
	if match == nil {
		r.takePackage(e)
		return
	}
	t := r.entry(match[1], e.Package, name)
	switch e.Action {
	case "attr":
		if e.Key == "measured" {
			t.measured = append(t.measured, e.Value)
		}
	case "output":
		t.output = append(t.output, e.Output)
	case "skip":
		t.result = skipped
	case "pass", "fail":
		if sub {
			return // its test fails with it
		}
		t.seconds = e.Elapsed
		if e.Action == "fail" {
			t.result = failed
		} else if t.result == running {
			t.result = passed
		}
	}
	if !sub && (e.Action == "pass" || e.Action == "fail" || e.Action == "skip") {
		t.tell(out)
	}
}

// takePackage takes in an event that belongs to no test of the checklist.
func (r *report) takePackage(e event) {
	of := e.Package + e.ImportPath
	switch {
	case e.Output != "":
		r.said[of] = append(r.said[of], e.Output)
	case e.Test == "" && (e.Action == "fail" || e.Action == "build-fail") && !r.failedIn(e.Package):
		r.broken = append(r.broken, of+":\n"+last(r.said[of]))
	}
}

// entry finds a test's entry, or begins it.
func (r *report) entry(row, pkg, name string) *entry {
	for _, t := range r.entries {
		if t.pkg == pkg && t.name == name {
			return t
		}
	}
	t := &entry{row: row, pkg: pkg, name: name, result: running}
	r.entries = append(r.entries, t)
	return t
}

// tell prints one line, and what a test that did not pass had printed.
func (t *entry) tell(out io.Writer) {
	_, _ = fmt.Fprintf(out, "%-7s %s %s (%.1fs) %s\n", t.result, t.row, t.done(), t.seconds, strings.Join(t.measured, "; "))
	if t.result != passed {
		_, _ = fmt.Fprintf(out, "%s\n", last(t.output))
	}
}

// last is the end of what was printed.
func last(output []string) string { return strings.Join(output[max(0, len(output)-60):], "") }

func (r *report) anyFailed() bool {
	return slices.ContainsFunc(r.entries, func(t *entry) bool { return t.result != passed })
}

func (r *report) failedIn(pkg string) bool {
	return slices.ContainsFunc(r.entries, func(t *entry) bool { return t.pkg == pkg && t.result != passed })
}

// missing are the required rows without a test.
func (r *report) missing() []string {
	var rows []string
	for _, row := range r.required {
		if !slices.ContainsFunc(r.entries, func(t *entry) bool { return t.row == row }) {
			rows = append(rows, row)
		}
	}
	return rows
}

// verdict is nil when all is well.
func (r *report) verdict() error {
	var wrong []string
	for _, t := range r.entries {
		if t.result != passed {
			wrong = append(wrong, fmt.Sprintf("%s %s in %s: %s", t.row, t.name, t.pkg, t.result))
		}
	}
	if rows := r.missing(); len(rows) > 0 {
		wrong = append(wrong, "no test for "+strings.Join(rows, ", "))
	}
	wrong = append(wrong, r.broken...)
	if len(r.entries) == 0 {
		wrong = append(wrong, "no test was run")
	}
	if len(wrong) == 0 {
		return nil
	}
	return fmt.Errorf("%s", strings.Join(wrong, "\n"))
}

// count says how much was run.
func (r *report) count() string {
	rows := map[string]bool{}
	for _, t := range r.entries {
		rows[t.row] = true
	}
	return fmt.Sprintf("%d rows, %d tests, all passed", len(rows), len(r.entries))
}
