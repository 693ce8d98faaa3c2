package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run is the whole program but for its exit.
func run(args []string, out, errs io.Writer) int {
	flags := flag.NewFlagSet("faults", flag.ContinueOnError)
	flags.SetOutput(errs)
	markdown := flags.String("markdown", "", "also write the table to `FILE`")
	pattern := flags.String("run", allRows, "tests to run, as for go test; with another than the default no row is required")
	if err := flags.Parse(args); err != nil {
		return 1
	}
	var required []string
	if *pattern == allRows {
		required = requiredRows()
	}
	began := time.Now()
	report := newReport(required)
	failure := report.goTest(*pattern, flags.Args(), out, errs)
	table := report.table()
	_, _ = fmt.Fprintf(out, "\n%s\n", table)
	if *markdown != "" {
		failure = errors.Join(failure, os.WriteFile(*markdown, []byte(table), 0o644))
	}
	failure = errors.Join(failure, report.verdict())
	took := time.Since(began).Round(time.Second)
	if failure != nil {
		_, _ = fmt.Fprintf(errs, "%v\nfaults: not all is well, after %v\n", failure, took)
		return 1
	}
	_, _ = fmt.Fprintf(out, "faults: %s, in %v\n", report.count(), took)
	return 0
}

// goTest runs the tests and tells of each as it ends. The failure of a test is part of the report, and no error.
func (r *report) goTest(pattern string, packages []string, out, errs io.Writer) error {
	if len(packages) == 0 {
		packages = []string{"./..."}
	}
	command := exec.Command("go", append([]string{"test", "-json", "-p", "1", "-count", "1", "-timeout", "60m", "-run", pattern}, packages...)...)
	command.Env = append(os.Environ(), "PULSEGATE_FAULTS=full")
	command.Stderr = errs
	lines, err := command.StdoutPipe()
	if err != nil {
		return fmt.Errorf("run tests: %w", err)
	}
	if err := command.Start(); err != nil {
		return fmt.Errorf("run tests: %w", err)
	}
	failure := r.read(lines, out)
	err = command.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) && r.anyFailed() {
		err = nil // told already
	}
	return errors.Join(failure, err)
}
