package main

import (
	"context"
	"fmt"
)

// benchLadder is throughput and latency against load: relay and gateway, each at rates up to beyond what saturates it.
type benchLadder struct {
	Cell          string        `json:"cell"`
	Registrations int64         `json:"registrations"`
	Relay         []benchResult `json:"relay"` // by rising load
	Gateway       []benchResult `json:"gateway"`
}

// ladderRungs are the loads, as shares of what saturates it.
func ladderRungs() []float64 { return []float64{0.1, 0.25, 0.4, 0.55, 0.7, 0.8, 0.9, 1, 1.1} }

// ladder measures a cell, relay and gateway by turns.
func (r *benchRoom) ladder(ctx context.Context, c benchCell, report *benchReport) (row benchLadder, err error) {
	row = benchLadder{Cell: c.name, Registrations: c.registrations}
	kinds := []struct {
		name       string
		to         *[]benchResult
		saturation float64
	}{{name: partRelay, to: &row.Relay}, {name: partGateway, to: &row.Gateway}}
	for i := range kinds {
		if kinds[i].saturation, err = r.saturation(ctx, kinds[i].name, c, report); err != nil {
			return row, err
		}
	}
	for _, share := range ladderRungs() {
		for _, kind := range kinds {
			result, _, err := r.takeOpen(ctx, kind.name, c, max(1, kind.saturation*share))
			if err != nil {
				return row, fmt.Errorf("measure %s: %w", kind.name, err)
			}
			*kind.to = append(*kind.to, result)
			r.say("%s: %-9s %8.0f events/s offered, %8.0f came, %.2f ms (p50), %.2f ms (p99), lost %d", c.name, kind.name, result.Offered, result.Rate,
				result.Arrival.P50, result.Arrival.P99, result.Lost)
		}
	}
	return row, nil
}
