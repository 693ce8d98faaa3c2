package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"time"
)

// listCompany reads all registrations of the company at once.
func (r *scaleRun) listCompany(ctx context.Context) error {
	stop, began := r.watchRSS(), time.Now()
	status, body, err := r.fetch(ctx, "http://"+r.api+"/bots/v3/registrations")
	r.report.List = scaleList{Ms: millis(time.Since(began)), Bytes: len(body), PeakRSS: stop()}
	if err != nil || status != http.StatusOK {
		return fmt.Errorf("list registrations: %d %.200s: %w", status, body, firstError(err, ctx.Err()))
	}
	var answer struct{ Data []json.RawMessage }
	if err := json.Unmarshal(body, &answer); err != nil {
		return fmt.Errorf("list registrations: %w", err)
	}
	r.report.List.Rows = len(answer.Data)
	r.say("all %d registrations listed in %.0f ms, %s", r.report.List.Rows, r.report.List.Ms, megabytes(r.report.List.PeakRSS))
	return nil
}

// firstError is the first that is one.
func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// coldStart stops everything, and times a start in which the redis-server has to read its files.
func (r *scaleRun) coldStart(ctx context.Context) error {
	if err := r.stopServe(); err != nil {
		return err
	}
	if err := r.redis.stop(ctx); err != nil {
		return err
	}
	ready, err := r.startServe(ctx)
	if err != nil {
		return err
	}
	r.report.ColdReadyMs = millis(ready)
	r.say("started with the redis-server in %.0f ms", r.report.ColdReadyMs)
	server, err := exec.LookPath("redis-server")
	if err != nil {
		return err
	}
	joined, err := openManaged(ctx, managedConfig{server: server, data: r.data, log: r.redis.log})
	if err != nil {
		return err
	}
	r.redis = joined
	return nil
}

// send posts events, and returns what the generator says.
func (r *scaleRun) send(ctx context.Context, events, registrations, batch int64) (loadReport, error) {
	args := []string{
		"bench-load", "--target", r.api, "--events", strconv.FormatInt(events, 10), "--first", strconv.FormatInt(r.number, 10),
		"--connections", strconv.Itoa(r.scaleCommand.Connections), "--registrations", strconv.FormatInt(registrations, 10),
		"--size", strconv.Itoa(r.scaleCommand.Size), "--batch", strconv.FormatInt(batch, 10), "--own-ids", "--queued", "--token", r.token,
	}
	r.number += events
	generator, err := launch(partGenerator, r.streams.err, args...)
	if err != nil {
		return loadReport{}, err
	}
	load, err := generator.follow(ctx, func(l loadReport) { r.say("  %d of %d events sent, %d accepted", l.Sent, events, l.Accepted) })
	if _, ended := generator.end(10 * time.Second); err == nil {
		err = ended
	}
	return load, err
}

// rate is events a second between two moments in Unix nanoseconds.
func rate(events, began, ended int64) float64 {
	return float64(events) / max(time.Duration(ended-began).Seconds(), 1e-9)
}

// arrive waits until the bots have had so many more events.
func (r *scaleRun) arrive(ctx context.Context, events int64) (got int64, last int64, err error) {
	report, err := r.await(ctx, r.parts[0], r.taken+events)
	got = report.Distinct - r.taken
	r.taken = report.Distinct
	return got, report.Last, err
}

// serveBusy sends events to some registrations while all others are idle.
func (r *scaleRun) serveBusy(ctx context.Context) error {
	if r.Busy == 0 || r.BusyEvents == 0 {
		return nil
	}
	stop := r.watchRSS()
	load, err := r.send(ctx, r.BusyEvents, r.Busy, 1)
	if err != nil {
		return err
	}
	got, last, err := r.arrive(ctx, load.Accepted)
	if err != nil {
		return err
	}
	r.report.Busy = scaleBusy{
		Registrations: r.Busy, Events: load.Accepted, Rate: rate(got, load.Began, last), P50: load.P50, P99: load.P99, Lost: load.Accepted - got, PeakRSS: stop(),
	}
	r.say("%d busy registrations: %.0f events/s", r.Busy, r.report.Busy.Rate)
	return nil
}

// backlogs builds a backlog in one registration, and one in many, and lets each go, as far as they are asked for.
func (r *scaleRun) backlogs(ctx context.Context) error {
	if r.Backlog == 0 {
		return nil
	}
	for _, registrations := range r.Spread {
		b, err := r.backlog(ctx, registrations)
		if err != nil {
			return fmt.Errorf("measure a backlog in %d registrations: %w", registrations, err)
		}
		r.report.Backlogs = append(r.report.Backlogs, b)
	}
	return nil
}

func (r *scaleRun) backlog(ctx context.Context, registrations int64) (scaleBacklog, error) {
	b := scaleBacklog{Registrations: registrations}
	if err := r.putDown(ctx, registrations); err != nil {
		return b, err
	}
	before, err := r.look(ctx)
	if err != nil {
		return b, err
	}
	stop := r.watchRSS()
	load, err := r.send(ctx, r.Backlog, registrations, 100)
	if err != nil {
		return b, err
	}
	b.Events, b.AcceptRate, b.AcceptPeakRSS = load.Accepted, rate(load.Accepted, load.Began, load.Ended), stop()
	full, err := r.look(ctx)
	if err != nil {
		return b, err
	}
	b.RedisBytesEach = float64(full.redisBytes-before.redisBytes) / float64(max(1, b.Events))
	if b.Verify, err = r.verify(ctx); err != nil {
		return b, err
	}
	b.Queued = b.Verify.Queued
	r.say("%d events wait in %d registrations: %.0f accepted a second, %.0f bytes each in Redis", b.Queued, registrations, b.AcceptRate, b.RedisBytesEach)
	stop, began := r.watchRSS(), time.Now().UnixNano()
	if err := r.putCallback(ctx, registrations, "/"); err != nil {
		return b, err
	}
	got, last, err := r.arrive(ctx, b.Events)
	b.DrainRate, b.DrainPeakRSS = rate(got, began, last), stop()
	if err != nil {
		return b, err
	}
	r.say("drained: %.0f events/s, %s", b.DrainRate, megabytes(b.DrainPeakRSS))
	if b.Lost = b.Events - got; b.Lost == 0 {
		return b, nil
	}
	rest, err := r.verify(ctx)
	if b.Left = rest.Queued; err == nil && b.Left > 0 {
		b.Lost = max(0, b.Lost-b.Left)
	}
	return b, err
}

// putDown makes registrations hold their events, by one event each that their bots do not acknowledge.
func (r *scaleRun) putDown(ctx context.Context, registrations int64) error {
	if err := r.putCallback(ctx, registrations, sickPath); err != nil {
		return err
	}
	if _, err := r.send(ctx, registrations, registrations, 1); err != nil {
		return err
	}
	for began := time.Now(); ; {
		l, err := r.look(ctx)
		if err != nil || l.down == registrations {
			return err
		}
		if time.Since(began) > 2*time.Minute {
			return fmt.Errorf("only %d of %d bots are DOWN", l.down, registrations)
		}
		if !pause(ctx, 500*time.Millisecond) {
			return ctx.Err()
		}
	}
}

func (r *scaleRun) putCallback(ctx context.Context, registrations int64, path string) error {
	return r.register(ctx, r.api, 0, registrations, func(i int64) any { return benchRegistration(i, r.callback(path), "hold") })
}

// verifyAll verifies the store at the end.
func (r *scaleRun) verifyAll(ctx context.Context) (err error) {
	r.report.Verify, err = r.verify(ctx)
	return err
}

// verify runs the command in a process of its own.
func (r *scaleRun) verify(ctx context.Context) (scaleVerify, error) {
	self, err := os.Executable()
	if err != nil {
		return scaleVerify{}, fmt.Errorf("find this program: %w", err)
	}
	began := time.Now()
	command := exec.CommandContext(ctx, self, "verify", "--data", r.data, "--json", "--log-level", "error")
	command.Stderr = r.streams.err
	text, err := command.Output()
	v := scaleVerify{Seconds: time.Since(began).Seconds()}
	if failure := json.Unmarshal(text, &v); failure != nil {
		return v, fmt.Errorf("verify: %w", firstError(err, failure))
	}
	if command.ProcessState != nil {
		v.PeakRSS = peakOf(command.ProcessState)
	}
	r.say("verified %d registrations in %.1f s: balanced %t, %d findings", v.Registrations, v.Seconds, v.Balanced, len(v.Findings))
	return v, nil
}
