package notify

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/pulsegate/pulsegate/delivery"
)

const (
	tick       = 5 * time.Second       // between two looks at the outbox when nothing calls, which the carrier does twice a second if anything is due
	gather     = 10 * time.Millisecond // after a call, so that entries written together are taken together
	batch      = 64                    // entries taken at once
	queue      = 256                   // entries that wait for a worker of one lane
	takeTime   = 5 * time.Second       // for one Take
	updateTime = 10 * time.Second      // for one Update with its repetitions
	drainTime  = 15 * time.Second      // after the end of Run's context, for what is under way
	lastUpdate = 3 * time.Second       // for an Update after drainTime
	jobWorkers = 2

	platformNeeds = 2*callTime + updateTime // of its lease, for an entry of the platform to be begun
	jobNeeds      = batchTime + updateTime
)

// lane is one kind of work with workers of its own, so that a slow mail server takes nothing from the platform.
type lane struct {
	work    chan taken
	workers int
	needs   time.Duration // what must be left of a lease for an entry to be begun
	handle  func(context.Context, delivery.Entry) delivery.Entry
	putBack int // entries put back in a row because the queue was full; the loop's alone
}

// taken is a leased entry; until is by this process's own clock.
type taken struct {
	entry delivery.Entry
	until time.Time
}

// shift is one Run: the Notifier and the three lanes.
type shift struct {
	*Notifier
	ending   <-chan struct{} // closed when Run's context ends
	mails    *lane
	platform *lane
	jobs     *lane
}

// Run takes entries from the outbox and handles them until ctx ends. Then it begins nothing more, gives back what it has not
// begun, finishes what is under way for at most 15 seconds, cuts the rest off, and returns nil when every goroutine has ended.
func (n *Notifier) Run(ctx context.Context) error {
	work, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	s := &shift{Notifier: n, ending: ctx.Done()}
	s.mails = &lane{work: make(chan taken, queue), workers: n.cfg.Workers, needs: n.cfg.mailNeeds(), handle: s.tellOne}
	s.platform = &lane{work: make(chan taken, queue), workers: n.cfg.Workers, needs: platformNeeds, handle: s.handOff}
	s.jobs = &lane{work: make(chan taken, queue), workers: jobWorkers, needs: jobNeeds, handle: s.runJob}

	var wg sync.WaitGroup
	for _, l := range s.lanes() {
		for range l.workers {
			wg.Go(func() { s.serve(work, l) })
		}
	}
	s.loop(ctx)
	for _, l := range s.lanes() {
		close(l.work)
	}
	timer := time.AfterFunc(drainTime, cut)
	defer timer.Stop()
	wg.Wait()
	return nil
}

func (s *shift) lanes() []*lane { return []*lane{s.mails, s.platform, s.jobs} }

// loop takes and dispatches until ctx ends. A store that is away is asked again after 100 ms, doubling to 1 s, and logged once.
func (s *shift) loop(ctx context.Context) {
	var away time.Duration // the present wait of an outage; 0: the store answers
	for ctx.Err() == nil {
		signal := s.cfg.Outbox.Signal() // before Take: what is written from here on is not missed
		until := time.Now().Add(s.cfg.Takeover)
		entries, err := s.take(ctx)
		if err != nil {
			if away == 0 && ctx.Err() == nil {
				s.cfg.Log.Warn("outbox cannot be read, trying on", "error", err)
			}
			away = min(max(2*away, 100*time.Millisecond), time.Second)
			pause(ctx, away)
			continue
		}
		if away > 0 {
			s.cfg.Log.Info("outbox can be read again")
			away = 0
		}
		s.dispatch(ctx, entries, until)
		if len(entries) < batch {
			await(ctx, signal)
		}
	}
}

// take is not cut short by the end of Run: entries leased by a Take whose answer nobody read would wait for their leases to end.
func (s *shift) take(ctx context.Context) ([]delivery.Entry, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), takeTime)
	defer cancel()
	return s.cfg.Outbox.Take(ctx, batch, s.cfg.Takeover)
}

// await returns at the next tick, a moment after a call, or when ctx ends.
func await(ctx context.Context, signal <-chan struct{}) {
	timer := time.NewTimer(tick)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-signal:
		pause(ctx, gather)
	}
}

// pause waits for d or the end of ctx, and reports whether d went by.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// dispatch queues entries for their lanes. When a queue is full the entry goes back to the outbox for a while, the longer the more
// of them there are, so that the other lanes' entries behind it are reached.
func (s *shift) dispatch(ctx context.Context, entries []delivery.Entry, until time.Time) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastUpdate)
	defer cancel()
	for _, e := range entries {
		l, t := s.laneOf(e.Kind), taken{entry: e, until: until}
		select {
		case l.work <- t:
			l.putBack = 0
		default:
			l.putBack++
			s.giveBack(ctx, t, min(time.Second+time.Duration(l.putBack)*10*time.Millisecond, 30*time.Second))
		}
	}
}

func (s *shift) laneOf(kind delivery.EntryKind) *lane {
	switch kind {
	case delivery.EntryTransition, delivery.EntryMail:
		return s.mails
	case delivery.EntryJob:
		return s.jobs
	default:
		return s.platform
	}
}

// serve handles the entries of one lane until its queue is closed and empty.
func (s *shift) serve(ctx context.Context, l *lane) {
	for t := range l.work {
		switch left := time.Until(t.until); {
		case s.over() || left < l.needs && left > 0:
			s.giveBack(ctx, t, 0)
		case left <= 0: // the lease is over, somebody else has it
		default:
			s.store(ctx, s.guarded(ctx, l, t.entry))
		}
	}
}

// over reports whether Run's context has ended.
func (s *shift) over() bool {
	select {
	case <-s.ending:
		return true
	default:
		return false
	}
}

// guarded handles an entry; one that makes the handler panic is refused, so that it is not handled for ever.
func (s *shift) guarded(ctx context.Context, l *lane, e delivery.Entry) (after delivery.Entry) {
	defer func() {
		if p := recover(); p != nil {
			s.cfg.Log.Error("handling an outbox entry panicked", "entry", e.ID, "kind", e.Kind, "panic", p)
			after = refuse(e, s.cfg.Outbox.Now(), "handling it panicked")
		}
	}()
	return l.handle(ctx, e)
}

// giveBack makes an entry that was not begun due again after wait. If that fails its lease runs out instead.
func (s *shift) giveBack(ctx context.Context, t taken, wait time.Duration) {
	if ctx.Err() != nil {
		return
	}
	e := t.entry
	e.NextTry = s.cfg.Outbox.Now().Add(wait).UnixMilli()
	ctx, cancel := context.WithTimeout(ctx, lastUpdate)
	defer cancel()
	if err := s.cfg.Outbox.Update(ctx, e); err != nil {
		s.cfg.Log.Debug("entry not given back, its lease will end", "entry", e.ID, "error", err)
	}
}

// store writes down what was done: the commit point of this room. A crash before it repeats the entry after its lease, with the
// same Message-ID or the same platform calls; after it nothing is owed. It is repeated for 10 seconds, well within the lease.
func (s *shift) store(ctx context.Context, e delivery.Entry) {
	limit := updateTime
	if ctx.Err() != nil {
		limit = lastUpdate
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		err := s.cfg.Outbox.Update(ctx, e)
		if err == nil {
			return
		}
		if errors.Is(err, delivery.ErrNotFound) || !pause(ctx, wait) {
			s.cfg.Log.Warn("outcome of an outbox entry not stored", "entry", e.ID, "kind", e.Kind, "state", e.State, "error", err)
			return
		}
	}
}
