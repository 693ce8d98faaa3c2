package delivery

import (
	"slices"
	"strings"
)

// plain says that a call settles acknowledged deliveries of a bot that is HEALTHY, and asks for nothing.
func (c *settleCall) plain() bool {
	return c.quiet && c.state.stamp != "" && c.state.well() && len(c.outcomes) > 0 &&
		!slices.ContainsFunc(c.outcomes, func(d settled) bool { return !c.simple(&d) })
}

func (s *store) settlePlainScript(calls []*settleCall) settleScript {
	sc := settleScript{calls: calls, plain: true}
	if len(calls) == 0 {
		return sc
	}
	a := &argv{}
	a.key(ledgerKey(calls[0].shard()))
	a.arg(s.window.Milliseconds(), s.keep.successes, len(calls))
	for _, c := range calls {
		n := c.names
		number, _, _ := strings.Cut(c.state.stamp, " ")
		a.key(n.standing, n.window, n.queue, n.ok)
		rest := ""
		if c.mayRest {
			rest = n.member
			a.key(n.due)
		}
		a.arg(&c.token, number, rest)
		c.putDelivered(a)
	}
	sc.call = scriptCall{s.scripts.settlePlain, a.keys, a.args}
	return sc
}

// readPlain reads the answer to a call that was as plain as it seemed; what else was known stays as it was, and so does the lease unless it was given back.
func (c *settleCall) readPlain(now int64, text string) {
	state, rest, ok := strings.Cut(text, "\n")
	if !ok {
		return
	}
	waiting, counts, _ := strings.Cut(rest, "\n")
	c.settled, c.rested = true, state == "rest"
	c.state.waiting, c.state.lease = toInt(waiting), 0
	c.state.reading = c.state.reading.Heard(now, counts)
}
