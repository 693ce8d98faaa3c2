package delivery_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/pulsegate/pulsegate/health"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// One registration that could not be read kept events, health and lists from every other of its entity, and from lists with others.
func TestUnreadableRegistrationIsLeftOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // a lease has to run out
		client := newMiniredis(t)
		b := newBot(t)
		r := startReplica(t, client, b, func(c *delivery.Config) { c.DeliveryTimeout = 300 * time.Millisecond })
		watching := func(r *delivery.Registration) { r.Mode = delivery.Monitoring }
		require.NoError(t, r.Create(t.Context(), registration("e1", "live")))
		require.NoError(t, r.Create(t.Context(), registration("e1", "other", watching)))
		hang := make(chan struct{})
		b.answers(func(q request) int {
			if q.event["coordinate"].(map[string]any)["botId"] == "other" {
				<-hang
			}
			return 202
		})
		rc := r.send(t, message("e1", "ann", 1), message("e1", "ann", 2))
		s := &sabotage{t: t, client: client}
		reg := onlyKey(t, client, "pg:*:reg:acme:whatsapp:e1")
		whole := client.HGet(t.Context(), reg, "a:other").Val()
		s.do("HSET", reg, "a:other", `{"registration":"broken"`)
		s.do("HINCRBY", reg, "ver", 1)
		r.stop() // the second event stays for whoever comes next
		close(hang)
		r = startReplica(t, client, b)
		soon(t, func() bool { return scrape(t, r)["store_ailments_total"] > 0 }, "somebody tries to work on it")

		regs, err := r.OfEntity(t.Context(), entity("e1"))
		require.NoError(t, err)
		require.Len(t, regs, 1)
		require.Equal(t, "live", r.healthOf(t, "live").Registration.AppID)
		more := r.send(t, message("e1", "ben", 3))
		require.Equal(t, delivery.Delivered, r.settled(t, more[0].ID).Fate, "the other is not kept from its events")
		require.ErrorIs(t, r.Create(t.Context(), registration("e1", "new")), delivery.ErrLiveTaken, "who cannot be read may be LIVE")

		s.do("HSET", reg, "a:other", whole)
		s.do("HINCRBY", reg, "ver", 1)
		soon(t, func() bool { return verify(t, client).Queued == 0 }, "its events waited, and are delivered")
		recs, err := r.EventRecords(t.Context(), "acme", rc[1].ID)
		require.NoError(t, err)
		require.Len(t, recs, 2)
		for _, rec := range recs {
			require.Equal(t, delivery.Delivered, rec.Fate)
		}
	})
}

// The LIVE registration could not be read, and its events went to those beside it only, answered as theirs.
func TestEventsWaitForALiveRegistrationThatCannotBeRead(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		b := newBot(t)
		r := startReplica(t, client, b)
		live := registration("e1", "live")
		require.NoError(t, r.Create(t.Context(), live))
		require.NoError(t, r.Create(t.Context(), registration("e1", "other", func(r *delivery.Registration) { r.Mode = delivery.Monitoring })))
		s := &sabotage{t: t, client: client}
		reg := onlyKey(t, client, "pg:*:reg:acme:whatsapp:e1")
		whole := client.HGet(t.Context(), reg, "a:live").Val()
		s.do("HSET", reg, "a:live", "broken")
		s.do("HINCRBY", reg, "ver", 1)
		event := withID(message("e1", "ann", 1), "own")
		_, err := r.ask(t, event)
		require.ErrorIs(t, err, delivery.ErrUnavailable)
		require.Empty(t, b.requests())
		s.do("HSET", reg, "a:live", whole)
		s.do("HINCRBY", reg, "ver", 1)
		_, err = r.ask(t, event)
		require.NoError(t, err)
		soon(t, func() bool { return len(b.requests()) == 2 }, "both to have it")

		s.do("HSET", reg, "a:live", "broken")
		s.do("HINCRBY", reg, "ver", 1)
		require.NoError(t, r.Delete(t.Context(), live.RegID), "what cannot be read can be deleted")
		require.ErrorIs(t, r.Delete(t.Context(), live.RegID), delivery.ErrNotFound)
		require.NoError(t, r.Create(t.Context(), registration("e1", "new")), "and is in nobody's way")
	})
}

// An event for an entity of which nothing can be read is not for nobody.
func TestEntityThatCannotBeReadIsNotUnknown(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		r := startReplica(t, client, newBot(t))
		require.NoError(t, r.Create(t.Context(), registration("e1", "app")))
		s := &sabotage{t: t, client: client}
		reg := onlyKey(t, client, "pg:*:reg:acme:whatsapp:e1")
		s.do("HSET", reg, "a:app", "broken")
		s.do("HINCRBY", reg, "ver", 1)
		_, err := r.ask(t, message("e1", "ann", 1))
		require.ErrorIs(t, err, delivery.ErrUnavailable)
		require.NoError(t, r.Put(t.Context(), registration("e1", "app")), "writing it anew mends it")
		r.send(t, message("e1", "ann", 1))
	})
}

// One registration whose keys hold something else made every script call that it shared with others fail, for as long as it stayed so.
// othersAreSeen requires that lists, health and the metrics' ledger do without a registration that cannot be read.
func (r *replica) othersAreSeen(t testing.TB, well int) {
	t.Helper()
	for _, err := range r.OfCompany(t.Context(), "acme", "") {
		require.NoError(t, err)
	}
	all, err := r.Health(t.Context(), "acme", "app")
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(all), well)
	for _, h := range all {
		require.Equal(t, health.Healthy, h.Verdict.State)
	}
	var series int
	for name := range scrape(t, r) {
		if strings.HasPrefix(name, "delivery_registration_") {
			series++
		}
	}
	require.Positive(t, series)
}

func TestSickRegistrationKeepsNothingFromOthers(t *testing.T) {
	for _, noun := range []string{"st", "win", "q", "ok", "reg"} {
		t.Run(noun, func(t *testing.T) {
			onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
				b := newBot(t)
				r := startReplica(t, client, b)
				well := sameShard(t, client, r, 4)
				sick, well := well[0], well[1:]
				s := &sabotage{t: t, client: client}
				for _, ext := range append([]string{sick}, well...) {
					r.settled(t, r.send(t, message(ext, "ann", 0))[0].ID)
				}
				r.stop()
				name := strings.Replace(s.key("st", sick), "}:st:", "}:"+noun+":", 1)
				if noun == "reg" {
					name = strings.TrimSuffix(name, ":app")
				}
				s.do("DEL", name)
				s.do("SET", name, "what nobody understands")
				r = startReplica(t, client, b)
				var mixed []delivery.Incoming
				for n := range 5 {
					for _, ext := range append([]string{sick}, well...) {
						mixed = append(mixed, withID(message(ext, "ann", n+1), fmt.Sprint(ext, n)))
					}
				}
				receipts := r.Accept(t.Context(), "acme", mixed)
				for i, rc := range receipts {
					if i%4 != 0 {
						require.NoError(t, rc.Err, noun)
						require.Equal(t, delivery.Delivered, r.settled(t, rc.ID).Fate, "those who are well are not kept from it")
					} else if rc.Err != nil {
						require.ErrorIs(t, rc.Err, delivery.ErrUnavailable)
					}
				}
				r.othersAreSeen(t, len(well))
				if noun != "reg" {
					soon(t, func() bool { return scrape(t, r)["store_ailments_total"] > 0 }, "it is counted")
				}
				if noun == "st" || noun == "reg" {
					return // without them there is no registration
				}
				s.do("DEL", name)
				again := r.Accept(t.Context(), "acme", mixed[:1])
				require.NoError(t, again[0].Err)
				soon(t, func() bool { return timesSeen(b, again[0].ID) > 0 }, "what was refused is not taken for stored")
				require.Equal(t, 1, timesSeen(b, again[0].ID))
			})
		})
	}
}

// A value that the scripts did not write concerns its own registration: those in the same call get their events, the books balance, and the server
// goes on answering.
func TestStrangeValueKeepsNothingFromOthers(t *testing.T) {
	cases := map[string]func(s *sabotage, sick string){
		"the ids of events": func(s *sabotage, sick string) {
			for _, name := range allKeys(s.t, s.client, "pg:*:dup:acme:whatsapp:"+sick+":*") {
				s.do("DEL", name)
				s.do("LPUSH", name, "what nobody understands")
			}
		},
		"more counts than there are kinds": func(s *sabotage, sick string) {
			at := windowAt(s, sick)
			s.do("HSET", s.key("win", sick), "sum", fmt.Sprintf("120000 %d %d 2", at-120, at-130), (at-130)%120, fmt.Sprint(at-130, strings.Repeat(" 1", 12)))
		},
		"a window that began long ago": func(s *sabotage, sick string) {
			s.do("HSET", s.key("win", sick), "sum", fmt.Sprintf("120000 %d 1 2", windowAt(s, sick)))
		},
	}
	for name, spoil := range cases {
		t.Run(name, func(t *testing.T) {
			onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
				b := newBot(t)
				r := startReplica(t, client, b)
				exts := sameShard(t, client, r, 4)
				sick := exts[2]
				for _, ext := range exts {
					r.settled(t, r.send(t, withID(message(ext, "ann", 0), "first"))[0].ID)
				}
				r.settled(t, r.send(t, withID(message(sick, "ann", 1), "known"))[0].ID)
				gate := make(chan struct{})
				open := sync.OnceFunc(func() { close(gate) })
				t.Cleanup(open)
				b.answers(func(request) int { <-gate; return 202 })
				send := func(n int) {
					var mixed []delivery.Incoming
					for _, ext := range exts {
						mixed = append(mixed, withID(message(ext, "ben", n), fmt.Sprint("of ben ", n)))
					}
					mixed = append(mixed, withID(message(sick, "ann", 1), "known"))
					for i, rc := range r.Accept(t.Context(), "acme", mixed) {
						if i < len(exts) {
							require.NoError(t, rc.Err, i)
						}
					}
				}
				send(2)
				spoil(&sabotage{t: t, client: client}, sick)
				send(3)
				open()
				soon(t, func() bool { return verify(t, client).Queued == 0 }, "all to be delivered")
				send(4) // when the lanes rest, or soon after
				soon(t, func() bool { return verify(t, client).Queued == 0 }, "all to be delivered")
				require.Empty(t, verify(t, client).Findings)
				require.EqualValues(t, 4+1+3*4, verify(t, client).Fates[delivery.Delivered])
			})
		})
	}
}

// windowAt is the last slot seen of the window of an entity's app.
func windowAt(s *sabotage, ext string) (at int64) {
	sum := s.client.HGet(s.t.Context(), s.key("win", ext), "sum").Val()
	_, err := fmt.Sscan(strings.Fields(sum)[1], &at)
	require.NoError(s.t, err)
	return at
}

// sameShard registers an app at n entities that lie in one shard.
func sameShard(t testing.TB, client redis.UniversalClient, r *replica, n int) (exts []string) {
	shard := ""
	for i := 0; len(exts) < n; i++ {
		ext := fmt.Sprint("s", i)
		require.NoError(t, r.Create(t.Context(), registration(ext, "app")))
		tag, _, _ := strings.Cut(onlyKey(t, client, "pg:*:reg:acme:whatsapp:"+ext), "}")
		if shard == "" {
			shard = tag
		}
		if tag == shard {
			exts = append(exts, ext)
		}
	}
	return exts
}

// timesSeen is how often a bot got an event.
func timesSeen(b *bot, id string) (n int) {
	for _, q := range b.requests() {
		if q.header.Get("webhook-id") == id {
			n++
		}
	}
	return n
}

// A settlement that could not be written kept those from being written that went with it.
func TestSickSettlementFailsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, b := newMiniredis(t), newBot(t)
		var lines bytes.Buffer
		r := startReplica(t, client, b, func(c *delivery.Config) { c.Log = slog.New(slog.NewTextHandler(&lines, nil)) })
		s := &sabotage{t: t, client: client}
		answer := make(chan struct{})
		b.answers(func(request) int { <-answer; return 202 })
		for i := range 12 {
			require.NoError(t, r.Create(t.Context(), registration(fmt.Sprint("e", i), "app")))
			r.send(t, message(fmt.Sprint("e", i), "ann", i))
		}
		soon(t, func() bool { return len(b.requests()) == 12 }, "all are under way")
		for i := range 8 {
			queue := s.key("q", fmt.Sprint("e", i))
			s.do("DEL", queue)
			s.do("SET", queue, "what nobody understands")
		}
		close(answer)
		for n := range 150 {
			for i := 8; i < 12; i++ {
				r.send(t, message(fmt.Sprint("e", i), fmt.Sprint("a", n), n))
			}
			<-time.After(10 * time.Millisecond)
		}
		r.stop()
		require.Equal(t, 4*151, int(verify(t, client).Fates[delivery.Delivered]), "those who are well lost nothing")
		for line := range strings.Lines(lines.String()) {
			for i := 8; i < 12; i++ {
				require.NotContains(t, line, fmt.Sprintf("e%d:app outcomes", i), "and were served all the time")
			}
		}
		require.Contains(t, lines.String(), "not served for the moment")
	})
}
