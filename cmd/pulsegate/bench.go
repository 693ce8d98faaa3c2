package main

import (
	"context"
	"log/slog"
	"runtime"
)

// benchCommand measures the gateway beside a bare relay on this machine: each part a process of its own, all on loopback.
type benchCommand struct {
	Cell          []string `help:"What to measure; repeatable: closed-N, array-N, ndjson-N for N registrations, or a word for all of its kind. Default: what the bars need." placeholder:"NAME"`
	Full          bool     `help:"Measure other sizes of events, no append-only file, slower bots and other batches as well."`
	Events        int64    `help:"Events of one run." default:"50000"`
	Connections   int      `help:"Connections of the generator." default:"64"`
	Registrations []int64  `help:"Registrations that the events are for; several values, several rows. Named without --cell, nothing else is measured." placeholder:"N,…"`
	Alternations  int      `help:"How often each part takes its turn." default:"3"`
	Size          int      `help:"Bytes of one event." default:"1024"`
	OwnIDs        bool     `help:"Give every event an id of its own, so that it is accepted once." name:"own-ids" default:"true" negatable:""`
	JSON          bool     `help:"Print the figures as JSON." name:"json"`
}

// The bounds of an event's size, in bytes.
const (
	smallestEvent = 200
	largestEvent  = 200 << 10
)

// Validate refuses settings that cannot be kept.
func (b benchCommand) Validate() error {
	switch {
	case b.Events < 1 || b.Events > 100_000_000:
		return wrongSetting("--events %d: must be from 1 to 100000000", b.Events)
	case b.Connections < 1 || b.Connections > 10_000:
		return wrongSetting("--connections %d: must be from 1 to 10000", b.Connections)
	case b.Alternations < 1:
		return wrongSetting("--alternations %d: must be at least 1", b.Alternations)
	case b.Size < smallestEvent || b.Size > largestEvent:
		return wrongSetting("--size %d: must be from %d to %d", b.Size, smallestEvent, largestEvent)
	}
	for _, n := range b.Registrations {
		if n < 1 || n > mostRegistrations {
			return wrongSetting("--registrations %d: must be from 1 to %d", n, mostRegistrations)
		}
	}
	_, err := b.cells()
	return err
}

// Run measures, prints, and fails when an event was lost, a ledger does not balance or a run is void.
func (b benchCommand) Run(s streams, log *slog.Logger) error {
	runtime.LockOSThread() // the parts are tied to this thread
	defer runtime.UnlockOSThread()
	ctx, release := untilSignal()
	defer release()
	room := newBenchRoom(b, s, log)
	report, err := room.measure(ctx)
	if err != nil {
		return err
	}
	if err := report.print(s.out, b); err != nil {
		return err
	}
	return report.judge()
}

// measure takes every cell.
func (r *benchRoom) measure(ctx context.Context) (*benchReport, error) {
	cells, err := r.cells()
	if err != nil {
		return nil, err
	}
	report := newBenchReport(r.benchCommand)
	report.Rows, err = r.rows(ctx, cells)
	if err != nil {
		return nil, err
	}
	report.Bars = report.bars()
	return report, nil
}
