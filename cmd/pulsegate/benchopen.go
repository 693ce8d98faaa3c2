package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

// benchOpen is all runs of one cell in which events come at random times, at half the rate at which the gateway is saturated.
type benchOpen struct {
	Cell          string        `json:"cell"`
	Registrations int64         `json:"registrations"`
	Saturation    float64       `json:"saturationPerSecond"` // of the gateway, in a closed loop
	Rate          float64       `json:"offeredPerSecond"`
	Relay         []benchResult `json:"relay"`
	Gateway       []benchResult `json:"gateway"`
	Stalls        []redisStall  `json:"redisStalls"` // in any run
}

// redisStall is a reason for which Redis answered nobody for a millisecond or more, by its own account.
type redisStall struct {
	Of string `json:"of"`
	Ms int64  `json:"longestMs"`
}

// openConnections is how many connections the generator of an open loop has: more than are ever busy at once while all goes well.
const openConnections = 256

// arrivalP50 and arrivalP99 are from when an event was due to the bot, in milliseconds.
func arrivalP50(r benchResult) float64 { return r.Arrival.P50 }
func arrivalP99(r benchResult) float64 { return r.Arrival.P99 }

// open measures a cell turn by turn, the relay and the gateway at the same rate.
func (r *benchRoom) open(ctx context.Context, c benchCell, report *benchReport) (benchOpen, error) {
	row := benchOpen{Cell: c.name, Registrations: c.registrations}
	var err error
	if row.Saturation, err = r.saturation(ctx, partGateway, c, report); err != nil {
		return row, err
	}
	row.Rate = max(1, float64(int64(row.Saturation/2)))
	for turn := range r.Alternations {
		for _, kind := range []string{partRelay, partGateway} {
			result, stalls, err := r.takeOpen(ctx, kind, c, row.Rate)
			if err != nil {
				return row, fmt.Errorf("measure %s of cell %s: %w", kind, c.name, err)
			}
			if kind == partRelay {
				row.Relay = append(row.Relay, result)
			} else {
				row.Gateway = append(row.Gateway, result)
				row.Stalls = mergeStalls(row.Stalls, stalls)
			}
			r.say("%s, turn %d of %d: %-9s %8.0f events/s offered, from due to the bot %.2f ms (p50), %.2f ms (p99), lost %d", c.name, turn+1,
				r.Alternations, kind, row.Rate, result.Arrival.P50, result.Arrival.P99, result.Lost)
		}
	}
	return row, nil
}

// saturation is the rate of a closed loop: the median of what was measured, or of one run now.
func (r *benchRoom) saturation(ctx context.Context, kind string, c benchCell, report *benchReport) (float64, error) {
	c = r.cellOf(cellClosed, c.registrations)
	if row := report.row(c.name); row != nil {
		if kind == partRelay {
			return medianRate(row.Relay), nil
		}
		return medianRate(row.Gateway), nil
	}
	r.plan.runs++
	result, err := r.take(ctx, kind, c)
	if err != nil {
		return 0, fmt.Errorf("saturate %s: %w", kind, err)
	}
	r.say("%s: %.0f events/s saturate %s", c.name, result.Rate, kind)
	return result.Rate, nil
}

// takeOpen is one run at a rate, and what held Redis up.
func (r *benchRoom) takeOpen(ctx context.Context, kind string, c benchCell, rate float64) (result benchResult, stalls []redisStall, err error) {
	defer func() { r.plan.done++ }()
	events := max(1, int64(rate*r.OpenTime.Seconds()))
	s, err := r.openStack(ctx, stackSetup{kind: kind, registrations: c.registrations, numbers: c.warm() + events})
	if err != nil {
		return result, nil, err
	}
	defer s.abandon()
	if s.store != nil {
		_ = s.store.client.ConfigSet(ctx, "latency-monitor-threshold", "1").Err() // without it, nothing is told
	}
	result, err = s.run(ctx, benchLoad{
		warm: c.warm(), events: events, size: c.size, rate: rate, connections: max(openConnections, r.Connections), registrations: c.registrations,
		authors: authorsOf(c.registrations),
	})
	if err != nil {
		return result, nil, err
	}
	if s.store != nil {
		stalls = s.store.stalls(ctx)
	}
	result.Ledger, err = s.close(ctx)
	return result, stalls, err
}

// stalls are what Redis says held it up; none when it does not say.
func (b *benchStore) stalls(ctx context.Context) []redisStall {
	latest, err := b.client.Do(ctx, "LATENCY", "LATEST").Slice()
	if err != nil {
		return nil
	}
	var stalls []redisStall
	for _, one := range latest { // name, when, last and longest in ms
		fields, ok := one.([]any)
		if !ok || len(fields) < 4 {
			continue
		}
		name, _ := fields[0].(string)
		longest, _ := fields[3].(int64)
		stalls = append(stalls, redisStall{Of: name, Ms: longest})
	}
	return stalls
}

// mergeStalls keeps the longest of each.
func mergeStalls(to, from []redisStall) []redisStall {
	for _, one := range from {
		known := false
		for i := range to {
			if to[i].Of == one.Of {
				to[i].Ms, known = max(to[i].Ms, one.Ms), true
			}
		}
		if !known {
			to = append(to, one)
		}
	}
	return to
}

// stallText is for people.
func (o benchOpen) stallText() string {
	var parts []string
	for _, one := range o.Stalls {
		parts = append(parts, one.Of+" "+strconv.FormatInt(one.Ms, 10)+" ms")
	}
	if len(parts) == 0 {
		return "none"
	}
	return strings.Join(parts, ", ")
}

// bars are what the cell is held to.
func (o benchOpen) bars() []benchBar {
	relay, gateway := medianOf(o.Relay, arrivalP50), medianOf(o.Gateway, arrivalP50)
	most := relay + 0.5
	p50 := benchBar{
		Name: "from due to the bot at half saturation, p50, " + o.Cell, Required: fmt.Sprintf("at most relay's %.2f ms + 0.50 ms", relay),
		Measured: fmt.Sprintf("%.2f ms", gateway), Figure: gateway, Limit: most, Met: gateway <= most,
	}
	p99 := benchBar{
		Name: "from due to the bot at half saturation, p99, " + o.Cell, Required: "at most 10.00 ms", Limit: 10,
		Figure: medianOf(o.Gateway, arrivalP99),
	}
	p99.Measured, p99.Met = fmt.Sprintf("%.2f ms", p99.Figure), p99.Figure <= p99.Limit
	return []benchBar{p50, p99}
}
