package delivery

import (
	"errors"
	"fmt"
	"time"
)

// Condition says how the store is, as this replica knows it.
type Condition string

// The conditions of the store, the best first. In the last four of them nothing is asked of it but whether it is better.
const (
	StoreReachable   Condition = "reachable"   // it answers and takes writes
	StoreUnconfirmed Condition = "unconfirmed" // it does, but no replica confirms what it takes: nothing is accepted that needs a replica
	StoreFull        Condition = "full"        // its memory is full: nothing is accepted, and what is there drains
	StoreUnwritable  Condition = "unwritable"  // it cannot keep what it is given, and takes no writes
	StoreReadOnly    Condition = "read-only"   // it follows another, which we do not reach
	StoreLoading     Condition = "loading"     // it reads its data and answers nothing else
	StoreRefusing    Condition = "refusing"    // it lets nobody in, or not us
	StoreAway        Condition = "away"        // it does not answer
)

// Conditions are all conditions, the best first.
func Conditions() []Condition {
	return []Condition{
		StoreReachable, StoreUnconfirmed, StoreFull, StoreUnwritable, StoreReadOnly, StoreLoading, StoreRefusing, StoreAway,
	}
}

// blocks says that it is of no use to ask a store in this condition for anything.
func (c Condition) blocks() bool {
	switch c {
	case StoreReadOnly, StoreLoading, StoreRefusing, StoreAway:
		return true
	}
	return false
}

// serves says that a store in this condition keeps what it has promised, and that work goes on.
func (c Condition) serves() bool { return c == StoreReachable || c == StoreFull }

// Reason is what callers read of it: one sentence with nothing of the store's own words.
func (c Condition) Reason() string {
	switch c {
	case StoreUnconfirmed:
		return "no replica of the store has confirmed it in time: it may be stored, try again with the same id"
	case StoreFull:
		return "the store is full, try again later"
	case StoreUnwritable:
		return "the store cannot write its files, try again later"
	case StoreReadOnly:
		return "the store is changing over to another server, try again"
	case StoreLoading:
		return "the store is loading its data, try again"
	case StoreRefusing:
		return "the store lets nobody in, try again later"
	case StoreAway:
		return "the store does not answer, try again"
	default:
		return ErrUnavailable.Error()
	}
}

// StoreError is something that the store did not do, or did not confirm. It is an ErrUnavailable; its text is for the log, that of its
// Condition for callers.
type StoreError struct {
	Condition Condition // StoreReachable when it is not known why
	what      string
	err       error
}

// Error says what was not done and why, in the store's own words too.
func (e *StoreError) Error() string {
	return fmt.Sprintf("store %s: %s: %v", e.Condition, e.what, e.err)
}

// Unwrap makes it an ErrUnavailable and whatever else it came from.
func (e *StoreError) Unwrap() []error { return []error{ErrUnavailable, e.err} }

// unavailable wraps an error of the store for callers outside.
func unavailable(what string, err error) error {
	return &StoreError{Condition: conditionOf(err), what: what, err: err}
}

// conditionOf is what an error says of the store; StoreReachable when it says nothing.
func conditionOf(err error) Condition {
	var known *StoreError
	if errors.As(err, &known) {
		return known.Condition
	}
	c, _ := tellsOf(err, storeTimeout)
	return c
}

// StoreStatus is how the store is, in all.
type StoreStatus struct {
	Condition Condition // the worst of its parts
	Since     time.Time // of the worst part, by this process's clock
	Parts     int       // one, or on a cluster one for each shard
	Serving   int       // those of them that work goes on in
	Losses    []string  // what went from it while gateways ran, in words; whoever has dealt with it deletes the key pg:losses
}

// Warning says in words what is not as it should be; "" when all is well.
func (s StoreStatus) Warning() string {
	switch {
	case s.Condition == StoreReachable:
		return ""
	case s.Parts == 1:
		return "store " + string(s.Condition) + ": " + s.Condition.Reason()
	default:
		return fmt.Sprintf("store %s in %d of %d shards: %s", s.Condition, s.Parts-s.Serving, s.Parts, s.Condition.Reason())
	}
}
