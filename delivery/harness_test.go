package delivery_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/pulsegate/pulsegate/delivery"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
	"github.com/stretchr/testify/require"
)

// bot is an in-memory bot: an HTTP server behind pipes, so that it lives in fake time too.
type bot struct {
	mu     sync.Mutex
	got    []request
	keep   bool                // what it gets
	answer func(r request) int // 0: hang until the caller gives up
	ln     *pipeListener
	srv    *http.Server
}

// request is one try as the bot saw it.
type request struct {
	at     time.Time
	host   string
	header http.Header
	body   string
	event  map[string]any
}

func newBot(t testing.TB) *bot {
	b := &bot{ln: newPipeListener(), keep: true}
	b.srv = &http.Server{Handler: http.HandlerFunc(b.serve)}
	done := make(chan struct{})
	go func() { defer close(done); _ = b.srv.Serve(b.ln) }()
	t.Cleanup(func() { _ = b.srv.Close(); <-done })
	return b
}

func (b *bot) serve(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	req := request{at: time.Now(), host: r.Host, header: r.Header.Clone(), body: string(body)}
	_ = json.Unmarshal(body, &req.event)
	b.mu.Lock()
	if b.keep {
		b.got = append(b.got, req)
	}
	answer := b.answer
	b.mu.Unlock()
	status := http.StatusAccepted
	if answer != nil {
		status = answer(req)
	}
	if status == 0 {
		<-r.Context().Done()
		return
	}
	w.WriteHeader(status)
}

func (b *bot) answers(f func(request) int) { b.mu.Lock(); b.answer = f; b.mu.Unlock() }
func (b *bot) status(code int)             { b.answers(func(request) int { return code }) }

func (b *bot) requests() []request {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]request(nil), b.got...)
}

func (b *bot) dial(context.Context, string, string) (net.Conn, error) { return b.ln.dial() }

type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (l *pipeListener) dial() (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case l.conns <- there:
		return here, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l *pipeListener) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }

// newMiniredis returns a client of an in-memory store that follows fake time.
func newMiniredis(t testing.TB) redis.UniversalClient {
	m := miniredis.NewMiniRedis()
	m.ClockTTL(true)
	t.Cleanup(m.Close)
	return newClient(t, func(context.Context, string, string) (net.Conn, error) { return roomy(m.Dial()) })
}

func newClient(t testing.TB, dial func(context.Context, string, string) (net.Conn, error)) redis.UniversalClient {
	c := redis.NewClient(&redis.Options{
		Addr: "127.0.0.1:1", MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
		PoolSize: 4096, // go-redis shares the timers of those who wait for a connection, and those of fake time may not leave it
		Dialer:   dial, MaxRetries: -1, ContextTimeoutEnabled: true, DisableIdentity: true, Protocol: 2, ReadTimeout: 2 * time.Second, WriteTimeout: 2 * time.Second,
	})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// replica is one running carrier.
type replica struct {
	*delivery.Carrier
	stop func()
}

func startReplica(t testing.TB, client redis.UniversalClient, b *bot, change ...func(*delivery.Config)) *replica {
	sealer, err := delivery.NewSealer([]byte("0123456789abcdef0123456789abcdef"))
	require.NoError(t, err)
	cfg := delivery.Config{Client: client, Sealer: sealer, Guard: delivery.GuardConfig{AllowHTTP: true}, Log: slog.New(slog.DiscardHandler)}
	if b != nil {
		cfg.Dial = b.dial
	}
	for _, f := range change {
		f(&cfg)
	}
	c, err := delivery.New(cfg)
	require.NoError(t, err)
	soon(t, func() bool { return c.Ready(t.Context()) == nil }, "the store")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = c.Run(ctx) }()
	var once sync.Once
	r := &replica{c, func() { once.Do(func() { cancel(); <-done }) }}
	t.Cleanup(r.stop)
	return r
}

func entity(n string) delivery.Entity {
	return delivery.Entity{CompanyKey: "acme", NetworkKey: "whatsapp", ExternalID: n}
}

func registration(ext, app string, change ...func(*delivery.Registration)) delivery.Registration {
	r := delivery.Registration{
		RegID: delivery.RegID{Entity: entity(ext), AppID: app}, Name: "Bot " + app, CallbackURL: "http://bot.example/" + app,
		Credentials: delivery.Credentials{Type: delivery.BasicAuth, Identity: "gw", Secret: "s3cret"}, Mode: delivery.Live,
	}
	for _, f := range change {
		f(&r)
	}
	return r
}

func message(ext, author string, n int) delivery.Incoming {
	return delivery.Incoming{Body: fmt.Appendf(nil,
		`{"type":"message","text":"n %d","coordinate":{"companyKey":"acme","networkKey":"whatsapp","externalId":%q,"messageId":"m-%d","scope":"PRIVATE"},"author":{"id":%q,"fullName":"Ann"},"n":%d}`,
		n, ext, n, author, n)}
}

func (r *replica) send(t testing.TB, events ...delivery.Incoming) []delivery.Receipt {
	receipts := r.Accept(t.Context(), "acme", events)
	for _, rc := range receipts {
		require.NoError(t, rc.Err)
	}
	return receipts
}

func (r *replica) healthOf(t testing.TB, app string) delivery.Health {
	hs, err := r.Health(t.Context(), "acme", app)
	require.NoError(t, err)
	require.Len(t, hs, 1)
	return hs[0]
}

func (r *replica) fate(t testing.TB, eventID string) delivery.Record {
	recs, err := r.EventRecords(t.Context(), "acme", eventID)
	require.NoError(t, err)
	require.Len(t, recs, 1)
	return recs[0]
}
