package health

import "time"

// next is the standing after a verdict's transition, and the transition as people are told of it. Its time is the moment of the facts
// that it was judged on.
func (r Rules) next(was Reading, v Verdict) (Transition, Standing) {
	at, s := was.At, was.Standing
	n := s
	n.State, n.Verified, n.PausedUntil, n.TrialFailed = v.State, v.Verified, time.Time{}, false
	if v.State == Down {
		n.PausedUntil = at.Add(r.Pause)
		if s.State != Down {
			n.DownSince, n.StillDown = at, 0
		} else if v.Notice {
			n.StillDown = r.doublings(s, at)
		}
	} else {
		n.DownSince, n.StillDown = time.Time{}, 0
	}
	incident := s.Incident
	if incident.IsZero() && v.State != Healthy {
		incident = at
	}
	n.Incident = incident
	if v.Kind == ToHealthy {
		n.Incident = time.Time{} // verified: the incident is over
	}
	if n.State != s.State {
		n.Since = at
	}
	n.Number++
	held := false
	n.Notices, held = s.Notices.after(v, at)
	return Transition{
		Number: n.Number, Kind: v.Kind, From: s.State, To: v.State, At: at.UnixMilli(), Since: millis(s.Since), PausedUntil: millis(n.PausedUntil),
		Incident: millis(incident), DownSince: millis(s.DownSince), Notice: v.Notice, Held: held, Reason: v.Reason,
		Acknowledged: was.Counts.Acknowledged, Failed: was.Counts.Failed, ByClass: was.Counts.ByClass,
		HandedOff: was.Notes.HandedOff, Undelivered: was.Notes.Undelivered, FailedRequests: was.Notes.FailedRequests,
	}, n
}

// doublings is what StillDown becomes when people are told at a moment that the bot is still DOWN. An outage that passed several
// doublings before it could be told, for want of a trial, is told of once for them all.
func (r Rules) doublings(s Standing, at time.Time) int64 {
	n := max(s.StillDown, 0) + 1
	for at.Sub(s.DownSince)>>n >= r.Pause {
		n++
	}
	return n
}
