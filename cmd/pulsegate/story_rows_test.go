package main_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/pulsegate/pulsegate/health"
)

// look notes what happened in a second.
func (s *timeline) look(second int) {
	events := s.happenings()
	if s.inSums && len(events) == 0 {
		return
	}
	parts := []string{counts(s.fates), s.tries(), s.handoffs(), s.health()}
	clear(s.fates)
	text := strings.Join(parts, " | ")
	if len(events) > 0 || !s.continues(row{second, text}) {
		s.flush()
	}
	s.span = append(s.span, row{second, text})
	if len(events) > 0 {
		s.flush()
		for _, e := range events {
			s.out.WriteString("        " + e + "\n")
		}
	}
}

// counts lists counted words in order; "-" for none.
func counts(m map[string]int) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, fmt.Sprintf("%d %s", m[k], k))
	}
	return cmp.Or(strings.Join(parts, ", "), "-")
}

// tries says what the bot saw: which tries, what it answered, and which health it was told.
func (s *timeline) tries() string {
	seen, refused := s.bot.take()
	m := map[string]int{}
	for _, r := range seen {
		answer, host := "never answered", ""
		if r.status > 0 {
			answer = strconv.Itoa(r.status)
		}
		if r.host != "bot.example" {
			host = " at " + r.host
		}
		m[fmt.Sprintf("x try %d%s -> %s (told %s)", r.try, host, answer, r.told)]++
		n, err := strconv.Atoi(r.text)
		require.NoError(s.t, err)
		require.GreaterOrEqual(s.t, n, s.latest[r.author], "the messages of %s come in order", r.author)
		s.latest[r.author] = n
	}
	if refused > 0 {
		m["x found nobody"] = refused
	}
	return counts(m)
}

// handoffs says which conversations the platform was told of, with which tags and why.
func (s *timeline) handoffs() string {
	names := map[int64]string{10: "Bot Handoff", 11: "Standard", 12: "Automatic", 13: "Maintenance"}
	m := map[string]int{}
	for _, c := range s.platform.take() {
		var tags []string
		for _, id := range c.tags {
			tags = append(tags, names[id])
		}
		why := strings.TrimSuffix(strings.TrimPrefix(c.comment, "Handed over automatically: "), ".")
		m[fmt.Sprintf("to %s [%s]: %s", c.owner, strings.Join(tags, ", "), why)]++
	}
	return counts(m)
}

// health is what both gateways answer.
func (s *timeline) health() string {
	if !s.exists {
		return "not registered"
	}
	var texts []string
	for _, r := range s.replicas {
		all, err := r.Health(s.t.Context(), "acme", "bot")
		require.NoError(s.t, err)
		require.Len(s.t, all, 1)
		texts = append(texts, healthText(all[0]))
	}
	require.Len(s.t, slices.Compact(slices.Clone(texts)), 1, "all gateways say the same")
	return texts[0]
}

func healthText(h delivery.Health) string {
	text := fmt.Sprintf("%s %d acknowledged, %d failed", h.Verdict.State, h.Counts.Acknowledged, h.Counts.Failed)
	if h.Verdict.State == health.Healthy && !h.Verdict.Verified {
		text += ", unverified"
	}
	if left := time.Until(h.Standing.PausedUntil); !h.Standing.PausedUntil.IsZero() && left > 0 {
		text += fmt.Sprintf(", paused for %d s", int(left.Seconds()))
	}
	if h.Standing.Debug {
		text += ", debugging"
	}
	if h.Registration.Mode != delivery.Live {
		text += ", " + string(h.Registration.Mode)
	}
	return text
}

// happenings are the transitions and the mails of a second.
func (s *timeline) happenings() []string {
	entries, err := s.replicas[0].Outbox().List(s.t.Context(), "acme", 1000, nil, delivery.EntryTransition)
	require.NoError(s.t, err)
	var lines []string
	for _, e := range slices.Backward(entries) {
		var t health.Transition
		if s.seenIDs[e.ID] {
			continue
		}
		s.seenIDs[e.ID] = true
		require.NoError(s.t, json.Unmarshal(e.Data, &t))
		notice := ""
		if !t.Notice {
			notice = " (no notice)"
		}
		lines = append(lines, fmt.Sprintf("%s -> %s%s: %s", t.From, t.To, notice, t.Reason))
	}
	all := s.mails.all()
	for _, m := range all[s.got:] {
		require.False(s.t, s.seenIDs[m.id], "one mail per transition: %s", m.subject)
		s.seenIDs[m.id] = true
		lines = append(lines, fmt.Sprintf("MAIL to %s: %s", m.to, strings.TrimPrefix(m.subject, "[Pulsegate] ")))
	}
	s.got = len(all)
	return lines
}

var number = regexp.MustCompile(`\d+`)

// numbersOf takes a text apart into its words and its numbers.
func numbersOf(text string) (pattern string, numbers []int) {
	pattern = number.ReplaceAllStringFunc(text, func(n string) string {
		v, _ := strconv.Atoi(n)
		numbers = append(numbers, v)
		return "#"
	})
	return pattern, numbers
}

// continues says whether a second is like those before it: the same words, and each number moves on by the same step.
func (s *timeline) continues(next row) bool {
	if len(s.span) == 0 {
		return true
	}
	first, last := s.span[0], s.span[len(s.span)-1]
	a, n := numbersOf(first.text)
	b, m := numbersOf(last.text)
	c, o := numbersOf(next.text)
	if a != c || b != c {
		return false
	}
	for i := range o {
		if len(s.span) > 1 && (o[i]-m[i])*(len(s.span)-1) != m[i]-n[i] {
			return false
		}
	}
	return true
}

// flush writes the seconds that are alike as one line.
func (s *timeline) flush() {
	if len(s.span) == 0 {
		return
	}
	first, last := s.span[0], s.span[len(s.span)-1]
	if len(s.span) == 2 && first.text != last.text { // two are no series
		s.span = []row{first}
		s.flush()
		first = last
	}
	s.span = nil
	when := clockText(first.at)
	if first.at != last.at {
		when += "-" + clockText(last.at)
	}
	_, n := numbersOf(first.text)
	_, m := numbersOf(last.text)
	i := 0
	text := number.ReplaceAllStringFunc(first.text, func(x string) string {
		i++
		if n[i-1] == m[i-1] {
			return x
		}
		return fmt.Sprintf("%d…%d", n[i-1], m[i-1])
	})
	fmt.Fprintf(&s.out, "%-12s %s\n", when, text)
}

// sums tells what became of every event.
func (s *timeline) sums() {
	fates := map[string]int{}
	for _, id := range s.ids {
		records, err := s.replicas[0].EventRecords(s.t.Context(), "acme", id)
		require.NoError(s.t, err)
		require.Len(s.t, records, 1)
		fates[string(records[0].Fate)]++
	}
	fmt.Fprintf(&s.out, "%d events: %s\n%d mails\n", len(s.ids), counts(fates), len(s.mails.all()))
}
