package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"time"
)

// benchCommand measures the gateway beside a bare relay on this machine: each part a process of its own, all on loopback.
type benchCommand struct {
	Cell          []string      `help:"What to measure; repeatable. closed-N, array-N, ndjson-N, open-N, nofile-N, ladder-N: with N registrations; size-BYTES, batch-EVENTS, delay-MILLISECONDS; backlog; slow; or only the word. Default: what the bars need." placeholder:"NAME"`
	Full          bool          `help:"Measure other sizes of events, no append-only file, slower bots and other batches as well."`
	SVG           string        `help:"Measure throughput and latency against load as well, and plot them into this file." name:"svg" placeholder:"FILE" type:"path"`
	JSON          bool          `help:"Print the figures as JSON." name:"json"`
	Events        int64         `help:"Events of one run in a closed loop." default:"30000"`
	ClosedTime    time.Duration `help:"How long one run in a closed loop takes at most." default:"6s"`
	OpenTime      time.Duration `help:"How long one run at a rate takes." default:"6s"`
	Backlog       int64         `help:"Events that wait in the cell backlog. Default: 200000, or with --full 1000000." placeholder:"N"`
	Connections   int           `help:"Connections of the generator." default:"64"`
	Registrations []int64       `help:"Registrations that the events are for; several values, several rows. Named without --cell, only closed loops are measured." placeholder:"N,…"`
	Alternations  int           `help:"How often each part takes its turn." default:"3"`
	Size          int           `help:"Bytes of one event." default:"1024"`
	OwnIDs        bool          `help:"Give every event an id of its own, so that it is accepted once." name:"own-ids" default:"true" negatable:""`
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
	case b.OpenTime < 100*time.Millisecond || b.OpenTime > 10*time.Minute:
		return wrongSetting("--open-time %v: must be from 100ms to 10m", b.OpenTime)
	case b.ClosedTime < 100*time.Millisecond || b.ClosedTime > time.Hour:
		return wrongSetting("--closed-time %v: must be from 100ms to 1h", b.ClosedTime)
	case b.Backlog < 0 || b.Backlog > 100_000_000:
		return wrongSetting("--backlog %d: must be from 0 to 100000000", b.Backlog)
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
	if b.SVG != "" {
		if err := os.WriteFile(b.SVG, report.Ladder[0].plot(), 0o644); err != nil {
			return fmt.Errorf("write plot: %w", err)
		}
	}
	return report.judge()
}

// measure takes every cell: closed loops first, since their rates say how much the others are to offer.
func (r *benchRoom) measure(ctx context.Context) (*benchReport, error) {
	cells, err := r.cells()
	if err != nil {
		return nil, err
	}
	for _, c := range cells {
		r.plan.runs += r.runsOf(c)
	}
	report := newBenchReport(ctx, r.benchCommand)
	var closed []benchCell
	for _, c := range cells {
		if c.closedLoop() {
			closed = append(closed, c)
		}
	}
	if report.Rows, err = r.rows(ctx, closed); err != nil {
		return nil, err
	}
	for _, c := range cells {
		if err := r.measureOther(ctx, c, report); err != nil {
			return nil, fmt.Errorf("measure cell %s: %w", c.name, err)
		}
	}
	report.Bars = report.bars()
	report.Others = medianOf(report.allRuns(), func(r benchResult) float64 { return r.Others })
	report.Seconds = time.Since(r.plan.began).Seconds()
	return report, nil
}

// measureOther takes a cell that is no closed loop.
func (r *benchRoom) measureOther(ctx context.Context, c benchCell, report *benchReport) error {
	switch c.kind {
	case cellOpen:
		row, err := r.open(ctx, c, report)
		report.Open = append(report.Open, row)
		return err
	case cellBacklog:
		row, err := r.backlog(ctx, c)
		report.Backlog = &row
		return err
	case cellSlow:
		row, err := r.slow(ctx, c)
		report.Slow = &row
		return err
	case cellLadder:
		row, err := r.ladder(ctx, c, report)
		report.Ladder = append(report.Ladder, row)
		return err
	}
	return nil
}

// runsOf is how many runs a cell takes.
func (b benchCommand) runsOf(c benchCell) int {
	switch c.kind {
	case cellOpen:
		return 2 * b.Alternations
	case cellBacklog:
		return 1 + 2*b.Alternations
	case cellSlow:
		return 1
	case cellLadder:
		return 2 * len(ladderRungs())
	}
	return b.Alternations * len(c.kinds())
}
