package main

import (
	"context"
	"fmt"
	"net/http"
	"time"
)

// benchBacklog is what some registrations cost beside others that have much waiting.
type benchBacklog struct {
	Registrations int64         `json:"registrations"` // that get events
	Held          int64         `json:"held"`          // registrations that the backlog is spread over
	Backlog       int64         `json:"backlog"`       // events that wait
	BuildRate     float64       `json:"builtPerSecond"`
	Without       []benchResult `json:"without"`
	With          []benchResult `json:"with"`
	Ratio         float64       `json:"cpuRatio"` // of gateway and Redis, per event: with the backlog to without, median of the turns
	Ledgers       []benchLedger `json:"ledgers"`
}

const (
	backlogRegistrations = 100 // that get events, and as many that hold theirs
	backlogHold          = "hold"
)

// The settings that a backlog needs: one failure makes a bot DOWN, and nothing is tried before it is told to.
func backlogSettings() []string {
	return []string{"--health-min-attempts", "1", "--pause", "1h", "--queue-events", "100000000", "--queue-bytes", "107374182400"}
}

// backlog measures two gateways by turns, each on a Redis of its own: one with a backlog and one without.
func (r *benchRoom) backlog(ctx context.Context, c benchCell) (row benchBacklog, err error) {
	row = benchBacklog{Registrations: backlogRegistrations, Held: backlogRegistrations, Backlog: r.Backlog}
	var stacks []*stack
	defer func() {
		for _, s := range stacks {
			s.abandon()
		}
	}()
	perRun := c.warm() + c.events
	for range 2 {
		s, err := r.openStack(ctx, stackSetup{
			kind: partGateway, registrations: row.Registrations + row.Held, numbers: int64(r.Alternations)*perRun + r.Backlog + row.Held, serve: backlogSettings(),
		})
		if err != nil {
			return row, err
		}
		stacks = append(stacks, s)
	}
	if row.BuildRate, err = stacks[1].build(ctx, row, c.size); err != nil {
		return row, fmt.Errorf("build a backlog: %w", err)
	}
	r.plan.done++
	for turn := range r.Alternations {
		for i, runs := range []*[]benchResult{&row.Without, &row.With} {
			result, err := stacks[i].run(ctx, benchLoad{
				warm: c.warm(), events: c.events, size: c.size, most: r.ClosedTime, connections: r.Connections, registrations: row.Registrations,
				authors: authorsOf(row.Registrations),
			})
			if err != nil {
				return row, err
			}
			r.plan.done++
			*runs = append(*runs, result)
			r.say("backlog, turn %d of %d: %7d events wait, %8.0f events/s, %.4f s of CPU per 1,000 events, lost %d", turn+1, r.Alternations,
				int64(i)*row.Backlog, result.Rate, result.path(), result.Lost)
		}
	}
	row.Ratio = medianRatio(row.With, row.Without, benchResult.path)
	for _, s := range stacks {
		ledger, err := s.close(ctx)
		if err != nil {
			return row, err
		}
		row.Ledgers = append(row.Ledgers, ledger)
	}
	return row, row.checkQueued()
}

// checkQueued is nil when all of the backlog waited to the end.
func (b benchBacklog) checkQueued() error {
	if queued := b.Ledgers[1].Queued; queued != b.Backlog {
		return fmt.Errorf("%d events were to wait, but %d did", b.Backlog, queued)
	}
	return nil
}

// build makes some bots DOWN and lets events wait for them; it returns how many were taken in per second.
func (s *stack) build(ctx context.Context, row benchBacklog, size int) (float64, error) {
	first, end := row.Registrations, row.Registrations+row.Held
	if err := s.store.register(ctx, s.target, first, end, func(i int64) any { return s.registration(i, sickPath, backlogHold) }); err != nil {
		return 0, err
	}
	load := benchLoad{events: row.Held, size: size, connections: s.room.Connections, first: first, registrations: row.Held, unheeded: true}
	if _, err := s.run(ctx, load); err != nil {
		return 0, err
	}
	client := &http.Client{Timeout: benchPatience, Transport: new(http.Transport)}
	defer client.CloseIdleConnections()
	for i := first; i < end; i++ {
		if err := s.awaitDown(ctx, client, i); err != nil {
			return 0, err
		}
	}
	load.events, load.batch = row.Backlog, batchOfCell
	began := time.Now()
	built, err := s.run(ctx, load)
	if err != nil {
		return 0, err
	}
	if built.Refused > 0 {
		return 0, fmt.Errorf("%d events were not queued: %s", built.Refused, built.Sample)
	}
	return float64(built.Accepted) / time.Since(began).Seconds(), s.store.settled(ctx)
}

// awaitDown waits until a bot is DOWN.
func (s *stack) awaitDown(ctx context.Context, client *http.Client, i int64) error {
	url := fmt.Sprintf("http://%s/bots/v3/health/appId/bot-%d", s.target, i)
	for until := time.Now().Add(benchPatience); ; {
		var answer struct{ Data []struct{ Status string } }
		if err := s.store.fetch(ctx, client, url, &answer); err != nil {
			return err
		}
		if len(answer.Data) == 1 && answer.Data[0].Status == "DOWN" {
			return nil
		}
		if time.Now().After(until) {
			return fmt.Errorf("bot-%d is not DOWN", i)
		}
		if !pause(ctx, 20*time.Millisecond) {
			return ctx.Err()
		}
	}
}

// settled waits until Redis has written its append-only file anew, which a big backlog gives it reason to.
func (b *benchStore) settled(ctx context.Context) error {
	for {
		text, err := b.client.Info(ctx, "persistence").Result()
		if err != nil {
			return fmt.Errorf("read persistence of redis: %w", err)
		}
		if infoNumber(text, "aof_rewrite_in_progress") == 0 && infoNumber(text, "aof_rewrite_scheduled") == 0 {
			return nil
		}
		if !pause(ctx, 100*time.Millisecond) {
			return ctx.Err()
		}
	}
}

// bar is what the cell is held to.
func (b benchBacklog) bar() benchBar {
	return atMost(fmt.Sprintf("CPU per event with %d waiting / with none", b.Backlog), 1.2, b.Ratio)
}
