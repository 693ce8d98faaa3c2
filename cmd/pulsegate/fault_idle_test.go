package main_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// TestC03IdleBotsCostNothing registers many bots and watches a gateway on which nothing happens.
func TestC03IdleBotsCostNothing(t *testing.T) {
	bots, watched := sized(1_000, 10_000), sized(2*time.Second, 20*time.Second)
	url, store := storyRedis(t)
	p := startGateway(t, t.TempDir(), "--redis", url)
	began := time.Now()
	registerMany(t, p, bots, "http://127.0.0.1:20009/", nil)
	t.Logf("%d registered in %v", bots, time.Since(began))
	require.EqualValues(t, bots, metric(t, p, `pulsegate_health_registrations{state="HEALTHY"}`))
	<-time.After(2 * time.Second) // what there was to do is done
	cpu, commands, at := metric(t, p, "process_cpu_seconds_total"), commandsOf(t, store), time.Now()
	<-time.After(watched)
	perSecond := float64(commandsOf(t, store)-commands-1) / time.Since(at).Seconds()
	asked := time.Now()
	status, page := p.get(p.ops + "/metrics")
	took := time.Since(asked)
	require.Equal(t, http.StatusOK, status)
	cpu = (metric(t, p, "process_cpu_seconds_total") - cpu) / time.Since(at).Seconds() * 100
	rss := metric(t, p, "process_resident_memory_bytes") / 1e6
	measured(t, "%d idle bots, %v: gateway %.1f %% CPU, %.0f MB, %.1f Redis commands/s, /metrics %d kB in %v", bots, watched, cpu, rss,
		perSecond, len(page)/1000, took.Round(time.Millisecond))
	require.Less(t, perSecond, 50.0)
	require.Less(t, len(page), 5_000_000)
	require.Less(t, took, 500*time.Millisecond)
	require.Less(t, cpu, sized(50.0, 5.0), "the race detector makes everything dearer")
	require.Less(t, rss, sized(600.0, 150.0))
}

// registerMany registers one bot on each of n pages, several at once.
func registerMany(t testing.TB, p *gatewayProcess, n int, url string, fields map[string]any) {
	t.Helper()
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 16}}
	defer client.CloseIdleConnections()
	var next atomic.Int64
	var writers sync.WaitGroup
	for range 16 {
		writers.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && !t.Failed(); i = int(next.Add(1)) - 1 {
				body := map[string]any{
					"platform": "LITHIUM", "companyKey": "demo", "networkKey": "chat", "externalId": pageName(i), "appId": "app-" + pageName(i),
					"name": "bot", "callbackUrl": url, "mode": "LIVE", "credentials": map[string]any{"type": "BASIC_AUTH", "identity": "me", "secret": "s3cret"},
				}
				maps.Copy(body, fields)
				text, err := json.Marshal(body)
				if err != nil {
					t.Error(err)
					return
				}
				if status := putRegistration(client, p, string(text)); status != http.StatusAccepted {
					t.Errorf("registration of page %d: %d", i, status)
				}
			}
		})
	}
	writers.Wait()
	require.False(t, t.Failed())
}

func putRegistration(client *http.Client, p *gatewayProcess, body string) int {
	request, err := http.NewRequest(http.MethodPut, p.api+"/bots/v3/registrations", strings.NewReader(body))
	if err != nil {
		return 0
	}
	request.Header.Set("Authorization", "Bearer "+p.token)
	request.Header.Set("Content-Type", "application/json")
	answer, err := client.Do(request)
	if err != nil {
		return 0
	}
	_ = answer.Body.Close()
	return answer.StatusCode
}

// commandsOf is how many commands a store has carried out, those of scripts among them.
func commandsOf(t testing.TB, store *redis.Client) int64 {
	return storeNumber(t, store, "stats", "total_commands_processed")
}

// storeNumber is one number of what a store says of itself.
func storeNumber(t testing.TB, store *redis.Client, section, name string) int64 {
	t.Helper()
	text, err := store.Info(t.Context(), section).Result()
	require.NoError(t, err)
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
			require.NoError(t, err)
			return n
		}
	}
	t.Fatalf("the store says nothing of %s", name)
	return 0
}
