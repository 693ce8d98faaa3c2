package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulsegate/pulsegate/gateway"
)

// authority signs certificates for 127.0.0.1.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pool *x509.CertPool
	next int64
}

func newAuthority(t testing.TB) *authority {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	a := &authority{key: key, pool: x509.NewCertPool()}
	a.cert = &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, a.cert, a.cert, &key.PublicKey, key)
	require.NoError(t, err)
	parsed, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	a.pool.AddCert(parsed)
	return a
}

// write makes a certificate and puts it where a listener reads it, each file at one stroke. It returns its serial number.
func (a *authority) write(t testing.TB, certFile, keyFile string) int64 {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	a.next++
	serial := 100 + a.next
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(serial), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, a.cert, &key.PublicKey, a.key)
	require.NoError(t, err)
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	for path, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: secret}} {
		require.NoError(t, os.WriteFile(path+".new", pem.EncodeToMemory(block), 0o600))
		require.NoError(t, os.Rename(path+".new", path))
	}
	return serial
}

// listenTLS serves the stage's public face with a certificate until the test ends.
func (s *stage) listenTLS(t testing.TB, c *gateway.Certificate) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	srv := gateway.Server("", s.gateway.Handler())
	srv.TLSConfig, srv.ErrorLog = c.Config(), slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	done := make(chan error, 1)
	guarded := gateway.NewConnections(1000).Guard(srv, l)
	go func() { done <- srv.ServeTLS(guarded, "", "") }()
	t.Cleanup(func() {
		require.NoError(t, srv.Close())
		require.ErrorIs(t, <-done, http.ErrServerClosed)
	})
	return l.Addr().String()
}

// served is the serial number of the certificate that a new connection gets.
func (a *authority) served(t testing.TB, addr string) int64 {
	conn, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: a.pool})
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
}

func TestE16TheTLSListenerIsModernAndReloadsItsCertificate(t *testing.T) {
	a, dir := newAuthority(t), t.TempDir()
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	first := a.write(t, certFile, keyFile)
	certificate, err := gateway.NewCertificate(certFile, keyFile, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	s := newStage(t)
	addr := s.listenTLS(t, certificate)

	_, err = tls.Dial("tcp", addr, &tls.Config{RootCAs: a.pool, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11})
	require.Error(t, err, "TLS 1.1")
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		conn, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: a.pool, MaxVersion: version, NextProtos: []string{"h2"}})
		require.NoError(t, err)
		require.Equal(t, version, conn.ConnectionState().Version)
		require.Equal(t, "h2", conn.ConnectionState().NegotiatedProtocol)
		require.NoError(t, conn.Close())
	}
	require.Equal(t, first, a.served(t, addr))

	asked, failed, stop := a.askOn(t, addr, 4)
	renewals, rounds := 0, sized(2, 10)
	var last int64
	for range rounds {
		last = a.write(t, certFile, keyFile)
		require.Eventually(t, func() bool { return a.served(t, addr) == last }, 10*time.Second, 20*time.Millisecond)
		renewals++
	}
	require.NoError(t, os.WriteFile(certFile, []byte("no certificate"), 0o600))
	before := asked.Load()
	require.Eventually(t, func() bool { return asked.Load() > before+50 }, 10*time.Second, 10*time.Millisecond)
	require.Equal(t, last, a.served(t, addr), "the old one is kept when the new one cannot be read")
	connections := stop()
	require.Zero(t, failed.Load())
	require.Equal(t, int64(4), connections, "no connection was dropped")
	t.Attr("measured", fmt.Sprintf("%d renewals under %d requests on 4 connections (2 of h2): 0 failed, 0 dropped; TLS 1.1 refused", renewals, asked.Load()))
}

// askOn asks without a pause on n connections, half of them HTTP/2, until stop is called, which returns how many connections were opened.
func (a *authority) askOn(t testing.TB, addr string, n int) (asked, failed *atomic.Int64, stop func() int64) {
	asked, failed = new(atomic.Int64), new(atomic.Int64)
	var opened atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	var wait sync.WaitGroup
	for i := range n {
		transport := &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: a.pool}, ForceAttemptHTTP2: i%2 == 0,
			MaxConnsPerHost: 1, // the one that has just answered is not idle at once
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				opened.Add(1)
				return new(net.Dialer).DialContext(ctx, network, address)
			},
		}
		wait.Go(func() {
			defer transport.CloseIdleConnections()
			for ctx.Err() == nil {
				req, _ := http.NewRequestWithContext(context.Background(), http.MethodGet, "https://"+addr+"/healthz", http.NoBody)
				res, err := transport.RoundTrip(req)
				if err == nil {
					_, err = io.Copy(io.Discard, res.Body)
					_ = res.Body.Close()
				}
				if err != nil || res.StatusCode != http.StatusOK || (i%2 == 0) != (res.ProtoMajor == 2) {
					failed.Add(1)
					return
				}
				asked.Add(1)
			}
		})
	}
	return asked, failed, func() int64 {
		cancel()
		wait.Wait()
		return opened.Load()
	}
}

func TestAWrongCertificateStopsTheStart(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x")
	_, err := gateway.NewCertificate(path, path, slog.New(slog.DiscardHandler))
	require.ErrorContains(t, err, "read certificate")
	require.NoError(t, os.WriteFile(path, []byte("x"), 0o600))
	_, err = gateway.NewCertificate(path, path, slog.New(slog.DiscardHandler))
	require.ErrorContains(t, err, "read certificate")
}

func TestAFullListenerClosesWhoHasWaitedLongest(t *testing.T) {
	s := newStage(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	connections := gateway.NewConnections(4)
	srv := gateway.Server("", s.gateway.Handler())
	guarded := connections.Guard(srv, l)
	done := make(chan error, 1)
	go func() { done <- srv.Serve(guarded) }()
	t.Cleanup(func() {
		require.NoError(t, srv.Close())
		require.ErrorIs(t, <-done, http.ErrServerClosed)
	})
	open := func(text string) net.Conn {
		conn, err := net.Dial("tcp", l.Addr().String())
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		require.NoError(t, conn.SetDeadline(time.Now().Add(10*time.Second)))
		_, err = io.WriteString(conn, text)
		require.NoError(t, err)
		return conn
	}
	first := open("GET /healthz HTTP/1.1\r\nHost")
	for range 3 {
		open("GET /healthz HTTP/1.1\r\nHost")
	}
	for range 6 { // each of them takes the place of the one that has waited longest
		answer, err := http.ReadResponse(bufio.NewReader(open("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")), nil)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, answer.StatusCode)
		require.NoError(t, answer.Body.Close())
	}
	_, err = first.Read(make([]byte, 1))
	require.Error(t, err)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "it was closed: by a FIN, or by a RST where what it had sent was not read yet")
	require.EqualValues(t, 6, connections.Closed())
	require.Empty(t, bytes.TrimSpace(s.log.Bytes()))
}

// TestConnectionThatSaysNothingHoldsUpNoStop: clients open connections ahead of need, and the server would wait five seconds for what they have to say.
func TestConnectionThatSaysNothingHoldsUpNoStop(t *testing.T) {
	s := newStage(t)
	server := gateway.Server("", s.gateway.Handler())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- server.Serve(gateway.NewConnections(10).Guard(server, l)) }()
	silent, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	defer func() { _ = silent.Close() }()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Get("http://" + l.Addr().String() + "/healthz") // by now the other is accepted, too
	require.NoError(t, err)
	require.NoError(t, answer.Body.Close())
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
	defer cancel()
	require.NoError(t, server.Shutdown(ctx))
	require.ErrorIs(t, <-served, http.ErrServerClosed)
	require.NoError(t, silent.SetReadDeadline(time.Now().Add(time.Second)))
	_, err = silent.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
}
