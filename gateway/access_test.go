package gateway_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
	"github.com/stretchr/testify/require"

	"github.com/pulsegate/pulsegate/cmd/rig"
	"github.com/pulsegate/pulsegate/delivery"
	"github.com/pulsegate/pulsegate/gateway"
)

// full says that rows are tried in the size of the checklist.
func full() bool { return os.Getenv("PULSEGATE_FAULTS") == "full" }

// sized is the size of a row: n as in the checklist, short in every run of the tests.
func sized(short, n int) int {
	if full() {
		return n
	}
	return short
}

// bubbleStore is a store in the process that follows fake time.
func bubbleStore(t testing.TB) (*miniredis.Miniredis, redis.UniversalClient) {
	m := miniredis.NewMiniRedis()
	m.ClockTTL(true)
	t.Cleanup(m.Close)
	c := redis.NewClient(&redis.Options{
		Addr: "127.0.0.1:1", MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}, PoolSize: 512,
		Dialer:     func(context.Context, string, string) (net.Conn, error) { return m.Dial() },
		MaxRetries: -1, ContextTimeoutEnabled: true, DisableIdentity: true, Protocol: 2,
	})
	t.Cleanup(func() { _ = c.Close() })
	return m, c
}

// replicas are stages over one store whose lists of revoked tokens are kept up to date until the test ends.
func replicas(t testing.TB, n int, client redis.UniversalClient, rate gateway.Rate) []*stage {
	all := make([]*stage, n)
	for i := range all {
		access, err := gateway.NewAccess(gateway.AccessConfig{Store: gateway.NewAccessStore(client), Rate: rate})
		require.NoError(t, err)
		require.NoError(t, access.Sync(t.Context()))
		all[i] = newStage(t, func(c *gateway.Config) { c.Access = access })
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- access.Run(ctx) }()
		t.Cleanup(func() {
			cancel()
			require.NoError(t, <-done)
		})
	}
	return all
}

// onBothStores runs a test on the store in the process, in fake time, and on a real redis-server.
func onBothStores(t *testing.T, test func(t *testing.T, client redis.UniversalClient)) {
	t.Run("in process", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			_, client := bubbleStore(t)
			test(t, client)
		})
	})
	t.Run("redis-server", func(t *testing.T) { test(t, rig.StartServer(t, rig.ServerConfig{}).Client()) })
}

// owner is the path of the token of an app.
func owner(app string) string { return "/api/v2/tokens/khorosapi/ownerId/" + app }

// tokenOf is the token in an answer.
func tokenOf(t testing.TB, body []byte) string {
	var a struct {
		Data struct {
			Token string `json:"token"`
		} `json:"data"`
	}
	require.NoError(t, json.Unmarshal(body, &a))
	require.NotEmpty(t, a.Data.Token, string(body))
	return a.Data.Token
}

// ask is the status that a token gets.
func (s *stage) ask(t testing.TB, token string) int {
	return s.do(t, token, http.MethodGet, "/bots/v3/registrations", "").Code
}

func TestE05ARevokedTokenIsRefusedByEveryReplicaWithinASecond(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		all := replicas(t, 3, client, gateway.Rate{})
		claims := gateway.Claims{CompanyKey: "acme", Scope: gateway.ScopeAdmin, ID: "to be revoked"}
		token, err := all[0].tokens.Sign(claims, time.Hour)
		require.NoError(t, err)
		other := all[0].as(t, gateway.ScopeAdmin, "acme")
		for _, s := range all {
			require.Equal(t, http.StatusOK, s.ask(t, token), "and is remembered as good")
		}
		fresh, err := gateway.NewAccessStore(client).Revoke(t.Context(), "", claims.ID, time.Now().Add(time.Hour))
		require.NoError(t, err)
		require.True(t, fresh)
		began := time.Now()
		for refused := 0; refused < len(all); {
			require.Less(t, time.Since(began), time.Second, "%d of %d refuse it", refused, len(all))
			<-time.After(10 * time.Millisecond)
			refused = 0
			for _, s := range all {
				if s.ask(t, token) == http.StatusUnauthorized {
					refused++
				}
			}
		}
		for _, s := range all {
			require.Equal(t, http.StatusOK, s.ask(t, other))
		}
		t.Attr("measured", fmt.Sprintf("refused by 3 replicas %d ms after it was revoked", time.Since(began).Milliseconds()))
	})
}

func TestARefreshedTokenEndsTenMinutesLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, client := bubbleStore(t)
		store := gateway.NewAccessStore(client)
		var all []*stage
		for range 2 { // their lists are read by hand: 90 days would be many looks
			access := newAccess(t, gateway.AccessConfig{Store: store, Patience: 365 * 24 * time.Hour})
			all = append(all, newStage(t, func(c *gateway.Config) { c.Access = access }))
		}
		require.NoError(t, store.AddAdministrator(t.Context(), "ops", "acme", adminPassword))
		first := tokenOf(t, all[0].do(t, "", http.MethodPost, owner("bot"), "", "Authorization", basic("ops", adminPassword)).Body.Bytes())
		second := tokenOf(t, all[1].do(t, first, http.MethodPut, "/bots/v3/tokens/appId/bot", "").Body.Bytes())
		require.NotEqual(t, first, second)
		for _, s := range all {
			require.NoError(t, s.access.Sync(t.Context()))
		}
		<-time.After(599 * time.Second)
		for _, s := range all {
			require.Equal(t, http.StatusOK, s.ask(t, first))
			require.Equal(t, http.StatusOK, s.ask(t, second))
		}
		<-time.After(2 * time.Second)
		for _, s := range all {
			require.Equal(t, http.StatusUnauthorized, s.ask(t, first))
			require.Equal(t, http.StatusOK, s.ask(t, second))
		}
		<-time.After(90 * 24 * time.Hour)
		require.Equal(t, http.StatusUnauthorized, all[0].ask(t, second), "90 days have passed")
		require.Equal(t, http.StatusOK, all[0].do(t, "", http.MethodPost, owner("bot"), "", "Authorization", basic("ops", adminPassword)).Code, "a new one may be made")
	})
}

func TestManyWhoAskForATokenAtOnceGetOne(t *testing.T) {
	client := rig.StartServer(t, rig.ServerConfig{}).Client()
	all := replicas(t, 2, client, gateway.Rate{})
	require.NoError(t, gateway.NewAccessStore(client).AddAdministrator(t.Context(), "ops", "acme", adminPassword))
	var wait sync.WaitGroup
	codes := make(chan int, 8)
	for i := range cap(codes) {
		wait.Go(func() {
			codes <- all[i%2].do(t, "", http.MethodPost, owner("bot"), "", "Authorization", basic("ops", adminPassword)).Code
		})
	}
	wait.Wait()
	close(codes)
	made := 0
	for code := range codes {
		if code == http.StatusOK {
			made++
		} else {
			require.Equal(t, http.StatusConflict, code)
		}
	}
	require.Equal(t, 1, made)
}

func TestNoTokenIsBelievedWhenTheListCannotBeReadForAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, client := bubbleStore(t)
		s := replicas(t, 1, client, gateway.Rate{PerSecond: 1000, Burst: 100})[0]
		token := s.as(t, gateway.ScopeAdmin, "acme")
		require.Equal(t, http.StatusOK, s.ask(t, token))
		m.SetError("LOADING gone")
		<-time.After(58 * time.Second)
		require.Equal(t, http.StatusOK, s.ask(t, token))
		<-time.After(3 * time.Second)
		res := s.do(t, token, http.MethodGet, "/bots/v3/registrations", "")
		require.Equal(t, http.StatusServiceUnavailable, res.Code)
		require.Equal(t, "1", res.Header().Get("Retry-After"))
		require.Equal(t, http.StatusServiceUnavailable, s.do(t, "", http.MethodGet, "/readyz", "").Code)
		m.SetError("")
		<-time.After(time.Second)
		require.Equal(t, http.StatusOK, s.ask(t, token))
		require.Equal(t, http.StatusOK, s.do(t, "", http.MethodGet, "/readyz", "").Code)
	})
}

func TestAStoreThatLostRevocationsIsToldThemAgain(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		s := replicas(t, 1, client, gateway.Rate{})[0]
		token, err := s.tokens.Sign(gateway.Claims{CompanyKey: "acme", Scope: gateway.ScopeAdmin, ID: "gone"}, time.Hour)
		require.NoError(t, err)
		_, err = gateway.NewAccessStore(client).Revoke(t.Context(), "", "gone", time.Now().Add(time.Hour))
		require.NoError(t, err)
		require.Eventually(t, func() bool { return s.ask(t, token) == http.StatusUnauthorized }, 5*time.Second, 10*time.Millisecond)
		<-time.After(time.Millisecond) // lists that begin in one microsecond have one name, and fake time stands still
		require.NoError(t, client.FlushAll(t.Context()).Err())
		_, err = gateway.NewAccessStore(client).Revoke(t.Context(), "", "another", time.Now().Add(time.Hour)) // before anybody has looked
		require.NoError(t, err)
		require.Eventually(t, func() bool {
			late, err := gateway.NewAccess(gateway.AccessConfig{Store: gateway.NewAccessStore(client)})
			require.NoError(t, err)
			require.NoError(t, late.Sync(t.Context()))
			return newStage(t, func(c *gateway.Config) { c.Access = late }).ask(t, token) == http.StatusUnauthorized
		}, 5*time.Second, 10*time.Millisecond)
		require.Equal(t, http.StatusUnauthorized, s.ask(t, token))
	})
}

func TestTokensCanBeRevokedOnAFullRedis(t *testing.T) {
	client := rig.StartServer(t, rig.ServerConfig{}).Client()
	store := gateway.NewAccessStore(client)
	_, err := store.Revoke(t.Context(), "", "before", time.Now().Add(time.Hour))
	require.NoError(t, err)
	require.NoError(t, client.ConfigSet(t.Context(), "maxmemory", "100000").Err())
	fresh, err := store.Revoke(t.Context(), "", "after", time.Now().Add(time.Hour))
	require.NoError(t, err)
	require.True(t, fresh)
	fresh, err = store.Revoke(t.Context(), "", "ended", time.Now().Add(-time.Hour))
	require.NoError(t, err)
	require.False(t, fresh)
}

func TestPasswordsCannotBeTriedFast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, client := bubbleStore(t)
		all := replicas(t, 2, client, gateway.Rate{})
		require.NoError(t, gateway.NewAccessStore(client).AddAdministrator(t.Context(), "ops", "acme", adminPassword))
		ask := func(i int, password string) int {
			return all[i%2].do(t, "", http.MethodGet, owner("bot"), "", "Authorization", basic("ops", password)).Code
		}
		for range 15 {
			require.Equal(t, http.StatusNotFound, ask(0, adminPassword), "the right one is no try")
		}
		for i := range 10 {
			require.Equal(t, http.StatusUnauthorized, ask(i, "wrong horse battery"))
		}
		res := all[0].do(t, "", http.MethodGet, owner("bot"), "", "Authorization", basic("ops", adminPassword))
		require.Equal(t, http.StatusTooManyRequests, res.Code)
		require.Equal(t, "6", res.Header().Get("Retry-After"))
		require.Contains(t, res.Body.String(), `"status":"fail"`)
		<-time.After(6 * time.Second)
		require.Equal(t, http.StatusNotFound, ask(1, adminPassword))
	})
}

func TestAdministratorsAreKeptWithoutTheirPasswords(t *testing.T) {
	m := miniredis.RunT(t)
	client := redis.NewClient(&redis.Options{Addr: m.Addr()})
	t.Cleanup(func() { _ = client.Close() })
	store := gateway.NewAccessStore(client)
	for _, wrong := range [][3]string{{"", "acme", adminPassword}, {"a:b", "acme", adminPassword}, {"ops", "", adminPassword}, {"ops", "acme", "short"}, {"o\np", "acme", adminPassword}} {
		require.Error(t, store.AddAdministrator(t.Context(), wrong[0], wrong[1], wrong[2]))
	}
	require.NoError(t, store.AddAdministrator(t.Context(), "ops", "acme", adminPassword))
	kept := m.HGet("pg:{18}:administrators", "ops")
	require.NotContains(t, kept, adminPassword)
	require.Contains(t, kept, "$argon2id$v=19$m=19456,t=2,p=1$")
	list, err := store.Administrators(t.Context())
	require.NoError(t, err)
	require.Len(t, list, 1)
	require.Empty(t, list[0].Hash)
	there, err := store.RemoveAdministrator(t.Context(), "ops")
	require.NoError(t, err)
	require.True(t, there)
	there, err = store.RemoveAdministrator(t.Context(), "ops")
	require.NoError(t, err)
	require.False(t, there)
}

// skewed is a carrier whose store's clock is not this machine's.
type skewed struct {
	*fakeCarrier
	by time.Duration
}

func (s skewed) Outbox() delivery.Outbox { return skewedOutbox{s.fakeCarrier.Outbox(), s.by} }

type skewedOutbox struct {
	delivery.Outbox
	by time.Duration
}

func (o skewedOutbox) Now() time.Time { return o.Outbox.Now().Add(o.by) }

func TestTokensEndByTheClockOfTheStore(t *testing.T) {
	for by, want := range map[time.Duration]int{-10 * time.Minute: 401, 0: 200, 58 * time.Minute: 200, 62 * time.Minute: 401} {
		s := newStage(t, func(c *gateway.Config) { c.Carrier = skewed{newFakeCarrier(), by} })
		require.Equal(t, want, s.ask(t, s.as(t, gateway.ScopeAdmin, "acme")), by)
	}
}

func TestDeletingATokenEndsAllThatWereRefreshedIntoIt(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		s := replicas(t, 1, client, gateway.Rate{})[0]
		require.NoError(t, gateway.NewAccessStore(client).AddAdministrator(t.Context(), "ops", "acme", adminPassword))
		chain := []string{tokenOf(t, s.do(t, "", http.MethodPost, owner("bot"), "", "Authorization", basic("ops", adminPassword)).Body.Bytes())}
		for range 3 {
			res := s.do(t, chain[len(chain)-1], http.MethodPut, "/bots/v3/tokens/appId/bot", "")
			chain = append(chain, tokenOf(t, res.Body.Bytes()))
		}
		for _, token := range chain {
			require.Equal(t, http.StatusOK, s.ask(t, token), "good for ten more minutes")
		}
		require.Equal(t, http.StatusOK, s.do(t, s.as(t, gateway.ScopeAdmin, "acme"), http.MethodDelete, "/bots/v3/tokens/appId/bot", "").Code)
		for i, token := range chain {
			require.Equal(t, http.StatusUnauthorized, s.ask(t, token), "token %d", i)
		}
	})
}

func TestNamesThatNobodyHasCostLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, client := bubbleStore(t)
		s := replicas(t, 1, client, gateway.Rate{})[0]
		require.NoError(t, gateway.NewAccessStore(client).AddAdministrator(t.Context(), "ops", "acme", adminPassword))
		ask := func(name string) int {
			return s.do(t, "", http.MethodGet, owner("bot"), "", "Authorization", basic(name, adminPassword)).Code
		}
		got := map[int]int{}
		for i := range 50 {
			got[ask(fmt.Sprint("stranger", i))]++
		}
		require.Equal(t, map[int]int{http.StatusUnauthorized: 10, http.StatusTooManyRequests: 40}, got)
		require.Equal(t, http.StatusNotFound, ask("ops"), "who is known does not wait for them")
		<-time.After(time.Second)
		require.Equal(t, http.StatusUnauthorized, ask("stranger"))
	})
}
