package main_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	main "github.com/pulsegate/pulsegate/cmd/pulsegate"
	"github.com/pulsegate/pulsegate/cmd/rig"
)

// gatewayProcess is a gateway in a process of its own.
type gatewayProcess struct {
	command  *exec.Cmd
	api, ops string
	token    string
	printed  string
	errs     *bytes.Buffer
	ended    chan error
}

// startGateway starts serve on data and waits until it is ready.
func startGateway(t testing.TB, data string, args ...string) *gatewayProcess {
	t.Helper()
	p := &gatewayProcess{errs: new(bytes.Buffer), ended: make(chan error, 1)}
	p.command = exec.Command(os.Args[0], append([]string{
		"serve", "--data", data, "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0", "--allow-callback", "loopback", "--allow-http", "--try",
	}, args...)...)
	p.command.Env = append(os.Environ(), "PULSEGATE_TEST_RUN=1")
	p.command.Stderr = p.errs
	rig.Tie(p.command)
	out, err := p.command.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, p.command.Start())
	t.Cleanup(func() {
		_ = p.command.Process.Kill()
		socket, _ := os.ReadFile(filepath.Join(data, "redis.sock.path"))
		main.RemoveSocketDir(strings.TrimSpace(string(socket)))
	})
	lines := bufio.NewReader(out)
	for p.token == "" || !strings.Contains(p.printed, "/bots/v3/health/") {
		line, err := lines.ReadString('\n')
		require.NoError(t, err, "the gateway ended: %s", p.errs)
		p.printed += line
		line = strings.TrimSpace(line)
		if at, ok := strings.CutPrefix(line, "pulsegate listens on "); ok {
			p.api = at
		}
		if at, ok := strings.CutPrefix(line, "operations on "); ok {
			p.ops = strings.Fields(at)[0]
		}
		if token, ok := strings.CutPrefix(line, "TOKEN="); ok {
			p.token = token
		}
	}
	go func() {
		_, _ = io.Copy(io.Discard, lines)
		p.ended <- p.command.Wait()
	}()
	eventually(t, func() bool { status, _ := p.get(p.ops + "/readyz"); return status == http.StatusOK }, "ready")
	return p
}

// get reads a page; status 0 when nobody answers.
func (p *gatewayProcess) get(url string) (int, string) {
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Get(url)
	if err != nil {
		return 0, ""
	}
	defer func() { _ = answer.Body.Close() }()
	text, _ := io.ReadAll(answer.Body)
	return answer.StatusCode, string(text)
}

// call sends a body to the API with the token that was printed.
func (p *gatewayProcess) call(t testing.TB, method, path, body string) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, p.api+path, strings.NewReader(body))
	require.NoError(t, err)
	request.Header.Set("Authorization", "Bearer "+p.token)
	request.Header.Set("Content-Type", "application/json")
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Do(request)
	require.NoError(t, err)
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	return answer.StatusCode, string(text)
}

// register registers the bot of the printed lines at url, and returns the answer.
func (p *gatewayProcess) register(t testing.TB, url string) (int, string) {
	t.Helper()
	return p.call(t, http.MethodPut, "/bots/v3/registrations", `{"platform":"LITHIUM","companyKey":"demo","networkKey":"chat",
		"externalId":"page-1","appId":"my-bot","name":"My bot","callbackUrl":"`+url+`","mode":"LIVE",
		"credentials":{"type":"BASIC_AUTH","identity":"me","secret":"s3cret"}}`)
}

// send sends a message of ann.
func (p *gatewayProcess) send(t testing.TB, text string) {
	t.Helper()
	status, answer := p.call(t, http.MethodPost, "/bots/v3/events", `{"type":"message","text":"`+text+`","author":{"id":"ann"},
		"coordinate":{"companyKey":"demo","networkKey":"chat","externalId":"page-1","messageId":"m","scope":"PRIVATE"}}`)
	require.Equal(t, http.StatusAccepted, status, answer)
	require.Contains(t, answer, `"queued"`)
}

// stop sends SIGTERM, waits for the end and returns the exit status.
func (p *gatewayProcess) stop(t testing.TB) int {
	t.Helper()
	require.NoError(t, p.command.Process.Signal(syscall.SIGTERM))
	return p.wait(t)
}

// wait waits for the end and returns the exit status.
func (p *gatewayProcess) wait(t testing.TB) int {
	t.Helper()
	select {
	case err := <-p.ended:
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return exit.ExitCode()
		}
		require.NoError(t, err)
		return 0
	case <-time.After(60 * time.Second):
		t.Fatal("the gateway does not end")
		return -1
	}
}

func TestServeCarriesAnEventToABotAndStopsInOrder(t *testing.T) {
	data := t.TempDir()
	p := startGateway(t, data, "--drain-grace", "1500ms")
	require.Contains(t, p.printed, "durability tier: process")
	require.Equal(t, 3, strings.Count(p.printed, "curl -sS "))
	bot := startBot(t)
	status, answer := p.register(t, bot.url+"/")
	require.Equal(t, http.StatusAccepted, status, answer)
	p.send(t, "hello")
	require.Contains(t, bot.line(t), `message, from ann, on chat/page-1, owner BOT, health HEALTHY: "hello"`)
	_, metrics := p.get(p.ops + "/metrics")
	require.Contains(t, metrics, `pulsegate_store_durability{tier="process"} 1`)

	require.NoError(t, p.command.Process.Signal(syscall.SIGTERM))
	eventually(t, func() bool { status, _ := p.get(p.ops + "/readyz"); return status == http.StatusServiceUnavailable }, "not ready first")
	status, _ = p.get(p.api + "/healthz")
	require.Equal(t, http.StatusOK, status, "the API still answers")
	require.Zero(t, p.wait(t), p.errs)

	again := startGateway(t, data)
	again.send(t, "again")
	require.Contains(t, bot.line(t), `"again"`)
	require.Zero(t, again.stop(t), again.errs)
}

func TestServeNeverCallsItself(t *testing.T) {
	p := startGateway(t, t.TempDir())
	for _, url := range []string{p.api + "/bots/v3/events", p.ops + "/metrics"} {
		status, text := p.register(t, url)
		require.Equal(t, http.StatusUnprocessableEntity, status)
		require.Contains(t, text, "callbackUrl")
	}
	require.Zero(t, p.stop(t), p.errs)
}

func TestSecondSignalEndsTheGatewayAtOnce(t *testing.T) {
	p := startGateway(t, t.TempDir(), "--delivery-timeout", "30s", "--drain-grace", "30s")
	require.NoError(t, p.command.Process.Signal(syscall.SIGTERM))
	eventually(t, func() bool { status, _ := p.get(p.ops + "/readyz"); return status == http.StatusServiceUnavailable }, "stopping")
	began := time.Now()
	require.Equal(t, 1, p.stop(t))
	require.Less(t, time.Since(began), 5*time.Second)
}

func TestServeOnAnAddressInUseSaysSo(t *testing.T) {
	p := startGateway(t, t.TempDir())
	status, _, errs := run("serve", "--data", t.TempDir(), "--ops-listen", "127.0.0.1:0", "--listen", strings.TrimPrefix(p.api, "http://"))
	require.Equal(t, 1, status)
	require.Contains(t, errs, "address already in use")
	require.Zero(t, p.stop(t), p.errs)
}
