package main

import "time"

// keepFlags say for how long the store remembers what, and how much of it.
type keepFlags struct {
	DedupeTime    time.Duration `help:"How long the id of an event is known, so that the same again is not taken in again." default:"24h"`
	OngoingTime   time.Duration `help:"How long after its last message a conversation is ongoing: a bot that goes DOWN or away has it handed off." default:"24h"`
	KeepFailures  int64         `help:"Request records of failures that are kept of one registration, for 31 days at most." default:"10000"`
	KeepSuccesses int64         `help:"Request records of successes that are kept of one registration." default:"1000"`
}

// check refuses settings that cannot be kept.
func (c keepFlags) check() error {
	switch {
	case c.DedupeTime < time.Second || c.DedupeTime > 31*24*time.Hour:
		return wrongSetting("--dedupe-time %v: must be from 1s to 744h", c.DedupeTime)
	case c.OngoingTime < time.Second || c.OngoingTime > 30*24*time.Hour:
		return wrongSetting("--ongoing-time %v: must be from 1s to 720h, after which control is forgotten", c.OngoingTime)
	case c.KeepFailures < 1 || c.KeepFailures > 1_000_000:
		return wrongSetting("--keep-failures %d: must be from 1 to 1000000", c.KeepFailures)
	case c.KeepSuccesses < 1 || c.KeepSuccesses > 1_000_000:
		return wrongSetting("--keep-successes %d: must be from 1 to 1000000", c.KeepSuccesses)
	}
	return nil
}
