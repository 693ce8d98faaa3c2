package notify_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pulsegate/pulsegate/notify"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// wire is a network in memory: a listener, and the dialer that reaches it. It lives on the bubble's time.
type wire struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
	mu    sync.Mutex
	cut   bool
	dials int
	open  int
	sent  bytes.Buffer // what clients wrote
}

func newWire() *wire { return &wire{conns: make(chan net.Conn), done: make(chan struct{})} }

func (w *wire) Accept() (net.Conn, error) {
	select {
	case c := <-w.conns:
		return c, nil
	case <-w.done:
		return nil, net.ErrClosed
	}
}

func (w *wire) Close() error {
	w.once.Do(func() { close(w.done) })
	return nil
}

func (w *wire) Addr() net.Addr { return &net.TCPAddr{} }

func (w *wire) setCut(cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = cut
}

func (w *wire) dialled() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dials
}

// left is how many connections the client has not closed.
func (w *wire) left() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.open
}

func (w *wire) written() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sent.String()
}

func (w *wire) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	w.mu.Lock()
	w.dials++
	cut := w.cut
	w.mu.Unlock()
	if cut {
		return nil, errors.New("connection refused")
	}
	client, server := net.Pipe()
	select {
	case w.conns <- server:
		w.mu.Lock()
		defer w.mu.Unlock()
		w.open++
		return &tapped{Conn: client, wire: w}, nil
	case <-w.done:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// tapped notes what the client writes, and whether it hangs up.
type tapped struct {
	net.Conn
	wire *wire
	once sync.Once
}

func (t *tapped) Close() error {
	t.once.Do(func() {
		t.wire.mu.Lock()
		defer t.wire.mu.Unlock()
		t.wire.open--
	})
	return t.Conn.Close()
}

func (t *tapped) Write(b []byte) (int, error) {
	t.wire.mu.Lock()
	t.wire.sent.Write(b)
	t.wire.mu.Unlock()
	return t.Conn.Write(b)
}

// received is one mail as the server got it.
type received struct {
	from string
	to   []string
	data []byte
}

// mailbox is a mail server in memory.
type mailbox struct {
	*wire
	server *smtp.Server
	mu     sync.Mutex
	mails  []received
	users  []string
	sender func() error          // answer to MAIL FROM
	rcpt   func(to string) error // answer to RCPT TO
	data   func() error          // answer to the end of DATA
	hold   chan struct{}         // DATA waits for it
}

func openMailbox(tb testing.TB, change func(*smtp.Server)) *mailbox {
	tb.Helper()
	return openMailboxOver(tb, func(w *wire) net.Listener { return w }, change)
}

// openMailboxOver serves the mailbox on a listener made of its wire.
func openMailboxOver(tb testing.TB, listen func(*wire) net.Listener, change func(*smtp.Server)) *mailbox {
	tb.Helper()
	m := &mailbox{wire: newWire()}
	m.server = smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return &session{box: m}, nil }))
	m.server.Domain = "mail.example.org"
	m.server.ErrorLog = silent{}
	if change != nil {
		change(m.server)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = m.server.Serve(listen(m.wire))
	}()
	tb.Cleanup(func() {
		_ = m.wire.Close()
		_ = m.server.Close()
		<-served
	})
	return m
}

func (m *mailbox) all() []received {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]received(nil), m.mails...)
}

type silent struct{}

func (silent) Printf(string, ...any) {}
func (silent) Println(...any)        {}

// session is one conversation with the mailbox.
type session struct {
	box  *mailbox
	mail received
}

func (s *session) AuthMechanisms() []string { return []string{sasl.Plain} }

func (s *session) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, password string) error {
		if password != "pa:ss w/rd" {
			return smtp.ErrAuthFailed
		}
		s.box.mu.Lock()
		defer s.box.mu.Unlock()
		s.box.users = append(s.box.users, user)
		return nil
	}), nil
}

func (s *session) Mail(from string, _ *smtp.MailOptions) error {
	s.mail = received{from: from}
	if s.box.sender != nil {
		return s.box.sender()
	}
	return nil
}

func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	if s.box.rcpt != nil {
		if err := s.box.rcpt(to); err != nil {
			return err
		}
	}
	s.mail.to = append(s.mail.to, to)
	return nil
}

func (s *session) Data(r io.Reader) error {
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if s.box.hold != nil {
		<-s.box.hold
	}
	if s.box.data != nil {
		if err := s.box.data(); err != nil {
			return err
		}
	}
	s.mail.data = data
	s.box.mu.Lock()
	defer s.box.mu.Unlock()
	s.box.mails = append(s.box.mails, s.mail)
	return nil
}

func (s *session) Reset()        {}
func (s *session) Logout() error { return nil }

// certificate makes a key pair for mail.example.org and the pool that trusts it.
func certificate(tb testing.TB) (tls.Certificate, *x509.CertPool) {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(tb, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "mail.example.org"}, DNSNames: []string{"mail.example.org"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(72 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(tb, err)
	leaf, err := x509.ParseCertificate(der)
	require.NoError(tb, err)
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// openPlatform serves the platform's API in memory.
func openPlatform(tb testing.TB, handle http.HandlerFunc) (*notify.Platform, *wire) {
	tb.Helper()
	w := newWire()
	server := &http.Server{Handler: handle, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(w)
	}()
	plain, err := notify.NewPlatform("http://platform.example.org/care/", " t0ken\n")
	require.NoError(tb, err)
	platform := plain.Through(w.dial)
	tb.Cleanup(func() {
		platform.Close()
		_ = w.Close()
		_ = server.Close()
		<-served
	})
	return platform, w
}

// start runs a Notifier; stop ends it and waits.
func start(tb testing.TB, cfg notify.Config) (n *notify.Notifier, stop func()) {
	tb.Helper()
	n, err := notify.New(cfg)
	require.NoError(tb, err)
	ctx, cancel := context.WithCancel(tb.Context())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			require.NoError(tb, <-ended)
		})
	}
	tb.Cleanup(stop)
	return n, stop
}

// withMail is a configuration that mails through m.
func withMail(o *outbox, m *mailbox) notify.Config {
	return notify.Config{
		Outbox: o, SMTPURL: "smtp://mail.example.org:2525", MailFrom: "Pulsegate <pulsegate@example.net>",
		PublicURL: "https://gate.example.net", Dial: m.dial,
	}
}
