package main_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// pile posts n events to one page, numbered from first on, in arrays, each of about so many bytes. All must be queued.
func pile(t testing.TB, p *gatewayProcess, page string, first, n, size int) {
	t.Helper()
	const each = 500
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 4}}
	defer client.CloseIdleConnections()
	for at := first; at < first+n; at += each {
		var body bytes.Buffer
		until := min(at+each, first+n)
		for i := at; i < until; i++ {
			body.WriteByte("[,"[min(i-at, 1)])
			event := eventOf(page, fmt.Sprintf("author-%d", i%pileAuthors), i)
			body.WriteString(strings.TrimSuffix(event, "}") + `,"padding":"` + strings.Repeat("x", max(0, size-len(event)-len(`,"padding":""`))) + `"}`)
		}
		body.WriteByte(']')
		request, err := http.NewRequest(http.MethodPost, p.api+"/bots/v3/events", &body)
		require.NoError(t, err)
		request.Header.Set("Authorization", "Bearer "+p.token)
		request.Header.Set("Content-Type", "application/json")
		answer, err := client.Do(request)
		require.NoError(t, err)
		text, err := io.ReadAll(answer.Body)
		_ = answer.Body.Close()
		require.NoError(t, err)
		require.Equal(t, until-at, bytes.Count(text, []byte(`"queued"`)), "%d %.300s", answer.StatusCode, text)
	}
}

const pileAuthors = 97

// tally is a bot that counts what it gets of a pile, and keeps nothing of it.
type tally struct {
	url string

	mu             sync.Mutex
	seen           []bool // by number
	got, again     int    // different ones, and those that came once more
	latest         [pileAuthors]int
	strange, mixed int // of no pile; behind a later one of the same author
}

func startTally(t testing.TB, events int) *tally {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	b := &tally{url: "http://" + listener.Addr().String(), seen: make([]bool, events)}
	s := &http.Server{Handler: b}
	served := make(chan struct{})
	go func() { defer close(served); _ = s.Serve(listener) }()
	t.Cleanup(func() { _ = s.Close(); <-served })
	return b
}

// ServeHTTP implements http.Handler.
func (b *tally) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	_, after, _ := bytes.Cut(body, []byte(`"text":"`))
	number, _, _ := bytes.Cut(after, []byte(`"`))
	n, err := strconv.Atoi(string(number))
	b.note(n, err == nil)
	w.WriteHeader(http.StatusAccepted)
}

func (b *tally) note(n int, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case !ok || n < 0 || n >= len(b.seen):
		b.strange++
	case b.seen[n]:
		b.again++
	default:
		b.seen[n] = true
		b.got++
		if latest := &b.latest[n%pileAuthors]; n < *latest {
			b.mixed++
		} else {
			*latest = n
		}
	}
}

func (b *tally) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.got
}

// peakMemory is the most memory that a process has had so far, in MB; 0 where the system does not say.
func peakMemory(t testing.TB, p *gatewayProcess) float64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.command.Process.Pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kilobytes, err := strconv.ParseFloat(strings.Fields(value)[0], 64)
			require.NoError(t, err)
			return kilobytes * 1024 / 1e6
		}
	}
	return 0
}

// storeMemory is what the data of a store take.
func storeMemory(t testing.TB, store *redis.Client) int64 {
	t.Helper()
	return storeNumber(t, store, "memory", "used_memory") - storeNumber(t, store, "memory", "mem_aof_buffer") - storeNumber(t, store, "memory", "mem_clients_normal")
}

// holdDown registers a bot that holds its events on a page, and makes it DOWN by failures; the bot must fail now.
func holdDown(t testing.TB, p *gatewayProcess, page, url string) {
	t.Helper()
	require.Equal(t, http.StatusAccepted, registerBot(t, p, page, "app-"+page, url, map[string]any{"whenDown": "hold"}))
	s := newPoster(t)
	for i := range 10 {
		status, _, _ := s.post(p, eventOf(page, fmt.Sprint("down-", i), i))
		require.Equal(t, http.StatusAccepted, status)
	}
	eventually(t, func() bool { return s.health(t, p, "app-"+page).Status == "DOWN" }, "DOWN")
}

// TestC04MillionWaiting lets many events wait for one bot, and then deliver them.
func TestC04MillionWaiting(t *testing.T) {
	events, size := sized(20_000, 1_000_000), 1024
	url, store := storyRedis(t)
	p := startGateway(t, t.TempDir(), "--redis", url, "--pause", "1h", "--queue-events", "10000000", "--queue-bytes", "107374182400")
	bot := startTally(t, events)
	sick := startRecorder(t, func(arrival, <-chan struct{}) int { return http.StatusInternalServerError })
	holdDown(t, p, "page", sick.url)
	before := storeMemory(t, store)
	began := time.Now()
	pile(t, p, "page", 0, events, size)
	accepted := float64(events) / time.Since(began).Seconds()
	each := float64(storeMemory(t, store)-before) / float64(events)
	peak := peakMemory(t, p)
	require.Equal(t, events, queued(t, store))
	t.Logf("%d wait: %.0f accepted/s, %.0f bytes each, gateway's peak %.0f MB", events, accepted, each, peak)
	began = time.Now()
	require.Equal(t, http.StatusAccepted, registerBot(t, p, "page", "app-page", bot.url, map[string]any{"whenDown": "hold"}))
	require.Eventually(t, func() bool { return bot.count() == events }, 5*time.Minute, 50*time.Millisecond, "all of it is delivered")
	drained := float64(events) / time.Since(began).Seconds()
	eventually(t, func() bool { return queued(t, store) == 0 }, "and settled")
	end := peakMemory(t, p)
	require.Equal(t, []int{0, 0, 0}, []int{bot.again, bot.strange, bot.mixed}, "each once, nothing else, in order")
	verifyCommand(t, "--redis", url)
	measured(t, "%d events of %d bytes wait: %.0f accepted/s, %.0f bytes each in Redis, gateway's peak %.0f MB; drained at %.0f/s, peak %.0f MB", events, size,
		accepted, each, peak, drained, end)
	require.Less(t, end, sized(1000.0, 256.0), "the race detector makes everything bigger")
}

// held is a gateway on a store of its own with some well bots, and one that is DOWN and tried now and then.
type held struct {
	fleet  *fleet
	store  *redis.Client
	sick   *recorder
	tries  int // of the sick bot's when it was DOWN
	number int
}

const (
	heldPages = 10 // the last one is the sick bot's
	heldPause = 2 * time.Second
)

func openHeld(t *testing.T, waiting int) *held {
	t.Helper()
	url, store := storyRedis(t)
	h := &held{store: store, number: waiting}
	h.fleet = startFleet(t, 1, "--redis", url, "--pause", heldPause.String(), "--queue-events", "1000000")
	h.sick = startRecorder(t, func(arrival, <-chan struct{}) int { return http.StatusInternalServerError })
	registerPages(t, h.fleet.at(0), heldPages-1, startRecorder(t, accepts).url, nil)
	holdDown(t, h.fleet.at(0), pageName(heldPages-1), h.sick.url)
	h.tries = h.sick.count()
	pile(t, h.fleet.at(0), pageName(heldPages-1), 0, waiting, 0)
	return h
}

// ingest posts to all pages for a while, and returns how long the answers took.
func (h *held) ingest(t *testing.T, rate, events int) figures {
	t.Helper()
	l := startLoad(t, h.fleet, loadConfig{rate: rate, pages: heldPages, limit: events, first: h.number, writers: 64})
	h.number += events
	l.finish(t)
	require.Empty(t, l.refusals)
	var times []time.Duration
	for _, e := range l.ids {
		times = append(times, e.accepted.Sub(e.due))
	}
	return newFigures(times, time.Second)
}

// trials requires that the sick bot has had nothing but trials of the first event that is held, and returns how many.
func (h *held) trials(t *testing.T) (n int) {
	t.Helper()
	var last time.Time
	for _, a := range h.sick.all()[h.tries:] {
		require.Zero(t, a.n, "it is the head of the queue that is tried")
		if a.try == 1 {
			require.Greater(t, a.at.Sub(last), heldPause-100*time.Millisecond)
			last = a.at
			n++
		}
	}
	return n
}

// TestH03HeldEventsCostIngestNothing holds how long accepting takes while much waits for a bot that is DOWN against how long it takes while
// next to nothing does, on two gateways by turns: by more of them while they cannot be told apart, because the slowest of a turn are those that came
// while the disk was syncing.
func TestH03HeldEventsCostIngestNothing(t *testing.T) {
	waiting, pairs, most, rate, seconds := sized(5_000, 100_000), sized(1, 9), sized(1, 27), sized(200, 400), sized(1, 4)
	began := time.Now()
	shallow, deep := openHeld(t, 1), openHeld(t, waiting)
	var without, with []figures
	shallow.ingest(t, rate, rate) // warm
	deep.ingest(t, rate, rate)
	ratio := func() float64 { return float64(medianOf(with, p99Of)) / float64(medianOf(without, p99Of)) }
	for len(with) < pairs || len(with) < most && ratio() > 1.2 {
		without = append(without, shallow.ingest(t, rate, seconds*rate))
		with = append(with, deep.ingest(t, rate, seconds*rate))
		t.Logf("next to nothing waits: p50 %v p99 %v; much waits: p50 %v p99 %v", without[len(without)-1].p50, without[len(without)-1].p99,
			with[len(with)-1].p50, with[len(with)-1].p99)
	}
	eventually(t, func() bool { return deep.trials(t) > 0 && shallow.trials(t) > 0 }, "trials")
	trials := deep.trials(t)
	require.LessOrEqual(t, trials, int(time.Since(began)/heldPause)+1)
	require.GreaterOrEqual(t, queued(t, deep.store), waiting, "all of it is held")
	measured(t, "%d held: %d trials of the first in %v, nothing else tried; ingest at %d/s p99 %v, without %v (%.2f times, medians of %d turns)", waiting, trials,
		time.Since(began).Round(time.Second), rate, medianOf(with, p99Of), medianOf(without, p99Of), ratio(), len(with))
	if pairs > 1 {
		require.LessOrEqual(t, ratio(), 1.2)
	}
}
