package delivery_test

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/pulsegate/pulsegate/health"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

func TestH07OneDeliveryIsOneOutcomeHoweverManyTries(t *testing.T) {
	cases := map[string]struct {
		answers      []int // to the tries, in their order; 0: none
		tries        int
		acknowledged int64
		failed       int64
	}{
		"acknowledged at once":       {[]int{202}, 1, 1, 0},
		"acknowledged at the second": {[]int{500, 200}, 2, 1, 0},
		"late, then acknowledged":    {[]int{0, 202}, 2, 1, 0},
		"failed twice":               {[]int{500, 503}, 2, 0, 1},
		"late, then failed":          {[]int{0, 404}, 2, 0, 1},
		"late twice":                 {[]int{0, 0}, 2, 0, 1},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBot(t)
				var n atomic.Int64
				b.answers(func(request) int { return c.answers[n.Add(1)-1] })
				r := startReplica(t, newMiniredis(t), b)
				require.NoError(t, r.Create(t.Context(), registration("e", "app")))
				rec := r.settled(t, r.send(t, message("e", "ann", 1))[0].ID)
				require.Equal(t, c.tries, rec.Tries)
				require.Len(t, b.requests(), c.tries)
				<-time.After(5 * time.Second) // of fake time: nothing comes after it
				require.Len(t, b.requests(), c.tries)
				h := r.healthOf(t, "app")
				require.Equal(t, []int64{c.acknowledged, c.failed}, []int64{h.Counts.Acknowledged, h.Counts.Failed})
			})
		})
	}
	t.Attr("measured", fmt.Sprintf("%d ways for two tries to end: one outcome each", len(cases)))
}

// rotating is a bot on an entity that two replicas serve, and the change of its registration.
type rotating struct {
	client   redis.UniversalClient
	a, b     *replica
	old, new *wildBot
	before   delivery.Registration
	after    delivery.Registration
	sent     int
}

// startRotating registers a bot at the address of old; after the change it is at that of new, with another secret.
func startRotating(t testing.TB, old func(*wildBot, net.Conn, int64)) *rotating {
	r := &rotating{client: newRedisServer(t), old: startWildBot(t, old), new: startWildBot(t, accepting)}
	change := func(c *delivery.Config) { c.Rules.MinAttempts, c.DeliveryTimeout = 3, 5*time.Second }
	r.a, r.b = outwardOn(t, r.client, change), outwardOn(t, r.client, change)
	r.before = registration("e", "app", func(reg *delivery.Registration) { reg.CallbackURL = r.old.url("/") })
	r.after = registration("e", "app", func(reg *delivery.Registration) {
		reg.CallbackURL = r.new.url("/")
		reg.Credentials.Secret = "rotated"
	})
	require.NoError(t, r.a.Create(t.Context(), r.before))
	return r
}

// event sends one event of an author of its own to either replica.
func (r *rotating) event(t testing.TB) string {
	r.sent++
	return []*replica{r.a, r.b}[r.sent%2].send(t, message("e", fmt.Sprint("author ", r.sent), r.sent))[0].ID
}

// down makes the bot DOWN.
func (r *rotating) down(t testing.TB) {
	for range 3 {
		r.event(t)
	}
	soon(t, func() bool { return !r.a.healthOf(t, "app").Standing.PausedUntil.IsZero() }, "DOWN")
	r.quiet(t)
}

func (r *rotating) quiet(t testing.TB) {
	r.a.free(t)
	r.b.free(t)
}

// late sends events until the change is more than a second old, and returns how many requests each bot got after that second.
func (r *rotating) late(t testing.TB, send bool) (old, renewed int64) {
	changed := time.Now()
	soon(t, func() bool {
		if send {
			r.event(t)
		}
		return time.Since(changed) > time.Second
	}, "a second to pass")
	before, beforeNew := r.old.requests.Load(), r.new.requests.Load()
	soon(t, func() bool {
		if send {
			r.event(t)
		}
		return time.Since(changed) > 2*time.Second
	}, "another second to pass")
	r.quiet(t)
	return r.old.requests.Load() - before, r.new.requests.Load() - beforeNew
}

func (r *rotating) requireNoOrphans(t testing.TB) {
	var v delivery.Verification
	soon(t, func() bool { v = verify(t, r.client); return v.Queued == 0 && len(v.Findings) == 0 }, "a store without findings")
}

// secretsOf are the secrets that came with the requests.
func secretsOf(seen []*http.Request) string {
	secrets := map[string]bool{}
	for _, r := range seen {
		_, secret, _ := r.BasicAuth()
		secrets[secret] = true
	}
	list := []string{}
	for s := range secrets {
		list = append(list, s)
	}
	return strings.Join(list, " ")
}

func failing(b *wildBot, c net.Conn, n int64) {
	answering(func(*http.Request) string { return "HTTP/1.1 500 Broken\r\nContent-Length: 0\r\n\r\n" })(b, c, n)
}

func TestH10ChangeWhileDownCountsForTheNextTry(t *testing.T) {
	t.Parallel()
	r := startRotating(t, failing)
	r.down(t)
	require.NoError(t, r.b.Put(t.Context(), r.after))
	rec := r.a.settled(t, r.event(t))
	require.Equal(t, delivery.Delivered, rec.Fate, "no pause for a new address: %+v", rec)
	old, renewed := r.late(t, true)
	require.Zero(t, old)
	require.Positive(t, renewed)
	require.Equal(t, "rotated", secretsOf(r.new.all()))
	require.Equal(t, "s3cret", secretsOf(r.old.all()))
	require.Equal(t, health.Healthy, r.b.healthOf(t, "app").Verdict.State)
	r.requireNoOrphans(t)
	t.Attr("measured", fmt.Sprintf("URL and secret changed while DOWN: the next try uses both; after 1 s %d requests to the old URL, %d to the new", old, renewed))
}

func TestH10RotatedCredentialsCountWhileDown(t *testing.T) {
	t.Parallel()
	var good atomic.Bool
	r := startRotating(t, answering(func(q *http.Request) string {
		if _, secret, _ := q.BasicAuth(); secret != "rotated" {
			return "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"
		}
		good.Store(true)
		return "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
	}))
	r.down(t)
	same := r.before
	same.Credentials.Secret = "rotated"
	require.NoError(t, r.b.Put(t.Context(), same))
	rec := r.a.settled(t, r.event(t))
	require.Equal(t, delivery.Delivered, rec.Fate)
	require.True(t, good.Load())
	seen := len(r.old.all())
	r.late(t, true)
	require.Equal(t, "rotated", secretsOf(r.old.all()[seen:]))
	r.requireNoOrphans(t)
	t.Attr("measured", "secret rotated while DOWN: the next event is delivered with the new one at once, and so are all others")
}

func TestH10ChangeInFlightCountsForTheSecondTry(t *testing.T) {
	t.Parallel()
	under, release := make(chan struct{}, 1), make(chan struct{})
	r := startRotating(t, func(b *wildBot, c net.Conn, _ int64) {
		if b.read(bufio.NewReader(c)) == nil {
			return
		}
		under <- struct{}{}
		<-release
		b.say(c, "HTTP/1.1 500 Broken\r\nContent-Length: 0\r\n\r\n")
	})
	id := r.event(t)
	<-under
	require.NoError(t, r.a.Put(t.Context(), r.after))
	close(release)
	rec := r.b.settled(t, id)
	require.Equal(t, delivery.Delivered, rec.Fate)
	require.Equal(t, 2, rec.Tries)
	require.Equal(t, r.after.CallbackURL, rec.CallbackURL)
	require.EqualValues(t, 1, r.old.requests.Load())
	require.Equal(t, "rotated", secretsOf(r.new.all()))
	r.requireNoOrphans(t)
	t.Attr("measured", "URL and secret changed while the first try was under way: the second went to the new URL with the new secret")
}

func TestH10DeletedBotGetsNothingMoreAndLeavesNothing(t *testing.T) {
	t.Parallel()
	var late int64
	fates := map[string]delivery.Fate{}
	for name, down := range map[string]bool{"while DOWN": true, "in flight": false} {
		t.Run(name, func(t *testing.T) {
			under, release := make(chan struct{}, 1), make(chan struct{})
			r := startRotating(t, func(b *wildBot, c net.Conn, n int64) {
				if down {
					failing(b, c, n)
					return
				}
				if b.read(bufio.NewReader(c)) == nil {
					return
				}
				under <- struct{}{}
				<-release
				b.say(c, "HTTP/1.1 500 Broken\r\nContent-Length: 0\r\n\r\n")
			})
			if down {
				r.down(t)
			}
			id := r.event(t)
			if !down {
				<-under
			}
			require.NoError(t, r.b.Delete(t.Context(), r.before.RegID))
			close(release)
			r.quiet(t)
			old, _ := r.late(t, false)
			require.Zero(t, old)
			require.ErrorIs(t, r.a.Accept(t.Context(), "acme", []delivery.Incoming{message("e", "late", 1)})[0].Err, delivery.ErrUnknownEntity)
			rec := r.a.settled(t, id)
			require.Contains(t, []delivery.Fate{delivery.Suppressed, delivery.Withdrawn, delivery.Failed}, rec.Fate)
			r.requireNoOrphans(t)
			keys, err := r.client.Keys(t.Context(), "pg:*:due").Result()
			require.NoError(t, err)
			require.Empty(t, keys)
			late, fates[name] = late+old, rec.Fate
		})
	}
	t.Attr("measured", fmt.Sprintf("deleted: %d requests after 1 s, the last event's fate %v, no key left without a registration", late, fates))
}
