package notify

import (
	"context"
	"time"

	"github.com/pulsegate/pulsegate/delivery"
)

const (
	batchTime = 30 * time.Second // for one batch of a job
	turn      = 5 * time.Second  // after which a job lets the others have a go
)

// runJob runs a stored job batch by batch. After each batch the cursor is stored and the lease renewed, so that a replica that takes
// over goes on there. A job is never given up: it is owed to every conversation it has not reached yet.
func (s *shift) runJob(ctx context.Context, e delivery.Entry) delivery.Entry {
	for began := time.Now(); ; {
		next, err := s.jobBatch(ctx, e)
		now := s.cfg.Outbox.Now()
		if err != nil {
			return s.jobFailed(ctx, e, err)
		}
		e = next
		e.LastError = ""
		if e.State != delivery.EntryPending {
			e.NextTry = 0
			if e.DoneAt == 0 {
				e.DoneAt = now.UnixMilli()
			}
			return e
		}
		e.Tries = 0
		if s.over() || time.Since(began) >= turn {
			return later(e, now, 0)
		}
		e = later(e, now, s.cfg.Takeover)
		if err := s.renew(ctx, e); err != nil {
			return s.jobFailed(ctx, e, err)
		}
	}
}

func (s *shift) jobBatch(ctx context.Context, e delivery.Entry) (delivery.Entry, error) {
	ctx, cancel := context.WithTimeout(ctx, batchTime)
	defer cancel()
	return s.cfg.Outbox.RunJob(ctx, e)
}

func (s *shift) renew(ctx context.Context, e delivery.Entry) error {
	ctx, cancel := context.WithTimeout(ctx, updateTime)
	defer cancel()
	return s.cfg.Outbox.Update(ctx, e)
}

func (s *shift) jobFailed(ctx context.Context, e delivery.Entry, err error) delivery.Entry {
	now := s.cfg.Outbox.Now()
	if ctx.Err() != nil {
		return later(e, now, 0)
	}
	e.Tries++
	e.LastError = line(err.Error(), 300)
	if e.Tries == 1 {
		s.cfg.Log.Warn("handoff job interrupted, trying on", "entry", e.ID, "error", err)
	}
	return later(e, now, jobSchedule.after(e.Tries))
}
