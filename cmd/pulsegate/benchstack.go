package main

import (
	"cmp"
	"context"
	"fmt"
	"strconv"
	"time"
)

// stackSetup says what stands between generator and bots.
type stackSetup struct {
	kind          string // partGenerator: nothing, partRelay, partFloor or partGateway
	registrations int64
	numbers       int64         // of events, from 0 on, that the bots keep account of
	delay         time.Duration // of the bots' answers
	concurrency   int           // a registration's; 0: the gateway's default
	relayWorkers  int
	noAppendOnly  bool
	serve         []string // further settings of the gateway
}

// stack is what events go through from the generator to the bots: bots, what is measured and its store, each a process of its own. It
// can be put under load again and again.
type stack struct {
	stackSetup
	room   *benchRoom
	store  *benchStore // of a gateway, or of the floor
	parts  []*part     // bots first
	target string      // where the generator posts to
	bots   string      // address of the bots
	number int64       // of the next event
	tally  stackTally
}

// stackTally is what the generator and the bots have counted over all runs of a stack.
type stackTally struct{ accepted, arrived int64 }

// openStack starts everything but the generator.
func (r *benchRoom) openStack(ctx context.Context, setup stackSetup) (*stack, error) {
	s := &stack{stackSetup: setup, room: r}
	err := s.open(ctx)
	if err != nil {
		s.abandon()
		return nil, fmt.Errorf("start %s: %w", setup.kind, err)
	}
	return s, nil
}

func (s *stack) open(ctx context.Context) error {
	bots, err := launch(partBots, s.room.streams.err, "bench-bots", "--events", strconv.FormatInt(s.numbers, 10), "--delay", s.delay.String())
	if err != nil {
		return err
	}
	s.parts = append(s.parts, bots)
	if s.bots, err = bots.address(); err != nil {
		return err
	}
	switch s.kind {
	case partRelay:
		return s.openRelay()
	case partFloor:
		var err error
		if s.store, err = openBenchStore(ctx, s.room.log); err != nil {
			return err
		}
		return s.openRelay("--floor", s.store.redis.noted())
	case partGateway:
		return s.openGateway(ctx)
	}
	s.target = s.bots
	return nil
}

// openRelay starts the bare relay in front of the bots.
func (s *stack) openRelay(settings ...string) error {
	relay, err := launch(s.kind, s.room.streams.err, append([]string{
		"bench-relay", "--bot", "http://" + s.bots + "/", "--workers", strconv.Itoa(max(s.relayWorkers, s.room.Connections)),
	}, settings...)...)
	if err != nil {
		return err
	}
	s.parts = append(s.parts, relay)
	s.target, err = relay.address()
	return err
}

// openGateway starts a gateway on a store of its own and registers the bots.
func (s *stack) openGateway(ctx context.Context) error {
	var err error
	if s.store, err = openBenchStore(ctx, s.room.log); err != nil {
		return err
	}
	if s.noAppendOnly {
		if err := s.store.client.ConfigSet(ctx, "appendonly", "no").Err(); err != nil {
			return fmt.Errorf("switch the append-only file off: %w", err)
		}
	}
	gateway, address, err := s.store.startGateway(s.room.streams.err, s.serve...)
	if gateway != nil {
		s.parts = append(s.parts, gateway)
	}
	if err != nil {
		return err
	}
	s.target = address
	return s.store.register(ctx, address, 0, s.registrations, func(i int64) any { return s.registration(i, "/", "") })
}

// registration is registration i as it is put: a path of the bots, and what becomes of its events when they are DOWN.
func (s *stack) registration(i int64, path, whenDown string) any {
	fields := benchRegistration(i, "http://"+s.bots+path, whenDown)
	if s.concurrency > 0 {
		fields["maxConcurrency"] = s.concurrency
	}
	return fields
}

// abandon ends everything without a look at it.
func (s *stack) abandon() {
	_, _ = endAll(s.parts)
	s.parts = nil
	if s.store != nil {
		s.store.close()
		s.store = nil
	}
}

// close ends everything; the store of a gateway is verified once that has gone.
func (s *stack) close(ctx context.Context) (benchLedger, error) {
	defer s.abandon()
	parts := s.parts
	s.parts = nil
	if _, err := endAll(parts); err != nil {
		return benchLedger{}, err
	}
	if s.kind != partGateway {
		return benchLedger{}, nil
	}
	return s.verify(ctx)
}

// benchLoad is one load on a stack.
type benchLoad struct {
	warm          int64 // events before, that are not measured
	events        int64
	size          int     // bytes of an event
	rate          float64 // events a second, at random times; 0: each connection the next as soon as the last is answered
	connections   int
	most          time.Duration // of a closed loop; 0: until all events are sent
	batch         int64
	ndjson        bool
	first         int64 // registration that the first event is for
	registrations int64
	authors       int64 // that talk on each entity; 0: as many as one busy entity has
	unheeded      bool  // nothing is to come to the bots

	watch func(botsReport) // is shown what the bots have, often; may be nil
}

// busyAuthors talk in a cell, however many registrations they are spread over: all of them have begun when the warm-up ends.
const busyAuthors = 997

// authorsOf are those of each entity.
func authorsOf(registrations int64) int64 { return max(busyAuthors/registrations, 1) }

// arguments are those of the generator.
func (s *stack) arguments(l benchLoad) []string {
	args := []string{
		"bench-load", "--target", s.target, "--first", strconv.FormatInt(s.number, 10), "--warm", strconv.FormatInt(l.warm, 10),
		"--events", strconv.FormatInt(l.events, 10), "--connections", strconv.Itoa(l.connections), "--size", strconv.Itoa(l.size),
		"--entity", strconv.FormatInt(l.first, 10), "--registrations", strconv.FormatInt(l.registrations, 10),
		"--rate", strconv.FormatFloat(l.rate, 'f', -1, 64), "--batch", strconv.FormatInt(max(1, l.batch), 10),
		"--most", l.most.String(), "--authors", strconv.FormatInt(cmp.Or(l.authors, busyAuthors), 10),
	}
	if s.room.OwnIDs {
		args = append(args, "--own-ids")
	}
	if l.ndjson {
		args = append(args, "--ndjson")
	}
	if s.kind == partGateway {
		args = append(args, "--queued", "--token", s.store.token)
	}
	return args
}

// run puts the stack under a load, and measures from its first event until the last one has come to the bots.
func (s *stack) run(ctx context.Context, l benchLoad) (benchResult, error) {
	generator, err := launch(partGenerator, s.room.streams.err, s.arguments(l)...)
	if err != nil {
		return benchResult{}, err
	}
	s.parts = append([]*part{generator}, s.parts...)
	defer func() {
		s.parts = s.parts[1:]
		_, _ = generator.end(10 * time.Second)
	}()
	s.number += l.warm + l.events
	if l.warm > 0 {
		if err := s.warm(ctx, generator, l); err != nil {
			return benchResult{}, err
		}
	}
	before := s.usage(ctx)
	if l.warm > 0 {
		if err := generator.hint(); err != nil {
			return benchResult{}, err
		}
	}
	load, err := generator.follow(ctx, func(report loadReport) { s.progress(report, l) })
	if err != nil {
		return benchResult{}, err
	}
	s.tally.accepted += load.Accepted
	expected := s.tally.arrived
	if !l.unheeded {
		expected += load.Accepted
	}
	arrived, err := s.room.await(ctx, s.botsPart(), expected)
	if err != nil {
		return benchResult{}, err
	}
	result := resultOf(load, arrived, s.tally.arrived)
	s.tally.arrived = arrived.Distinct
	result.Offered = l.rate
	result.usage(before, s.usage(ctx), s.peaks(ctx))
	return result, nil
}

func (s *stack) botsPart() *part {
	for _, p := range s.parts {
		if p.name == partBots {
			return p
		}
	}
	return nil
}

// benchRest is how long a part rests after the warm-up: each bot's first acknowledgement sets off a verdict, and what is measured begins after those.
const benchRest = 300 * time.Millisecond

// warm sends the events that are not measured, and waits for them: connections are open then, and what is cached is cached.
func (s *stack) warm(ctx context.Context, generator *part, l benchLoad) error {
	load, err := generator.follow(ctx, func(loadReport) {})
	if err != nil {
		return err
	}
	s.tally.accepted += load.Accepted
	expected := s.tally.arrived
	if !l.unheeded {
		expected += load.Accepted
	}
	report, err := s.room.await(ctx, s.botsPart(), expected)
	if err != nil {
		return err
	}
	s.tally.arrived = report.Distinct
	if load.Refused > 0 || report.Distinct < expected {
		return fmt.Errorf("warm %s up: %d events refused (%s), %d of %d came to the bots", s.kind, load.Refused, load.Sample, report.Distinct, expected)
	}
	pause(ctx, benchRest)
	return ctx.Err()
}

// progress tells how far the generator and the bots are.
func (s *stack) progress(load loadReport, l benchLoad) {
	var report botsReport
	if err := s.botsPart().ask(&report); err != nil {
		return // that the bots are gone is noticed at the end
	}
	if l.watch != nil {
		l.watch(report)
	}
	s.room.tell("%s: %d of %d events sent, %d accepted, %d at the bots", s.kind, load.Sent, l.events, load.Accepted, report.Distinct-s.tally.arrived)
}
