package delivery_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pulsegate/pulsegate/cmd/rig"
	"github.com/pulsegate/pulsegate/delivery"
)

var (
	oldKey   = []byte("0123456789abcdef0123456789abcdef")
	newKey   = bytes.Repeat([]byte("n"), 32)
	otherKey = bytes.Repeat([]byte("o"), 32)
)

func sealer(t testing.TB, keys ...[]byte) *delivery.Sealer {
	s, err := delivery.NewSealer(keys...)
	require.NoError(t, err)
	return s
}

func sealedBy(keys ...[]byte) func(*delivery.Config) {
	return func(c *delivery.Config) {
		s, err := delivery.NewSealer(keys...)
		if err != nil {
			panic(err)
		}
		c.Sealer = s
	}
}

// resealed is how many registrations are sealed anew in the short form, and in full size.
func resealed() int {
	if os.Getenv("PULSEGATE_FAULTS") == "full" {
		return 10_000
	}
	return 200
}

// TestE15KeysAreReplacedWhileEventsAreDelivered seals the secrets of all registrations with another key, breaks the walk off in the middle, and
// delivers all the time. Then the old key goes.
func TestE15KeysAreReplacedWhileEventsAreDelivered(t *testing.T) {
	for name, client := range map[string]func(testing.TB) redis.UniversalClient{"redis-server": newRedisServer, "cluster": emptyCluster} {
		t.Run(name, func(t *testing.T) {
			n := resealed()
			if name == "cluster" {
				n = 100
			}
			client := client(t)
			b := newBot(t)
			r := startReplica(t, client, b)
			for i := range n {
				reg := registration(fmt.Sprint("page-", i/2), fmt.Sprint("app-", i%2), func(reg *delivery.Registration) {
					reg.Credentials.Secret = delivery.Secret(fmt.Sprint("secret ", i))
					if i%2 == 1 {
						reg.Mode, reg.Credentials = delivery.Monitoring, delivery.Credentials{Type: delivery.HMAC, Secret: delivery.Secret(fmt.Sprint("secret ", i))}
					}
				})
				require.NoError(t, r.Create(t.Context(), reg))
			}
			again := registration("page-0", "app-1", func(reg *delivery.Registration) {
				reg.Mode, reg.Credentials = delivery.Monitoring, delivery.Credentials{Type: delivery.HMAC, Secret: "a changed secret"}
			})
			require.NoError(t, r.Put(t.Context(), again))

			stop := deliverAllTheTime(t, r, n/2)
			require.NoError(t, r.RenewKeys(t.Context(), oldKey, newKey))
			vault := delivery.NewVault(client, sealer(t, newKey, oldKey), nil)
			soon(t, func() bool {
				rings, err := vault.Rings(t.Context())
				require.NoError(t, err)
				return len(rings) == 1 && slices.Equal(only(rings), []string{delivery.KeyID(oldKey), delivery.KeyID(newKey)})
			}, "the gateway to tell that it has both keys")
			require.NoError(t, vault.Require(t.Context(), delivery.KeyID(oldKey), delivery.KeyID(newKey)))
			require.NoError(t, r.RenewKeys(t.Context(), newKey, oldKey))

			ctx, cancel := context.WithCancel(t.Context())
			began := time.Now()
			part, err := vault.Reseal(ctx, func(seen int64) {
				if seen > int64(n/3) {
					cancel()
				}
			})
			require.Error(t, err, "broken off")
			require.Positive(t, part.Resealed)
			rest, err := vault.Reseal(t.Context(), nil)
			took := time.Since(began)
			require.NoError(t, err)
			require.EqualValues(t, n, rest.Registrations)
			require.EqualValues(t, n, part.Resealed+rest.Resealed, "the second walk leaves alone what the first has done")
			last, err := vault.Count(t.Context(), nil)
			require.NoError(t, err)
			require.True(t, last.Settled(delivery.KeyID(newKey)))
			require.Equal(t, map[string]int64{delivery.KeyID(newKey): int64(n + 1)}, last.Secrets, "one has an old secret too")

			require.NoError(t, vault.Require(t.Context(), delivery.KeyID(newKey)))
			require.NoError(t, r.RenewKeys(t.Context(), newKey), "the old key goes")
			sent := stop()
			checkSecrets(t, r, b, n)
			t.Attr("measured", fmt.Sprintf("%d registrations sealed anew in %v, broken off once, while %d events were delivered; all secrets as before", n, took.Round(time.Millisecond), sent))
		})
	}
}

func only(rings map[string][]string) (ids []string) {
	for _, ids = range rings {
		break
	}
	return ids
}

// deliverAllTheTime sends events to pages in turn until it is stopped; then it returns how many there were, each delivered.
func deliverAllTheTime(t testing.TB, r *replica, pages int) (stop func() int) {
	ctx, cancel := context.WithCancel(t.Context())
	var ids []string
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ctx.Err() == nil; i++ {
			got := r.Accept(t.Context(), "acme", []delivery.Incoming{message(fmt.Sprint("page-", i%pages), "ann", i)})
			if got[0].Err != nil {
				t.Error(got[0].Err)
				return
			}
			ids = append(ids, got[0].ID)
			<-tick.C
		}
	}()
	return func() int {
		cancel()
		<-done
		for _, id := range ids {
			soon(t, func() bool {
				recs, err := r.EventRecords(t.Context(), "acme", id)
				require.NoError(t, err)
				for _, rec := range recs {
					if rec.Fate != delivery.Delivered {
						return false
					}
				}
				return len(recs) == 2
			}, "both bots to have "+id)
		}
		return len(ids)
	}
}

// checkSecrets sends an event to every page and looks at what the bots are told.
func checkSecrets(t testing.TB, r *replica, b *bot, n int) {
	before := len(b.requests())
	for i := range n / 2 {
		r.send(t, message(fmt.Sprint("page-", i), "bob", i))
	}
	soon(t, func() bool { return len(b.requests()) == before+n }, "every bot to have an event")
	basic, signed := map[string]bool{}, 0
	for _, q := range b.requests()[before:] {
		if _, secret, ok := (&http.Request{Header: q.header}).BasicAuth(); ok {
			basic[secret] = true
		} else {
			require.NotEmpty(t, q.header.Get("Webhook-Signature"))
			signed++
		}
	}
	require.Len(t, basic, n/2, "each with its own secret")
	require.Equal(t, n/2, signed)
}

func TestE15GatewayWithoutTheRightKeyDoesNotStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := newMiniredis(t)
		startReplica(t, client, nil)
		start := func(keys ...[]byte) error {
			c, err := delivery.New(delivery.Config{Client: client, Sealer: sealer(t, keys...)})
			require.NoError(t, err)
			return c.Ready(t.Context())
		}
		require.NoError(t, start(newKey, oldKey))
		err := start(newKey)
		require.ErrorContains(t, err, "sealed with key "+delivery.KeyID(oldKey))
		require.ErrorContains(t, err, "start it with the --key-file that made them")
		require.NoError(t, delivery.NewVault(client, sealer(t, oldKey), nil).Require(t.Context(), delivery.KeyID(oldKey), delivery.KeyID(newKey)))
		require.Error(t, start(oldKey), "in the middle of a rotation both are needed")
		require.Error(t, start(newKey))
		require.NoError(t, start(newKey, oldKey))
	})
	t.Attr("measured", "wrong key, missing key, half a ring: each one sentence that names the keys, and no start")
}

func TestE15RunningGatewayTakesNoRingThatLacksAKeyInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBot(t)
		r := startReplica(t, newMiniredis(t), b)
		require.NoError(t, r.Create(t.Context(), registration("e", "app")))
		require.ErrorContains(t, r.RenewKeys(t.Context(), otherKey), delivery.KeyID(oldKey))
		require.Error(t, r.RenewKeys(t.Context()))
		require.Equal(t, delivery.Delivered, r.settled(t, r.send(t, message("e", "ann", 1))[0].ID).Fate)
	})
}

// TestE15SwappedCiphertextsDoNotOpen moves the sealed secret of one registration to another, whole and field by field.
func TestE15SwappedCiphertextsDoNotOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := newMiniredis(t)
		b := newBot(t)
		r := startReplica(t, client, b)
		one, two := registration("e", "one"), registration("e", "two", func(r *delivery.Registration) { r.Mode, r.Credentials.Secret = delivery.Monitoring, "another" })
		require.NoError(t, r.Create(t.Context(), one))
		require.NoError(t, r.Create(t.Context(), two))
		keys, err := client.Keys(t.Context(), "pg:*:reg:*").Result()
		require.NoError(t, err)
		require.Len(t, keys, 1)
		fields, err := client.HGetAll(t.Context(), keys[0]).Result()
		require.NoError(t, err)
		a, z := sealedIn(t, fields["a:one"]), sealedIn(t, fields["a:two"])
		swap := strings.NewReplacer(a, z, z, a)
		require.NoError(t, client.HSet(t.Context(), keys[0], "a:one", swap.Replace(fields["a:one"]), "a:two", swap.Replace(fields["a:two"])).Err())
		require.NoError(t, client.HIncrBy(t.Context(), keys[0], "ver", 1).Err())

		r.Accept(t.Context(), "acme", []delivery.Incoming{message("e", "ann", 1)})
		<-time.After(time.Minute)
		require.Empty(t, b.requests(), "nobody is told another's secret")
		found, err := delivery.NewVault(client, sealer(t, oldKey), nil).Count(t.Context(), nil)
		require.NoError(t, err)
		require.Len(t, found.Unreadable, 2)
		require.False(t, found.Settled(delivery.KeyID(oldKey)))
	})
	t.Attr("measured", "two sealed secrets swapped: neither opens, 0 requests")
}

// sealedIn is the sealed secret in a stored registration.
func sealedIn(t testing.TB, text string) string {
	_, rest, ok := strings.Cut(text, `"sealed":"`)
	require.True(t, ok)
	sealed, _, _ := strings.Cut(rest, `"`)
	require.True(t, strings.HasPrefix(sealed, "v1."))
	return sealed
}

// TestOldHMACSecretSignsForADay changes a secret and looks at the signatures until the old one is out of use, through a change of keys.
func TestOldHMACSecretSignsForADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := newMiniredis(t)
		b := newBot(t)
		r := startReplica(t, client, b)
		hmac := func(secret string) delivery.Registration {
			return registration("e", "app", func(r *delivery.Registration) {
				r.Credentials = delivery.Credentials{Type: delivery.HMAC, Secret: delivery.Secret(secret)}
			})
		}
		signatures := func() int {
			rec := r.settled(t, r.send(t, message("e", "ann", 1))[0].ID)
			require.Equal(t, delivery.Delivered, rec.Fate)
			all := b.requests()
			return len(strings.Fields(all[len(all)-1].header.Get("Webhook-Signature")))
		}
		require.NoError(t, r.Create(t.Context(), hmac("first")))
		require.Equal(t, 1, signatures())
		require.NoError(t, r.Put(t.Context(), hmac("second")))
		require.Equal(t, 2, signatures())
		require.NoError(t, r.RenewKeys(t.Context(), newKey, oldKey))
		_, err := delivery.NewVault(client, sealer(t, newKey, oldKey), nil).Reseal(t.Context(), nil)
		require.NoError(t, err)
		require.Equal(t, 2, signatures(), "the old secret is sealed anew as well")
		r.stop() // a day of looks at the store would take long
		<-time.After(24*time.Hour - time.Minute)
		r = startReplica(t, client, b, sealedBy(newKey, oldKey))
		require.Equal(t, 2, signatures())
		<-time.After(2 * time.Minute)
		require.Equal(t, 1, signatures())
	})
}

// meddler does something just before the first script of a client is run.
type meddler struct {
	once sync.Once
	do   func()
}

func (*meddler) DialHook(next redis.DialHook) redis.DialHook { return next }

func (*meddler) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (m *meddler) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if strings.HasPrefix(cmd.Name(), "eval") {
			m.once.Do(m.do)
		}
		return next(ctx, cmd)
	}
}

// TestE15WhatIsWrittenDuringAWalkIsNotLost changes a registration after a walk has read it and before it writes.
func TestE15WhatIsWrittenDuringAWalkIsNotLost(t *testing.T) {
	server := rig.StartServer(t, rig.ServerConfig{})
	r := startReplica(t, server.Client(), newBot(t))
	require.NoError(t, r.Create(t.Context(), registration("e", "app")))
	require.NoError(t, r.RenewKeys(t.Context(), newKey, oldKey))
	walker := redis.NewClient(&redis.Options{Addr: server.Addr})
	defer func() { require.NoError(t, walker.Close()) }()
	vault := delivery.NewVault(walker, sealer(t, newKey, oldKey), nil)
	walker.AddHook(&meddler{do: func() {
		assert.NoError(t, r.Put(t.Context(), registration("e", "app", func(r *delivery.Registration) { r.Name = "changed meanwhile" })))
	}})
	found, err := vault.Reseal(t.Context(), nil)
	require.NoError(t, err)
	require.Zero(t, found.Resealed)
	require.False(t, found.Settled(delivery.KeyID(newKey)), "another walk is due")
	back, err := r.Registration(t.Context(), registration("e", "app").RegID)
	require.NoError(t, err)
	require.Equal(t, "changed meanwhile", back.Name)
	found, err = vault.Reseal(t.Context(), nil)
	require.NoError(t, err)
	require.True(t, found.Settled(delivery.KeyID(newKey)))
	t.Attr("measured", "a registration written between a walk's reading and writing: what was written stays, and the next walk ends it")
}
