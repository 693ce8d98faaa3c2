package health

import (
	"fmt"
	"sort"
	"strconv"
	"strings"
	"time"
)

// Judge compares what is remembered with the counts of the window and says what the state is and which transition, if any, leads
// there. It is pure: now is the store's clock, and the same facts always give the same verdict.
func (r Rules) Judge(s Standing, c Counts, now time.Time) Verdict {
	r = r.WithDefaults()
	if s.State == "" {
		s.State = Healthy
	}
	if !s.Judged {
		return Verdict{State: s.State, Verified: s.Verified, Reason: "not judged: the registration is in MAINTENANCE"}
	}
	if s.State == Down {
		return r.judgeDown(s, c, now)
	}
	return r.judgeUp(s, c, now)
}

// judgeUp judges by the table, and by what people know.
func (r Rules) judgeUp(s Standing, c Counts, now time.Time) Verdict {
	v := r.table(c)
	switch {
	case v.State == Down:
		v.Kind, v.Notice = ToDown, true
	case v.State == Degraded && s.State == Healthy:
		// A failure before the first acknowledgement continues the incident that people know of.
		v.Kind, v.Notice = ToDegraded, s.Verified || s.Incident.IsZero()
	case v.State == Healthy && c.Acknowledged > 0 && (s.State == Degraded || !s.Verified):
		v.Kind, v.Verified, v.Notice = ToHealthy, true, !s.Incident.IsZero()
	case v.State == Healthy && s.State == Degraded:
		v.Kind = ToUnverified
	case v.State == Healthy:
		v.Verified = s.Verified && c.Acknowledged > 0 // over an empty window HEALTHY is shown as unverified
	}
	if s.Notices.Flapping(now) {
		v.Flapping = true
		v.Reason += flappingReason
	}
	if s.Debug {
		v.Reason = "debugging: outcomes stay out of the window; " + v.Reason
	}
	return v
}

// judgeDown holds DOWN until one of the three things happens that move it: an acknowledgement, a failed trial, or an empty window
// after the pause.
func (r Rules) judgeDown(s Standing, c Counts, now time.Time) Verdict {
	v := r.table(c)
	paused := now.Before(s.PausedUntil)
	switch {
	case c.Acknowledged > 0 && v.State == Healthy:
		v.Kind, v.Verified, v.Notice = ToHealthy, true, true
	case c.Acknowledged > 0, s.TrialFailed && v.State == Degraded && !s.Holding:
		v.Kind, v.Notice = ToDegraded, true
	case s.TrialFailed && (v.State == Down || s.Holding): // held events are released by an acknowledgement only
		v.State, v.Kind, v.Notice = Down, StillDown, r.tellStillDown(s, now)
		v.Reason = "the trial failed; " + v.Reason
	case !paused && c.Failed == 0 && !s.Holding:
		v.Kind = ToUnverified
	default:
		v = Verdict{State: Down, Reason: r.heldReason(c, paused, s.PausedUntil)}
	}
	return v
}

// tellStillDown says whether a failed trial is told: the first of an outage, then each time the outage has doubled.
func (r Rules) tellStillDown(s Standing, now time.Time) bool {
	return s.StillDown <= 0 || now.Sub(s.DownSince)>>s.StillDown >= r.Pause
}

// table is the decision table over the counts alone.
func (r Rules) table(c Counts) Verdict {
	switch {
	case c.Failed == 0 && c.Acknowledged == 0:
		return Verdict{State: Healthy, Reason: "no outcome in the window"}
	case c.Failed == 0:
		return Verdict{State: Healthy, Reason: "all " + strconv.FormatInt(c.Acknowledged, 10) + " deliveries in the window were acknowledged"}
	case c.Acknowledged == 0 && c.Failed >= r.MinAttempts:
		return Verdict{State: Down, Reason: fmt.Sprintf("none of %d deliveries in the window was acknowledged (%s)", c.Failed, c.classes())}
	default:
		return Verdict{State: Degraded, Reason: fmt.Sprintf("%d of %d deliveries in the window failed (%s)", c.Failed, c.Failed+c.Acknowledged, c.classes())}
	}
}

func (r Rules) heldReason(c Counts, paused bool, until time.Time) string {
	what := fmt.Sprintf("DOWN is held: delivery is paused until %s", until.UTC().Format(time.RFC3339))
	if !paused {
		what = "DOWN is held: the pause is over, and the next event is the trial"
	}
	if c.Failed == 0 {
		return what
	}
	return fmt.Sprintf("%s; %d failed deliveries in the window (%s)", what, c.Failed, c.classes())
}

// classes lists the failure classes, the most frequent first.
func (c Counts) classes() string {
	type item struct {
		class Class
		n     int64
	}
	var items []item
	for _, k := range Classes() {
		if n := c.ByClass[k]; n > 0 {
			items = append(items, item{k, n})
		}
	}
	sort.SliceStable(items, func(i, j int) bool { return items[i].n > items[j].n })
	parts := make([]string, 0, len(items))
	for _, it := range items {
		text := fmt.Sprintf("%d %s", it.n, it.class)
		if it.class == Blocked {
			text += ": the callback address is not allowed"
		}
		parts = append(parts, text)
	}
	if len(parts) == 0 {
		return "class unknown"
	}
	return strings.Join(parts, ", ")
}
