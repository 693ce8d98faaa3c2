package delivery_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

func verify(t testing.TB, client redis.UniversalClient) delivery.Verification {
	v, err := delivery.Verify(t.Context(), delivery.VerifyConfig{Client: client})
	require.NoError(t, err)
	return v
}

// ledgerStory plays a story in which deliveries end in every way. It returns the replica, and a function that lets the bot answer what
// it is still at. By then two events of e4 did not fit, and e5, which holds events, is DOWN.
func ledgerStory(t testing.TB, client redis.UniversalClient) (r *replica, release func()) {
	b := newBot(t)
	hanging := make(chan struct{})
	b.answers(func(r request) int {
		switch author := r.event["author"].(map[string]any)["id"].(string); {
		case strings.HasPrefix(author, "bad"):
			return http.StatusInternalServerError
		case strings.HasPrefix(author, "slow"):
			<-hanging
		}
		return http.StatusAccepted
	})
	r = startReplica(t, client, b, func(c *delivery.Config) { c.QueueEvents = 10; c.DeliveryTimeout = 20 * time.Second })
	for _, ext := range []string{"e1", "e2", "e3", "e4", "e5", "e6"} {
		require.NoError(t, r.Create(t.Context(), registration(ext, "app", func(r *delivery.Registration) {
			if ext == "e5" {
				r.WhenDown = delivery.Hold
			}
		})))
	}
	public := delivery.Incoming{Body: []byte(`{"type":"message","coordinate":{"companyKey":"acme","networkKey":"whatsapp","externalId":"e1","scope":"PUBLIC"},"author":{"id":"eve"}}`)}
	for _, rc := range r.send(t, message("e1", "ann", 1), message("e1", "bob", 2), message("e1", "bad", 3), public) {
		r.settled(t, rc.ID)
	}
	require.NoError(t, r.SetMode(t.Context(), registration("e2", "app").RegID, delivery.Maintenance))
	r.send(t, message("e2", "ann", 1))
	for _, ext := range []string{"e3", "e5"} {
		for i := range 10 {
			r.send(t, message(ext, fmt.Sprint("bad ", i), i))
		}
	}
	soon(t, func() bool {
		hs, err := r.Health(t.Context(), "acme", "app")
		require.NoError(t, err)
		return !hs[2].Standing.PausedUntil.IsZero() && !hs[4].Standing.PausedUntil.IsZero()
	}, "e3 and e5 to be DOWN")
	require.Equal(t, delivery.Suppressed, r.send(t, message("e3", "ann", 1))[0].Fate)
	r.send(t, message("e5", "ann", 1), message("e5", "ann", 2))
	for i := range 12 {
		r.send(t, message("e4", "slow", i))
	}
	r.send(t, message("e6", "slow", 1), message("e6", "slow", 2), message("e6", "slow", 3))
	soon(t, func() bool {
		return slices.ContainsFunc(b.requests(), func(r request) bool { return r.event["coordinate"].(map[string]any)["externalId"] == "e6" })
	}, "the bot to be at an event of e6")
	release = sync.OnceFunc(func() { close(hanging) })
	t.Cleanup(release)
	return r, release
}

func TestVerifyFindsNothingWhileDeliveriesEndInEveryWay(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		r, release := ledgerStory(t, client)
		require.NoError(t, r.Delete(t.Context(), registration("e6", "app").RegID))
		var v delivery.Verification
		soon(t, func() bool {
			v = verify(t, client)
			require.Empty(t, v.Findings)
			return v.Fates[delivery.Withdrawn] == 2
		}, "what waits for e6 to be withdrawn")
		require.Equal(t, "verified 6 registrations: accepted 43 = delivered 2 + failed 21 + suppressed 1 + maintenance 1 + overflow 2 + "+
			"expired 0 + withdrawn 2 + filtered 1 + queued 13", v.String())
		require.Equal(t, 1, v.Gateways)
		require.Zero(t, v.Unmeasured)

		release()
		soon(t, func() bool { v = verify(t, client); return v.Queued == 2 && v.Registrations == 5 }, "e4 and e6 to be done")
		r.stop()
		v = verify(t, client)
		require.Empty(t, v.Findings)
		require.True(t, v.Balanced())
		require.Zero(t, v.Gateways)
		require.Equal(t, "verified 5 registrations: accepted 40 = delivered 12 + failed 21 + suppressed 1 + maintenance 1 + overflow 2 + "+
			"expired 0 + withdrawn 0 + filtered 1 + queued 2", v.String())
	})
}

// broken is one thing that is broken in Redis, how it is mended, and what is found meanwhile.
type broken struct {
	name         string
	break_, mend func(s *sabotage)
	want         []string // check, of and problem of each finding; "warning" first where it is one
}

// sabotage does things to the store that the gateway never does.
type sabotage struct {
	t      testing.TB
	client redis.UniversalClient
	kept   string
}

// key is a key of the registration at an external id.
func (s *sabotage) key(noun, ext string) string {
	return onlyKey(s.t, s.client, "pg:*:"+noun+":acme:whatsapp:"+ext+":app")
}

// shard is the key of the shard that the registration at an external id lies in.
func (s *sabotage) shard(noun, ext string) string {
	tag, _, _ := strings.Cut(s.key("st", ext), "}")
	return tag + "}:" + noun
}

func (s *sabotage) do(args ...any) any {
	got, err := s.client.Do(s.t.Context(), args...).Result()
	require.NoError(s.t, err, args)
	return got
}

// take notes one member or field, and returns it.
func (s *sabotage) take(members []string, err error) string {
	require.NoError(s.t, err)
	require.NotEmpty(s.t, members)
	s.kept = members[0]
	return s.kept
}

const (
	e1, e4, e5 = "acme:whatsapp:e1:app", "acme:whatsapp:e4:app", "acme:whatsapp:e5:app"
	ghost      = "acme:whatsapp:e1:ghost"
)

func TestVerifyFindsEachThingThatIsBroken(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		r, release := ledgerStory(t, client)
		release()
		soon(t, func() bool { return verify(t, client).Queued == 2 }, "all but what is held")
		r.stop()
		s := &sabotage{t: t, client: client}
		for _, b := range slices.Concat(brokenLedgers(), brokenPlaces(s), brokenConversations(), brokenOutboxes(s)) {
			require.Empty(t, verify(t, client).Findings, "before: %s", b.name)
			b.break_(s)
			v := verify(t, client)
			var got []string
			balanced := true
			for _, f := range v.Findings {
				text := string(f.Check) + " " + f.Of + ": " + f.Problem
				if f.Warning {
					text = "warning " + text
				}
				balanced = balanced && f.Warning
				if s.kept != "" {
					text = strings.ReplaceAll(text, " "+s.kept+":", " <kept>:")
				}
				got = append(got, text)
			}
			require.Equal(t, b.want, got, b.name)
			require.Equal(t, balanced, v.Balanced(), b.name)
			b.mend(s)
		}
		require.Empty(t, verify(t, client).Findings)
	})
}

func brokenLedgers() []broken {
	const sums = "delivered 0 + failed 10 + suppressed 0 + maintenance 0 + overflow 0 + expired 0 + withdrawn 0 + filtered 0 + queued "
	const whole = "ledger pg:{*}:led: "
	return []broken{
		{
			"one more accepted than there is",
			func(s *sabotage) { s.do("HINCRBY", s.key("st", "e5"), "c:accepted", 1) },
			func(s *sabotage) { s.do("HINCRBY", s.key("st", "e5"), "c:accepted", -1) },
			[]string{"ledger " + e5 + ": accepted 13 != " + sums + "2", whole + "the registrations do not add up to it: accepted 44, not 43"},
		},
		{
			"a ledger of the store that has forgotten what its registrations know",
			func(s *sabotage) {
				s.kept = allKeys(s.t, s.client, "pg:*:led")[0]
				s.do("HINCRBY", s.kept, "c:failed", -2)
				s.do("HINCRBY", s.kept, "qn", 2)
				s.do("HINCRBY", s.kept, "s:DOWN", 1)
			},
			func(s *sabotage) {
				s.do("HINCRBY", s.kept, "c:failed", 2)
				s.do("HINCRBY", s.kept, "qn", -2)
				s.do("HINCRBY", s.kept, "s:DOWN", -1)
			},
			[]string{
				"warning " + whole + "1 DEGRADED and 3 DOWN are noted, 1 and 2 are there: the metrics count wrong",
				whole + "the registrations do not add up to it: failed 21, not 19; queued 2, not 4",
			},
		},
		{
			"a ledger of the store that does not balance",
			func(s *sabotage) { s.do("HINCRBY", allKeys(s.t, s.client, "pg:*:led")[0], "c:accepted", 3) },
			func(s *sabotage) { s.do("HINCRBY", allKeys(s.t, s.client, "pg:*:led")[0], "c:accepted", -3) },
			[]string{
				whole + "accepted 46 != delivered 15 + failed 21 + suppressed 1 + maintenance 1 + overflow 2 + expired 0 + withdrawn 0 + filtered 1 + queued 2",
				whole + "the registrations do not add up to it: accepted 43, not 46",
			},
		},
		{
			"an event in the queue that nobody accepted",
			func(s *sabotage) { s.kept = s.do("XADD", s.key("q", "e5"), "*", "b", "stray").(string) },
			func(s *sabotage) { s.do("XDEL", s.key("q", "e5"), s.kept) },
			[]string{
				"ledger " + e5 + ": accepted 12 != " + sums + "3",
				"queue " + e5 + ": 2 events are noted, 3 wait",
				"queue " + e5 + ": 378 bytes are noted, 383 wait",
			},
		},
		{
			"a queue that is noted longer than it is",
			func(s *sabotage) { s.do("HINCRBY", s.key("st", "e1"), "qb", 7) },
			func(s *sabotage) { s.do("HINCRBY", s.key("st", "e1"), "qb", -7) },
			[]string{whole + "the registrations do not add up to it: queued bytes 385, not 378", "queue " + e1 + ": 7 bytes are noted, 0 wait"},
		},
		{
			"an event that will expire, and is not there",
			func(s *sabotage) {
				s.do("ZADD", s.shard("x:"+e1, "e1"), 5_000_000_000_000, "1-1")
				s.do("HSET", s.key("st", "e1"), "xp", "6000000000000")
			},
			func(s *sabotage) {
				s.do("DEL", s.shard("x:"+e1, "e1"))
				s.do("HDEL", s.key("st", "e1"), "xp")
			},
			[]string{
				"queue " + e1 + ": 1 events that will expire are noted, 0 wait",
				"queue " + e1 + ": the first event expires at 5000000000000, and 6000000000000 is noted",
			},
		},
		{
			"a window whose sums are not those of its slots",
			func(s *sabotage) {
				key := s.key("win", "e1")
				s.kept = s.do("HGET", key, "sum").(string)
				s.do("HSET", key, "sum", s.kept+" 4")
			},
			func(s *sabotage) { s.do("HSET", s.key("win", "e1"), "sum", s.kept) },
			[]string{"window " + e1 + ": its sums are [2 0 0 0 0 1 4 0 0], its slots add up to [2 0 0 0 0 1 0 0 0]"},
		},
	}
}

func brokenPlaces(s *sabotage) []broken {
	due, judge, hashes := s.shard("due", "e5"), s.shard("judge", "e5"), s.shard("hashes", "e5")
	ghostDue := s.shard("due", "e1")
	return []broken{
		{
			"work that is not due",
			func(s *sabotage) { s.do("ZREM", due, e5) },
			func(s *sabotage) { s.do("ZADD", due, time.Now().Add(time.Minute).UnixMilli(), e5) },
			[]string{"attention " + e5 + ": 2 events wait, but it does not stand in due: nobody will attend to it"},
		},
		{
			"an event that expires before anybody looks",
			func(s *sabotage) {
				s.do("ZADD", due, 4_000_000_060_000, e5)
				s.do("ZADD", s.shard("x:"+e5, "e5"), 4_000_000_000_000, "1-1")
				s.do("HSET", s.key("st", "e5"), "xp", 4_000_000_000_000)
			},
			func(s *sabotage) {
				s.do("DEL", s.shard("x:"+e5, "e5"))
				s.do("HDEL", s.key("st", "e5"), "xp")
				s.do("ZADD", due, time.Now().Add(time.Minute).UnixMilli(), e5)
			},
			[]string{"attention " + e5 + ": an event expires at 2096-10-02T07:06:40Z, but nobody will look before 2096-10-02T07:07:40Z"},
		},
		{
			"a DOWN bot that nobody judges",
			func(s *sabotage) { s.do("ZREM", judge, e5) },
			func(s *sabotage) { s.do("ZADD", judge, time.Now().Add(time.Minute).UnixMilli(), e5) },
			[]string{"attention " + e5 + ": it is DOWN, but does not stand in judge: the timer will not look at it"},
		},
		{
			"a ghost that is due",
			func(s *sabotage) { s.do("ZADD", ghostDue, 1, ghost) },
			func(s *sabotage) { s.do("ZREM", ghostDue, ghost) },
			[]string{"attention " + ghost + ": it stands in due, but there is no such registration"},
		},
		{
			"a name in due that is none",
			func(s *sabotage) { s.do("ZADD", ghostDue, 1, "ghost") },
			func(s *sabotage) { s.do("ZREM", ghostDue, "ghost") },
			[]string{"attention ghost: it stands in " + ghostDue + ", but is no registration of this shard"},
		},
		{
			"a registration that its app's index misses",
			func(s *sabotage) { s.do("SREM", "pg:app:acme:app", e4) },
			func(s *sabotage) { s.do("SADD", "pg:app:acme:app", e4) },
			[]string{"index " + e4 + ": it is missing from pg:app:acme:app"},
		},
		{
			"a registration that ids do not lead to",
			func(s *sabotage) {
				for field, name := range s.client.HGetAll(s.t.Context(), hashes).Val() {
					if name == e5 {
						s.kept = field
					}
				}
				s.do("HDEL", hashes, s.kept)
			},
			func(s *sabotage) { s.do("HSET", hashes, s.kept, e5) },
			[]string{"index " + e5 + ": it is missing from " + hashes + ": its request ids lead nowhere"},
		},
		{
			"an index that dangles",
			func(s *sabotage) { s.do("SADD", "pg:company:acme", ghost) },
			func(s *sabotage) { s.do("SREM", "pg:company:acme", ghost) },
			[]string{"warning index " + ghost + ": it stands in pg:company:acme, but there is no such registration: readers leave it out"},
		},
		{
			"keys of nobody",
			func(s *sabotage) { s.do("HSET", strings.ReplaceAll(s.key("st", "e1"), e1, ghost), "s", "DOWN") },
			func(s *sabotage) { s.do("DEL", strings.ReplaceAll(s.key("st", "e1"), e1, ghost)) },
			[]string{"warning leftover " + ghost + ": its standing or its window is left, but there is no such registration"},
		},
	}
}

func brokenConversations() []broken {
	nowhere := delivery.Entity{CompanyKey: "acme", NetworkKey: "whatsapp", ExternalID: "nowhere"}
	control, ongoing := delivery.ControlKey(nowhere, "a:/b"), delivery.OngoingKey(nowhere)
	listed := delivery.OngoingKey(entity("e1"))
	return []broken{
		{
			"control of an entity that is not there",
			func(s *sabotage) {
				s.do("HSET", control, "ot", "BOT")
				s.do("ZADD", ongoing, 1, "a:/b")
			},
			func(s *sabotage) { s.do("DEL", control); s.do("DEL", ongoing) },
			[]string{"warning leftover acme:whatsapp:nowhere: 1 authors have an owner or are ongoing, but there is no such entity"},
		},
		{
			"control that no entity could have written",
			func(s *sabotage) { s.do("HSET", control+":more", "ot", "BOT") },
			func(s *sabotage) { s.do("DEL", control+":more") },
			[]string{"warning leftover " + control + ":more: it belongs to no entity"},
		},
		{
			"an ongoing author that nobody owns",
			func(s *sabotage) {
				s.do("ZADD", listed, time.Now().UnixMilli(), "nobody's")
				s.do("ZADD", listed, time.Now().Add(-25*time.Hour).UnixMilli(), "forgotten")
			},
			func(s *sabotage) { s.do("ZREM", listed, "nobody's", "forgotten") },
			[]string{"warning leftover " + listed + ": 1 authors are ongoing whose control is not there"},
		},
	}
}

func brokenOutboxes(s *sabotage) []broken {
	notices, out, data := s.shard("notices", "e5"), s.shard("out", "e5"), s.shard("outd", "e5")
	var json any
	return []broken{
		{
			"an entry that is due and listed, and not there",
			func(s *sabotage) {
				id := s.take(s.client.ZRange(s.t.Context(), notices, 0, 0).Result())
				json = s.do("HGET", data, id)
				s.do("HDEL", data, id)
			},
			func(s *sabotage) { s.do("HSET", data, s.kept, json) },
			[]string{
				"outbox <kept>: it stands in " + notices + ", but there is no such entry in " + data,
				"outbox <kept>: it stands in " + s.shard("told", "e5") + ":acme:transition, but there is no such entry in " + data,
			},
		},
		{
			"an entry that is pending and not due",
			func(s *sabotage) { s.do("ZREM", out, s.take(s.client.ZRange(s.t.Context(), out, 0, 0).Result())) },
			func(s *sabotage) { s.do("ZADD", out, 1, s.kept) },
			[]string{"outbox <kept>: the entry is pending, but does not stand in " + out + ": nobody will take it up"},
		},
	}
}

func TestVerifyFindsWorkThatARunningGatewayLeavesLying(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		r, release := ledgerStory(t, client)
		release()
		soon(t, func() bool { return verify(t, client).Queued == 2 }, "all but what is held")
		r.stop()
		s := &sabotage{t: t, client: client}
		since := time.Now().Add(-31 * time.Second)
		s.do("ZADD", s.shard("due", "e5"), since.UnixMilli(), e5)
		require.Empty(t, verify(t, client).Findings, "nobody is there to attend to it")

		sub := client.Subscribe(t.Context(), "pg:wake:idle")
		defer sub.Close()
		_, err := sub.Receive(t.Context())
		require.NoError(t, err)
		require.Equal(t, []delivery.Finding{{
			Check: delivery.CheckAttention, Of: e5, Problem: "nobody has attended to it since " + since.UTC().Format(time.RFC3339),
		}}, verify(t, client).Findings)
	})
}

func TestVerifyFindsNothingWhileEverythingMoves(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		b := newBot(t)
		b.answers(func(r request) int {
			if r.event["n"].(float64) > 150 {
				return http.StatusInternalServerError
			}
			return http.StatusAccepted
		})
		one, two := startReplica(t, client, b, quick), startReplica(t, client, b, quick)
		ctx, cancel := context.WithCancel(t.Context())
		var moving sync.WaitGroup
		for i := range 5 {
			ext, r := fmt.Sprint("e", i), one
			if i%2 == 0 {
				r = two
			}
			reg := registration(ext, "app", func(r *delivery.Registration) {
				if i%3 == 0 {
					r.WhenDown = delivery.Hold
				}
			})
			require.NoError(t, r.Create(t.Context(), reg))
			moving.Go(func() {
				for n := 0; ctx.Err() == nil; n++ {
					r.Accept(ctx, "acme", []delivery.Incoming{message(ext, fmt.Sprint("a", n%5), n)})
					switch {
					case i == 0 && n%20 == 0:
						_ = r.Delete(ctx, reg.RegID)
						_ = r.Create(ctx, reg)
					case i == 1 && n%15 == 0:
						_ = r.SetMode(ctx, reg.RegID, []delivery.Mode{delivery.Maintenance, delivery.Live}[n/15%2])
					}
					pause := time.NewTimer(5 * time.Millisecond)
					<-pause.C
				}
			})
		}
		for began := time.Now(); time.Since(began) < 1500*time.Millisecond; {
			v := verify(t, client)
			for _, f := range v.Findings {
				require.True(t, f.Warning, "%+v", f)
			}
			require.Equal(t, 2, v.Gateways)
			pause := time.NewTimer(30 * time.Millisecond)
			<-pause.C
		}
		cancel()
		moving.Wait()
		one.stop()
		two.stop()
		require.True(t, verify(t, client).Balanced())
	})
}

func TestVerifyMeasuresLongQueues(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		b := newBot(t)
		hanging := make(chan struct{})
		b.answers(func(request) int { <-hanging; return http.StatusAccepted })
		r := startReplica(t, client, b)
		t.Cleanup(func() { close(hanging) })
		require.NoError(t, r.Create(t.Context(), registration("e1", "app")))
		var in []delivery.Incoming
		for i := range 300 {
			in = append(in, message("e1", "ann", i))
		}
		r.send(t, in...)
		v := verify(t, client)
		require.Empty(t, v.Findings)
		require.Zero(t, v.Unmeasured)
		require.EqualValues(t, 300, v.Queued)
		s := &sabotage{t: t, client: client}
		s.do("HINCRBY", s.key("st", "e1"), "qb", 1)
		require.Len(t, verify(t, client).Findings, 2, "the queue, and the sum")
	})
}

func TestVerifyTellsAnEmptyRedisAndAnotherOnesData(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		v := verify(t, client)
		require.True(t, v.Balanced())
		require.Len(t, v.Findings, 1)
		require.Contains(t, v.Findings[0].Problem, "no gateway has ever worked on this Redis")
		require.NoError(t, client.Set(t.Context(), "pg:shards", "7", 0).Err())
		_, err := delivery.Verify(context.Background(), delivery.VerifyConfig{Client: client})
		require.ErrorContains(t, err, "7 shards")
	})
}
