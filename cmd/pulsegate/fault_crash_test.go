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

// crashScene is a gateway that reaches its Redis through a wire only, with a bot on each of some pages.
type crashScene struct {
	redis  *rig.Server
	store  *redis.Client
	wire   *rig.Wire
	fleet  *fleet
	bot    *recorder
	poster *poster
	events []string // one for each page
	warm   int      // events of each page before
}

func startCrashScene(t *testing.T, answer func(arrival, <-chan struct{}) int) *crashScene {
	t.Helper()
	server := rig.StartServer(t, rig.ServerConfig{Args: rig.AppendOnly()})
	s := &crashScene{redis: server, store: server.Client(), wire: rig.NewWire(t, server.Addr), poster: newPoster(t)}
	s.bot = startRecorder(t, answer)
	s.fleet = startFleet(t, 1, "--redis", "redis://"+s.wire.Addr(), "--health-window", "1h")
	pages := sized(10, 200)
	registerPages(t, s.fleet.at(0), pages, s.bot.url, nil)
	for i := range pages {
		s.events = append(s.events, eventOf(pageName(i), "ann", i))
	}
	return s
}

// warmUp has each page deliver an event, so that the gateway knows them all.
func (s *crashScene) warmUp(t *testing.T) {
	t.Helper()
	for i := range s.events {
		status, _, _ := s.poster.post(s.fleet.at(0), eventOf(pageName(i), "warm", i))
		require.Equal(t, http.StatusAccepted, status)
	}
	s.warm = 1
	awaitFates(t, s.store)
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
	require.EqualValues(t, len(s.events)*(1+s.warm), found.Accepted)
	require.Equal(t, found.Accepted, found.Fates["delivered"])
	seen := map[string][]arrival{}
	for _, a := range s.bot.all() {
		if a.author != "warm" {
			seen[a.page] = append(seen[a.page], a)
		}
	}
	require.Len(t, seen, len(s.events))
	for page, got := range seen {
		require.Len(t, got, times, page)
		require.Equal(t, got[0].id, got[len(got)-1].id, "the same webhook-id")
		require.Equal(t, healthAnswer{"HEALTHY", 0, 1 + s.warm}, s.poster.health(t, s.fleet.at(0), "app-"+page), "acknowledged once")
	}
	verifyCommand(t, "--redis", s.redis.URL)
}

// TestR02KilledBetweenTheBotsAnswerAndItsMark lets bots acknowledge events while nothing that the gateway writes reaches Redis any more, and
// kills the gateway when it has heard all the answers.
func TestR02KilledBetweenTheBotsAnswerAndItsMark(t *testing.T) {
	var s *crashScene
	var came, cut sync.WaitGroup
	cut.Add(1)
	var first sync.Map // pages that were answered while the wire was cut
	s = startCrashScene(t, func(a arrival, _ <-chan struct{}) int {
		if _, again := first.LoadOrStore(a.page, true); !again {
			came.Done()
			cut.Wait()
		}
		return http.StatusOK
	})
	came.Add(len(s.events))
	for _, e := range s.events {
		status, _, _ := s.poster.post(s.fleet.at(0), e)
		require.Equal(t, http.StatusAccepted, status)
	}
	came.Wait()
	s.wire.Cut(rig.ToServer)
	cut.Done()
	answered := fmt.Sprintf("pulsegate_delivery_tries_total{class=\"acknowledged\"} %d\n", len(s.events))
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
	s := startCrashScene(t, accepts)
	s.warmUp(t)
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
