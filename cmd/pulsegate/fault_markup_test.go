package main_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/mail"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-smtp"
	"github.com/lmittmann/tint"
	"github.com/stretchr/testify/require"
)

// hostileTexts are what somebody might write into a field in the hope that it becomes more than text. Each holds the word of its own that no
// header, mail header or markup may begin with.
var hostileTexts = []string{
	"x\r\nX-Injected: 1\r\nBcc: injected@example.com",
	"x\nInjected: 1\n\n<script>injected()</script>",
	"<script>injected()</script><img src=x onerror=injected()>\"'>",
	"\x1b]0;injected\x07\x1b[2J\u009b31m\u202einjected\u200b\u0000",
	`{{.Injected}} %s%n =?utf-8?q?=0D=0AInjected:_1?=`,
}

// rawMail is a mail as it was transferred.
type rawMail struct {
	to   []string
	text []byte
}

// rawMailbox keeps mails as they come.
type rawMailbox struct {
	mu    sync.Mutex
	mails []rawMail
}

type rawMailSession struct {
	box *rawMailbox
	to  []string
}

func (b *rawMailbox) NewSession(*smtp.Conn) (smtp.Session, error) {
	return &rawMailSession{box: b}, nil
}
func (*rawMailSession) Mail(string, *smtp.MailOptions) error { return nil }
func (*rawMailSession) Logout() error                        { return nil }
func (s *rawMailSession) Reset()                             { s.to = nil }
func (s *rawMailSession) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.to = append(s.to, to)
	return nil
}

func (s *rawMailSession) Data(r io.Reader) error {
	text, err := io.ReadAll(r)
	s.box.mu.Lock()
	defer s.box.mu.Unlock()
	s.box.mails = append(s.box.mails, rawMail{slices.Clone(s.to), text})
	return err
}

func (b *rawMailbox) all() []rawMail {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.mails)
}

func startRawMailbox(t testing.TB) (*rawMailbox, string) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	box := new(rawMailbox)
	server := smtp.NewServer(box)
	server.Domain, server.ErrorLog = "localhost", slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close(); <-served })
	return box, "smtp://" + listener.Addr().String()
}

// hostileRun is a gateway whose registrations and events hold hostile texts, one in each field.
type hostileRun struct {
	t       *testing.T
	gateway *gatewayProcess
	bot     *httptest.Server
	mu      sync.Mutex
	headers []http.Header // that bots got
	taken   int
	refused int
}

func (h *hostileRun) serve(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	h.mu.Lock()
	h.headers = append(h.headers, r.Header.Clone())
	h.mu.Unlock()
	w.WriteHeader(http.StatusInternalServerError)
	_, _ = io.WriteString(w, strings.Join(hostileTexts, " "))
}

// registrationWith is a registration with a text in one field, named by its path.
func (h *hostileRun) registrationWith(n int, field, text string) map[string]any {
	reg := map[string]any{
		"networkKey": "chat", "externalId": fmt.Sprint("page-", n), "appId": "bot", "name": "Bot", "callbackUrl": h.bot.URL + "/hook",
		"contact":     map[string]any{"email": fmt.Sprintf("owner-%d@example.net", n), "name": "Owner"},
		"credentials": map[string]any{"type": "BASIC_AUTH", "identity": "gw", "secret": "s"},
	}
	at := reg
	parts := strings.Split(field, ".")
	for _, part := range parts[:len(parts)-1] {
		inner, ok := at[part].(map[string]any)
		if !ok {
			inner = map[string]any{}
			at[part] = inner
		}
		at = inner
	}
	last := parts[len(parts)-1]
	if old, ok := at[last].(string); ok {
		text = old + text // so that it is wrong for what is added, not for what it lacks
	}
	at[last] = text
	return reg
}

// call makes a call whose answer must be well behaved, and returns its status.
func (h *hostileRun) call(method, path string, body any, header ...string) int {
	h.t.Helper()
	text, err := json.Marshal(body)
	require.NoError(h.t, err)
	request, err := http.NewRequestWithContext(h.t.Context(), method, h.gateway.api+path, bytes.NewReader(text))
	require.NoError(h.t, err)
	request.Header.Set("Authorization", "Bearer "+h.gateway.token)
	for i := 0; i+1 < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	answer, err := newPoster(h.t).client.Do(request)
	require.NoError(h.t, err)
	defer func() { _ = answer.Body.Close() }()
	got, err := io.ReadAll(answer.Body)
	require.NoError(h.t, err)
	require.Less(h.t, answer.StatusCode, 500, "%s: %s", text, got)
	require.Equal(h.t, "application/json; charset=utf-8", answer.Header.Get("Content-Type"))
	require.Equal(h.t, "nosniff", answer.Header.Get("X-Content-Type-Options"))
	requireOwnHeaders(h.t, answer.Header)
	require.NotContains(h.t, string(got), "\x1b")
	return answer.StatusCode
}

// requireOwnHeaders requires that nobody has added a header.
func requireOwnHeaders(t testing.TB, header http.Header) {
	t.Helper()
	for name, values := range header {
		require.NotContains(t, strings.ToLower(name), "injected")
		require.NotEqual(t, "Bcc", name)
		for _, v := range values {
			require.NotContains(t, v, "\n")
			require.False(t, name != "Authorization" && strings.Contains(v, "njected"), "%s: %s", name, v)
		}
	}
}

// TestE12TextsOfOthersStayText puts hostile texts into every text field of a registration and of an event, has the bots fail with more of
// them, and looks at everything that is made of texts: headers, mails, logs, what commands print.
func TestE12TextsOfOthersStayText(t *testing.T) {
	mails, smtpURL := startRawMailbox(t)
	h := &hostileRun{t: t}
	h.bot = httptest.NewServer(http.HandlerFunc(h.serve))
	t.Cleanup(h.bot.Close)
	url, client := storyRedis(t)
	h.gateway = startGateway(t, t.TempDir(), "--redis", url, "--smtp", smtpURL, "--mail-from", "gate@example.net", "--log-level", "debug")
	fields := []string{
		"platform", "companyKey", "networkKey", "networkInstance", "externalId", "appId", "name", "callbackUrl", "credentials.type", "credentials.identity",
		"credentials.secret", "contact.email", "contact.name", "avatarUrl", "mode", "metadata.note", "owner", "runbookUrl", "whenDown", "caCertificate", "debugUntil",
	}
	n := 0
	var pages []string
	for _, field := range fields {
		for _, text := range hostileTexts {
			n++
			reg := h.registrationWith(n, field, text)
			if h.call(http.MethodPut, "/bots/v3/registrations", reg) != http.StatusAccepted {
				h.refused++
				continue
			}
			h.taken++
			if page, _ := reg["externalId"].(string); reg["networkKey"] == "chat" {
				pages = append(pages, page)
			}
		}
	}
	require.Positive(t, h.taken)
	require.Greater(t, h.refused, h.taken)
	events := h.sendEvents(pages)
	eventually(t, func() bool { return len(mails.all()) >= h.taken-len(hostileTexts) }, "a mail of each registration")
	awaitFates(t, client)
	h.lookAround(pages)
	checkHostileMails(t, mails.all())
	h.mu.Lock()
	for _, header := range h.headers {
		requireOwnHeaders(t, header)
		require.Subset(t, []string{
			"Accept-Encoding", "Authorization", "Content-Length", "Content-Type", "Pulsegate-Try", "User-Agent", "Webhook-Id", "Webhook-Timestamp", "X-Amzn-Requestid", "X-Request-Id",
		}, slices.Collect(maps.Keys(header)))
	}
	requests := len(h.headers)
	h.mu.Unlock()
	require.Zero(t, h.gateway.stop(t))
	for line := range bytes.Lines(h.gateway.errs.Bytes()) {
		require.True(t, json.Valid(line), "%q", line)
		require.NotContains(t, string(line), "\x1b")
		require.NotContains(t, string(line), "\x07")
	}
	status, out, errs := run("verify", "--redis", url)
	require.Zero(t, status, errs)
	require.NotContains(t, out+errs, "\x1b")
	measured(t, "%d texts in %d fields of registrations: %d taken, %d refused; %d events with them; headers of %d requests and %d mails as they must be; no raw escape in log, answers or output",
		len(hostileTexts), len(fields), h.taken, h.refused, events, requests, len(mails.all()))
}

// sendEvents sends an event with a hostile text in each of its fields, and a harmless one, to every page.
func (h *hostileRun) sendEvents(pages []string) (n int) {
	for i, page := range pages {
		text := hostileTexts[i%len(hostileTexts)]
		for _, event := range []map[string]any{
			{"text": text, "author": map[string]any{"id": "a"}},
			{"author": map[string]any{"id": "a" + text, "fullName": text}},
			{"id": text, "author": map[string]any{"id": "b"}, "metadata": text, "health": text, "owner": text},
		} {
			event["type"] = "message"
			event["coordinate"] = map[string]any{"companyKey": "demo", "networkKey": "chat", "externalId": page, "messageId": text, "normalizedAuthorId": text, "botId": text}
			if status := h.call(http.MethodPost, "/bots/v3/events", event); status == http.StatusAccepted {
				n++
			}
		}
		for _, field := range []string{"type", "expiresAt"} {
			event := map[string]any{"type": "message", "author": map[string]any{"id": "a"}, "coordinate": map[string]any{"companyKey": "demo", "networkKey": "chat", "externalId": page}}
			event[field] = text
			h.call(http.MethodPost, "/bots/v3/events", event)
		}
	}
	return n
}

// lookAround reads what can be read, with hostile texts in paths and queries too.
func (h *hostileRun) lookAround(pages []string) {
	for _, path := range []string{"/bots/v3/registrations", "/bots/v3/health/appId/bot", "/bots/v3/request/appId/bot", "/bots/v3/notices", "/bots/v3/handoffs", "/bots/v3/audit", "/readyz"} {
		require.Equal(h.t, http.StatusOK, h.call(http.MethodGet, path, nil), path)
	}
	for _, text := range hostileTexts {
		escaped := (&strings.Builder{})
		for _, b := range []byte(text) {
			fmt.Fprintf(escaped, "%%%02X", b)
		}
		for _, path := range []string{
			"/bots/v3/health/appId/" + escaped.String(), "/bots/v3/request/" + escaped.String(), "/bots/v3/events/" + escaped.String(),
			"/bots/v3/registrations/network/" + escaped.String() + "/externalId/" + pages[0] + "/appId/bot", "/bots/v3/notices?limit=" + escaped.String(),
			"/bots/v3/control/network/chat/externalId/" + pages[0] + "/author/" + escaped.String(),
		} {
			require.GreaterOrEqual(h.t, h.call(http.MethodGet, path, nil), 200)
		}
	}
}

// checkHostileMails requires that each mail goes to one owner, has the fields that all have, and markup of our own only.
func checkHostileMails(t testing.TB, mails []rawMail) {
	want := []string{"Auto-Submitted", "Content-Type", "Date", "From", "In-Reply-To", "Message-Id", "Mime-Version", "References", "Subject", "To", "X-Auto-Response-Suppress"}
	for _, m := range mails {
		require.Len(t, m.to, 1)
		require.Regexp(t, `^owner-\d+@example\.net$`, m.to[0])
		message, err := mail.ReadMessage(bytes.NewReader(m.text))
		require.NoError(t, err)
		require.Equal(t, want, slices.Sorted(maps.Keys(message.Header)))
		to, err := message.Header.AddressList("To")
		require.NoError(t, err)
		require.Equal(t, m.to[0], to[0].Address)
		body, err := io.ReadAll(message.Body)
		require.NoError(t, err)
		_, html, ok := bytes.Cut(bytes.ReplaceAll(body, []byte("=\r\n"), nil), []byte("text/html"))
		require.True(t, ok)
		for _, raw := range []string{"<script", "<img", "onerror=3Dinjected()>", "\x1b", "=1B", "\x07", "=07", "\u202e"} {
			require.NotContains(t, string(html), raw)
		}
	}
}

// TestE12TerminalLogShowsEscapesAsText writes hostile texts to the log as it is on a terminal.
func TestE12TerminalLogShowsEscapesAsText(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(tint.NewTextHandler(&out, &tint.Options{TimeFormat: time.TimeOnly, NoColor: true}))
	for _, text := range hostileTexts {
		log.Info("registration changed", "name", text, "error", fmt.Errorf("read: %s", text))
	}
	require.NotContains(t, out.String(), "\x1b")
	require.NotContains(t, out.String(), "\x07")
	require.Equal(t, len(hostileTexts), strings.Count(out.String(), "\n"))
}
