package main_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulsegate/pulsegate/cmd/rig"
)

// program is a process of the built binary, and the lines that it prints.
type program struct {
	command *exec.Cmd
	ended   chan struct{}

	mu    sync.Mutex
	lines []string
}

// launch starts the binary; its process ends with the test at the latest.
func launch(t testing.TB, binary string, args ...string) *program {
	t.Helper()
	p := &program{command: exec.Command(binary, args...), ended: make(chan struct{})}
	out, err := p.command.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, p.command.Start())
	go func() {
		defer close(p.ended)
		for in := bufio.NewScanner(out); in.Scan(); {
			p.mu.Lock()
			p.lines = append(p.lines, in.Text())
			p.mu.Unlock()
		}
		_, _ = io.Copy(io.Discard, out)
		_ = p.command.Wait()
	}()
	t.Cleanup(p.kill)
	return p
}

func (p *program) kill() { _ = p.command.Process.Kill(); <-p.ended }

// await waits for a line that holds a text, and returns it.
func (p *program) await(t testing.TB, text string) (found string) {
	t.Helper()
	eventually(t, func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, line := range p.lines {
			if strings.Contains(line, text) {
				found = line
				return true
			}
		}
		return false
	}, "the program prints "+text)
	return found
}

// printed counts the lines that hold a text.
func (p *program) printed(text string) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, line := range p.lines {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

// TestWalkthroughWithProcesses takes the built program through the documented life of a failing bot, in fast motion: the gateway with
// its own redis-server, a bot that is killed and started again, and a mail server.
func TestWalkthroughWithProcesses(t *testing.T) {
	_, err := exec.LookPath("redis-server")
	require.NoError(t, err, "this test needs a redis-server, 6.2 or newer: apt-get install redis-server")
	dir := t.TempDir()
	binary := filepath.Join(dir, "pulsegate")
	text, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput()
	require.NoError(t, err, string(text))
	mails, smtp := startMailbox(t)
	gateway := launch(t, binary, "serve", "--data", filepath.Join(dir, "data"), "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0",
		"--allow-callback", "loopback", "--allow-http", "--health-window", "4s", "--pause", "4s", "--smtp", smtp, "--mail-from", "gate@example.net")
	api, _ := strings.CutPrefix(gateway.await(t, "pulsegate listens on "), "pulsegate listens on ")
	gateway.await(t, "durability tier: process")
	token, err := exec.Command(binary, "token", "--key-file", filepath.Join(dir, "data", "pulsegate.key"), "--company", "demo").Output()
	require.NoError(t, err)
	p := &gatewayProcess{api: api, token: strings.TrimSpace(string(token))}
	address := rig.FreeAddress(t)
	bot := launch(t, binary, "bot", "--listen", address)
	bot.await(t, "bot listens on")
	require.Equal(t, http.StatusAccepted, registerBot(t, p, "page", "bot", "http://"+address+"/", nil))
	s := newPoster(t)
	fates := map[string]int{}
	stop := background(func(n int) {
		status, _, fate := s.post(p, eventOf("page", fmt.Sprintf("stranger-%d", n), n))
		if status == http.StatusAccepted {
			fates[fate]++
		}
		<-time.After(50 * time.Millisecond)
	})
	defer stop()

	awaitState(t, s, p, "HEALTHY", func(h healthAnswer) bool { return h.SuccessCount > 20 })
	bot.kill()
	off := time.Now()
	awaitMails(t, mails, "DEGRADED")
	eventually(t, func() bool { return len(handoffsOf(t, s, p)) > 0 }, "the first conversation is handed over")
	awaitMails(t, mails, "DOWN")
	down := time.Since(off)
	eventually(t, func() bool { return handoffsOf(t, s, p)["suppressed"] > 20 }, "messages are handed over without an attempt")
	awaitMails(t, mails, "still DOWN")
	bot = launch(t, binary, "bot", "--listen", address)
	awaitMails(t, mails, "DEGRADED after DOWN")
	bot.await(t, "health DEGRADED")
	awaitMails(t, mails, "HEALTHY again")
	bot.await(t, "health HEALTHY")
	stop()

	require.Positive(t, fates["suppressed"])
	require.Equal(t, 1, bot.printed("health DOWN"), "one trial")
	handed := handoffsOf(t, s, p)
	require.Positive(t, handed["failed"])
	require.Positive(t, handed["down"], "the ongoing conversations are handed over when the bot becomes DOWN")
	checkChanges(t, mails)
	require.InDelta(t, 4, down.Seconds(), 2, "DOWN when the last acknowledgement has left the window")
	t.Logf("DOWN %v after the bot was killed; fates at accept %v; handoffs %v; mails %v", down.Round(time.Millisecond), fates, handed, mails.subjects())
	require.NoError(t, gateway.command.Process.Signal(syscall.SIGTERM))
	<-gateway.ended
	require.Zero(t, gateway.command.ProcessState.ExitCode())
}

// handoffsOf counts the handoffs by their reasons.
func handoffsOf(t testing.TB, s *poster, p *gatewayProcess) map[string]int {
	var answer struct {
		Data []struct {
			Reason string
			Tags   []string
		}
	}
	s.read(t, p, "/bots/v3/handoffs?limit=1000", &answer)
	reasons := map[string]int{}
	for _, h := range answer.Data {
		require.Equal(t, []string{"Bot Handoff", "Automatic Bot Handoff"}, h.Tags)
		reasons[h.Reason]++
	}
	return reasons
}
