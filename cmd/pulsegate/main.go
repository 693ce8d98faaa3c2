package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"

	"github.com/alecthomas/kong"
	"github.com/redis/go-redis/v9"
)

func main() {
	redis.SetLogger(mute{}) // what it has to say comes back as errors as well
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// mute is a logger that says nothing.
type mute struct{}

func (mute) Printf(context.Context, string, ...any) {}

// The exit statuses.
const (
	exitFine    = 0
	exitFailed  = 1
	exitSetting = 2
)

// run parses the arguments, does what they ask for, and returns the exit status.
func run(args []string, stdout, stderr io.Writer) int {
	log.SetOutput(io.Discard) // net/http writes there what a bot says unasked, which may be what it was told
	command, err := parse(args, stdout, stderr)
	if err == nil {
		err = command.Run(streams{out: stdout, err: stderr})
	}
	switch {
	case err == nil:
		return exitFine
	case isSetting(err):
		_, _ = fmt.Fprintln(stderr, "pulsegate:", err)
		return exitSetting
	default:
		_, _ = fmt.Fprintln(stderr, "pulsegate:", err)
		return exitFailed
	}
}

// isSetting tells a wrong setting from everything else that can stop a command.
func isSetting(err error) bool {
	var wrong *settingError
	var usage *kong.ParseError
	return errors.As(err, &wrong) || errors.As(err, &usage)
}

// settingError is a setting that is wrong or contradicts another: one sentence that names the flag and the fix.
type settingError struct{ text string }

func (e *settingError) Error() string { return e.text }

// wrongSetting makes a settingError.
func wrongSetting(format string, args ...any) error {
	return &settingError{text: fmt.Sprintf(format, args...)}
}
