package notify

import (
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/pulsegate/pulsegate/health"
)

// line makes one harmless line of at most most characters of a text from outside: no line breaks, no control, invisible or
// direction-changing characters, no broken encoding.
func line(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || unicode.In(r, unicode.C, unicode.Z) {
			return ' '
		}
		return r
	}, s)
	s = strings.Join(strings.Fields(s), " ")
	if r := []rune(s); len(r) > most {
		return strings.TrimSpace(string(r[:most-1])) + "…"
	}
	return s
}

// displayName makes the name beside a mail address: letters, digits and what names are written with, no markup.
func displayName(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsMark(r) || unicode.IsDigit(r) || strings.ContainsRune(" .-_'’+", r) {
			return r
		}
		return ' '
	}, s)
	return line(s, 64)
}

// moment is a time of the store as people read it, always in UTC.
func moment(ms int64) string {
	return time.UnixMilli(ms).UTC().Format("2006-01-02 15:04:05 UTC")
}

// span is a duration as people read it, in its two largest units.
func span(d time.Duration) string {
	d = max(d, 0).Round(time.Second)
	units := []struct {
		size time.Duration
		name string
	}{{24 * time.Hour, "d"}, {time.Hour, "h"}, {time.Minute, "min"}, {time.Second, "s"}}
	var parts []string
	for _, u := range units {
		n := d / u.size
		d -= n * u.size
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, u.name))
		}
		if len(parts) == 2 || (len(parts) == 1 && n == 0) {
			break
		}
	}
	if len(parts) == 0 {
		return "0 s"
	}
	return strings.Join(parts, " ")
}

// counted is "1 event", "2 events".
func counted(n int64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// classWords says what a failure class means.
func classWords(c health.Class) string {
	switch c {
	case health.Timeout:
		return "no answer in time"
	case health.Refused:
		return "connection refused"
	case health.DNS:
		return "name does not resolve"
	case health.TLS:
		return "no trusted encrypted connection"
	case health.Status:
		return "answered with a status other than 200 or 202"
	case health.Blocked:
		return "callback address not allowed"
	case health.Broken:
		return "connection broke"
	case health.Suppressed:
		return "not tried because the bot was DOWN"
	default:
		return "failed otherwise"
	}
}

// stateWord is a state from the closed set, or a fixed word for anything else.
func stateWord(s health.State) string {
	switch s {
	case health.Healthy, health.Degraded, health.Down:
		return string(s)
	default:
		return "UNKNOWN"
	}
}
