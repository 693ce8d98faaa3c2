package main

import (
	"context"
	"fmt"
)

// rows measures cells turn by turn, and in each turn the straight generator, the relay, the floor and the gateway after each other, so that a drift
// of the machine meets all of them.
func (r *benchRoom) rows(ctx context.Context, cells []benchCell) ([]benchRow, error) {
	rows := make([]benchRow, len(cells))
	for i, cell := range cells {
		rows[i] = benchRow{cell: cell, Cell: cell.name, Registrations: cell.registrations, Size: cell.size, Batch: cell.batch}
	}
	for turn := range r.Alternations {
		for i := range rows {
			for _, kind := range rows[i].cell.kinds() {
				result, err := r.take(ctx, kind, rows[i].cell)
				if err != nil {
					return nil, fmt.Errorf("measure %s of cell %s: %w", kind, rows[i].Cell, err)
				}
				rows[i].add(kind, result)
				r.say("%s, turn %d of %d: %-9s %8.0f events/s, lost %d, doubled %d", rows[i].Cell, turn+1, r.Alternations,
					kind, result.Rate, result.Lost, result.Doubled)
			}
		}
	}
	return rows, nil
}

// kinds are what takes its turn, the floor where there is a bar that it explains. The generator itself would wait for slow bots, which says nothing of the relay.
func (c benchCell) kinds() []string {
	if c.delay > 0 {
		return []string{partRelay, partGateway}
	}
	if c.kind == cellClosed && throughputBar(c.name) > 0 {
		return []string{partGenerator, partRelay, partFloor, partGateway}
	}
	return []string{partGenerator, partRelay, partGateway}
}

// slowRelayWorkers is how many posts the relay has under way at once before bots that take their time.
const slowRelayWorkers = 8192

// take is one run on a stack of its own.
func (r *benchRoom) take(ctx context.Context, kind string, c benchCell) (benchResult, error) {
	defer func() { r.plan.done++ }()
	setup := stackSetup{
		kind: kind, registrations: c.registrations, numbers: c.warm() + c.events, delay: c.delay, noAppendOnly: c.noAppendOnly,
		concurrency: r.Connections, // a registration may have as many under way as the relay has workers
	}
	if c.delay > 0 {
		setup.relayWorkers = slowRelayWorkers
	}
	s, err := r.openStack(ctx, setup)
	if err != nil {
		return benchResult{}, err
	}
	defer s.abandon()
	load := benchLoad{
		warm: c.warm(), events: c.events, size: c.size, most: r.ClosedTime, connections: r.Connections, registrations: c.registrations,
		authors: authorsOf(c.registrations),
	}
	if kind == partGateway {
		load.batch, load.ndjson = c.batch, c.ndjson // the relay knows nothing of batches
	}
	result, err := s.run(ctx, load)
	if err != nil {
		return result, err
	}
	result.Ledger, err = s.close(ctx)
	return result, err
}
