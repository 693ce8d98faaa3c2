package delivery_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/pulsegate/pulsegate/delivery"
	"github.com/pulsegate/pulsegate/health"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// world is one registration with its bot, its gateways and the model of it.
type world struct {
	t        testing.TB
	store    *miniredis.Miniredis
	client   redis.UniversalClient // of the test's own
	bot      *bot
	replicas []*replica
	clients  map[*replica]redis.UniversalClient
	number   int
	key      string // of the registration's standing

	mu     sync.Mutex
	answer string // ok, fail or hang
	model  model
	trace  []string
	held   time.Time // when events may last have been held
}

func newWorld(t testing.TB) *world {
	w := &world{t: t, store: miniredis.NewMiniRedis(), clients: map[*replica]redis.UniversalClient{}, answer: "ok", bot: newBot(t)}
	w.store.ClockTTL(true)
	t.Cleanup(w.store.Close)
	w.client = w.newClient()
	w.model.mode = delivery.Live
	w.bot.answers(w.serve)
	w.join()
	require.NoError(t, w.replicas[0].Create(t.Context(), w.registration()))
	w.model.reset = time.Now()
	w.key = onlyKey(t, w.client, "pg:*:st:*")
	return w
}

func (w *world) newClient() redis.UniversalClient {
	return newClient(w.t, func(context.Context, string, string) (net.Conn, error) { return w.store.Dial() })
}

func (w *world) registration() delivery.Registration {
	return registration("e1", "app", func(r *delivery.Registration) {
		r.Mode, r.TimeToLive = w.model.mode, w.model.ttl
		if w.model.hold {
			r.WhenDown = delivery.Hold
		}
	})
}

// join starts one more gateway.
func (w *world) join() {
	client := w.newClient()
	r := startReplica(w.t, client, w.bot, func(c *delivery.Config) {
		c.Rules = health.Rules{Window: modelWindow, Pause: modelPause, MinAttempts: modelMin}
		c.QueueEvents, c.DeliveryTimeout, c.HoldTime = modelQueue, modelTimeout, modelHold
	})
	w.replicas = append(w.replicas, r)
	w.clients[r] = client
}

// crash kills a gateway: it writes nothing more, and what it was at is cut off.
func (w *world) crash(i int) {
	r := w.replicas[i%len(w.replicas)]
	w.replicas = slices.DeleteFunc(w.replicas, func(o *replica) bool { return o == r })
	_ = w.clients[r].Close()
	r.Kill()
	r.stop()
	w.model.crashed = time.Now()
	for _, d := range w.model.all {
		if d.ended.IsZero() {
			d.crashes++
		}
	}
	if len(w.replicas) == 0 {
		w.join()
	}
}

// serve is the bot: it takes 50 ms, or as long as it is waited for.
func (w *world) serve(q request) int {
	w.mu.Lock()
	answer := w.answer
	t := &try{id: q.header.Get("X-Request-Id"), author: q.event["author"].(map[string]any)["id"].(string), at: time.Now(), ok: answer == "ok"}
	w.model.tries = append(w.model.tries, t)
	w.mu.Unlock()
	takes := 50 * time.Millisecond
	if answer == "hang" {
		takes = modelTimeout + 10*time.Millisecond
	}
	pass(takes)
	w.mu.Lock()
	defer w.mu.Unlock()
	t.ended = time.Now()
	return map[string]int{"ok": http.StatusAccepted, "fail": http.StatusInternalServerError, "hang": http.StatusOK}[answer]
}

// seen is a line of the story, for whoever must find out what went wrong.
func (w *world) seen(i int, s step, h health.Standing) string {
	m, due := &w.model, ""
	st := w.client.HGetAll(w.t.Context(), w.key).Val()
	tag, _, _ := strings.Cut(w.key, "}")
	for _, z := range w.client.ZRangeWithScores(w.t.Context(), tag+"}:due", 0, -1).Val() {
		due = time.UnixMilli(int64(z.Score)).UTC().Format("05.000")
	}
	return fmt.Sprintf("%s %d %s %+v: bot %s, %s hold %v ttl %v, %s paused to %s, %d wait, lease of %.4s, due %s, xp %s",
		time.Now().UTC().Format("04:05.000"), i, s.kind, s, w.answer, m.mode, m.hold, m.ttl, h.State, h.PausedUntil.UTC().Format("05.000"), m.waiting(),
		st["lo"], due, st["xp"])
}

func (w *world) standing() health.Standing { return w.replicas[0].healthOf(w.t, "app").Standing }
