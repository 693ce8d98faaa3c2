package main_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// posted are the ids of accepted events, and how many were sent away to come again.
type posted struct {
	mu      sync.Mutex
	ids     []string
	refused atomic.Int64
}

func (p *posted) add(id string) { p.mu.Lock(); p.ids = append(p.ids, id); p.mu.Unlock() }

func (p *posted) all() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.ids...)
}

// sending posts events to both gateways until the returned function is called. Events that nobody takes (404) are nobody's loss.
func sending(t testing.TB, pair [2]*gatewayProcess, page string, accepted *posted) (stop func()) {
	s := newPoster(t)
	var stops []func()
	for i, p := range pair {
		stops = append(stops, background(func(n int) {
			a := s.ask(p, eventOf(page, fmt.Sprintf("author-%d-%d", i, n%5), n))
			switch a.status {
			case http.StatusAccepted:
				accepted.add(a.id)
			case http.StatusNotFound:
			case http.StatusServiceUnavailable: // a disk that stalls: accepts wait for its flush
				t.Log(a.text)
				accepted.refused.Add(1)
			default:
				t.Errorf("an event was answered with %d: %s", a.status, a.text)
			}
			<-time.After(10 * time.Millisecond)
		}))
	}
	return sync.OnceFunc(func() {
		for _, f := range stops {
			f()
		}
	})
}

// finalFates waits until every event has a final fate in each of its records, and counts the fates.
func finalFates(t testing.TB, p *gatewayProcess, ids []string) map[string]int {
	t.Helper()
	s := newPoster(t)
	fates := map[string]int{}
	for _, id := range ids {
		var rows []settledRecord
		eventually(t, func() bool {
			rows = s.records(t, p, id)
			for _, r := range rows {
				if r.State == "PENDING" {
					return false
				}
			}
			return len(rows) > 0
		}, "every event has a fate: "+id)
		for _, r := range rows {
			fates[r.Fate]++
		}
	}
	return fates
}

// TestNewAddressCountsAtOnceInBothGateways changes the callback address again and again, through either gateway, while events are
// under way from both: no event without a fate, and a second after the answer nothing goes to the old address.
func TestNewAddressCountsAtOnceInBothGateways(t *testing.T) {
	url, store := storyRedis(t)
	pair := startPair(t, url)
	bot := startRecorder(t, func(a arrival, _ <-chan struct{}) int {
		<-time.After(time.Duration(a.n%40) * time.Millisecond)
		if a.n%4 == 0 && a.try == 1 {
			return http.StatusInternalServerError // the second try may find the address changed
		}
		return http.StatusAccepted
	})
	require.Equal(t, http.StatusAccepted, registerBot(t, pair[0], "page", "bot", bot.url+"/0", secretOf(0)))
	var accepted posted
	stop := sending(t, pair, "page", &accepted)
	defer stop()
	changed := map[string]time.Time{} // when each address was given up
	const rounds = 12
	for n := 1; n <= rounds; n++ {
		seen := len(bot.all())
		eventually(t, func() bool { return len(bot.all()) > seen+30 }, "events flow")
		require.Equal(t, http.StatusAccepted, registerBot(t, pair[n%2], "page", "bot", fmt.Sprintf("%s/%d", bot.url, n), secretOf(n)))
		changed[fmt.Sprintf("/%d", n-1)] = time.Now()
	}
	eventually(t, func() bool { got := bot.all(); return got[len(got)-1].path == fmt.Sprintf("/%d", rounds) }, "the last address is used")
	stop()
	fates := finalFates(t, pair[1], accepted.all())
	require.Equal(t, len(accepted.all()), fates["delivered"], "%v", fates)
	require.True(t, balanced(ledger(t, store)))
	latest, moved := -time.Hour, 0
	first := map[string]string{}
	for _, a := range bot.all() {
		require.Equal(t, "/"+strings.TrimPrefix(a.secret, "s3cret-"), a.path, "address and secret belong together")
		if a.try == 1 {
			first[a.id] = a.path
		} else if a.path != first[a.id] {
			moved++
		}
		if at, ok := changed[a.path]; ok {
			latest = max(latest, a.at.Sub(at))
		}
	}
	require.Less(t, latest, time.Second, "nothing goes to an old address a second after the change")
	t.Logf("%d events over %d changes: %v; %d second tries went to another address than the first; the last request to an old address came %v after the answer",
		len(accepted.all()), rounds, fates, moved, latest)
}

// secretOf are the credentials that belong to an address.
func secretOf(n int) map[string]any {
	return map[string]any{"credentials": map[string]any{"type": "BASIC_AUTH", "identity": "me", "secret": fmt.Sprintf("s3cret-%d", n)}}
}

// TestModesAndDeletionsLeaveNoEventBehind puts two apps of one page through all modes, and deletes and makes them again, through two
// gateways at once and under traffic: never two are LIVE, and every event has a fate.
func TestModesAndDeletionsLeaveNoEventBehind(t *testing.T) {
	url, _ := storyRedis(t)
	pair := startPair(t, url)
	bots := map[string]*recorder{"left": startRecorder(t, accepts), "right": startRecorder(t, accepts)}
	register := func(p *gatewayProcess, app, mode string) int {
		return registerBot(t, p, "page", app, bots[app].url, map[string]any{"mode": mode})
	}
	require.Equal(t, http.StatusAccepted, register(pair[0], "left", "LIVE"))
	require.Equal(t, http.StatusAccepted, register(pair[1], "right", "MONITORING"))
	var accepted posted
	var live, refused, checks atomic.Int64
	stops := []func(){sending(t, pair, "page", &accepted)}
	for i, app := range []string{"left", "right"} {
		stops = append(stops, background(func(n int) {
			p := pair[(i+n)%2]
			switch n % 4 {
			case 0, 2:
				if status, _ := p.call(t, http.MethodPut, "/bots/v3/registrations/network/chat/externalId/page/appId/"+app+"/mode/live", ""); status == http.StatusAccepted {
					live.Add(1)
				} else {
					refused.Add(1)
				}
			case 1:
				register(p, app, []string{"MONITORING", "MAINTENANCE"}[n/4%2])
			case 3:
				p.call(t, http.MethodDelete, "/bots/v3/registrations/network/chat/externalId/page/appId/"+app, "")
				register(p, app, "MONITORING")
			}
			<-time.After(30 * time.Millisecond)
		}))
	}
	s := newPoster(t)
	stops = append(stops, background(func(n int) {
		var answer struct {
			Data []struct{ AppID, Mode string }
		}
		s.read(t, pair[n%2], "/bots/v3/registrations/network/chat/externalId/page", &answer)
		var modes strings.Builder
		for _, r := range answer.Data {
			modes.WriteString(r.Mode + " ")
		}
		if strings.Count(modes.String(), "LIVE") > 1 {
			t.Errorf("two are LIVE: %v", answer.Data)
		}
		checks.Add(1)
		<-time.After(5 * time.Millisecond)
	}))
	eventually(t, func() bool { return live.Load() > 25 && refused.Load() > 5 && len(accepted.all()) > 800 }, "modes change under traffic")
	for _, stop := range stops {
		stop()
	}
	fates := finalFates(t, pair[0], accepted.all())
	require.Greater(t, fates["delivered"], 50)
	require.LessOrEqual(t, accepted.refused.Load(), int64(len(accepted.ids)/100), "changes refuse nobody")
	t.Logf("%d events: %v; %d times LIVE, %d refused, %d looks", len(accepted.all()), fates, live.Load(), refused.Load(), checks.Load())
}
