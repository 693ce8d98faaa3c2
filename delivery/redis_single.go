package delivery

import (
	"context"
	"time"

	"github.com/pulsegate/pulsegate/health"
)

// singlesMost is how many of the round trips that lanes and the timer make on their own are under way at once. What thousands of lanes want
// at one moment would take every connection otherwise, and those who wait for one, batches of accepts and the probe among them, would
// take a store that is well for one that is away.
const singlesMost = 8

// singleWait is how long a lane or the timer waits for its turn. A lane renews no lease meanwhile: it must come to that in time, and then waits again.
const singleWait = renewEvery / 2

// single makes a round trip on its own when its turn has come. Its time begins then. When its turn does not come it returns errQueued.
func (s *store) single(ctx context.Context, trip func(context.Context) error) error {
	turn := time.NewTimer(singleWait)
	defer turn.Stop()
	select {
	case s.singles <- struct{}{}:
	case <-turn.C:
		return errQueued
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-s.singles }()
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	return trip(ctx)
}

// rejudge moves the window of a registration on to now.
func (s *store) rejudge(ctx context.Context, id RegID) (r health.Reading, err error) {
	err = s.single(ctx, func(ctx context.Context) error {
		s.trips.Add(1)
		r, err = s.health.Rejudge(ctx, id.healthKeys())
		return err
	})
	return r, err
}

// transit makes a transition, if the facts are still those of the reading.
func (s *store) transit(ctx context.Context, id RegID, r health.Reading, v health.Verdict, entries func(health.Transition) []health.OutboxEntry) (done bool, err error) {
	err = s.single(ctx, func(ctx context.Context) error {
		s.trips.Add(1)
		done, err = s.health.Transit(ctx, id.healthKeys(), r, v, entries)
		return err
	})
	return done, err
}
