package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/pulsegate/pulsegate/gateway"
	"github.com/pulsegate/pulsegate/health"
)

// stage is where the demo plays: the bots, the traffic, and an eye on everybody's health.
type stage struct {
	out     io.Writer
	began   time.Time
	gateway *instance
	bots    map[string]*demoBot
	client  *http.Client
	bearer  string
	stop    func() // ends traffic and watching, and waits for them

	mu       sync.Mutex // guards the rest
	views    map[string]view
	left     map[string]bool // bots that have been anything but HEALTHY
	subjects []string
	sent     int
	fates    map[string]int // of the events as they were accepted
}

func newStage(out io.Writer) *stage {
	return &stage{
		out: out, began: time.Now(), bots: make(map[string]*demoBot), client: &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{}},
		views: make(map[string]view), left: make(map[string]bool), fates: make(map[string]int), stop: func() {},
	}
}

// demoNames are the bots of the demo.
func demoNames() []string { return []string{"well", "flaky", "dying"} }

// say prints one line with the time since the start.
func (s *stage) say(format string, args ...any) {
	line := fmt.Sprintf("%5.1fs  ", time.Since(s.began).Seconds()) + fmt.Sprintf(format, args...)
	s.mu.Lock()
	defer s.mu.Unlock()
	_, _ = fmt.Fprintln(s.out, line)
}

// open starts and registers the bots, and then traffic and watching.
func (s *stage) open(ctx context.Context, lives *lifecycle) error {
	var err error
	if s.bearer, err = s.token(); err != nil {
		return err
	}
	for _, name := range demoNames() {
		bot, err := openDemoBot(name)
		if err != nil {
			return err
		}
		lives.onStop("bot "+name, 3*time.Second, bot.close)
		s.bots[name] = bot
		if err := s.register(ctx, name, bot); err != nil {
			return err
		}
	}
	playing, cancel := context.WithCancel(ctx)
	var players sync.WaitGroup
	for _, name := range demoNames() {
		players.Go(func() { s.traffic(playing, name) })
	}
	players.Go(func() { s.watch(playing) })
	s.stop = func() {
		cancel()
		players.Wait()
	}
	return nil
}

// call sends a JSON body to the gateway's API, and reads the answer.
func (s *stage) call(ctx context.Context, method, path string, body any) (int, []byte, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return 0, nil, err
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://"+s.gateway.api.Addr().String()+path, bytes.NewReader(text))
	if err != nil {
		return 0, nil, err
	}
	request.Header.Set("Authorization", "Bearer "+s.bearer)
	request.Header.Set("Content-Type", "application/json; charset=utf-8")
	answer, err := s.client.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = answer.Body.Close() }()
	text, err = io.ReadAll(io.LimitReader(answer.Body, 64<<10))
	return answer.StatusCode, text, err
}

// register puts a bot's registration, as its owner would.
func (s *stage) register(ctx context.Context, name string, bot *demoBot) error {
	status, answer, err := s.call(ctx, http.MethodPut, "/bots/v3/registrations", map[string]any{
		"platform": "LITHIUM", "companyKey": demoCompany, "networkKey": "chat", "externalId": name, "appId": name, "name": name,
		"callbackUrl": bot.url(), "mode": "LIVE", "contact": map[string]string{"email": name + "@demo.example"},
		"credentials": map[string]string{"type": "BASIC_AUTH", "identity": "demo", "secret": "demo"},
	})
	if err == nil && status != http.StatusAccepted {
		err = fmt.Errorf("%d %.200s", status, answer)
	}
	if err != nil {
		return fmt.Errorf("register bot %s: %w", name, err)
	}
	return nil
}

// traffic sends eight messages a second to one bot, three by each author.
func (s *stage) traffic(ctx context.Context, name string) {
	for n := 0; pause(ctx, 125*time.Millisecond); n++ {
		status, answer, err := s.call(ctx, http.MethodPost, "/bots/v3/events", map[string]any{
			"type": "message", "text": fmt.Sprintf("message %d", n),
			"coordinate": map[string]string{
				"companyKey": demoCompany, "networkKey": "chat", "externalId": name, "messageId": fmt.Sprintf("m-%d", n), "scope": "PRIVATE",
			},
			"author": map[string]any{"id": fmt.Sprintf("%s-guest-%d", name, n/3)},
		})
		if err != nil {
			continue // the demo is ending
		}
		var receipts struct {
			Data []struct{ Fate string }
		}
		fate := fmt.Sprintf("answered %d", status)
		if json.Unmarshal(answer, &receipts) == nil && len(receipts.Data) == 1 && receipts.Data[0].Fate != "" {
			fate = receipts.Data[0].Fate
		}
		s.mu.Lock()
		s.sent++
		s.fates[fate]++
		s.mu.Unlock()
	}
}

// watch looks at everybody's health ten times a second and prints what changes.
func (s *stage) watch(ctx context.Context) {
	for pause(ctx, 100*time.Millisecond) {
		for _, name := range demoNames() {
			answers, err := s.gateway.carrier.Health(ctx, demoCompany, name)
			if err != nil || len(answers) != 1 {
				continue
			}
			s.see(name, answers[0])
		}
	}
}

// see notes the health of one bot, and prints it if it changed.
func (s *stage) see(name string, h delivery.Health) {
	now := view{state: h.Standing.State, verified: h.Standing.Verified, failedTrials: h.Standing.StillDown, reason: h.Verdict.Reason, counts: h.Counts}
	s.mu.Lock()
	before, known := s.views[name]
	s.views[name] = now
	if now.state != health.Healthy && now.state != "" {
		s.left[name] = true
	}
	s.mu.Unlock()
	if known && before.state == now.state && now.failedTrials <= before.failedTrials {
		return
	}
	s.say("%s is %s: %s (acknowledged %d, failed %d)", name, firstOf(string(now.state), string(health.Healthy)), now.reason,
		now.counts.Acknowledged, now.counts.Failed)
}

// look is the health of a bot as it was last seen.
func (s *stage) look(name string) view {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.views[name]
}

// await waits until a bot's health is as it must be; what says so in words.
func (s *stage) await(ctx context.Context, name, what string, limit time.Duration, is func(view) bool) error {
	waiting, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for !is(s.look(name)) {
		if !pause(waiting, 20*time.Millisecond) {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("the story did not come out: %s did not %s within %v", name, what, limit)
		}
	}
	return nil
}

// check waits for the last mail, prints the sums, and compares them with what the story must leave behind.
func (s *stage) check(ctx context.Context) error {
	for deadline := time.Now().Add(5 * time.Second); s.mailsOf("dying") < 5 && time.Now().Before(deadline); {
		if !pause(ctx, 50*time.Millisecond) {
			return ctx.Err()
		}
	}
	entries, err := s.gateway.carrier.Outbox().List(ctx, demoCompany, 10_000, nil, delivery.EntryHandoff)
	if err != nil {
		return fmt.Errorf("list handoffs: %w", err)
	}
	handoffs := make(map[string]int)
	for _, e := range entries {
		handoffs[e.AppID]++
	}
	s.mu.Lock()
	sent, queued, suppressed, ill := s.sent, s.fates[string(delivery.Queued)], s.fates[string(delivery.Suppressed)], s.left["well"]
	s.mu.Unlock()
	s.say("%d events: %d queued for delivery, %d suppressed at once because their bot was DOWN", sent, queued, suppressed)
	for _, name := range demoNames() {
		s.say("%-5s acknowledged %d, conversations handed to people %d, mails %d", name, s.bots[name].acknowledged.Load(), handoffs[name], s.mailsOf(name))
	}
	switch {
	case ill:
		return fmt.Errorf("the story did not come out: well was not HEALTHY all the time")
	case handoffs["dying"] == 0 || handoffs["well"] != 0:
		return fmt.Errorf("the story did not come out: %d conversations of dying and %d of well were handed off", handoffs["dying"], handoffs["well"])
	case s.mailsOf("dying") < 5:
		return fmt.Errorf("the story did not come out: %d mails about dying instead of 5", s.mailsOf("dying"))
	case sent != queued+suppressed:
		return fmt.Errorf("the story did not come out: of %d events %d were queued and %d suppressed", sent, queued, suppressed)
	}
	return nil
}

// mailsOf counts the mails about a bot.
func (s *stage) mailsOf(name string) (count int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, subject := range s.subjects {
		if strings.Contains(subject, name) {
			count++
		}
	}
	return count
}

// token makes a token of the demo's company.
func (s *stage) token() (string, error) {
	return signToken(s.gateway.keys, gateway.Claims{CompanyKey: demoCompany, Scope: gateway.ScopeAdmin}, time.Hour)
}

// mail notes and prints a mail.
func (s *stage) mail(to, subject string) {
	s.mu.Lock()
	s.subjects = append(s.subjects, subject)
	s.mu.Unlock()
	s.say("    mail to %s: %s", printable(to, 60), printable(subject, 150))
}

// view is the health of a bot as the stage last saw it.
type view struct {
	state        health.State
	verified     bool
	failedTrials int64 // of this outage
	reason       string
	counts       health.Counts
}

// listenLoopback listens on a free port of the loopback interface.
func listenLoopback() (net.Listener, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen on loopback: %w", err)
	}
	return listener, nil
}
