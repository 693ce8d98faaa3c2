//go:build unix && !linux

package main

import "time"

// sleepUntil waits, up to a millisecond too long.
func sleepUntil(at time.Time) { time.Sleep(time.Until(at)) }
