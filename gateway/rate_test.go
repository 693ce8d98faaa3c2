package gateway_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/pulsegate/pulsegate/cmd/rig"
	"github.com/pulsegate/pulsegate/gateway"
)

func TestE10ForwardedAddressesDoNotHelpAgainstTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, client := bubbleStore(t)
		all := replicas(t, 3, client, gateway.Rate{PerSecond: 10, Burst: 20})
		token := all[0].as(t, gateway.ScopeAdmin, "acme")
		let := 0
		for i := range 300 {
			from := fmt.Sprintf("203.0.113.%d", i%250)
			res := all[i%3].do(t, token, http.MethodGet, "/bots/v3/registrations", "", "X-Forwarded-For", from, "X-Real-Ip", from, "Forwarded", "for="+from, "True-Client-Ip", from)
			if res.Code == http.StatusOK {
				let++
				continue
			}
			require.Equal(t, http.StatusTooManyRequests, res.Code)
			require.Equal(t, "1", res.Header().Get("Retry-After"))
			require.Contains(t, res.Body.String(), `{"error":{"messages":["too many requests, try again in 1 s"]},`)
		}
		require.Equal(t, 20, let)
		t.Attr("measured", fmt.Sprintf("300 requests from 250 claimed addresses at once: %d let in, as the burst says", let))
	})
}

// quick is ask without holding the answer to anything.
func (s *stage) quick(token string) int {
	req := httptest.NewRequest(http.MethodGet, "/bots/v3/registrations", http.NoBody)
	req.Header.Set("Authorization", "Bearer "+token)
	res := httptest.NewRecorder()
	s.gateway.Handler().ServeHTTP(res, req)
	return res.Code
}

// saturated is what a flood on all replicas got.
type saturated struct{ let, refused int }

// flood asks on every replica, step after step, as long as time lasts.
func flood(all []*stage, token string, lasts, step time.Duration, perStep int) (got saturated) {
	end := time.Now().Add(lasts)
	tick := time.NewTicker(step)
	defer tick.Stop()
	for now := time.Now(); now.Before(end); now = <-tick.C {
		for i := range perStep * len(all) {
			if all[i%len(all)].quick(token) == http.StatusOK {
				got.let++
			} else {
				got.refused++
			}
		}
	}
	return got
}

func TestE11TheLimitIsExactOverThreeReplicas(t *testing.T) {
	rates := []gateway.Rate{{PerSecond: 2, Burst: 4}, {PerSecond: 20, Burst: 40}, {PerSecond: 500, Burst: 100}, {PerSecond: 1000, Burst: 2000}}
	lasts := time.Duration(sized(10, 60)) * time.Second
	for _, rate := range rates[:sized(3, 4)] {
		t.Run(fmt.Sprintf("%v a second", rate.PerSecond), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, client := bubbleStore(t)
				all := replicas(t, 3, client, rate)
				token := all[0].as(t, gateway.ScopeAdmin, "acme")
				step := time.Second / time.Duration(min(max(rate.PerSecond, 10), 100))
				got := flood(all, token, lasts, step, max(1, int(rate.PerSecond*step.Seconds())))
				want := rate.PerSecond*lasts.Seconds() + float64(rate.Burst)
				off := 100 * (float64(got.let) - want) / want
				require.InDelta(t, 0, off, 5, "%d let in, %d refused, %v would be exact", got.let, got.refused, want)
				require.Positive(t, got.refused)

				// Whoever waits as long as told is let in.
				wait := 0
				for wait == 0 {
					if res := all[1].do(t, token, http.MethodGet, "/bots/v3/registrations", ""); res.Code == http.StatusTooManyRequests {
						wait, _ = strconv.Atoi(res.Header().Get("Retry-After"))
						require.InDelta(t, 1/rate.PerSecond, float64(wait), 1)
					}
				}
				<-time.After(time.Duration(wait) * time.Second)
				for i := range 3 {
					if i == 0 || rate.PerSecond > 10 {
						require.Equal(t, http.StatusOK, all[i].ask(t, token))
					}
				}
				t.Attr("measured", fmt.Sprintf("%v a second, burst %d, 3 replicas, %v: %d let in, %.1f %% off", rate.PerSecond, rate.Burst, lasts, got.let, off))
			})
		})
	}
}

// counting counts the round trips of leases.
type counting struct{ leases atomic.Int64 }

func (c *counting) DialHook(next redis.DialHook) redis.DialHook { return next }

func (c *counting) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if cmd.Name() == "evalsha" && len(cmd.Args()) == 8 {
			c.leases.Add(1)
		}
		return next(ctx, cmd)
	}
}

func (c *counting) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func TestE11TheLimitHoldsOnARealServerWithFewRoundTrips(t *testing.T) {
	client := rig.StartServer(t, rig.ServerConfig{}).Client()
	trips := new(counting)
	client.AddHook(trips)
	rate := gateway.Rate{PerSecond: 1000, Burst: 200}
	all := replicas(t, 3, client, rate)
	token := all[0].as(t, gateway.ScopeAdmin, "acme")
	lasts := time.Duration(sized(3, 20)) * time.Second
	var let, refused atomic.Int64
	var wait sync.WaitGroup
	began, last := time.Now(), make([]time.Time, len(all))
	for i, s := range all {
		wait.Go(func() {
			tick := time.NewTicker(5 * time.Millisecond)
			defer tick.Stop()
			for time.Since(began) < lasts {
				for range 10 { // twice the whole limit, from each
					if s.quick(token) == http.StatusOK {
						let.Add(1)
					} else {
						refused.Add(1)
					}
				}
				last[i] = time.Now()
				<-tick.C
			}
		})
	}
	wait.Wait()
	took := last[0].Sub(began)
	for _, at := range last[1:] {
		took = max(took, at.Sub(began))
	}
	want := rate.PerSecond*took.Seconds() + float64(rate.Burst)
	off := 100 * (float64(let.Load()) - want) / want
	require.InDelta(t, 0, off, 5, "%d let in, %d refused, %.0f would be exact", let.Load(), refused.Load(), want)
	require.Less(t, trips.leases.Load(), let.Load()/2, "round trips")
	t.Attr("measured", fmt.Sprintf("1,000 a second on 3 replicas and a redis-server for %v: %d let in, %d refused, %.1f %% off, %d round trips", took.Round(time.Millisecond), let.Load(), refused.Load(), off, trips.leases.Load()))
}

func TestTheLimitHoldsForEachGatewayWhenTheStoreIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, client := bubbleStore(t)
		s := replicas(t, 1, client, gateway.Rate{PerSecond: 10, Burst: 20})[0]
		token := s.as(t, gateway.ScopeAdmin, "acme")
		require.Equal(t, http.StatusOK, s.ask(t, token))
		m.SetError("LOADING gone")
		got := flood([]*stage{s}, token, 10*time.Second, 50*time.Millisecond, 5)
		require.InDelta(t, 10*10+20, got.let, 6)
	})
}

func TestTokensAreLimitedEachByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, client := bubbleStore(t)
		s := replicas(t, 1, client, gateway.Rate{PerSecond: 10, Burst: 4})[0]
		greedy, modest := s.as(t, gateway.ScopeAdmin, "acme"), s.as(t, gateway.ScopeAdmin, "acme")
		for range 100 {
			s.ask(t, greedy)
		}
		require.Equal(t, http.StatusTooManyRequests, s.ask(t, greedy))
		require.Equal(t, http.StatusOK, s.ask(t, modest))
	})
}
