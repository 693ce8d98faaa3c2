package rig

import (
	"context"
	"time"
)

// TB owns what the rig starts: a testing.TB, or whoever plays its part outside of tests.
type TB interface {
	// Helper marks the calling function as one whose lines need not be told.
	Helper()
	// Cleanup has a function called at the end, the last one first.
	Cleanup(func())
	// TempDir makes a directory that is removed at the end, after what was given to Cleanup later.
	TempDir() string
	// Fatalf tells what is wrong and does not return.
	Fatalf(format string, args ...any)
	// Logf tells something.
	Logf(format string, args ...any)
}

// startTimeout bounds how long servers may take to start, join and promote.
const startTimeout = 40 * time.Second

// await calls check until it returns nil, and fails tb with its last error after startTimeout.
func await(tb TB, what string, check func(context.Context) error) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for {
		err := check(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			tb.Fatalf("await %s: %v", what, err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}
