package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// botCommand runs a sample bot to try things with.
type botCommand struct {
	Listen    string        `help:"Address to listen on." default:"127.0.0.1:8081"`
	Status    int           `help:"HTTP status of its answers." default:"202"`
	Delay     time.Duration `help:"Time it takes to answer." default:"0s"`
	FailEvery int           `help:"Answer every Nth event with 500; 0: none." default:"0"`
	Hang      bool          `help:"Never answer."`
}

// Validate refuses settings that cannot be kept.
func (b botCommand) Validate() error {
	switch {
	case b.Status < 200 || b.Status > 599:
		return wrongSetting("--status %d: must be from 200 to 599", b.Status)
	case b.Delay < 0:
		return wrongSetting("--delay %v: must not be negative", b.Delay)
	case b.FailEvery < 0:
		return wrongSetting("--fail-every %d: must not be negative", b.FailEvery)
	}
	return nil
}

// Run serves until a signal ends it.
func (b botCommand) Run(s streams) error {
	ctx, release := untilSignal()
	defer release()
	return b.serve(ctx, s.out)
}

// serve listens, prints where, and serves until the context ends; then it prints the sums.
func (b botCommand) serve(ctx context.Context, out io.Writer) error {
	listener, err := net.Listen("tcp", b.Listen)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", b.Listen, err)
	}
	bot := newSampleBot(b, out)
	server := &http.Server{
		Handler:           bot,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       15 * time.Second,
		IdleTimeout:       60 * time.Second,
		MaxHeaderBytes:    16 << 10,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	bot.say("bot listens on http://%s", listener.Addr())
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err = <-served:
	case <-ctx.Done():
	}
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
	defer cancel()
	if server.Shutdown(closing) != nil {
		_ = server.Close()
	}
	if err == nil {
		<-served
	}
	bot.sum()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// sampleBotBody is the longest body that a sample bot reads, in bytes.
const sampleBotBody = 1 << 20

// sampleBot answers as it was told and prints a line for each event.
type sampleBot struct {
	settings botCommand

	mu     sync.Mutex // guards the rest
	out    io.Writer
	got    int
	failed int
	seen   map[string]bool // webhook ids, to tell what came twice
	twice  int
}

func newSampleBot(settings botCommand, out io.Writer) *sampleBot {
	return &sampleBot{settings: settings, out: out, seen: make(map[string]bool)}
}

// ServeHTTP reads one event, prints it and answers.
func (b *sampleBot) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, sampleBotBody))
	if err != nil {
		status := http.StatusBadRequest
		if tooLong := new(http.MaxBytesError); errors.As(err, &tooLong) {
			status = http.StatusRequestEntityTooLarge
		}
		http.Error(w, "cannot read the event", status)
		return
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{}) // it is for the event: past it, net/http would take the caller for gone
	answer := b.note(r, body)
	if b.settings.Hang {
		<-r.Context().Done()
		panic(http.ErrAbortHandler) // net/http answers 200 for whoever returns
	}
	if b.settings.Delay > 0 && !pause(r.Context(), b.settings.Delay) {
		panic(http.ErrAbortHandler)
	}
	w.WriteHeader(answer)
}

// note counts and prints an event, and returns the status it is answered with.
func (b *sampleBot) note(r *http.Request, body []byte) int {
	b.mu.Lock()
	b.got++
	status := b.settings.Status
	if n := b.settings.FailEvery; n > 0 && b.got%n == 0 {
		status = http.StatusInternalServerError
	}
	if status != http.StatusOK && status != http.StatusAccepted {
		b.failed++
	}
	id := r.Header.Get("webhook-id")
	again := ""
	if id != "" {
		if b.seen[id] {
			b.twice++
			again = " (again)"
		}
		if len(b.seen) < 1_000_000 { // past that, repetitions are no longer recognised
			b.seen[id] = true
		}
	}
	number := b.got
	b.mu.Unlock()
	b.say("%d %s try %s%s -> %s: %s", number, time.Now().Format(time.TimeOnly), printable(firstOf(r.Header.Get("Pulsegate-Try"), "?"), 4),
		again, b.outcome(status), describeEvent(body))
	return status
}

// outcome says what the bot does with an event.
func (b *sampleBot) outcome(status int) string {
	if b.settings.Hang {
		return "no answer"
	}
	return strconv.Itoa(status)
}

// sum prints the counts.
func (b *sampleBot) sum() {
	b.mu.Lock()
	got, failed, twice := b.got, b.failed, b.twice
	b.mu.Unlock()
	b.say("%d events, %d of them answered as failed, %d came again", got, failed, twice)
}

// say prints one line.
func (b *sampleBot) say(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	b.mu.Lock()
	defer b.mu.Unlock()
	_, _ = fmt.Fprintln(b.out, line)
}

// describeEvent puts what matters of an event on one line that a terminal can be trusted with.
func describeEvent(body []byte) string {
	var event struct {
		Type      string                                  `json:"type"`
		Operation string                                  `json:"operation"`
		Text      string                                  `json:"text"`
		Author    struct{ ID string }                     `json:"author"`
		Owner     struct{ Type string }                   `json:"owner"`
		Health    struct{ Status string }                 `json:"health"`
		Entity    struct{ NetworkKey, ExternalID string } `json:"coordinate"`
	}
	if json.Unmarshal(body, &event) != nil {
		return "not an event: " + printable(string(body), 120)
	}
	var b strings.Builder
	b.WriteString(printable(firstOf(event.Type, "no type"), 20))
	for _, field := range []struct{ name, value string }{
		{"", event.Operation},
		{"from ", event.Author.ID},
		{"on ", strings.Trim(event.Entity.NetworkKey+"/"+event.Entity.ExternalID, "/")},
		{"owner ", event.Owner.Type},
		{"health ", event.Health.Status},
	} {
		if field.value != "" {
			b.WriteString(", " + field.name + printable(field.value, 60))
		}
	}
	if event.Text != "" {
		b.WriteString(": \"" + printable(event.Text, 120) + "\"")
	}
	return b.String()
}

// printable escapes what could drive a terminal, and cuts the text after so many runes.
func printable(text string, most int) string {
	var b strings.Builder
	n := 0
	for _, r := range text {
		if n++; n > most {
			b.WriteString("…")
			break
		}
		if strconv.IsPrint(r) {
			b.WriteRune(r)
			continue
		}
		b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(r), "'"))
	}
	return b.String()
}
