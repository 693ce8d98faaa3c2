package main_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulsegate/pulsegate/cmd/rig"
	"github.com/pulsegate/pulsegate/gateway"

	main "github.com/pulsegate/pulsegate/cmd/pulsegate"
)

// ask makes a request with an Authorization header, and returns the answer.
func (p *gatewayProcess) ask(t testing.TB, client *http.Client, method, path, authorization string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, p.api+path, http.NoBody)
	require.NoError(t, err)
	req.Header.Set("Authorization", authorization)
	res, err := client.Do(req)
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res.StatusCode, string(text)
}

func TestE05RevokedTokensAreRefusedByEveryProcessWithinASecond(t *testing.T) {
	url := rig.StartServer(t, rig.ServerConfig{Args: rig.AppendOnly()}).URL
	f := startFleet(t, sized(2, 3), "--redis", url)
	password := filepath.Join(t.TempDir(), "password")
	require.NoError(t, os.WriteFile(password, []byte("correct horse battery\nmore\n"), 0o600))
	status, out, errs := run("admin", "add", "ops", "--company", "acme", "--password-file", password, "--redis", url)
	require.Zero(t, status, errs)
	require.Equal(t, "added ops of acme\n", out)
	status, out, _ = run("admin", "list", "--redis", url)
	require.Zero(t, status)
	require.Regexp(t, `^ops +acme +20`, out)

	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	basic := "Basic b3BzOmNvcnJlY3QgaG9yc2UgYmF0dGVyeQ=="
	code, text := f.at(0).ask(t, client, http.MethodPost, "/api/v2/tokens/khorosapi/ownerId/my-bot", basic)
	require.Equal(t, http.StatusOK, code, text)
	var made struct{ Data struct{ Token string } }
	require.NoError(t, json.Unmarshal([]byte(text), &made))
	bot := "Bearer " + made.Data.Token
	code, text = f.at(1).ask(t, client, http.MethodPost, "/api/v2/tokens/khorosapi/ownerId/my-bot", basic)
	require.Equal(t, http.StatusConflict, code, text)

	_, out, _ = run("token", "--data", f.data, "--company", "acme")
	key, _, _, err := main.Keys(filepath.Join(f.data, "pulsegate.key"))
	require.NoError(t, err)
	tokens, err := gateway.NewTokens(key)
	require.NoError(t, err)
	claims, err := tokens.Verify(strings.TrimSpace(out))
	require.NoError(t, err)
	admin := "Bearer " + strings.TrimSpace(out)

	allAnswer := func(authorization string, want int) bool {
		for _, p := range f.all {
			if code, _ := p.ask(t, client, http.MethodGet, "/bots/v3/registrations", authorization); code != want {
				return false
			}
		}
		return true
	}
	require.True(t, allAnswer(bot, http.StatusOK))
	require.True(t, allAnswer(admin, http.StatusOK))
	var took [2]time.Duration
	for i, revoke := range []func(){
		func() {
			code, text := f.at(1).ask(t, client, http.MethodDelete, "/bots/v3/tokens/appId/my-bot", bot)
			require.Equal(t, http.StatusOK, code, text)
			require.Equal(t, "{}", text)
		},
		func() {
			t.Setenv("PULSEGATE_ISSUER", "https://issuer.example.org") // the gateway's setting, and not whose token this is
			status, _, errs := run("token", "revoke", "--jti", claims.ID, "--redis", url, "--data", f.data)
			require.Zero(t, status, errs)
		},
	} {
		revoke()
		began := time.Now()
		authorization := []string{bot, admin}[i]
		require.Eventually(t, func() bool { return allAnswer(authorization, http.StatusUnauthorized) }, 10*time.Second, 5*time.Millisecond)
		took[i] = time.Since(began)
		require.Less(t, took[i], time.Second)
	}
	status, _, _ = run("admin", "remove", "ops", "--redis", url)
	require.Zero(t, status)
	code, _ = f.at(0).ask(t, client, http.MethodGet, "/api/v2/tokens/khorosapi/ownerId/my-bot", basic)
	require.Equal(t, http.StatusUnauthorized, code)
	status, _, errs = run("admin", "remove", "ops", "--redis", url)
	require.Equal(t, 1, status)
	require.Contains(t, errs, "there is no administrator ops")
	measured(t, "%d processes: refused by all %v after DELETE, %v after `pulsegate token revoke`", len(f.all), took[0].Round(time.Millisecond), took[1].Round(time.Millisecond))
}

func TestE16ServeHasACertificateAndRefusesPlainHTTP(t *testing.T) {
	// The certificate of a test server, for 127.0.0.1, with its key.
	maker := httptest.NewTLSServer(http.NotFoundHandler())
	defer maker.Close()
	secret, err := x509.MarshalPKCS8PrivateKey(maker.TLS.Certificates[0].PrivateKey)
	require.NoError(t, err)
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	require.NoError(t, os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: maker.Certificate().Raw}), 0o600))
	require.NoError(t, os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600))
	p := startGateway(t, t.TempDir(), "--tls-cert", cert, "--tls-key", key)
	require.True(t, strings.HasPrefix(p.api, "https://"), p.api)
	pool := x509.NewCertPool()
	pool.AddCert(maker.Certificate())
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	code, _ := p.ask(t, &http.Client{Transport: transport}, http.MethodGet, "/bots/v3/registrations", "Bearer "+p.token)
	require.Equal(t, http.StatusOK, code)
	status, text := p.get("http://" + strings.TrimPrefix(p.api, "https://") + "/healthz")
	require.Equal(t, http.StatusBadRequest, status, text)
	require.Zero(t, p.stop(t))
	for _, wrong := range [][]string{{"--tls-cert", cert}, {"--tls-cert", cert, "--tls-key", cert}, {"--tls-cert", dir, "--tls-key", key}} {
		status, _, errs := run(append([]string{"serve", "--data", t.TempDir(), "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0"}, wrong...)...)
		require.Equal(t, 2, status)
		require.Contains(t, errs, "--tls-cert")
	}
}

func TestE13OperationsAreOnAListenerOfTheirOwn(t *testing.T) {
	p := startGateway(t, t.TempDir())
	for _, path := range []string{"/metrics", "/debug/pprof/", "/debug/pprof/heap", "/debug/vars", "/admin"} {
		status, text := p.get(p.api + path)
		require.Equal(t, http.StatusNotFound, status, text)
	}
	status, text := p.get(p.ops + "/metrics")
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, text, "pulsegate_gateway_requests_total")
	status, _ = p.get(p.ops + "/bots/v3/registrations")
	require.Equal(t, http.StatusNotFound, status)
	command := exec.Command(os.Args[0], "serve", "--help")
	command.Env = append(os.Environ(), "PULSEGATE_TEST_RUN=1")
	help, err := command.Output()
	require.NoError(t, err)
	require.Regexp(t, `--ops-listen="127\.0\.0\.1:9090"`, string(help))
	measured(t, "5 paths on the API's listener: 404; the other is on 127.0.0.1 unless set")
}
