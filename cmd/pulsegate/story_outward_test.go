package main_test

import (
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestD13CallbackToTheGatewaysOwnProcess registers bots at the addresses that a gateway itself lives by.
func TestD13CallbackToTheGatewaysOwnProcess(t *testing.T) {
	url, _ := storyRedis(t)
	_, smtp := startMailbox(t)
	p := startGateway(t, t.TempDir(), "--redis", url, "--smtp", smtp, "--mail-from", "gate@example.net")
	refused := 0
	for name, at := range map[string]string{"API": p.api, "operations": p.ops, "Redis": strings.Split(url, "/")[2], "SMTP": strings.TrimPrefix(smtp, "smtp://")} {
		_, port, err := net.SplitHostPort(strings.TrimPrefix(at, "http://"))
		require.NoError(t, err)
		for _, host := range []string{"127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "127.0.0.2"} {
			status, answer := p.register(t, "http://"+host+":"+port+"/")
			require.Equal(t, http.StatusUnprocessableEntity, status, "%s at %s", name, host)
			require.Contains(t, answer, "callback address is not allowed", name)
			refused++
		}
	}
	t.Attr("measured", fmt.Sprintf("%d registrations at the gateway's own API, operations, Redis and SMTP addresses, loopback allowed: all refused", refused))
}

// TestD09CertificatesFromAFile serves a bot whose authority only the file knows, and then one that only its registration knows.
func TestD09CertificatesFromAFile(t *testing.T) {
	var got atomic.Int64
	bot := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		got.Add(1)
		w.WriteHeader(http.StatusAccepted)
	}))
	t.Cleanup(bot.Close)
	text := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: bot.Certificate().Raw}))
	file := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))

	p := startGateway(t, t.TempDir(), "--callback-ca", file)
	status, answer := p.register(t, bot.URL)
	require.Equal(t, http.StatusAccepted, status, answer)
	p.send(t, "hello")
	eventually(t, func() bool { return got.Load() == 1 }, "delivered over TLS that the file trusts")

	p = startGateway(t, t.TempDir())
	require.Equal(t, http.StatusAccepted, registerBot(t, p, "page-1", "my-bot", bot.URL, map[string]any{"caCertificate": text}))
	p.send(t, "hello")
	eventually(t, func() bool { return got.Load() == 2 }, "delivered over TLS that the registration trusts")
	_, answer = p.call(t, http.MethodGet, "/bots/v3/registrations", "")
	require.Contains(t, answer, `"caCertificate":"-----BEGIN CERTIFICATE`)
	status, answer = p.call(t, http.MethodPut, "/bots/v3/registrations", `{"companyKey":"demo","networkKey":"chat","externalId":"page-1","appId":"my-bot",
		"callbackUrl":"https://bot.example/","credentials":{"type":"HMAC","secret":"s"},"caCertificate":"none"}`)
	require.Equal(t, http.StatusUnprocessableEntity, status)
	require.Contains(t, answer, "caCertificate must be PEM certificates")
	t.Attr("measured", "a self-signed bot, trusted by --callback-ca and by its registration")
}

// TestWhatABotSaysUnaskedIsNotLogged lets a bot send back what it was told, on a connection where nobody listens any more.
func TestWhatABotSaysUnaskedIsNotLogged(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done, closed := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		c, err := listener.Accept()
		if err != nil {
			return
		}
		defer func() { _ = c.Close() }()
		request := make([]byte, 64<<10)
		n, _ := c.Read(request)
		_, _ = c.Write(append([]byte("HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"), request[:n]...))
		_, _ = io.Copy(io.Discard, c)
		close(closed)
	}()
	t.Cleanup(func() { _ = listener.Close(); <-done })
	p := startGateway(t, t.TempDir())
	status, answer := p.register(t, "http://"+listener.Addr().String()+"/")
	require.Equal(t, http.StatusAccepted, status, answer)
	p.send(t, "very private words")
	<-closed
	require.Zero(t, p.stop(t))
	require.NotContains(t, p.errs.String(), "very private words")
	require.NotContains(t, p.errs.String(), "Authorization")
}

func TestWrongCertificateFilesStopTheStart(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"empty": "", "words": "hello", "key": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	for _, name := range []string{"empty", "words", "key", "missing"} {
		status, _, errs := run("serve", "--callback-ca", filepath.Join(dir, name))
		require.Equal(t, 2, status, name)
		require.Contains(t, errs, "--callback-ca", name)
	}
}
