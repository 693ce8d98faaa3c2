package notify

import (
	"context"
	"encoding/json"
	"errors"
	"net/mail"
	"sync"
	"time"

	"github.com/pulsegate/pulsegate/delivery"
)

const (
	refusedPause   = 15 * time.Minute // after a contact was refused, in which further notices to it wait and go together
	readersAtOnce  = 8                // registrations read at once for one mail
	digestInterval = time.Hour
	joinInterval   = time.Minute
)

// gathering says for what a notice may wait.
func (c Config) gathering(held bool) delivery.Gathering {
	if held {
		return delivery.Gathering{Digest: true, Within: c.Digest}
	}
	return delivery.Gathering{Within: c.Join}
}

// tellTogether sends the mail that tells a contact of several notices. What it tells of is fixed since the entry was taken, so that a
// repetition after a crash is the same mail.
func (s *shift) tellTogether(ctx context.Context, e delivery.Entry) delivery.Entry {
	e = s.tellTogetherOnce(ctx, e)
	s.count.notices.WithLabelValues(noticeResult(e.State)).Inc()
	return e
}

func (s *shift) tellTogetherOnce(ctx context.Context, e delivery.Entry) delivery.Entry {
	now := s.cfg.Outbox.Now()
	var m delivery.Mail
	if err := json.Unmarshal(e.Data, &m); err != nil {
		return s.noticeEnd(refuse(e, now, "the entry cannot be read"))
	}
	m.To.Company = e.CompanyKey
	all, several, err := s.gathered(ctx, e)
	switch {
	case err != nil:
		return later(e, now, mailSchedule.first)
	case len(all) == 0:
		return keep(e, now, "the registrations are gone")
	case s.post == nil:
		for _, one := range all {
			s.logNotice(one.Entry, one.t)
		}
		return keep(e, now, "no mail server is set")
	case tooLate(e, now, s.cfg.Deadline):
		return s.noticeEnd(finish(e, delivery.EntryGivenUp, now, e.LastError))
	}
	write := s.writeMail
	if !several && !m.Digest {
		write = s.writeLone
	}
	letter, err := write(e, m, all, now)
	if err != nil {
		return s.noticeEnd(refuse(e, now, err.Error()))
	}
	return s.send(ctx, e, m.To, letter)
}

// writeLone makes the mail about a notice that waited for others, of which none came: as if it had gone by itself.
func (n *Notifier) writeLone(_ delivery.Entry, m delivery.Mail, all []told, now time.Time) (letter, error) {
	l, err := n.write(all[0].reg, all[0].t, now)
	if err == nil {
		l.to = &mail.Address{Name: m.To.Name, Address: m.To.Address}
	}
	return l, err
}

// gathered reads what a mail tells of, and the registrations as they are now; those that are gone are left out. several: it told of
// more than one notice from the beginning.
func (s *shift) gathered(ctx context.Context, e delivery.Entry) (all []told, several bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, takeTime)
	defer cancel()
	found, err := s.cfg.Outbox.Gathered(ctx, e)
	if err != nil {
		return nil, false, err
	}
	for _, g := range found {
		one := told{Gathered: g}
		if json.Unmarshal(g.Entry.Data, &one.t) == nil {
			all = append(all, one)
		}
	}
	all, err = s.withRegistrations(ctx, all)
	return all, len(found) > 1, err
}

// withRegistrations adds the registrations as they are now, and drops the notices of those that are gone.
func (s *shift) withRegistrations(ctx context.Context, all []told) ([]told, error) {
	errs := make([]error, len(all))
	turn := make(chan struct{}, readersAtOnce)
	var reading sync.WaitGroup
	for i := range all {
		turn <- struct{}{}
		reading.Go(func() {
			defer func() { <-turn }()
			all[i].reg, errs[i] = s.cfg.Outbox.Registration(ctx, regOf(all[i].Entry))
		})
	}
	reading.Wait()
	there := all[:0]
	for i, one := range all {
		if errs[i] != nil && !errors.Is(errs[i], delivery.ErrNotFound) {
			return nil, errs[i]
		}
		if errs[i] == nil {
			there = append(there, one)
		}
	}
	return there, nil
}
