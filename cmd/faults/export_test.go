package main

import "io"

// What the tests of this package, which stand outside it, reach of its inside.

// Run is the whole program but for its exit.
var Run = run

// RequiredRows are those that must have a test.
var RequiredRows = requiredRows

// Read reads what `go test -json` writes, and returns the report's table, its count, and what is wrong.
func Read(required []string, lines io.Reader, out io.Writer) (table, count string, verdict error) {
	r := newReport(required)
	if err := r.read(lines, out); err != nil {
		return "", "", err
	}
	return r.table(), r.count(), r.verdict()
}

// Done says in words what a test does.
func Done(row, name string) string { return (&entry{row: row, name: name}).done() }
