package health

import (
	"strconv"
	"strings"
	"time"
)

// What a bot that changes often may cost its people: so many notices of DEGRADED and HEALTHY go out by themselves in so long a time;
// further ones are held back for a digest.
const (
	noticesAtOnce  = 4
	noticesWithin  = time.Hour
	flappingReason = "; flapping: it changes often, and further notices of that are gathered into one an hour"
)

// Notices is what is remembered of the notices about one registration, so that a bot that changes often does not flood its people.
type Notices struct {
	Down bool        // the last notice told of DOWN: the next one is the recovery, whichever state it leads to
	Held time.Time   // when a notice was last held back; zero: never
	Told []time.Time // when the last notices of DEGRADED and HEALTHY went out by themselves, at most 4, in order
}

// Flapping says whether a notice was held back within the last hour.
func (n Notices) Flapping(now time.Time) bool {
	return !n.Held.IsZero() && now.Sub(n.Held) < noticesWithin
}

// after is what is remembered after a verdict's transition, and whether its notice is held back. DOWN and the recovery from it never are.
func (n Notices) after(v Verdict, at time.Time) (Notices, bool) {
	if !v.Notice {
		return n, false
	}
	recovery := n.Down
	n.Down = v.State == Down
	if n.Down {
		return n, false
	}
	var told []time.Time
	for _, t := range n.Told {
		if at.Sub(t) < noticesWithin {
			told = append(told, t)
		}
	}
	if len(told) >= noticesAtOnce && !recovery {
		n.Told, n.Held = told, at
		return n, true
	}
	told = append(told, at)
	n.Told = told[max(len(told)-noticesAtOnce, 0):]
	return n, false
}

// text is n as it lies in the store: Down, Held, then Told, times in ms.
func (n Notices) text() string {
	parts := []string{flag(n.Down), strconv.FormatInt(millis(n.Held), 10)}
	for _, t := range n.Told {
		parts = append(parts, strconv.FormatInt(millis(t), 10))
	}
	return strings.Join(parts, " ")
}

// parseNotices reads what text wrote; a text of another kind is that of a registration that nobody was told of.
func parseNotices(text string) Notices {
	parts := strings.Fields(text)
	if len(parts) < 2 {
		return Notices{}
	}
	n := Notices{Down: parts[0] == "1", Held: fromMillis(parts[1])}
	for _, p := range parts[2:] {
		if t := fromMillis(p); !t.IsZero() {
			n.Told = append(n.Told, t)
		}
	}
	return n
}
