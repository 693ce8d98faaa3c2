package notify

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/pulsegate/pulsegate/health"
)

// tellOne handles an entry of the mails' lane.
func (s *shift) tellOne(ctx context.Context, e delivery.Entry) delivery.Entry {
	if e.Kind == delivery.EntryMail {
		return s.tellTogether(ctx, e)
	}
	return s.tell(ctx, e)
}

// tell sends the mail about a transition, if there is one to send and somebody to send it to.
func (s *shift) tell(ctx context.Context, e delivery.Entry) delivery.Entry {
	e = s.tellOnce(ctx, e)
	s.count.notices.WithLabelValues(noticeResult(e.State)).Inc()
	return e
}

func (s *shift) tellOnce(ctx context.Context, e delivery.Entry) delivery.Entry {
	now := s.cfg.Outbox.Now()
	var t health.Transition
	if err := json.Unmarshal(e.Data, &t); err != nil {
		return s.noticeEnd(refuse(e, now, "the entry cannot be read"))
	}
	if !t.Notice { // from a gateway that did not keep such a transition out of the outbox yet
		return keep(e, now, "")
	}
	reg, err := s.registration(ctx, e)
	switch {
	case errors.Is(err, delivery.ErrNotFound):
		return keep(e, now, "the registration is gone")
	case err != nil:
		return later(e, now, mailSchedule.first)
	case s.post == nil:
		s.logNotice(e, t)
		return keep(e, now, "no mail server is set")
	case reg.ContactEmail == "":
		return keep(e, now, "the registration has no contact")
	case tooLate(e, now, s.cfg.Deadline):
		return s.noticeEnd(finish(e, delivery.EntryGivenUp, now, e.LastError))
	}
	return s.tellOrGather(ctx, e, reg, t)
}

// tellOrGather sends the mail about one transition, or leaves it to a mail about several. Who decides is the store, and once only: a
// crash right after the decision repeats this with the same answer.
func (s *shift) tellOrGather(ctx context.Context, e delivery.Entry, reg delivery.Registration, t health.Transition) delivery.Entry {
	now := s.cfg.Outbox.Now()
	letter, err := s.write(reg, t, now)
	if err != nil {
		return s.noticeEnd(refuse(e, now, err.Error()))
	}
	to := delivery.Contact{Company: reg.CompanyKey, Address: letter.to.Address, Name: letter.to.Name}
	asking, cancel := context.WithTimeout(ctx, takeTime)
	defer cancel()
	mail, err := s.cfg.Outbox.Gather(asking, e, to, s.cfg.gathering(t.Held))
	switch {
	case err != nil:
		return later(e, now, mailSchedule.first)
	case mail != "":
		e.Mail = mail
		return finish(e, delivery.EntryJoined, now, "")
	}
	return s.send(ctx, e, to, letter)
}

// send has one conversation with the mail server about an entry. How it went is noted with the contact too, as a hint: while mail does
// not get through, what comes after gathers in one mail.
func (s *shift) send(ctx context.Context, e delivery.Entry, to delivery.Contact, l letter) delivery.Entry {
	err := s.post.send(ctx, l)
	now := s.cfg.Outbox.Now()
	var no *refusal
	switch {
	case err == nil:
		if e.Tries > 0 { // it did not get through before: what gathered since need not wait any more
			s.mark(ctx, to, time.Time{}, "")
		}
		return done(e, now)
	case errors.As(err, &no):
		if no.contact {
			s.mark(ctx, to, now.Add(refusedPause), no.why)
		}
		return s.noticeEnd(refuse(e, now, err.Error()))
	case ctx.Err() != nil: // cut off by the end of Run: nobody's fault
		return later(e, now, 0)
	}
	e = again(e, now, mailSchedule.after(e.Tries+1), s.cfg.Deadline, err.Error())
	s.mark(ctx, to, now.Add(mailSchedule.after(e.Tries)), "")
	if e.State == delivery.EntryGivenUp {
		return s.noticeEnd(e)
	}
	if e.Tries == 1 {
		s.cfg.Log.Warn("mail not sent, trying on", "entry", e.ID, "error", e.LastError)
	}
	return e
}

// mark notes how mail to a contact fares. If that fails, notices go one by one.
func (s *shift) mark(ctx context.Context, to delivery.Contact, until time.Time, why string) {
	ctx, cancel := context.WithTimeout(ctx, lastUpdate)
	defer cancel()
	if err := s.cfg.Outbox.Mark(ctx, to, until, line(why, 300)); err != nil {
		s.cfg.Log.Debug("contact not marked", "error", err)
	}
}

func (s *shift) registration(ctx context.Context, e delivery.Entry) (delivery.Registration, error) {
	ctx, cancel := context.WithTimeout(ctx, takeTime)
	defer cancel()
	return s.cfg.Outbox.Registration(ctx, regOf(e))
}

func regOf(e delivery.Entry) delivery.RegID {
	return delivery.RegID{
		Entity: delivery.Entity{CompanyKey: e.CompanyKey, NetworkKey: e.NetworkKey, ExternalID: e.ExternalID},
		AppID:  e.AppID,
	}
}

// logNotice is the notice itself where no mail server is set.
func (s *shift) logNotice(e delivery.Entry, t health.Transition) {
	s.cfg.Log.Warn("notice", "kind", t.Kind, "from", t.From, "to", t.To, "at", time.UnixMilli(t.At).UTC(),
		"company", e.CompanyKey, "network", e.NetworkKey, "externalID", e.ExternalID, "appID", e.AppID, "reason", t.Reason,
		"acknowledged", t.Acknowledged, "failed", t.Failed, "handedOff", t.HandedOff)
}

// noticeEnd logs that a notice ended without being sent.
func (s *shift) noticeEnd(e delivery.Entry) delivery.Entry {
	s.cfg.Log.Warn("notice not sent", "entry", e.ID, "state", e.State, "tries", e.Tries, "reason", e.LastError)
	return e
}

// noticeResult is the metric's label for the state of an entry after a try.
func noticeResult(s delivery.EntryState) string {
	switch s {
	case delivery.EntryDone:
		return "sent"
	case delivery.EntryKept:
		return "kept"
	case delivery.EntryJoined:
		return "joined"
	case delivery.EntryRefused:
		return "refused"
	case delivery.EntryGivenUp:
		return "givenup"
	default:
		return "again"
	}
}
