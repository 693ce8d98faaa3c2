package main_test

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	main "github.com/pulsegate/pulsegate/cmd/pulsegate"
)

// sampleBot is a running sample bot and what it prints.
type sampleBot struct {
	url   string
	lines *bufio.Reader
	stop  func() error
}

// startBot runs a sample bot on a free port.
func startBot(t testing.TB, args ...string) sampleBot {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	out, in := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := main.ServeBot(ctx, in, append([]string{"--listen", "127.0.0.1:0"}, args...)...)
		_ = in.Close()
		ended <- err
	}()
	b := sampleBot{lines: bufio.NewReaderSize(out, 1<<16)}
	line := b.line(t)
	_, b.url, _ = strings.Cut(line, "bot listens on ")
	require.NotEmpty(t, b.url, line)
	b.stop = func() error { cancel(); return <-ended }
	t.Cleanup(func() {
		cancel()
		_ = out.Close()
	})
	return b
}

// line is the next line that the bot prints.
func (b sampleBot) line(t testing.TB) string {
	t.Helper()
	line, err := b.lines.ReadString('\n')
	require.NoError(t, err)
	return strings.TrimSpace(line)
}

// send posts an event as the gateway does, and returns the status and what the bot printed of it.
func (b sampleBot) send(t testing.TB, id, body string) (int, string) {
	t.Helper()
	printed := make(chan string, 1)
	go func() {
		line, _ := b.lines.ReadString('\n')
		printed <- line
	}()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, b.url, strings.NewReader(body))
	require.NoError(t, err)
	request.Header.Set("webhook-id", id)
	request.Header.Set("Pulsegate-Try", "1")
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Do(request)
	require.NoError(t, err)
	require.NoError(t, answer.Body.Close())
	return answer.StatusCode, <-printed
}

func TestBotPrintsALineForEachEventAndTheSumsAtTheEnd(t *testing.T) {
	b := startBot(t, "--fail-every", "3")
	status, line := b.send(t, "e1", `{"type":"message","text":"hello","author":{"id":"ann"},"coordinate":{"networkKey":"chat","externalId":"page"},"owner":{"type":"BOT"},"health":{"status":"HEALTHY"}}`)
	require.Equal(t, 202, status)
	require.Regexp(t, `^1 \d\d:\d\d:\d\d try 1 -> 202: message, from ann, on chat/page, owner BOT, health HEALTHY: "hello"\n$`, line)
	_, line = b.send(t, "e1", `{"type":"message"}`)
	require.Contains(t, line, "(again)")
	status, line = b.send(t, "e2", `{"type":"update","operation":"CLOSED"}`)
	require.Equal(t, 500, status)
	require.Contains(t, line, "-> 500: update, CLOSED")

	stopped := make(chan error, 1)
	go func() { stopped <- b.stop() }()
	require.Equal(t, "3 events, 1 of them answered as failed, 1 came again", b.line(t))
	require.NoError(t, <-stopped)
}

func TestBotCannotBeMadeToDriveATerminal(t *testing.T) {
	b := startBot(t)
	_, line := b.send(t, "e1", "{\"type\":\"message\",\"text\":\"\\u001b[2Jgone\\nnext\\u202e\",\"author\":{\"id\":\"a\\u0007\"}}")
	require.NotContains(t, strings.TrimSuffix(line, "\n"), "\n")
	for _, bad := range []string{"\x1b", "\a", "\u202e"} {
		require.NotContains(t, line, bad)
	}
	require.Contains(t, line, `\x1b[2Jgone\nnext\u202e`)
	_, line = b.send(t, "e2", "\x1b]0;title\a")
	require.Contains(t, line, `not an event: \x1b]0;title\a`)
}

func TestBotReadsAtMostAMebibyte(t *testing.T) {
	b := startBot(t)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, b.url, strings.NewReader(strings.Repeat("x", 1<<20+1)))
	require.NoError(t, err)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Do(request)
	require.NoError(t, err)
	require.NoError(t, answer.Body.Close())
	require.Equal(t, http.StatusRequestEntityTooLarge, answer.StatusCode)
}

func TestBotThatHangsEndsWhenItIsStopped(t *testing.T) {
	b := startBot(t, "--hang")
	answered := make(chan error, 1)
	go func() {
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		answer, err := client.Post(b.url, "application/json", strings.NewReader(`{"type":"message"}`))
		if err == nil {
			_ = answer.Body.Close()
		}
		answered <- err
	}()
	require.Contains(t, b.line(t), "-> no answer: message")
	stopped := make(chan error, 1)
	go func() { stopped <- b.stop() }()
	require.Contains(t, b.line(t), "1 events")
	require.NoError(t, <-stopped)
	<-answered
}

func TestPrintableCutsByRunes(t *testing.T) {
	require.Equal(t, "äö…", main.Printable("äöü", 2))
	require.Equal(t, `\u00a0'"\`, main.Printable("\u00a0'\"\\", 9))
}

func TestBotTakesItsTimeWhateverTheTimeForReading(t *testing.T) {
	for args, want := range map[string]int{"--hang": 0, "--delay=300ms --status=500": 500} {
		handler, err := main.BotHandler(strings.Fields(args)...)
		require.NoError(t, err)
		server := httptest.NewUnstartedServer(handler)
		server.Config.ReadTimeout = 50 * time.Millisecond // past it net/http takes the caller for gone
		server.Start()
		t.Cleanup(server.Close)
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Second}
		answer, err := client.Post(server.URL, "application/json", strings.NewReader(`{"type":"message"}`))
		if want == 0 {
			require.ErrorContains(t, err, "Timeout exceeded", args)
			continue
		}
		require.NoError(t, err, args)
		require.NoError(t, answer.Body.Close())
		require.Equal(t, want, answer.StatusCode, args)
	}
}
