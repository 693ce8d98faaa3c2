package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// scaleCommand measures what many registrations and big backlogs cost: a redis-server, a gateway, all the bots and the generator, each a
// process of its own, all on loopback.
type scaleCommand struct {
	Registrations []int64       `help:"Idle registrations; several values, several steps upwards." default:"10000,100000"`
	Busy          int64         `help:"How many of them get events, while the others stay idle; 0: none."   default:"1000"`
	BusyEvents    int64         `help:"Events for these." default:"100000"`
	Backlog       int64         `help:"Events that wait before the bots take any; 0: none." default:"1000000"`
	Spread        []int64       `help:"Registrations that the backlog is spread over; several values, several backlogs." default:"1,10000"`
	Idle          time.Duration `help:"How long an idle gateway is watched." default:"10s"`
	Connections   int           `help:"Connections of the generator." default:"64"`
	Size          int           `help:"Bytes of one event." default:"1024"`
	JSON          bool          `help:"Print the figures as JSON." name:"json"`
}

// Validate refuses settings that cannot be kept.
func (c scaleCommand) Validate() error {
	if len(c.Registrations) == 0 || !slices.IsSorted(c.Registrations) || c.Registrations[0] < 1 || c.most() > 10_000_000 {
		return wrongSetting("--registrations: needs numbers from 1 to 10000000, the smallest first")
	}
	switch {
	case c.Busy < 0 || c.Busy > c.most():
		return wrongSetting("--busy %d: must be from 0 to --registrations", c.Busy)
	case len(c.Spread) == 0 || slices.Min(c.Spread) < 1 || slices.Max(c.Spread) > c.most():
		return wrongSetting("--spread: needs numbers from 1 to --registrations")
	case c.Backlog < 0 || c.Backlog > 100_000_000 || c.BusyEvents < 0 || c.BusyEvents > 100_000_000:
		return wrongSetting("--backlog and --busy-events: must be from 0 to 100000000")
	case c.Idle < time.Second || c.Idle > 10*time.Minute:
		return wrongSetting("--idle %v: must be from 1s to 10m", c.Idle)
	case c.Connections < 1 || c.Connections > 10_000:
		return wrongSetting("--connections %d: must be from 1 to 10000", c.Connections)
	case c.Size < 512 || c.Size > 200<<10:
		return wrongSetting("--size %d: must be from 512 to 204800", c.Size)
	}
	return nil
}

func (c scaleCommand) most() int64 { return c.Registrations[len(c.Registrations)-1] }

// Run measures, prints, and fails when an event was lost or the store does not balance.
func (c scaleCommand) Run(s streams, log *slog.Logger) error {
	runtime.LockOSThread() // the parts are tied to this thread
	defer runtime.UnlockOSThread()
	ctx, release := untilSignal()
	defer release()
	room, err := openBench(ctx, benchCommand{Connections: c.Connections, Size: c.Size, OwnIDs: true}, s, log)
	if err != nil {
		return err
	}
	defer room.close()
	r := &scaleRun{benchRoom: room, scaleCommand: c, http: &http.Client{Timeout: time.Minute}}
	defer r.http.CloseIdleConnections()
	defer func() { _, _ = endAll(r.parts) }()
	if err := r.measure(ctx); err != nil {
		return err
	}
	if err := r.report.print(s.out, c); err != nil {
		return err
	}
	return r.report.judge()
}

// scaleRun is one run of scaleCommand.
type scaleRun struct {
	*benchRoom
	scaleCommand

	http     *http.Client
	parts    []*part // bots first, the gateway last
	bots     string  // their address
	gateway  *part
	api, ops string
	number   int64 // of the next event
	taken    int64 // events that the bots have had so far
	report   scaleReport
}

// The settings that a backlog needs: one failure makes a bot DOWN, its events are held then, and nothing is tried before it is told to.
var scaleSettings = []string{"--health-min-attempts", "1", "--pause", "1h", "--queue-events", "100000000", "--queue-bytes", "107374182400"}

// measure takes every step.
func (r *scaleRun) measure(ctx context.Context) error {
	r.report.begin(ctx, r)
	all := r.BusyEvents
	for _, n := range r.Spread {
		all += n + r.Backlog
	}
	bots, err := launch(partBots, r.streams.err, "bench-bots", "--events", strconv.FormatInt(all, 10))
	if err != nil {
		return err
	}
	r.parts = []*part{bots}
	if r.bots, err = bots.address(); err != nil {
		return err
	}
	if _, err := r.startServe(ctx); err != nil {
		return err
	}
	empty, err := r.look(ctx)
	if err != nil {
		return err
	}
	done := int64(0)
	for _, n := range r.scaleCommand.Registrations {
		step, err := r.fill(ctx, done, n, empty)
		if err != nil {
			return fmt.Errorf("measure %d registrations: %w", n, err)
		}
		r.report.Steps = append(r.report.Steps, step)
		done = n
	}
	for _, step := range []func(context.Context) error{r.listCompany, r.coldStart, r.serveBusy, r.backlogs, r.verifyAll} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// startServe starts a gateway, and returns how long it took to be ready.
func (r *scaleRun) startServe(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	p, err := launch(partGateway, r.streams.err, append([]string{
		"serve", "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0", "--data", r.data, "--allow-callback", "loopback", "--allow-http",
		"--log-level", "error", "--drain-grace", "0s",
	}, scaleSettings...)...)
	if err != nil {
		return 0, err
	}
	r.parts, r.gateway = append(r.parts, p), p
	for _, line := range []struct {
		prefix string
		to     *string
	}{{listenLine, &r.api}, {operationsLine, &r.ops}} {
		text, err := p.out.ReadString('\n')
		address, ok := strings.CutPrefix(strings.TrimSpace(text), line.prefix)
		if err != nil || !ok {
			return 0, fmt.Errorf("start gateway: it says %.80q", text)
		}
		*line.to, _, _ = strings.Cut(address, " ")
	}
	for {
		status, _, err := r.fetch(ctx, "http://"+r.ops+"/readyz")
		if err == nil && status == http.StatusOK {
			return time.Since(began), nil
		}
		if time.Since(began) > time.Minute {
			return 0, errors.New("start gateway: it is not ready after a minute")
		}
		if !pause(ctx, 2*time.Millisecond) {
			return 0, ctx.Err()
		}
	}
}

// stopServe stops the gateway.
func (r *scaleRun) stopServe() error {
	r.parts = slices.DeleteFunc(r.parts, func(p *part) bool { return p == r.gateway })
	_, err := r.gateway.end(30 * time.Second)
	return err
}

// fill adds idle registrations up to n, watches the idle gateway, and starts it anew.
func (r *scaleRun) fill(ctx context.Context, from, n int64, empty scaleLook) (scaleStep, error) {
	step := scaleStep{Registrations: n}
	began := time.Now()
	if err := r.register(ctx, r.api, from, n, func(i int64) any { return benchRegistration(i, r.callback("/"), "") }); err != nil {
		return step, err
	}
	step.RegisterRate = float64(n-from) / time.Since(began).Seconds()
	r.say("%d registrations: %.0f put a second", n, step.RegisterRate)
	full, err := r.look(ctx)
	if err != nil {
		return step, err
	}
	step.RedisBytesEach = float64(full.redisBytes-empty.redisBytes) / float64(n)
	step.FullRSS = full.rss
	if step.Idle, err = r.watchIdle(ctx); err != nil {
		return step, err
	}
	if err := r.stopServe(); err != nil {
		return step, err
	}
	ready, err := r.startServe(ctx)
	if err != nil {
		return step, err
	}
	step.ReadyMs = millis(ready)
	if step.Restarted, err = r.watchIdle(ctx); err != nil {
		return step, err
	}
	step.RestartBytesEach = float64(step.Restarted.RSS-empty.rss) / float64(n)
	r.say("  %.0f bytes each in Redis; idle: %s; started again in %.0f ms, then idle: %s", step.RedisBytesEach, step.Idle, step.ReadyMs, step.Restarted)
	return step, nil
}

// callback is an address of the bots.
func (r *scaleRun) callback(path string) string { return "http://" + r.bots + path }
