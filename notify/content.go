package notify

import (
	"fmt"
	"strings"
	"time"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/pulsegate/pulsegate/health"
)

// why says why the state is what it is: the rule that fired, the counts behind it, and a hint where the fault is in the settings.
func why(reg delivery.Registration, t health.Transition) []string {
	var lines []string
	if reason := line(t.Reason, 300); reason != "" {
		lines = append(lines, sentence(reason))
	}
	lines = append(lines, fmt.Sprintf("In the window: %d acknowledged, %d failed.", t.Acknowledged, t.Failed))
	for _, c := range health.Classes() {
		if n := t.ByClass[c]; n > 0 {
			lines = append(lines, counted(n, "time")+": "+classWords(c))
		}
	}
	if t.ByClass[health.Blocked] > 0 {
		lines = append(lines, blockedFault(reg))
	}
	return lines
}

// blockedFault says what to do about an address that is not allowed.
func blockedFault(reg delivery.Registration) string {
	fault := "The callback address"
	if host := callbackHost(reg.CallbackURL); host != "" {
		fault += " " + host
	}
	return fault + " is not allowed, so no connection was opened. This is a configuration fault and does not mend itself: " +
		"register a public https address, or have the operator allow this one."
}

// next says what happens from here on, and when.
func next(reg delivery.Registration, t health.Transition) []string {
	switch {
	case t.Kind == health.ToHealthy:
		return []string{"Events are delivered as usual. There is nothing to do."}
	case t.To == health.Down:
		return append(whileDown(reg, t), "As soon as an event is acknowledged, delivery goes on and you get another mail.")
	case t.From == health.Down:
		return []string{
			"Delivery goes on, one event at a time at first, faster with every acknowledgement.",
			"What could not be delivered is still in the window. When the window holds no failure any more, the bot is HEALTHY and you get another mail.",
		}
	default:
		lines := []string{"Events are still delivered, each tried twice at most."}
		if reg.Mode != delivery.Monitoring {
			lines = append(lines, "A conversation whose message cannot be delivered is handed to human agents.")
		}
		return append(lines, "When the window holds no failure any more, the bot is HEALTHY again; when nothing at all gets through, it is DOWN. "+
			"You get a mail either way.")
	}
}

func whileDown(reg delivery.Registration, t health.Transition) []string {
	lines := []string{"Delivery is paused. Then one event at a time is tried."}
	if t.PausedUntil > 0 {
		lines[0] = "Delivery is paused until " + moment(t.PausedUntil) + ". Then one event at a time is tried."
	}
	switch {
	case reg.WhenDown == delivery.Hold:
		return append(lines, "Events are held meanwhile and delivered in order after recovery.")
	case reg.Mode == delivery.Monitoring:
		return append(lines, "Events are not delivered meanwhile. No conversation is handed off, since the bot only monitors.")
	default:
		return append(lines, "Events are not delivered meanwhile. The bot's conversations are handed to human agents.")
	}
}

// cost says what the incident has cost so far, and at its end how long it took.
func cost(t health.Transition) []string {
	all := costs(t.Undelivered, t.HandedOff)
	if t.Kind != health.ToHealthy {
		return []string{"So far: " + all + "."}
	}
	var lines []string
	if t.Incident > 0 {
		lasted := span(time.Duration(t.At-t.Incident) * time.Millisecond)
		lines = append(lines, "The incident lasted "+lasted+", from "+moment(t.Incident)+" to "+moment(t.At)+".")
	}
	return append(lines, "It cost: "+all+".")
}

func costs(undelivered, handedOff int64) string {
	return counted(undelivered, "event") + " not delivered, " + counted(handedOff, "conversation") + " handed to human agents"
}

// sentence begins a reason like a sentence and ends it like one.
func sentence(s string) string {
	if c := s[0]; c >= 'a' && c <= 'z' {
		s = string(c-'a'+'A') + s[1:]
	}
	if strings.HasSuffix(s, ".") || strings.HasSuffix(s, "…") {
		return s
	}
	return s + "."
}
