package main_test

import (
	"bufio"
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulsegate/pulsegate/cmd/rig"
)

// mirrored keeps a copy of a key file up to date, as somebody who runs gateways on several machines does.
func mirrored(t testing.TB, from, to string) (stop func()) {
	copied := func() {
		text, err := os.ReadFile(from)
		if err != nil {
			return
		}
		if old, err := os.ReadFile(to); err == nil && string(old) == string(text) {
			return
		}
		if os.WriteFile(to+".new", text, 0o600) == nil {
			_ = os.Rename(to+".new", to)
		}
	}
	copied()
	done := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				copied()
			}
		}
	}()
	stop = sync.OnceFunc(func() { close(done); <-ended })
	t.Cleanup(stop)
	return stop
}

// TestE15KeysRotateWhileThreeGatewaysServe replaces the key of three gateways, one of which has a key file of its own, under traffic. The
// first attempt is given up half-way, because that one does not have the new key.
func TestE15KeysRotateWhileThreeGatewaysServe(t *testing.T) {
	n := sized(200, 10_000)
	url, client := storyRedis(t)
	bot := startRecorder(t, accepts)
	f := startFleet(t, 2, "--redis", url, "--token-rate", "0")
	key, far := filepath.Join(f.data, "pulsegate.key"), t.TempDir()
	mirrored(t, key, filepath.Join(far, "pulsegate.key"))()
	f.all = append(f.all, startGateway(t, far, "--redis", url, "--token-rate", "0"))
	old := f.all[0].token
	registerSecrets(t, f, n, bot.url)

	l := startLoad(t, f, loadConfig{rate: 100, pages: n})
	status, out, errs := run("keys", "rotate", "--data", f.data, "--redis", url, "--wait", "2500ms")
	require.Equal(t, 1, status, out)
	require.Contains(t, out, "1 of 3 do not yet")
	require.Contains(t, errs, "not every gateway has key")
	mirrored(t, key, filepath.Join(far, "pulsegate.key"))
	began := time.Now()
	status, out, errs = run("keys", "rotate", "--data", f.data, "--redis", url, "--wait", "30s")
	require.Zero(t, status, errs)
	took := time.Since(began)
	require.Contains(t, out, "going on")
	require.Contains(t, out, fmt.Sprintf("4/5 %d of %d registrations sealed anew", n, n))
	require.Contains(t, out, "safe to remove")
	require.NoFileExists(t, key+".next")

	status, out, errs = run("keys", "list", "--data", f.data, "--redis", url)
	require.Zero(t, status, errs)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	require.Len(t, lines, 3)
	require.Regexp(t, fmt.Sprintf(`^\w+ +seals and signs +%d +3 of 3$`, n), lines[1])
	require.Regexp(t, `^\w+ +opens and verifies +0 +3 of 3$`, lines[2])
	oldID := strings.Fields(lines[2])[0]
	require.Equal(t, []int{200, 200, 200}, knocks(t, f, old), "tokens of the old key are good still")
	status, fresh, errs := run("token", "--data", f.data, "--company", "demo")
	require.Zero(t, status, errs)
	require.Equal(t, []int{200, 200, 200}, knocks(t, f, strings.TrimSpace(fresh)))

	l.stop()
	require.Zero(t, l.visible.Load(), "%v", l.refusals)
	awaitFates(t, client)
	l.nothingLost(t, bot)
	for _, a := range bot.all() {
		require.Equal(t, ownSecret(a.page), a.secret)
	}
	removeOldKey(t, f, url, oldID, old, strings.TrimSpace(fresh))
	measured(t, "%d registrations of 3 gateways under %d events: rotation given up half-way, then done in %v; 0 lost, 0 refused, each secret as before; old tokens good until their key went", n, l.count.Load(), took.Round(100*time.Millisecond))
}

// TestKeysRotateThatIsInterruptedSaysSo interrupts a rotation that waits for a gateway with a key file of its own, and lets it go on later.
func TestKeysRotateThatIsInterruptedSaysSo(t *testing.T) {
	url, _ := storyRedis(t)
	data, far := t.TempDir(), t.TempDir()
	startGateway(t, far, "--redis", url)
	mirrored(t, filepath.Join(far, "pulsegate.key"), filepath.Join(data, "pulsegate.key"))()
	command := exec.Command(os.Args[0], "keys", "rotate", "--data", data, "--redis", url)
	command.Env = append(os.Environ(), "PULSEGATE_TEST_RUN=1")
	var errs bytes.Buffer
	command.Stderr = &errs
	rig.Tie(command)
	out, err := command.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, command.Start())
	t.Cleanup(func() { _ = command.Process.Kill() })
	for lines, line := bufio.NewReader(out), ""; !strings.Contains(line, "do not yet"); {
		line, err = lines.ReadString('\n')
		require.NoError(t, err)
	}
	require.NoError(t, command.Process.Signal(os.Interrupt))
	require.Error(t, command.Wait())
	require.Equal(t, 1, command.ProcessState.ExitCode())
	require.Contains(t, errs.String(), "interrupted")
	require.Contains(t, errs.String(), "run the same command again")
	require.NotContains(t, errs.String(), "not every gateway")

	mirrored(t, filepath.Join(data, "pulsegate.key"), filepath.Join(far, "pulsegate.key"))
	status, said, failed := run("keys", "rotate", "--data", data, "--redis", url, "--wait", "60s")
	require.Zero(t, status, failed)
	require.Contains(t, said, "going on")
}

func ownSecret(page string) string { return "secret of " + page }

// registerSecrets registers a bot on each page, with a secret of its own.
func registerSecrets(t testing.TB, f *fleet, n int, url string) {
	var clerks sync.WaitGroup
	for c := range 8 {
		clerks.Go(func() {
			for i := c; i < n; i += 8 {
				credentials := map[string]any{"type": "BASIC_AUTH", "identity": "me", "secret": ownSecret(pageName(i))}
				if registerBot(t, f.at(i), pageName(i), "bot", url, map[string]any{"credentials": credentials}) != http.StatusAccepted {
					t.Errorf("page %d is not registered", i)
					return
				}
			}
		})
	}
	clerks.Wait()
}

// knocks are the answers of all gateways to a token.
func knocks(t testing.TB, f *fleet, token string) (all []int) {
	for _, p := range f.all {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.api+"/bots/v3/notices", nil)
		require.NoError(t, err)
		request.Header.Set("Authorization", "Bearer "+token)
		answer, err := newPoster(t).client.Do(request)
		require.NoError(t, err)
		require.NoError(t, answer.Body.Close())
		all = append(all, answer.StatusCode)
	}
	return all
}

// removeOldKey takes the old key out, and sees what hung on it end.
func removeOldKey(t testing.TB, f *fleet, url, id, old, fresh string) {
	key := filepath.Join(f.data, "pulsegate.key")
	text, err := os.ReadFile(key)
	require.NoError(t, err)
	lines := strings.Fields(string(text))
	late := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(late, "pulsegate.key"), []byte(lines[1]+"\n"), 0o600))
	status, _, errs := run("serve", "--data", late, "--redis", url, "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0")
	require.NotZero(t, status, "a gateway with the old key only does not start")
	require.Contains(t, errs, "sealed with key")

	status, _, errs = run("keys", "remove", id, "--data", f.data, "--redis", url)
	require.Equal(t, 2, status)
	require.Contains(t, errs, "--end-tokens")
	status, out, errs := run("keys", "remove", id, "--data", f.data, "--redis", url, "--end-tokens")
	require.Zero(t, status, errs)
	require.Contains(t, out, "is removed")
	eventually(t, func() bool { return fmt.Sprint(knocks(t, f, old)) == "[401 401 401]" }, "tokens of the old key to end")
	require.Equal(t, []int{200, 200, 200}, knocks(t, f, fresh))
	status, _, errs = run("keys", "remove", "nonsense", "--data", f.data, "--redis", url)
	require.Equal(t, 2, status)
	require.Contains(t, errs, "it is not in")
}
