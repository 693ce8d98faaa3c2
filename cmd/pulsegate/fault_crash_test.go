package main_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/pulsegate/pulsegate/cmd/rig"
)

// crashScene is a gateway that reaches its Redis through a wire only, with a bot on each of some pages, which has delivered one event already.
type crashScene struct {
	redis  *rig.Server
	store  *redis.Client
	wire   *rig.Wire
	fleet  *fleet
	bot    *recorder
	poster *poster
	pages  int
	events []string // numbered from 0, in turn for each page, each of another author
}

func startCrashScene(t *testing.T, pages, events int, answer func(arrival, <-chan struct{}) int) *crashScene {
	t.Helper()
	server := rig.StartServer(t, rig.ServerConfig{Args: rig.AppendOnly()})
	s := &crashScene{redis: server, store: server.Client(), wire: rig.NewWire(t, server.Addr), poster: newPoster(t), pages: pages}
	s.bot = startRecorder(t, accepts)
	s.fleet = startFleet(t, 1, "--redis", "redis://"+s.wire.Addr(), "--health-window", "1h")
	registerPages(t, s.fleet.at(0), pages, s.bot.url, nil)
	for i := range pages {
		status, _, _ := s.poster.post(s.fleet.at(0), eventOf(pageName(i), "warm", i))
		require.Equal(t, http.StatusAccepted, status)
	}
	for i := range events {
		s.events = append(s.events, eventOf(pageName(i%pages), fmt.Sprint("author-", i), i))
	}
	awaitFates(t, s.store)
	s.bot.answers(answer)
	return s
}

// killAndHeal kills the gateway, lets the wire pass again, and starts another gateway.
func (s *crashScene) killAndHeal(t *testing.T) time.Time {
	t.Helper()
	at := s.fleet.kill(t, 0)
	s.wire.Pass()
	s.fleet.replace(t, 0)
	return at
}

// settledOnce requires that each event ended in one acknowledgement, and that the bot saw it so many times under one id.
func (s *crashScene) settledOnce(t *testing.T, times int) {
	t.Helper()
	found := awaitFates(t, s.store)
	require.EqualValues(t, len(s.events)+s.pages, found.Accepted)
	require.Equal(t, found.Accepted, found.Fates["delivered"])
	seen := map[int][]arrival{}
	for _, a := range s.bot.all() {
		if a.author != "warm" {
			seen[a.n] = append(seen[a.n], a)
		}
	}
	require.Len(t, seen, len(s.events))
	for n, got := range seen {
		require.Len(t, got, times, n)
		require.Equal(t, got[0].id, got[len(got)-1].id, "the same webhook-id")
	}
	acknowledged := 0
	for i := range s.pages {
		acknowledged += s.poster.health(t, s.fleet.at(0), "app-"+pageName(i)).SuccessCount
	}
	require.Equal(t, len(s.events)+s.pages, acknowledged, "each is acknowledged once")
	verifyCommand(t, "--redis", s.redis.URL)
}

// TestR02KilledBetweenTheBotsAnswerAndItsMark lets bots acknowledge events while nothing that the gateway writes reaches Redis any more, and
// kills the gateway when it has heard all the answers.
func TestR02KilledBetweenTheBotsAnswerAndItsMark(t *testing.T) {
	t.Parallel() // it waits for the end of a lease
	events := sized(10, 200)
	var came, cut sync.WaitGroup
	came.Add(events)
	cut.Add(1)
	var first sync.Map // events that were answered while the wire was cut
	s := startCrashScene(t, events, events, func(a arrival, _ <-chan struct{}) int {
		if _, again := first.LoadOrStore(a.n, true); !again {
			came.Done()
			cut.Wait()
		}
		return http.StatusOK
	})
	for _, e := range s.events {
		status, _, _ := s.poster.post(s.fleet.at(0), e)
		require.Equal(t, http.StatusAccepted, status)
	}
	came.Wait()
	s.wire.Cut(rig.ToServer)
	cut.Done()
	answered := fmt.Sprintf("pulsegate_delivery_tries_total{class=\"acknowledged\"} %d\n", events+s.pages)
	eventually(t, func() bool {
		_, metrics := s.fleet.at(0).get(s.fleet.at(0).ops + "/metrics")
		return strings.Contains(metrics, answered)
	}, "the gateway has heard all answers")
	killed := s.killAndHeal(t)
	s.settledOnce(t, 2)
	measured(t, "%d events answered and not marked: each came exactly twice with one id and counts once; the last again %.1f s after the kill",
		len(s.events), lastAt(s.bot.all()).Sub(killed).Seconds())
}

// TestR03KilledBetweenTheStoreAndThe202 has events stored whose stored-reply never reaches the gateway, and kills it. The source, which got no
// answer, posts them again.
func TestR03KilledBetweenTheStoreAndThe202(t *testing.T) {
	t.Parallel()                                        // it waits for the end of a lease
	s := startCrashScene(t, 1, sized(10, 200), accepts) // of one page: they are stored by one script
	s.wire.Cut(rig.ToClient)
	answered := make(chan int, 1)
	go func() { answered <- s.poster.ask(s.fleet.at(0), "["+strings.Join(s.events, ",")+"]").status }()
	eventually(t, func() bool { return queued(t, s.store) == len(s.events) }, "Redis has them all")
	killed := s.killAndHeal(t)
	require.NotEqual(t, http.StatusAccepted, <-answered)
	for _, e := range s.events {
		status, id, _ := s.poster.post(s.fleet.at(0), e)
		require.Equal(t, http.StatusAccepted, status)
		_, again, _ := s.poster.post(s.fleet.at(0), e)
		require.Equal(t, id, again)
	}
	s.settledOnce(t, 1)
	measured(t, "%d events stored without a 202 and posted twice more: 1 entry and 1 delivery each; the last %.1f s after the kill",
		len(s.events), lastAt(s.bot.all()).Sub(killed).Seconds())
}

func lastAt(got []arrival) time.Time { return got[len(got)-1].at }

// queued counts what lies in the queues of a server.
func queued(t testing.TB, store *redis.Client) (n int) {
	t.Helper()
	keys, err := store.Keys(t.Context(), "pg:{*}:q:*").Result()
	require.NoError(t, err)
	for _, key := range keys {
		length, err := store.XLen(t.Context(), key).Result()
		require.NoError(t, err)
		n += int(length)
	}
	return n
}
