package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"
)

// lifecycle is the list of what must be stopped, in the order it was started. Not safe for concurrent use.
type lifecycle struct {
	log   *slog.Logger
	steps []cleanup
}

// cleanup is one named thing to stop, and how long that may take.
type cleanup struct {
	name  string
	limit time.Duration
	stop  func(context.Context) error
}

// onStop adds a clean-up that runs before all those added so far. The function must return soon after its context ends; one that does not
// is left behind.
func (l *lifecycle) onStop(name string, limit time.Duration, stop func(context.Context) error) {
	l.steps = append(l.steps, cleanup{name: name, limit: limit, stop: stop})
}

// stop runs the clean-ups in reverse order, each bounded in time, and empties the list. It goes on after a failure and returns
// all failures joined.
func (l *lifecycle) stop() error {
	var failures []error
	for _, step := range slices.Backward(l.steps) {
		began := time.Now()
		if err := step.run(); err != nil {
			failures = append(failures, fmt.Errorf("stop %s: %w", step.name, err))
		}
		l.log.Debug("stopped", "part", step.name, "took", time.Since(began).Round(time.Millisecond))
	}
	l.steps = nil
	return errors.Join(failures...)
}

// run stops one part within its limit.
func (c cleanup) run() error {
	ctx, cancel := context.WithTimeout(context.Background(), c.limit)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- c.stop(ctx) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	select { // a moment more: the part may be returning because its context ended
	case err := <-done:
		return err
	case <-time.After(200 * time.Millisecond):
		return fmt.Errorf("not within %v", c.limit)
	}
}
