package main_test

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// metric reads one number of a gateway's /metrics.
func metric(t testing.TB, p *gatewayProcess, name string) float64 {
	t.Helper()
	status, page := p.get(p.ops + "/metrics")
	require.Equal(t, http.StatusOK, status)
	for line := range strings.Lines(page) {
		if text, ok := strings.CutPrefix(line, name+" "); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
			require.NoError(t, err)
			return n
		}
	}
	require.Fail(t, "no metric "+name)
	return 0
}

// TestR22HolderThatStoodStillIsRefused stops a gateway with SIGSTOP in the middle of its tries until another has taken over its bot, and lets
// it go on.
func TestR22HolderThatStoodStillIsRefused(t *testing.T) {
	rounds := sized(1, 10)
	url, store := storyRedis(t)
	var mu sync.Mutex
	hang := map[string]chan struct{}{} // by author: the first try of such an event waits
	bot := startRecorder(t, func(a arrival, gone <-chan struct{}) int {
		mu.Lock()
		wait := hang[a.author]
		delete(hang, a.author)
		mu.Unlock()
		if wait != nil {
			<-wait
		}
		return http.StatusAccepted
	})
	f := startFleet(t, 2, "--redis", url)
	registerPages(t, f.at(0), 1, bot.url, nil)
	audit := startAuditor(t, store)
	s := newPoster(t)
	lost, events := 0.0, 0
	for round := range rounds {
		stopped, other, answer := f.at(0), f.at(1), make(chan struct{})
		eventually(t, func() bool {
			standing, err := store.Keys(t.Context(), "pg:*:st:*").Result()
			require.NoError(t, err)
			return len(standing) == 0 || store.HGet(t.Context(), standing[0], "lo").Val() == ""
		}, "who had it in the round before has given it back")
		var authors []string
		for i := range 10 {
			authors = append(authors, fmt.Sprintf("author-%d-%d", round, i))
			mu.Lock()
			hang[authors[i]] = answer
			mu.Unlock()
		}
		ids := map[string]bool{}
		post := func(p *gatewayProcess, author string, n int) {
			status, id, _ := s.post(p, eventOf(pageName(0), author, n))
			require.Equal(t, http.StatusAccepted, status)
			ids[id] = true
			events++
		}
		for i, author := range authors {
			post(stopped, author, i)
		}
		eventually(t, func() bool { mu.Lock(); defer mu.Unlock(); return len(hang) == 0 }, "all are under way")
		before := metric(t, stopped, "pulsegate_delivery_leases_lost_total")
		require.NoError(t, stopped.command.Process.Signal(syscall.SIGSTOP))
		for i, author := range authors {
			post(other, author, 100+i)
		}
		seen := func() map[string]int {
			times := map[string]int{}
			for _, a := range bot.all() {
				if ids[a.id] {
					times[a.id]++
				}
			}
			return times
		}
		require.Eventually(t, func() bool { return len(seen()) == len(ids) }, 30*time.Second, 20*time.Millisecond, "the other takes over")
		close(answer)
		require.NoError(t, stopped.command.Process.Signal(syscall.SIGCONT))
		eventually(t, func() bool { return metric(t, stopped, "pulsegate_delivery_leases_lost_total") > before }, "what it settles is refused")
		eventually(t, func() bool {
			total := 0
			for _, n := range seen() {
				require.LessOrEqual(t, n, 2)
				total += n
			}
			return total == len(ids)+len(authors)
		}, "what was under way came twice, the rest once")
		lost += metric(t, stopped, "pulsegate_delivery_leases_lost_total") - before
	}
	found := awaitFates(t, store)
	require.EqualValues(t, events, found.Fates["delivered"])
	require.Equal(t, events, s.health(t, f.at(0), "app-"+pageName(0)).SuccessCount, "each outcome counts once")
	verifyCommand(t, "--redis", url)
	measured(t, "%d times stopped with 10 deliveries under way and woken after the takeover: refused %.0f times, 0 of %d events more than twice, ledger balanced in %d samples",
		rounds, lost, events, audit.balanced(t))
}
