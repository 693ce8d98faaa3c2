package main

import (
	"context"
	"fmt"
	"time"
)

// benchSlow is one run with bots that take their time.
type benchSlow struct {
	Registrations int64       `json:"registrations"`
	DelayMs       float64     `json:"delayMs"`
	Offered       float64     `json:"offeredPerSecond"`
	Allowed       float64     `json:"allowedPerSecond"`  // what is offered, or what the bots can take
	Answered      float64     `json:"answeredPerSecond"` // by the bots, from when the first answers are due until the generator ends
	Share         float64     `json:"share"`             // of Allowed
	Run           benchResult `json:"run"`
}

// The figures of the run: ten thousand events are under way at once when the gateway keeps up.
const (
	slowRegistrations = 400
	slowConcurrency   = 32
	slowDelay         = 2 * time.Second
	slowRate          = 5000
	slowTime          = 12 * time.Second
	slowAtOnce        = 10_000
	slowMemory        = 512 << 20
)

// slow measures one gateway.
func (r *benchRoom) slow(ctx context.Context, c benchCell) (row benchSlow, err error) {
	row = benchSlow{Registrations: slowRegistrations, DelayMs: millis(slowDelay), Offered: slowRate}
	row.Allowed = min(row.Offered, slowRegistrations*slowConcurrency/slowDelay.Seconds())
	load := benchLoad{
		warm: slowRegistrations, events: int64(slowRate * slowTime.Seconds()), size: c.size, rate: slowRate, connections: openConnections, registrations: slowRegistrations,
	}
	var looks []botsReport
	load.watch = func(b botsReport) { looks = append(looks, b) }
	s, err := r.openStack(ctx, stackSetup{
		kind: partGateway, registrations: slowRegistrations, numbers: load.warm + load.events, delay: slowDelay, concurrency: slowConcurrency,
	})
	if err != nil {
		return row, err
	}
	defer s.abandon()
	if row.Run, err = s.run(ctx, load); err != nil {
		return row, err
	}
	row.Answered = answeredRate(looks)
	row.Share = ratio(row.Answered, row.Allowed)
	row.Run.Ledger, err = s.close(ctx)
	r.plan.done++
	r.say("slow: %d at once at most, %.0f answered a second of %.0f, gateway's peak %s, lost %d", row.Run.Most, row.Answered, row.Allowed,
		megabytes(row.Run.Peak[partGateway]), row.Run.Lost)
	return row, err
}

// answeredRate is how many answers the bots gave a second, between the looks at which they were already giving them and the last.
func answeredRate(looks []botsReport) float64 {
	var first, last botsReport
	for i, look := range looks {
		if first.At == 0 && time.Duration(look.At-looks[0].At) > slowDelay+time.Second {
			first = looks[i]
		}
		last = look
	}
	if first.At == 0 || last.At <= first.At {
		return 0
	}
	return rate(last.Answered-first.Answered, first.At, last.At)
}

// bars are what the run is held to.
func (s benchSlow) bars() []benchBar {
	atOnce := benchBar{
		Name: "bots that take 2 s: events under way at once", Required: fmt.Sprintf("at least %d", slowAtOnce), Measured: fmt.Sprint(s.Run.Most),
		Figure: float64(s.Run.Most), Limit: slowAtOnce, Met: s.Run.Most >= slowAtOnce,
	}
	peak := s.Run.Peak[partGateway]
	memory := benchBar{
		Name: "bots that take 2 s: memory of the gateway", Required: "below 512 MiB", Measured: fmt.Sprintf("%d MiB", peak>>20),
		Figure: float64(peak), Limit: slowMemory, Met: peak > 0 && peak < slowMemory,
	}
	return []benchBar{atOnce, atLeast("bots that take 2 s: throughput / what they allow", 0.95, s.Share), memory}
}
