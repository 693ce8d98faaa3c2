package delivery_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/pulsegate/pulsegate/health"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// TestUsualEventsBesideOthers takes in, in one batch, events that are as usual and all kinds that are not, for a registration that is held. Each
// is answered as it would be alone, those of an author keep their order, and the books balance.
func TestUsualEventsBesideOthers(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		b := newBot(t)
		r := startReplica(t, client, b)
		require.NoError(t, r.Create(t.Context(), registration("e", "app")))
		first := r.send(t, withID(message("e", "ann", 0), "first"))[0]
		r.settled(t, first.ID)
		gate := make(chan struct{})
		open := sync.OnceFunc(func() { close(gate) })
		t.Cleanup(open)
		b.answers(func(request) int { <-gate; return http.StatusAccepted })

		got := r.Accept(t.Context(), "acme", []delivery.Incoming{
			withID(message("e", "ann", 1), "one"),
			withID(message("e", "ann", 0), "first"), // again
			withID(message("e", "ann", 9), "first"), // with another body
			message("e", "ann", 2),
			message("e", "bob", 3), // nobody knows him yet
			message("e", "ann", 4),
			withID(message("e", "ann", 1), "one"), // again, in the same batch
		})
		for i, rc := range got {
			if i == 2 {
				require.ErrorIs(t, rc.Err, delivery.ErrKeyReused)
				continue
			}
			require.NoError(t, rc.Err, i)
			require.Equal(t, delivery.Queued, rc.Fate, i)
		}
		require.Equal(t, first.ID, got[1].ID)
		require.Equal(t, got[0].ID, got[6].ID)
		require.EqualValues(t, 4, verify(t, client).Queued)
		open()
		soon(t, func() bool { return verify(t, client).Queued == 0 }, "all to be delivered")
		v := balanced(t, client)
		require.EqualValues(t, 5, v.Accepted)
		require.EqualValues(t, 5, v.Fates[delivery.Delivered])
		var anns []any
		for _, q := range b.requests() {
			if q.event["author"].(map[string]any)["id"] == "ann" {
				anns = append(anns, q.event["n"])
			}
		}
		require.Equal(t, []any{0., 1., 2., 4.}, anns)
		control, err := r.Control(t.Context(), entity("e"), "bob")
		require.NoError(t, err)
		require.Equal(t, delivery.Owner{Type: delivery.Bot, AppID: "app"}, control.Owner, "the conversation that was new has an owner")
		require.EqualValues(t, 5, r.healthOf(t, "app").Counts.Acknowledged)
	})
}

// TestUsualEventsOfAConversationWithAnAgent go to the bot with the owner that they have.
func TestUsualEventsOfAConversationWithAnAgent(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		b := newBot(t)
		r := startReplica(t, client, b)
		require.NoError(t, r.Create(t.Context(), registration("e", "app")))
		r.settled(t, r.send(t, message("e", "ann", 0))[0].ID)
		_, err := r.PassControl(t.Context(), delivery.ControlChange{Entity: entity("e"), AppID: "app", AuthorID: "ann", Owner: delivery.Owner{Type: delivery.Agent}})
		require.NoError(t, err)
		for n := 1; n <= 3; n++ {
			r.settled(t, r.send(t, message("e", "ann", n))[0].ID)
		}
		for i, q := range b.requests() {
			want := map[string]any{"type": "AGENT"}
			if i == 0 {
				want = map[string]any{"type": "BOT", "appId": "app"}
			}
			require.Equal(t, want, q.event["owner"], i)
		}
	})
}

// counter counts the commands that a client sends in pipelines or alone, of those that are wanted.
type counter struct {
	wanted atomic.Pointer[func(redis.Cmder) bool]
	n      atomic.Int64
}

func (c *counter) note(cmds ...redis.Cmder) {
	if wanted := c.wanted.Load(); wanted != nil {
		for _, cmd := range cmds {
			if (*wanted)(cmd) {
				c.n.Add(1)
			}
		}
	}
}

func (c *counter) DialHook(next redis.DialHook) redis.DialHook { return next }

func (c *counter) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error { c.note(cmd); return next(ctx, cmd) }
}

func (c *counter) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error { c.note(cmds...); return next(ctx, cmds) }
}

// TestSparseEventsOfAWellBotAreUsual: their lease is taken as they are taken in, and given back as they are settled, by whichever replica is asked,
// and whoever's message it is.
func TestSparseEventsOfAWellBotAreUsual(t *testing.T) {
	client := newRedisServer(t)
	unusual := &counter{}
	client.AddHook(unusual)
	b := newBot(t)
	pair := []*replica{startReplica(t, client, b), startReplica(t, client, b)}
	require.NoError(t, pair[0].Create(t.Context(), registration("e", "app")))
	wanted := pair[0].Unusual
	unusual.wanted.Store(&wanted)
	n := 0
	sends := func(r *replica) {
		n++
		r.send(t, message("e", fmt.Sprint("author ", n), n))
		standing := onlyKey(t, client, "pg:*:st:*")
		soon(t, func() bool {
			return len(b.requests()) == n && client.HGet(t.Context(), standing, "lo").Val() == ""
		}, "it to be delivered and settled")
		<-time.After(600 * time.Millisecond) // sparse
	}
	for i := range 4 { // of the first event nothing is known, and each replica has had a lane once
		sends(pair[i%2])
	}
	require.Positive(t, unusual.n.Swap(0))
	for i := range 6 {
		sends(pair[i%2])
	}
	require.Zero(t, unusual.n.Load())
	require.Empty(t, allKeys(t, client, "pg:*:due"), "nobody is attended to")
	balanced(t, client)
	require.EqualValues(t, n, pair[0].healthOf(t, "app").Counts.Acknowledged)
	c, err := pair[0].Control(t.Context(), entity("e"), "author 10")
	require.NoError(t, err)
	require.Equal(t, delivery.Owner{Type: delivery.Bot, AppID: "app"}, c.Owner, "a conversation that was new")
}

// TestFailureOfABotThatWasWell: of a bot that is well a lane is told only that. When it fails, its transition knows what people were told before.
func TestFailureOfABotThatWasWell(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		b := newBot(t)
		r := startReplica(t, client, b)
		require.NoError(t, r.Create(t.Context(), registration("e", "app")))
		for n := range 3 {
			r.settled(t, r.send(t, message("e", "ann", n))[0].ID)
		}
		standing := onlyKey(t, client, "pg:*:st:*")
		soon(t, func() bool { return client.HGet(t.Context(), standing, "lo").Val() == "" }, "the lane to rest")
		told := strings.Repeat(fmt.Sprint(" ", r.Now().Add(-time.Minute).UnixMilli()), 4)
		require.NoError(t, client.HSet(t.Context(), standing, "nt", "0 0"+told).Err())
		b.status(http.StatusNotFound)
		r.settled(t, r.send(t, message("e", "ann", 3))[0].ID)
		soon(t, func() bool { return r.healthOf(t, "app").Standing.State == health.Degraded }, "the transition")
		listed, err := r.Outbox().List(t.Context(), "acme", 10, nil, delivery.EntryTransition)
		require.NoError(t, err)
		var made health.Transition
		require.NoError(t, json.Unmarshal(listed[0].Data, &made))
		require.Equal(t, health.Healthy, made.From)
		require.True(t, made.Held, "people were told four times within the hour")
		require.True(t, r.healthOf(t, "app").Standing.Notices.Flapping(r.Now()))
	})
}

// TestLeaseThatHasGoneIsNoticed when all else is as usual: what was delivered is not settled, and whoever has the lease now is told of new events.
func TestLeaseThatHasGoneIsNoticed(t *testing.T) {
	client := newRedisServer(t)
	b := newBot(t)
	r := startReplica(t, client, b)
	require.NoError(t, r.Create(t.Context(), registration("e", "app")))
	for n := range 3 {
		r.settled(t, r.send(t, message("e", "ann", n))[0].ID)
	}
	wakes := client.Subscribe(t.Context(), "pg:wake:another")
	defer func() { _ = wakes.Close() }()
	_, err := wakes.Receive(t.Context())
	require.NoError(t, err)
	gate := make(chan struct{})
	open := sync.OnceFunc(func() { close(gate) })
	t.Cleanup(open)
	b.answers(func(request) int { <-gate; return http.StatusOK })
	r.send(t, message("e", "ann", 3))
	soon(t, func() bool { return len(b.requests()) == 4 }, "a try")
	standing := onlyKey(t, client, "pg:*:st:*")
	require.NoError(t, client.HSet(t.Context(), standing, "lo", "another:1", "le", r.Now().Add(time.Minute).UnixMilli()).Err())
	r.send(t, message("e", "ann", 4))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	wake, err := wakes.ReceiveMessage(ctx)
	require.NoError(t, err)
	require.Equal(t, "acme:whatsapp:e:app", wake.Payload)
	open()
	soon(t, func() bool { return scrape(t, r)["delivery_leases_lost_total"] == 1 }, "the lane to notice")
	require.EqualValues(t, 2, verify(t, client).Queued, "nothing was settled without the lease")
}

// TestAcknowledgementsThatMeanMoreAreNotSettledAsPlain: the window counts what it should when the bot recovers, and not while it is debugged.
func TestAcknowledgementsThatMeanMoreAreNotSettledAsPlain(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		b := newBot(t)
		r := startReplica(t, client, b, quick)
		require.NoError(t, r.Create(t.Context(), registration("e", "app")))
		send := func(n int) { r.settled(t, r.send(t, message("e", "ann", n))[0].ID) }
		send(0)
		b.status(http.StatusInternalServerError)
		send(1)
		require.Equal(t, health.Degraded, r.healthOf(t, "app").Standing.State)
		b.status(http.StatusOK)
		send(2)
		require.Equal(t, health.Degraded, r.healthOf(t, "app").Standing.State, "the failure is still in the window")
		soon(t, func() bool { return r.healthOf(t, "app").Counts.Failed == 0 }, "the failure to leave")
		soon(t, func() bool { send(3); return r.healthOf(t, "app").Standing.Verified }, "a verified HEALTHY")
		require.Equal(t, health.Healthy, r.healthOf(t, "app").Standing.State)

		require.NoError(t, r.Put(t.Context(), registration("e", "app", func(reg *delivery.Registration) { reg.DebugUntil = r.Now().Add(health.Rules{}.WithDefaults().Window) })))
		for n := range 3 {
			send(4 + n)
		}
		require.Zero(t, r.healthOf(t, "app").Counts.Acknowledged, "outcomes stay out of the window")
		balanced(t, client)
	})
}

// TestOwnerIsTheOneAtTheFirstTry, also for an event that was taken in a moment before the conversation changed hands: it waits for the one before it.
func TestOwnerIsTheOneAtTheFirstTry(t *testing.T) {
	control := func(owner string) delivery.Incoming {
		in := message("e", "ann", 0)
		in.Body = bytes.Replace(in.Body, []byte(`"type":"message"`), []byte(`"type":"control","owner":`+owner), 1)
		return in
	}
	agent := delivery.ControlChange{Entity: entity("e"), AppID: "app", AuthorID: "ann", Owner: delivery.Owner{Type: delivery.Agent}}
	changes := map[string]func(t *testing.T, here, there *replica){
		"by the bot": func(t *testing.T, here, _ *replica) {
			_, err := here.PassControl(t.Context(), agent)
			require.NoError(t, err)
		},
		"by the bot, at another gateway": func(t *testing.T, _, there *replica) {
			_, err := there.PassControl(t.Context(), agent)
			require.NoError(t, err)
		},
		"by the source":                     func(t *testing.T, here, _ *replica) { here.send(t, control(`{"type":"AGENT"}`)) },
		"by the source, at another gateway": func(t *testing.T, _, there *replica) { there.send(t, control(`{"type":"AGENT"}`)) },
	}
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, clients := newLines(t, 2)
				b := newBot(t)
				here, there := startReplica(t, clients[0], b), startReplica(t, clients[1], b)
				require.NoError(t, here.Create(t.Context(), registration("e", "app")))
				here.settled(t, here.send(t, message("e", "ann", 1))[0].ID)
				b.answers(func(request) int { <-time.After(80 * time.Millisecond); return http.StatusAccepted })
				here.send(t, message("e", "ann", 2), message("e", "ann", 3))
				change(t, here, there)
				soon(t, func() bool { return len(b.requests()) >= 3 }, "both to be tried")
				require.Equal(t, "BOT", b.requests()[1].event["owner"].(map[string]any)["type"])
				require.Equal(t, "AGENT", b.requests()[2].event["owner"].(map[string]any)["type"])
			})
		})
	}
}

// writes counts how often something is written to a connection.
type writes struct {
	net.Conn
	n *atomic.Int64
}

func (w writes) Write(p []byte) (int, error) { w.n.Add(1); return w.Conn.Write(p) }

// TestATryIsOneWrite: the header of an ordinary event and its body go together. Two would be two packets, and two system calls.
func TestATryIsOneWrite(t *testing.T) {
	b := newBot(t)
	var n atomic.Int64
	r := startReplica(t, newMiniredis(t), b, func(c *delivery.Config) {
		c.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := b.dial(ctx, network, addr)
			return writes{conn, &n}, err
		}
	})
	require.NoError(t, r.Create(t.Context(), registration("e", "app")))
	for i := range 5 {
		in := message("e", "ann", i)
		in.Body = append(in.Body[:len(in.Body)-1], fmt.Sprintf(`,"pad":%q}`, strings.Repeat("x", 1000))...)
		r.settled(t, r.send(t, in)[0].ID)
	}
	require.EqualValues(t, 5, n.Load())
}
