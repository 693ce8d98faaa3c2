package main_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"mime"
	"mime/multipart"
	"net"
	"net/http"
	"net/mail"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/emersion/go-smtp"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
	"github.com/stretchr/testify/require"

	main "github.com/pulsegate/pulsegate/cmd/pulsegate"
	"github.com/pulsegate/pulsegate/delivery"
	"github.com/pulsegate/pulsegate/notify"
)

// pipes is a network in memory, so that everything on it lives on fake time too. It can be switched off like a process.
type pipes struct {
	mu      sync.Mutex
	off     bool
	refused int // connections that found nobody
	open    []net.Conn
	waiting chan net.Conn
	done    chan struct{}
	once    sync.Once
}

func newPipes() *pipes { return &pipes{waiting: make(chan net.Conn), done: make(chan struct{})} }

// switchTo ends all connections when it switches off, and refuses new ones until it is on again.
func (p *pipes) switchTo(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.off = !on
	for _, c := range p.open {
		_ = c.Close()
	}
	p.open = nil
}

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	p.mu.Lock()
	if p.off {
		p.refused++
		p.mu.Unlock()
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	}
	here, there := net.Pipe()
	p.open = append(p.open, there)
	p.mu.Unlock()
	select {
	case p.waiting <- there:
		return here, nil
	case <-p.done:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.waiting:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.once.Do(func() { close(p.done) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }

// serveOver serves HTTP over a network in memory until the test ends.
func serveOver(t testing.TB, p *pipes, handler http.HandlerFunc) {
	server := &http.Server{Handler: handler, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(p) }()
	t.Cleanup(func() { _ = server.Close(); <-served })
}

// manner is how a bot answers.
type manner struct {
	status int // 0: never
	after  time.Duration
}

// storyBot answers in its manner, or in another to some authors.
type storyBot struct {
	*pipes
	mu     sync.Mutex
	manner manner
	others map[string]manner
	seen   []seenTry
}

// seenTry is one request as the bot saw it.
type seenTry struct {
	host, author, told string
	text               string
	try                int
	status             int
}

func (b *storyBot) serve(w http.ResponseWriter, r *http.Request) {
	var event struct {
		Text   string
		Author struct{ ID string }
		Health struct{ Status string }
	}
	_ = json.NewDecoder(r.Body).Decode(&event)
	try, _ := strconv.Atoi(r.Header.Get("Pulsegate-Try"))
	b.mu.Lock()
	m, ok := b.others[event.Author.ID]
	if !ok {
		m = b.manner
	}
	b.seen = append(b.seen, seenTry{r.Host, event.Author.ID, event.Health.Status, event.Text, try, m.status})
	b.mu.Unlock()
	if m.status == 0 {
		<-r.Context().Done()
		return
	}
	if m.after > 0 {
		select {
		case <-time.After(m.after):
		case <-r.Context().Done():
			return
		}
	}
	w.WriteHeader(m.status)
}

// take returns what was seen, and how many connections were refused, since the last call.
func (b *storyBot) take() (seen []seenTry, refused int) {
	b.mu.Lock()
	seen, b.seen = b.seen, nil
	b.mu.Unlock()
	b.pipes.mu.Lock()
	refused, b.refused = b.refused, 0
	b.pipes.mu.Unlock()
	return seen, refused
}

// storyMail is one mail as it came.
type storyMail struct {
	to, subject, id, thread string
	at                      time.Time
	text                    string // for those who read no HTML
}

// storyMailbox keeps the mails that it gets. It serves on any listener.
type storyMailbox struct {
	mu    sync.Mutex
	mails []storyMail
}

func (m *storyMailbox) serve(t testing.TB, listener net.Listener) {
	server := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return &storyMailSession{box: m}, nil }))
	server.Domain = "localhost"
	server.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = listener.Close(); _ = server.Close(); <-served })
}

func (m *storyMailbox) all() []storyMail {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]storyMail(nil), m.mails...)
}

type storyMailSession struct {
	box *storyMailbox
	to  string
}

func (s *storyMailSession) Mail(string, *smtp.MailOptions) error      { return nil }
func (s *storyMailSession) Rcpt(to string, _ *smtp.RcptOptions) error { s.to = to; return nil }
func (s *storyMailSession) Reset()                                    {}
func (s *storyMailSession) Logout() error                             { return nil }

func (s *storyMailSession) Data(r io.Reader) error {
	m, err := readMail(r, s.to)
	if err == nil {
		s.box.keep(m)
	}
	return err
}

func (m *storyMailbox) keep(mail storyMail) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mails = append(m.mails, mail)
}

// readMail reads a mail to somebody as it is transferred.
func readMail(r io.Reader, to string) (storyMail, error) {
	message, err := mail.ReadMessage(r)
	if err != nil {
		return storyMail{}, err
	}
	subject, err := new(mime.WordDecoder).DecodeHeader(message.Header.Get("Subject"))
	if err != nil {
		return storyMail{}, err
	}
	text, err := plainPart(message)
	return storyMail{to, subject, message.Header.Get("Message-Id"), message.Header.Get("References"), time.Now(), text}, err
}

// plainPart reads a message to its end, and returns its first part.
func plainPart(message *mail.Message) (string, error) {
	_, params, err := mime.ParseMediaType(message.Header.Get("Content-Type"))
	if err != nil {
		return "", err
	}
	part, err := multipart.NewReader(message.Body, params["boundary"]).NextPart() // it decodes what is quoted
	if err != nil {
		return "", err
	}
	text, err := io.ReadAll(part)
	if err != nil {
		return "", err
	}
	_, err = io.Copy(io.Discard, message.Body)
	return strings.ReplaceAll(string(text), "\r\n", "\n"), err
}

// storyPlatform keeps the calls that the platform gets: which tags an author's conversation was given, and then whom.
type storyPlatform struct {
	mu     sync.Mutex
	tagged map[string][]int64
	calls  []platformCall
}

// platformCall is one change of control.
type platformCall struct {
	author, app, owner, comment string
	tags                        []int64
}

func (p *storyPlatform) serve(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Comment    string
		TagIDs     []int64
		Author     struct{ ID string }
		Coordinate struct{ BotID string }
		Owner      struct{ Type string }
	}
	_ = json.NewDecoder(r.Body).Decode(&body)
	p.mu.Lock()
	defer p.mu.Unlock()
	switch r.URL.Path {
	case "/bots/v3/tag":
		p.tagged[body.Author.ID] = body.TagIDs
	case "/bots/v3/control":
		p.calls = append(p.calls, platformCall{body.Author.ID, body.Coordinate.BotID, body.Owner.Type, body.Comment, p.tagged[body.Author.ID]})
		delete(p.tagged, body.Author.ID)
	}
	w.WriteHeader(http.StatusOK)
}

func (p *storyPlatform) take() []platformCall {
	p.mu.Lock()
	defer p.mu.Unlock()
	calls := p.calls
	p.calls = nil
	return calls
}

// storyStore returns a client of a store in memory that follows fake time.
func storyStore(t testing.TB) redis.UniversalClient {
	m := miniredis.NewMiniRedis()
	m.ClockTTL(true)
	t.Cleanup(m.Close)
	return storyClient(t, m)
}

// storyClient returns a client of a store in memory.
func storyClient(t testing.TB, m *miniredis.Miniredis) redis.UniversalClient {
	c := redis.NewClient(&redis.Options{
		Addr: "127.0.0.1:1", Dialer: func(context.Context, string, string) (net.Conn, error) {
			conn, err := m.Dial()
			if err != nil {
				return nil, err
			}
			return main.NewRoomyPipe(conn), nil // else a long pipeline would not come to its end
		},
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
		PoolSize:                 4096, // go-redis shares the timers of those who wait for a connection, and those of fake time may not leave it
		MaxRetries:               -1, ContextTimeoutEnabled: true, DisableIdentity: true, Protocol: 2,
	})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// storyReplica runs a carrier and a notifier on the store until the test ends.
func storyReplica(t testing.TB, client redis.UniversalClient, bot, mails, platform *pipes) *delivery.Carrier {
	sealer, err := delivery.NewSealer([]byte("0123456789abcdef0123456789abcdef"))
	require.NoError(t, err)
	carrier, err := delivery.New(delivery.Config{
		Client: client, Sealer: sealer, Guard: delivery.GuardConfig{AllowHTTP: true}, Dial: bot.dial, Log: slog.New(slog.DiscardHandler),
	})
	require.NoError(t, err)
	require.NoError(t, carrier.Ready(t.Context()))
	plain, err := notify.NewPlatform("http://platform.example", "token")
	require.NoError(t, err)
	care := plain.Through(platform.dial)
	notifier, err := notify.New(notify.Config{
		Outbox: carrier.Outbox(), SMTPURL: "smtp://mail.example:25", MailFrom: "Pulsegate <gate@example.net>",
		Platform: care, TagIDs: map[string]int64{"parent": 10, "standard": 11, "automatic": 12, "maintenance": 13}, Dial: mails.dial,
	})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = carrier.Run(ctx) })
	running.Go(func() { _ = notifier.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait(); care.Close() })
	return carrier
}
