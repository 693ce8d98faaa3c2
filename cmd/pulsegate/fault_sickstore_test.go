package main_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/pulsegate/pulsegate/cmd/rig"
)

// sickScene is a gateway with a load on a redis-server that is about to fall ill, and that has some events waiting.
type sickScene struct {
	server *rig.Server
	fleet  *fleet
	bot    *recorder
	audit  *auditor
	load   *load
	poster *poster
}

func startSickScene(t *testing.T, server *rig.Server) *sickScene {
	t.Helper()
	s := &sickScene{server: server, bot: startRecorder(t, slow(20*time.Millisecond)), poster: newPoster(t)}
	s.fleet = startFleet(t, 1, "--redis", server.URL, "--health-window", "1h")
	registerPages(t, s.fleet.at(0), killPages, s.bot.url, map[string]any{"maxConcurrency": 1}) // so that a part of the load waits
	s.audit = startAuditor(t, server.Client())
	s.load = startLoad(t, s.fleet, loadConfig{rate: 200, pages: killPages, writers: 1, rest: 100 * time.Millisecond})
	eventually(t, func() bool { return s.load.count.Load() > int64(sized(150, 1_000)) }, "events are accepted")
	return s
}

// sickness is what was seen of a gateway while its store was ill.
type sickness struct {
	asked   int
	slowest time.Duration // refusal
	cpu     float64       // of one core, 0.1 is a tenth
}

// holdsOut requires for a while that the gateway lives, is not ready, says why, and refuses at once with Retry-After.
func (s *sickScene) holdsOut(t *testing.T, long time.Duration, store, why string) (seen sickness) {
	t.Helper()
	p := s.fleet.at(0)
	eventually(t, func() bool { return p.ready(t).Store == store }, "the gateway knows how its store is")
	used, began := metric(t, p, "process_cpu_seconds_total"), time.Now()
	for ; time.Since(began) < long; <-time.After(300 * time.Millisecond) {
		status, _ := p.get(p.api + "/healthz")
		require.Equal(t, http.StatusOK, status)
		said := p.ready(t)
		require.Equal(t, http.StatusServiceUnavailable, said.status)
		require.Equal(t, store, said.Store)
		require.Contains(t, fmt.Sprint(said.Missing), why)
		asked := time.Now()
		a := s.poster.ask(p, eventOf(pageName(0), "watcher", seen.asked))
		seen.slowest = max(seen.slowest, time.Since(asked))
		seen.asked++
		require.Equal(t, http.StatusServiceUnavailable, a.status, a.text)
		require.NotEmpty(t, a.header.Get("Retry-After"))
		require.Contains(t, a.text, why)
	}
	seen.cpu = (metric(t, p, "process_cpu_seconds_total") - used) / time.Since(began).Seconds()
	require.Less(t, seen.slowest, 2*time.Second)
	return seen
}

// recovers requires that events are accepted again soon after a moment, and that nothing was lost; it returns after what time.
func (s *sickScene) recovers(t *testing.T, well time.Time, soon time.Duration) (back time.Duration, again int) {
	t.Helper()
	before := s.load.count.Load()
	eventually(t, func() bool { return s.load.count.Load() > before }, "events are accepted again")
	back = time.Since(well)
	require.LessOrEqual(t, back, soon)
	eventually(t, func() bool { return s.fleet.at(0).ready(t).status == http.StatusOK }, "the gateway is ready again")
	s.load.stop()
	found := awaitFates(t, s.server.Client())
	c := s.load.nothingLost(t, s.bot)
	require.Equal(t, s.load.count.Load(), found.Accepted)
	require.Equal(t, found.Accepted, found.Fates["delivered"])
	require.Zero(t, s.load.bare, "with Retry-After")
	require.Zero(t, s.load.refusedWith(0), "the gateway answers always")
	s.load.saysNothingOfRedis(t)
	verifyCommand(t, "--redis", s.server.URL)
	return back, c.again
}

// TestR06StoreThatLoadsForLong kills the redis-server and has it take its time to read its files: LOADING.
func TestR06StoreThatLoadsForLong(t *testing.T) {
	server := rig.StartServer(t, rig.ServerConfig{Args: append(rig.AppendOnly(),
		"--auto-aof-rewrite-percentage", "0",
		"--key-load-delay", "20", // us at least for each key
		"--loading-process-events-interval-bytes", "1024", "--rdbcompression", "no", // it answers so often, as one on a faster machine: who asks all the time finds it
	)})
	s := startSickScene(t, server)
	fill(t, server.Client(), sized(60_000, 300_000))
	server.Kill()
	killed := time.Now()
	server.Launch()
	seen := s.holdsOut(t, sized(2*time.Second, 10*time.Second), "loading", "the store is loading its data")
	_, err := server.Client().Get(t.Context(), "any").Result()
	require.ErrorContains(t, err, "LOADING", "it has loaded all the time")
	require.NoError(t, server.Client().ConfigSet(t.Context(), "key-load-delay", "0").Err())
	server.AwaitAnswer()
	well := time.Now()
	back, again := s.recovers(t, well, 2*time.Second)
	require.Less(t, seen.cpu, sized(.25, .10), "no busy loop") // in short also what the race detector takes
	measured(t, "loading for %.1f s: %d of %d refused with Retry-After within %v, healthz 200, readyz 503, %.1f %% of a core; accepting again %v after it, %d events, 0 lost, %d came again, ledger balanced in %d samples",
		well.Sub(killed).Seconds(), seen.asked, seen.asked, seen.slowest.Round(100*time.Microsecond), 100*seen.cpu, back.Round(time.Millisecond), s.load.count.Load(), again, s.audit.balanced(t))
}

// fill writes keys into another database of a server, and has it write all that it holds into one file, so that it has something to load.
func fill(t *testing.T, client *redis.Client, keys int) {
	t.Helper()
	filler := strings.Repeat("filler ", 30)
	conn := client.Conn()
	defer func() { _ = conn.Close() }()
	for first := 0; first < keys; first += 10_000 {
		pipe := conn.Pipeline()
		pipe.Select(t.Context(), 1)
		for i := range min(10_000, keys-first) {
			pipe.Set(t.Context(), "filler:"+strconv.Itoa(first+i), filler, 0)
		}
		pipe.Select(t.Context(), 0)
		_, err := pipe.Exec(t.Context())
		require.NoError(t, err)
	}
	require.NoError(t, client.BgRewriteAOF(t.Context()).Err())
	eventually(t, func() bool {
		info, err := client.Info(t.Context(), "persistence").Result()
		return err == nil && strings.Contains(info, "aof_rewrite_in_progress:0") && strings.Contains(info, "aof_rewrite_scheduled:0")
	}, "the file is written")
}

// TestR12StoreThatCannotWriteItsFiles leaves a redis-server no room for its files: writes are refused with MISCONF, until there is room again.
func TestR12StoreThatCannotWriteItsFiles(t *testing.T) {
	t.Run("append-only file", func(t *testing.T) {
		server := rig.StartServer(t, rig.ServerConfig{Args: rig.AppendOnly(), Limitable: true})
		const room = 32 << 10
		lacksRoom(t, "append-only file", server, "aof_last_write_status:ok", func() { server.LimitFiles(room + fileSize(t, server, "appendonlydir/*.incr.aof")) })
	})
	t.Run("snapshot", func(t *testing.T) {
		server := rig.StartServer(t, rig.ServerConfig{Limitable: true})
		lacksRoom(t, "snapshot", server, "rdb_last_bgsave_status:ok", func() {
			server.LimitFiles(0)
			require.NoError(t, server.Client().ConfigSet(t.Context(), "save", "1 1").Err())
		})
	})
}

// lacksRoom has a server fall ill, and gives it back its room. It is well when its INFO says so.
func lacksRoom(t *testing.T, name string, server *rig.Server, healthy string, fall func()) {
	s := startSickScene(t, server)
	fall()
	seen := s.holdsOut(t, sized(time.Second, 10*time.Second), "unwritable", "the store cannot write its files")
	server.LimitFiles(rig.Unlimited)
	if name == "snapshot" && sized(true, false) { // redis-server tries again by itself, 5 s after it failed
		_ = server.Client().BgSave(t.Context()).Err()
	}
	eventually(t, func() bool {
		info, err := server.Client().Info(t.Context(), "persistence").Result()
		require.NoError(t, err)
		return strings.Contains(info, healthy)
	}, "redis-server writes again by itself")
	back, again := s.recovers(t, time.Now(), 2*time.Second)
	measured(t, "no room for the %s: %d of %d refused with Retry-After within %v, readyz says why, %.1f %% of a core; accepting again %v after redis-server wrote again, %d events, 0 lost, %d came again, ledger balanced in %d samples",
		name, seen.asked, seen.asked, seen.slowest.Round(100*time.Microsecond), 100*seen.cpu, back.Round(time.Millisecond), s.load.count.Load(), again, s.audit.balanced(t))
}

// fileSize is the size of the file of a server that a pattern names.
func fileSize(t *testing.T, server *rig.Server, pattern string) uint64 {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(server.Dir, pattern))
	require.NoError(t, err)
	require.Len(t, names, 1)
	about, err := os.Stat(names[0])
	require.NoError(t, err)
	return uint64(about.Size())
}
