package delivery_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/pulsegate/pulsegate/health"
	"github.com/redis/go-redis/v9"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/require"
)

func TestBotGetsTheEventAsItCamePlusTheGatewaysFields(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		b := newBot(t)
		r := startReplica(t, client, b)
		reg := registration("e1", "app", func(r *delivery.Registration) { r.Metadata = []byte(`{"internalBot": false,"n":12345678901234567890}`) })
		require.NoError(t, r.Create(t.Context(), reg))
		body := `{ "type" : "message", "big":123456789012345678901234567890, "owner":"theirs", "coordinate": {"companyKey":"acme","networkKey":"whatsapp","externalId":"e1","botId":"x"} ,"author":{"id":"a:b/c","properties":{}}, "u":"\u00e9\ud83d\ude00é" }`
		rc := r.send(t, delivery.Incoming{Body: []byte(body)})
		require.Equal(t, delivery.Delivered, r.settled(t, rc[0].ID).Fate)
		want := `{ "type" : "message", "big":123456789012345678901234567890, "owner":{"type":"BOT","appId":"app"}, "coordinate": {"companyKey":"acme","networkKey":"whatsapp","externalId":"e1","botId":"app"} ,"author":{"id":"a:b/c","properties":{}}, "u":"\u00e9\ud83d\ude00é" ,"metadata":{"internalBot": false,"n":12345678901234567890},"health":{"status":"HEALTHY","failureCount":0,"successCount":0}}`
		got := b.requests()[0]
		require.Equal(t, want, got.body)
		require.Equal(t, "application/json; charset=utf-8", got.header.Get("Content-Type"))
		require.Equal(t, "1", got.header.Get("Pulsegate-Try"))
		require.Equal(t, rc[0].ID, got.header.Get("webhook-id"))
		require.NotContains(t, rc[0].ID, ".")
		require.Equal(t, got.header.Get("X-Request-Id"), got.header.Get("x-amzn-RequestId"))
		user, pass, ok := (&http.Request{Header: got.header}).BasicAuth()
		require.True(t, ok)
		require.Equal(t, "gw/s3cret", user+"/"+pass)
		rec, err := r.Record(t.Context(), "acme", got.header.Get("X-Request-Id"))
		require.NoError(t, err)
		require.Equal(t, delivery.RequestSuccess, rec.State)
		_, err = r.Record(t.Context(), "other", got.header.Get("X-Request-Id"))
		require.ErrorIs(t, err, delivery.ErrNotFound)
	})
}

func TestSignaturesVerifyWithOldAndNewSecret(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		b := newBot(t)
		r := startReplica(t, client, b)
		secret := func(s string) delivery.Secret {
			return delivery.Secret("whsec_" + base64.StdEncoding.EncodeToString([]byte(s)))
		}
		hmac := func(s delivery.Secret) delivery.Registration {
			return registration("e1", "app", func(r *delivery.Registration) {
				r.Credentials = delivery.Credentials{Type: delivery.HMAC, Secret: s}
			})
		}
		first, second := secret("first secret 0123456789"), secret("second secret 012345678")
		require.NoError(t, r.Create(t.Context(), hmac(first)))
		require.NoError(t, r.Put(t.Context(), hmac(second)))
		rc := r.send(t, message("e1", "ann", 1))
		r.settled(t, rc[0].ID)
		got := b.requests()[0]
		for _, s := range []delivery.Secret{first, second} {
			wh, err := standardwebhooks.NewWebhook(string(s))
			require.NoError(t, err)
			require.NoError(t, wh.VerifyIgnoringTimestamp([]byte(got.body), got.header))
		}
		raw, err := client.HGetAll(t.Context(), onlyKey(t, client, "pg:*:reg:*")).Result()
		require.NoError(t, err)
		require.NotContains(t, fmt.Sprint(raw), string(second), "secrets lie sealed")
		back, err := r.Registration(t.Context(), hmac(first).RegID)
		require.NoError(t, err)
		require.Empty(t, back.Credentials.Secret)
	})
}

// TestSignaturesAreThoseOfStandardWebhooks has the official library judge every kind of secret, with the time of the signature, and changes
// each thing that is signed.
func TestSignaturesAreThoseOfStandardWebhooks(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		b := newBot(t)
		r := startReplica(t, client, b)
		judges := map[string]func(string) (*standardwebhooks.Webhook, error){
			"whsec_" + base64.StdEncoding.EncodeToString([]byte("0123456789abcdef01234567")): standardwebhooks.NewWebhook,
			"any other text, with blanks & signs":                                            func(s string) (*standardwebhooks.Webhook, error) { return standardwebhooks.NewWebhookRaw([]byte(s)) },
			"whsec_not base64!":                                                              func(s string) (*standardwebhooks.Webhook, error) { return standardwebhooks.NewWebhookRaw([]byte(s)) },
		}
		for secret, judge := range judges {
			require.NoError(t, r.Put(t.Context(), registration("e1", "app", func(r *delivery.Registration) {
				r.Credentials = delivery.Credentials{Type: delivery.HMAC, Secret: delivery.Secret(secret)}
			})))
			seen := len(b.requests())
			r.settled(t, r.send(t, message("e1", "ann", seen))[0].ID)
			got := b.requests()[seen]
			require.Empty(t, got.header.Get("Authorization"))
			wh, err := judge(secret)
			require.NoError(t, err)
			require.NoError(t, wh.Verify([]byte(got.body), got.header), secret)
			require.Error(t, wh.Verify([]byte(got.body+" "), got.header))
			for _, name := range []string{"webhook-id", "webhook-timestamp", "webhook-signature"} {
				h := got.header.Clone()
				h.Set(name, strings.ReplaceAll(h.Get(name), "v1,", "v1,A")+"9")
				require.Error(t, wh.Verify([]byte(got.body), h), name)
			}
			stranger, err := standardwebhooks.NewWebhookRaw([]byte("another secret of some length"))
			require.NoError(t, err)
			require.Error(t, stranger.Verify([]byte(got.body), got.header))
		}
	})
}

func onlyKey(t testing.TB, client redis.UniversalClient, pattern string) string {
	keys := allKeys(t, client, pattern)
	require.Len(t, keys, 1)
	return keys[0]
}

// allKeys lists the keys of a store: of a cluster, those of every master.
func allKeys(t testing.TB, client redis.UniversalClient, pattern string) []string {
	cluster, ok := client.(*redis.ClusterClient)
	if !ok {
		keys, err := client.Keys(t.Context(), pattern).Result()
		require.NoError(t, err)
		return keys
	}
	var mu sync.Mutex
	var all []string
	require.NoError(t, cluster.ForEachMaster(t.Context(), func(ctx context.Context, master *redis.Client) error {
		keys, err := master.Keys(ctx, pattern).Result()
		mu.Lock()
		defer mu.Unlock()
		all = append(all, keys...)
		return err
	}))
	return all
}

func TestSameIDIsAcceptedOnce(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		b := newBot(t)
		r := startReplica(t, client, b)
		require.NoError(t, r.Create(t.Context(), registration("e1", "app")))
		in := message("e1", "ann", 1)
		in.Key = "k1"
		var wg sync.WaitGroup
		var ids sync.Map
		for range 100 {
			wg.Go(func() { ids.Store(r.Accept(t.Context(), "acme", []delivery.Incoming{in})[0].ID, true) })
		}
		wg.Wait()
		n := 0
		ids.Range(func(id, _ any) bool { n++; r.settled(t, id.(string)); return true })
		require.Equal(t, 1, n)
		require.Len(t, b.requests(), 1)
		other := message("e1", "ann", 2)
		other.Key = "k1"
		require.ErrorIs(t, r.Accept(t.Context(), "acme", []delivery.Incoming{other})[0].Err, delivery.ErrKeyReused)
	})
}

func TestUndeliverableMessageIsTriedTwiceAndHandedOff(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		b := newBot(t)
		b.status(http.StatusServiceUnavailable)
		r := startReplica(t, client, b)
		require.NoError(t, r.Create(t.Context(), registration("e1", "app")))
		rc := r.send(t, message("e1", "ann", 1))
		rec := r.settled(t, rc[0].ID)
		require.Equal(t, delivery.Failed, rec.Fate)
		require.Equal(t, 2, rec.Tries)
		require.Equal(t, "503", rec.Code)
		require.Equal(t, delivery.AutomaticHandoff, rec.Handoff)
		got := b.requests()
		require.Len(t, got, 2)
		require.Equal(t, "2", got[1].header.Get("Pulsegate-Try"))
		require.GreaterOrEqual(t, got[1].at.Sub(got[0].at), 200*time.Millisecond)
		ctl, err := r.Control(t.Context(), entity("e1"), "ann")
		require.NoError(t, err)
		require.Equal(t, delivery.Agent, ctl.Owner.Type)
		require.Equal(t, []string{"Bot Handoff", "Automatic Bot Handoff"}, ctl.Tags)

		again := r.settled(t, r.send(t, message("e1", "ann", 2))[0].ID)
		require.Empty(t, again.Handoff, "at most one handoff until a bot owns it again")
		require.Equal(t, map[string]any{"type": "AGENT"}, b.requests()[2].event["owner"], "events still go to the bot")
		hs, err := r.Outbox().List(t.Context(), "acme", 10, nil, delivery.EntryHandoff)
		require.NoError(t, err)
		require.Len(t, hs, 1)
		h := r.healthOf(t, "app")
		require.EqualValues(t, 2, h.Counts.Failed, "one delivery makes one outcome")
		require.Equal(t, health.Degraded, h.Verdict.State)
	})
}

func TestDownSuppressesUntilATrialIsAcknowledged(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		b := newBot(t)
		b.status(500)
		r := startReplica(t, client, b, quick)
		require.NoError(t, r.Create(t.Context(), registration("e1", "app")))
		for i := range 10 {
			r.send(t, message("e1", fmt.Sprint("a", i), i))
		}
		soon(t, func() bool { return !r.healthOf(t, "app").Standing.PausedUntil.IsZero() }, "DOWN")
		tries := len(b.requests())
		rc := r.send(t, message("e1", "later", 99))
		require.Equal(t, delivery.Suppressed, rc[0].Fate)
		require.Len(t, b.requests(), tries, "no try during the pause")
		require.Equal(t, delivery.AutomaticHandoff, r.settled(t, rc[0].ID).Handoff)
		b.status(200)
		until := r.healthOf(t, "app").Standing.PausedUntil
		soon(t, func() bool { return r.Now().After(until) }, "the end of the pause")
		rc = r.send(t, message("e1", "trial", 100))
		require.Equal(t, delivery.Delivered, r.settled(t, rc[0].ID).Fate)
		soon(t, func() bool { return r.healthOf(t, "app").Standing.State != health.Down }, "not DOWN")
		soon(t, func() bool {
			h := r.healthOf(t, "app")
			return h.Standing.State == health.Healthy && h.Standing.Verified || r.send(t, message("e1", "x", 1)) == nil
		}, "HEALTHY")
	})
}

func TestEventsOfOneAuthorArriveInOrder(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		b := newBot(t)
		var n atomic.Int64
		b.answers(func(request) int {
			if n.Add(1)%7 == 0 {
				return 500
			}
			return 202
		})
		one, two := startReplica(t, client, b), startReplica(t, client, b)
		require.NoError(t, one.Create(t.Context(), registration("e1", "app")))
		const authors, each = 8, 20
		var wg sync.WaitGroup
		for a := range authors {
			wg.Go(func() {
				for i := range each {
					r := one
					if (i+a)%2 == 0 {
						r = two
					}
					r.send(t, message("e1", fmt.Sprint("author-", a), i))
				}
			})
		}
		wg.Wait()
		soon(t, func() bool {
			h := one.healthOf(t, "app")
			return h.Counts.Acknowledged+h.Counts.Failed == authors*each
		}, "all outcomes")
		last := map[string]float64{}
		for _, req := range b.requests() {
			author := req.event["author"].(map[string]any)["id"].(string)
			k := req.event["n"].(float64)
			was, seen := last[author]
			require.True(t, !seen && k == 0 || seen && (k == was || k == was+1), "%s: %v after %v", author, k, was)
			last[author] = k
		}
	})
}

func TestMaintenanceHandsOffAndSendsNothing(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		b := newBot(t)
		r := startReplica(t, client, b)
		reg := registration("e1", "app")
		require.NoError(t, r.Create(t.Context(), reg))
		r.settled(t, r.send(t, message("e1", "ann", 1))[0].ID)
		require.NoError(t, r.SetMode(t.Context(), reg.RegID, delivery.Maintenance))
		rc := r.send(t, message("e1", "bob", 2))
		require.Equal(t, delivery.InMaintenance, rc[0].Fate)
		require.Equal(t, delivery.MaintenanceHandoff, r.settled(t, rc[0].ID).Handoff)
		require.Len(t, b.requests(), 1)
		r.runJobs(t)
		for _, author := range []string{"ann", "bob"} {
			ctl, err := r.Control(t.Context(), entity("e1"), author)
			require.NoError(t, err)
			require.Equal(t, []string{"Bot Handoff", "Maintenance Bot Handoff"}, ctl.Tags, author)
		}
		h := r.healthOf(t, "app")
		require.Equal(t, health.Healthy, h.Verdict.State)
		require.False(t, h.Verdict.Verified)
	})
}

// runJobs runs the stored jobs to their end, as notify does.
func (r *replica) runJobs(t testing.TB) {
	entries, err := r.Outbox().Take(t.Context(), 1000, time.Minute)
	require.NoError(t, err)
	for _, e := range entries {
		for e.Kind == delivery.EntryJob && e.State == delivery.EntryPending {
			e, err = r.Outbox().RunJob(t.Context(), e)
			require.NoError(t, err)
			require.NoError(t, r.Outbox().Update(t.Context(), e))
		}
	}
}

func TestJobHandsOffHundredsOfConversationsOnce(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		b := newBot(t)
		r := startReplica(t, client, b)
		reg := registration("e1", "app")
		require.NoError(t, r.Create(t.Context(), reg))
		const n = 350
		var in []delivery.Incoming
		for i := range n {
			in = append(in, message("e1", fmt.Sprint("author ", i), i))
		}
		r.send(t, in...)
		soon(t, func() bool { return len(b.requests()) == n }, "all delivered")
		require.NoError(t, r.Delete(t.Context(), reg.RegID))
		r.runJobs(t)
		hs, err := r.Outbox().List(t.Context(), "acme", 1000, nil, delivery.EntryHandoff)
		require.NoError(t, err)
		require.Len(t, hs, n)
		for i := range n {
			ctl, err := r.Control(t.Context(), entity("e1"), fmt.Sprint("author ", i))
			require.NoError(t, err)
			require.Equal(t, delivery.Agent, ctl.Owner.Type)
		}
	})
}

func TestWhatWaitsIsWithdrawnWhenTheRegistrationGoes(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		b := newBot(t)
		b.status(0)
		r := startReplica(t, client, b, quick)
		reg := registration("e1", "app")
		require.NoError(t, r.Create(t.Context(), reg))
		first := r.send(t, message("e1", "ann", 1))
		soon(t, func() bool { return len(b.requests()) == 1 }, "the first try")
		waiting := r.send(t, message("e1", "ann", 2), message("e1", "ann", 3))
		require.NoError(t, r.Delete(t.Context(), reg.RegID))
		for _, rc := range waiting {
			require.Equal(t, delivery.Withdrawn, r.settled(t, rc.ID).Fate)
		}
		r.settled(t, first[0].ID)
		require.ErrorIs(t, r.Accept(t.Context(), "acme", []delivery.Incoming{message("e1", "ann", 4)})[0].Err, delivery.ErrUnknownEntity)
		soon(t, func() bool { return len(allKeys(t, client, "pg:*:st:*")) == 0 }, "its keys to be gone")
	})
}

func TestNeverTwoLive(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		b := newBot(t)
		one, two := startReplica(t, client, b), startReplica(t, client, b)
		var won atomic.Int64
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				r := one
				if i%2 == 0 {
					r = two
				}
				err := r.Create(t.Context(), registration("e1", fmt.Sprint("app", i)))
				switch {
				case err == nil:
					won.Add(1)
				default:
					require.ErrorIs(t, err, delivery.ErrLiveTaken)
				}
			})
		}
		wg.Wait()
		require.EqualValues(t, 1, won.Load())
		for i := range 15 {
			err := one.Create(t.Context(), registration("e1", fmt.Sprint("mon", i), func(r *delivery.Registration) { r.Mode = delivery.Monitoring }))
			require.Equal(t, i >= 9, errors.Is(err, delivery.ErrTooMany), "%d: %v", i, err)
		}
	})
}

func TestMonitoringBotsListenAndHandOffNothing(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		b := newBot(t)
		b.answers(func(r request) int {
			if strings.Contains(r.body, `"botId":"mon"`) {
				return 500
			}
			return 202
		})
		r := startReplica(t, client, b)
		require.NoError(t, r.Create(t.Context(), registration("e1", "app")))
		require.NoError(t, r.Create(t.Context(), registration("e1", "mon", func(r *delivery.Registration) { r.Mode = delivery.Monitoring })))
		rc := r.send(t, message("e1", "ann", 1))
		soon(t, func() bool {
			recs, err := r.EventRecords(t.Context(), "acme", rc[0].ID)
			return err == nil && len(recs) == 2 && recs[0].Fate == delivery.Delivered && recs[1].Fate == delivery.Failed
		}, "both fates")
		ctl, err := r.Control(t.Context(), entity("e1"), "ann")
		require.NoError(t, err)
		require.Equal(t, delivery.Owner{Type: delivery.Bot, AppID: "app"}, ctl.Owner)
		require.Equal(t, health.Degraded, r.healthOf(t, "mon").Verdict.State)
		require.Equal(t, health.Healthy, r.healthOf(t, "app").Verdict.State)
	})
}

func TestPublicEventsPassTheFilterOnly(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		b := newBot(t)
		r := startReplica(t, client, b)
		require.NoError(t, r.Create(t.Context(), registration("e1", "app", func(r *delivery.Registration) {
			r.PublicFilter = &delivery.PublicFilter{IncludeTargeted: true, IncludeSourceTagIDs: []int64{7}}
		})))
		public := func(extra string) delivery.Incoming {
			return delivery.Incoming{Body: []byte(`{"type":"message","coordinate":{"companyKey":"acme","networkKey":"whatsapp","externalId":"e1","scope":"PUBLIC"},"author":{"id":"ann"}` + extra + `}`)}
		}
		rcs := r.send(t, public(""), public(`,"targeted":true`), public(`,"sourceTagIds":[1,7]`), public(`,"sourceTagIds":[1],"targeted":false`))
		require.Equal(t, delivery.Filtered, r.settled(t, rcs[0].ID).Fate)
		require.Equal(t, delivery.Delivered, r.settled(t, rcs[1].ID).Fate)
		require.Equal(t, delivery.Delivered, r.settled(t, rcs[2].ID).Fate)
		require.Equal(t, delivery.Filtered, r.settled(t, rcs[3].ID).Fate)
		for i, mode := range []delivery.Mode{delivery.Monitoring, delivery.Maintenance} {
			require.NoError(t, r.SetMode(t.Context(), registration("e1", "app").RegID, mode))
			r.runJobs(t)
			author := fmt.Sprint("passer-by ", i)
			in := delivery.Incoming{Body: []byte(strings.Replace(string(public("").Body), "ann", author, 1))}
			require.Equal(t, delivery.Filtered, r.settled(t, r.send(t, in)[0].ID).Fate, mode)
			_, err := r.Control(t.Context(), entity("e1"), author)
			require.ErrorIs(t, err, delivery.ErrNotFound, "no handoff of what nobody asked for")
		}
	})
}

func TestOverflowNeverBlocksTheSource(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		b := newBot(t)
		b.status(0)
		r := startReplica(t, client, b, quick, func(c *delivery.Config) { c.QueueEvents = 3 })
		require.NoError(t, r.Create(t.Context(), registration("e1", "app")))
		var fates []delivery.Fate
		for i := range 5 {
			fates = append(fates, r.send(t, message("e1", "ann", i))[0].Fate)
		}
		require.Equal(t, []delivery.Fate{delivery.Queued, delivery.Queued, delivery.Queued, delivery.Overflow, delivery.Overflow}, fates)
		ctl, err := r.Control(t.Context(), entity("e1"), "ann")
		require.NoError(t, err)
		require.Equal(t, delivery.Agent, ctl.Owner.Type)
	})
}

func TestControlPassesBothWays(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		b := newBot(t)
		r := startReplica(t, client, b)
		require.NoError(t, r.Create(t.Context(), registration("e1", "app")))
		_, err := r.Control(t.Context(), entity("e1"), "ann")
		require.ErrorIs(t, err, delivery.ErrNotFound)
		r.settled(t, r.send(t, message("e1", "ann", 1))[0].ID)
		ctl, err := r.PassControl(t.Context(), delivery.ControlChange{Entity: entity("e1"), AppID: "app", AuthorID: "ann", Owner: delivery.Owner{Type: delivery.Agent}, Comment: "help"})
		require.NoError(t, err)
		require.Equal(t, []string{"Bot Handoff", "Standard Bot Handoff"}, ctl.Tags)
		again, err := r.PassControl(t.Context(), delivery.ControlChange{Entity: entity("e1"), AppID: "app", AuthorID: "ann", Owner: delivery.Owner{Type: delivery.Agent}, Comment: "please"})
		require.NoError(t, err)
		require.Equal(t, ctl.Tags, again.Tags)
		for kind, comment := range map[delivery.EntryKind]string{delivery.EntryHandoff: "help", delivery.EntryControl: "please"} {
			listed, err := r.Outbox().List(t.Context(), "acme", 10, nil, kind)
			require.NoError(t, err)
			require.Len(t, listed, 1, "an agent has it already: the platform is told, and that is no handoff")
			require.Contains(t, string(listed[0].Data), comment)
		}
		_, err = r.PassControl(t.Context(), delivery.ControlChange{Entity: entity("e1"), AppID: "app", AuthorID: "ann", Owner: delivery.Owner{Type: delivery.Bot, AppID: "app"}, LastUpdateTS: ctl.LastUpdated.UnixMilli() - 1})
		require.ErrorIs(t, err, delivery.ErrStale)
		r.send(t, delivery.Incoming{Body: []byte(`{"type":"control","owner":{"type":"BOT","appId":"app"},"coordinate":{"companyKey":"acme","networkKey":"whatsapp","externalId":"e1"},"author":{"id":"ann"}}`)})
		ctl, err = r.Control(t.Context(), entity("e1"), "ann")
		require.NoError(t, err)
		require.Equal(t, delivery.Owner{Type: delivery.Bot, AppID: "app"}, ctl.Owner)
		require.Empty(t, ctl.Tags)
	})
}

func TestScriptsComeBackAfterAFlush(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		b := newBot(t)
		r := startReplica(t, client, b)
		require.NoError(t, r.Create(t.Context(), registration("e1", "app")))
		for i := range 20 {
			require.NoError(t, client.ScriptFlush(t.Context()).Err())
			r.send(t, message("e1", "ann", i))
		}
		soon(t, func() bool { return r.healthOf(t, "app").Counts.Acknowledged == 20 }, "all delivered")
	})
}

func TestAnotherReplicaResumesWhatADeadOneHeld(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		b := newBot(t)
		b.status(0)
		dead := startReplica(t, client, b, func(c *delivery.Config) { c.DeliveryTimeout = 30 * time.Second })
		require.NoError(t, dead.Create(t.Context(), registration("e1", "app")))
		rc := dead.send(t, message("e1", "ann", 1), message("e1", "ann", 2))
		soon(t, func() bool { return len(b.requests()) == 1 }, "the first try")
		// It dies without a word: its lease is left behind, and its key says so.
		st := onlyKey(t, client, "pg:*:st:*")
		require.NoError(t, client.HSet(t.Context(), st, "lo", "ghost:1").Err())
		b.status(202)
		alive := startReplica(t, client, b)
		for _, r := range rc {
			require.Equal(t, delivery.Delivered, alive.settled(t, r.ID).Fate)
		}
		require.EqualValues(t, 2, alive.healthOf(t, "app").Counts.Acknowledged, "every outcome once")
	})
}

func TestHeldEventsAreDeliveredInOrderAfterRecovery(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		b := newBot(t)
		b.status(500)
		r := startReplica(t, client, b, quick, func(c *delivery.Config) { c.Rules.Window = 6 * time.Second })
		require.NoError(t, r.Create(t.Context(), registration("e1", "app", func(r *delivery.Registration) { r.WhenDown = delivery.Hold })))
		for i := range 10 {
			r.send(t, message("e1", fmt.Sprint("a", i), i))
		}
		soon(t, func() bool { return !r.healthOf(t, "app").Standing.PausedUntil.IsZero() }, "DOWN")
		var rcs []delivery.Receipt
		for i := range 3 {
			rc := r.send(t, message("e1", "held", 100+i))
			require.Equal(t, delivery.Queued, rc[0].Fate)
			rcs = append(rcs, rc...)
		}
		number := r.healthOf(t, "app").Standing.Number
		soon(t, func() bool { return r.healthOf(t, "app").Standing.Number > number }, "a failed trial")
		require.Equal(t, health.Down, r.healthOf(t, "app").Standing.State, "a failed trial is DOWN again whatever the counts")
		b.status(202)
		for _, rc := range rcs {
			rec := r.settled(t, rc.ID)
			require.Equal(t, delivery.Delivered, rec.Fate, "%+v", rec)
		}
		var held []float64
		for _, q := range b.requests() {
			if strings.Contains(q.body, `"held"`) && q.header.Get("Pulsegate-Try") == "1" {
				held = append(held, q.event["n"].(float64))
			}
		}
		require.Equal(t, []float64{100, 101, 102}, held[len(held)-3:])
	})
}

func TestAStoreOfAnotherKeyIsRefused(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		startReplica(t, client, nil)
		sealer, err := delivery.NewSealer([]byte(strings.Repeat("other", 7)[:32]))
		require.NoError(t, err)
		c, err := delivery.New(delivery.Config{Client: client, Sealer: sealer})
		require.NoError(t, err)
		err = c.Ready(t.Context())
		require.ErrorContains(t, err, "--key-file")
		require.NotErrorIs(t, err, delivery.ErrUnavailable)
		ring, err := delivery.NewSealer([]byte(strings.Repeat("other", 7)[:32]), []byte("0123456789abcdef0123456789abcdef"))
		require.NoError(t, err)
		c, err = delivery.New(delivery.Config{Client: client, Sealer: ring})
		require.NoError(t, err)
		require.NoError(t, c.Ready(t.Context()), "a ring that holds the key")
	})
}

func TestAFullRedisDrainsAndStillTellsPeople(t *testing.T) {
	client := newRedisServer(t)
	b := newBot(t)
	release := make(chan struct{})
	b.answers(func(request) int { <-release; return 500 })
	r := startReplica(t, client, b)
	require.NoError(t, r.Create(t.Context(), registration("e1", "app")))
	var rcs []delivery.Receipt
	for i := range 20 {
		rcs = append(rcs, r.send(t, message("e1", fmt.Sprint("a", i), i))...)
	}
	require.NoError(t, client.ConfigSet(t.Context(), "maxmemory", "1000000").Err())
	require.ErrorIs(t, r.Accept(t.Context(), "acme", []delivery.Incoming{message("e1", "late", 1)})[0].Err, delivery.ErrUnavailable)
	close(release)
	for _, rc := range rcs {
		require.Equal(t, delivery.Failed, r.settled(t, rc.ID).Fate)
	}
	soon(t, func() bool { return !r.healthOf(t, "app").Standing.PausedUntil.IsZero() }, "DOWN")
	require.NoError(t, r.Ready(t.Context()))
	told := 0
	soon(t, func() bool {
		entries, err := r.Outbox().Take(t.Context(), 1000, time.Minute)
		require.NoError(t, err)
		for _, e := range entries {
			e.State = delivery.EntryDone
			require.NoError(t, r.Outbox().Update(t.Context(), e))
		}
		told += len(entries)
		return told >= 23 // handoffs, two transitions, a job
	}, "the outbox to be read")
	require.NoError(t, client.ConfigSet(t.Context(), "maxmemory", "0").Err())
	r.send(t, message("e1", "late", 1))
}

func TestCustomersOfAReplacedBotBecomeTheNewOnes(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		b := newBot(t)
		r := startReplica(t, client, b)
		old := registration("e1", "old")
		require.NoError(t, r.Create(t.Context(), old))
		r.settled(t, r.send(t, message("e1", "ann", 1))[0].ID)
		closed := delivery.Incoming{Body: []byte(`{"type":"update","operation":"CLOSED","coordinate":{"companyKey":"acme","networkKey":"whatsapp","externalId":"e1"},"author":{"id":"ann"}}`)}
		r.settled(t, r.send(t, closed)[0].ID)
		require.NoError(t, r.Delete(t.Context(), old.RegID))
		require.NoError(t, r.Create(t.Context(), registration("e1", "new")))
		rc := r.send(t, message("e1", "ann", 2))
		soon(t, func() bool { return len(b.requests()) == 3 }, "the message at the new bot")
		require.Equal(t, map[string]any{"type": "BOT", "appId": "new"}, b.requests()[2].event["owner"], rc)
	})
}

func TestEventsThatAreNotAdmittedChangeNoOwner(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		r := startReplica(t, client, newBot(t))
		require.NoError(t, r.Create(t.Context(), registration("e1", "app")))
		const public = `"coordinate":{"companyKey":"acme","networkKey":"whatsapp","externalId":"e1","scope":"PUBLIC"},"author":{"id":"ann"}`
		toAgent := `{"type":"control","owner":{"type":"AGENT"},"coordinate":{"companyKey":"acme","networkKey":"whatsapp","externalId":"e1"},"author":{"id":"ann"}`
		r.settled(t, r.send(t, delivery.Incoming{Body: []byte(toAgent + "}")})[0].ID)
		for _, body := range []string{`{"type":"update","operation":"CLOSED",` + public, `{"type":"control","owner":{"type":"BOT","appId":"app"},` + public} {
			rc := r.send(t, delivery.Incoming{Body: []byte(body + "}")})[0]
			require.Equal(t, delivery.Filtered, rc.Fate)
			owner, err := r.Control(t.Context(), entity("e1"), "ann")
			require.NoError(t, err)
			require.Equal(t, delivery.Agent, owner.Owner.Type)
		}
	})
}

func TestGivingUpHoldingHandsOffAtOnce(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		b := newBot(t)
		b.status(500)
		r := startReplica(t, client, b, func(c *delivery.Config) { c.DeliveryTimeout = time.Second })
		reg := registration("e1", "app", func(r *delivery.Registration) { r.WhenDown = delivery.Hold })
		require.NoError(t, r.Create(t.Context(), reg))
		for i := range 10 {
			r.send(t, message("e1", fmt.Sprint("a", i), i))
		}
		soon(t, func() bool { return !r.healthOf(t, "app").Standing.PausedUntil.IsZero() }, "DOWN")
		rc := r.send(t, message("e1", "held", 1))
		require.Equal(t, delivery.Queued, rc[0].Fate)
		reg.WhenDown = delivery.HandOff
		require.NoError(t, r.Put(t.Context(), reg))
		require.Equal(t, delivery.Suppressed, r.settled(t, rc[0].ID).Fate)
	})
}
