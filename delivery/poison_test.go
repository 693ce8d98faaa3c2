package delivery_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/pulsegate/pulsegate/health"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// poisoned panics at one payload, before the bot has it or after.
type poisoned struct{ http.RoundTripper }

func (p poisoned) RoundTrip(req *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	if bytes.Contains(body, []byte("poison before")) {
		panic("private words")
	}
	req.Body = io.NopCloser(bytes.NewReader(body))
	res, err := p.RoundTripper.RoundTrip(req)
	if bytes.Contains(body, []byte("poison after")) {
		panic("private words")
	}
	return res, err
}

func TestR15PoisonCostsItsOwnDeliveryOnly(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		b := newBot(t)
		r := startReplica(t, client, b, func(c *delivery.Config) {
			dial := c.Dial
			c.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
				if strings.HasPrefix(addr, "poison.example") {
					panic("private words")
				}
				return dial(ctx, network, addr)
			}
		})
		r.Through(func(rt http.RoundTripper) http.RoundTripper { return poisoned{rt} })
		require.NoError(t, r.Create(t.Context(), registration("e1", "app")))
		require.NoError(t, r.Create(t.Context(), registration("e2", "other")))
		require.NoError(t, r.Create(t.Context(), registration("e3", "far", func(r *delivery.Registration) { r.CallbackURL = "http://poison.example/" })))
		poison := func(ext, text string, n int) delivery.Incoming {
			in := message(ext, "ann", n)
			in.Body = bytes.Replace(in.Body, fmt.Appendf(nil, "n %d", n), []byte(text), 1)
			return in
		}
		var neighbours []delivery.Incoming
		for i := range 100 {
			neighbours = append(neighbours, message([]string{"e1", "e2"}[i%2], []string{"ann", "ben", "cem"}[i%3], 10+i))
		}
		bad := r.send(t, poison("e1", "poison before", 1), poison("e1", "poison after", 2), message("e3", "ann", 3))
		good := r.send(t, neighbours...)
		for _, rc := range bad {
			rec := r.settled(t, rc.ID)
			require.Equal(t, delivery.Failed, rec.Fate)
			require.Equal(t, 2, rec.Tries)
			require.Equal(t, health.Broken, rec.Class)
			require.NotEmpty(t, rec.Message)
			require.NotContains(t, rec.Message, "private")
			require.NotEmpty(t, rec.Payload, "it can be delivered again when we are mended")
		}
		for _, rc := range good {
			require.Equal(t, delivery.Delivered, r.settled(t, rc.ID).Fate)
		}
		seen := map[float64]int{}
		for _, n := range numbersOf(b) {
			seen[n]++
		}
		require.Equal(t, 2, seen[2], "two deliveries at most")
		for i := range 100 {
			require.Equal(t, 1, seen[float64(10+i)])
		}
		v := balanced(t, client)
		require.EqualValues(t, 3, v.Fates[delivery.Failed])
		require.EqualValues(t, 100, v.Fates[delivery.Delivered])
		t.Attr("measured", "3 poisoned payloads (before, after and at the connection): 2 tries each, failed with a reason; 100 of 100 neighbours delivered once")
	})
}

// faulty is a log that panics once at a message.
type faulty struct {
	slog.Handler
	at   string
	once *sync.Once
	log  *bytes.Buffer
	mu   *sync.Mutex
}

func (f faulty) Enabled(context.Context, slog.Level) bool { return true }

func (f faulty) Handle(_ context.Context, r slog.Record) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	fmt.Fprintln(f.log, r.Message)
	r.Attrs(func(a slog.Attr) bool { fmt.Fprintln(f.log, a); return true })
	if r.Message == f.at {
		f.once.Do(func() { panic("private words") })
	}
	return nil
}

// A lane that panics must not take the process with it, nor keep its registration for ever.
func TestR15LaneThatPanicsIsBegunAnew(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		b := newBot(t)
		fault := faulty{slog.DiscardHandler, "health changed", new(sync.Once), &bytes.Buffer{}, &sync.Mutex{}}
		r := startReplica(t, client, b, func(c *delivery.Config) { c.Log = slog.New(fault) })
		require.NoError(t, r.Create(t.Context(), registration("e1", "app")))
		require.NoError(t, r.Create(t.Context(), registration("e2", "other")))
		r.settled(t, r.send(t, message("e1", "ann", 1))[0].ID)
		logged := func() string { fault.mu.Lock(); defer fault.mu.Unlock(); return fault.log.String() }
		soon(t, func() bool { return strings.Contains(logged(), "lane panicked") }, "the panic")
		rcs := r.send(t, message("e1", "ann", 2), message("e2", "ann", 3))
		began := time.Now()
		require.Equal(t, delivery.Delivered, r.settled(t, rcs[1].ID).Fate)
		neighbour := time.Since(began)
		require.Equal(t, delivery.Delivered, r.settled(t, rcs[0].ID).Fate)
		require.Len(t, b.requests(), 3)
		require.NotContains(t, logged(), "private words")
		balanced(t, client)
		t.Attr("measured", fmt.Sprintf("a lane panicked: its registration went on after %v, another one's event was delivered in %v",
			time.Since(began).Round(100*time.Millisecond), neighbour.Round(time.Millisecond)))
	})
}
