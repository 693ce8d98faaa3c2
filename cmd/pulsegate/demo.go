package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/pulsegate/pulsegate/health"
)

// demoCommand shows the life of three bots in fast motion: what takes minutes takes seconds.
type demoCommand struct {
	Pace time.Duration `help:"Length of the window and of the pause, which are two minutes in earnest." default:"6s"`
}

// Validate refuses settings that cannot be kept.
func (d demoCommand) Validate() error {
	if d.Pace < 3*time.Second || d.Pace > 2*time.Minute {
		return wrongSetting("--pace %v: must be from 3s to 2m", d.Pace)
	}
	return nil
}

// Run tells the story, and fails when it does not come out as it must.
func (d demoCommand) Run(s streams) error {
	ctx, release := untilSignal()
	defer release()
	log, err := newLog(s.err, "error")
	if err != nil {
		return err
	}
	stage := newStage(s.out)
	lives := &lifecycle{log: log}
	defer func() { _ = lives.stop() }()
	mails, err := openSink(stage.mail)
	if err != nil {
		return err
	}
	lives.onStop("mail server", 3*time.Second, mails.close)
	if stage.gateway, err = d.gateway(mails.url(), log); err != nil {
		return err
	}
	running, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	ready := make(chan struct{})
	go func() { ended <- stage.gateway.run(running, func() { close(ready) }) }()
	lives.onStop("gateway", time.Minute, func(context.Context) error {
		cancel()
		return <-ended
	})
	<-ready
	if err := stage.open(ctx, lives); err != nil {
		return err
	}
	err = d.tell(ctx, stage)
	stage.stop()
	if stopping := lives.stop(); err == nil {
		err = stopping
	}
	if err == nil {
		stage.say("That was the whole story: it came out as it must.")
	}
	return err
}

// demoCompany is the company of the demo's bots.
const demoCompany = "demo"

// tell plays the story: the bot "dying" is switched off and on again, and the others live on beside it.
func (d demoCommand) tell(ctx context.Context, s *stage) error {
	slack := 4 * time.Second
	s.say("Three bots: well answers always, flaky now and then not, dying until it is switched off. Two minutes are %v here.", d.Pace)
	if err := s.await(ctx, "dying", "become healthy", slack, func(v view) bool { return v.state == health.Healthy && v.verified }); err != nil {
		return err
	}
	if !pause(ctx, 2*time.Second) {
		return ctx.Err()
	}
	s.bots["dying"].switchOff()
	s.say("--- dying is switched off ---")
	if err := s.await(ctx, "dying", "become DEGRADED", slack, func(v view) bool { return v.state == health.Degraded }); err != nil {
		return err
	}
	s.say("    undeliverable messages are handed to people from now on")
	if err := s.await(ctx, "dying", "become DOWN", d.Pace+slack, func(v view) bool { return v.state == health.Down }); err != nil {
		return err
	}
	s.say("    delivery pauses for %v: no attempts, only handoffs", d.Pace)
	if err := s.await(ctx, "dying", "be DOWN again after a failed trial", d.Pace+slack, func(v view) bool {
		return v.state == health.Down && v.failedTrials > 0
	}); err != nil {
		return err
	}
	s.bots["dying"].switchOn()
	s.say("--- dying is switched on again ---")
	if err := s.await(ctx, "dying", "become DEGRADED after a good trial", d.Pace+slack, func(v view) bool { return v.state == health.Degraded }); err != nil {
		return err
	}
	s.say("    what could not be delivered is still in the window")
	if err := s.await(ctx, "dying", "become HEALTHY", d.Pace+slack, func(v view) bool { return v.state == health.Healthy && v.verified }); err != nil {
		return err
	}
	return s.check(ctx)
}

// gateway builds a gateway on the store in process.
func (d demoCommand) gateway(mails string, log *slog.Logger) (*instance, error) {
	dir, err := os.MkdirTemp("", "pulsegate-demo-")
	if err != nil {
		return nil, fmt.Errorf("make directory for the key file: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	keys, err := openKeys(filepath.Join(dir, "pulsegate.key"))
	if err != nil {
		return nil, err
	}
	settings := serveCommand{
		Listen: "127.0.0.1:0", OpsListen: "127.0.0.1:0", AllowCallback: []string{"loopback"}, AllowHTTP: true,
		HealthWindow: d.Pace, HealthMinAttempts: 10, Pause: d.Pace, DeliveryTimeout: time.Second,
		QueueEvents: 100_000, QueueBytes: 256 << 20, SMTP: mails, MailFrom: "Pulsegate <pulsegate@demo.example>",
	}
	return assemble(assembly{serveCommand: settings, keys: keys, store: embeddedStore(io.Discard), log: log})
}
