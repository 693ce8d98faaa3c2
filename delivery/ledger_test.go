package delivery_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/pulsegate/pulsegate/delivery"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// scrape reads every series of a replica: its name without the prefix, with its labels, and its value.
func scrape(t testing.TB, r *replica) map[string]float64 {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	require.NoError(t, registry.Register(r.Carrier))
	families, err := registry.Gather()
	require.NoError(t, err)
	series := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			var labels []string
			for _, l := range m.Label {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			name := strings.TrimPrefix(f.GetName(), "pulsegate_")
			if len(labels) > 0 {
				name += "{" + strings.Join(labels, ",") + "}"
			}
			series[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return series
}

// balance is what the metrics say of everything, or of a registration: the ledger as verify spells it.
func balance(s map[string]float64, of string) string {
	label, labels, noun := "", "{", "ledger"
	if of != "" {
		label, labels, noun = "{registration="+of+"}", ",registration="+of, "registration"
	}
	var text strings.Builder
	text.WriteString(fmt.Sprintf("accepted %v = ", s["delivery_"+noun+"_accepted_deliveries_total"+label]))
	for _, fate := range delivery.FinalFates() {
		name := "delivery_" + noun + "_ended_deliveries_total{fate=" + string(fate) + labels + "}"
		text.WriteString(fmt.Sprintf("%s %v + ", fate, s[strings.Replace(name, "{}", "}", 1)]))
	}
	return text.String() + fmt.Sprintf("queued %v", s["delivery_"+noun+"_queued_deliveries"+label])
}

func shownRegistrations(s map[string]float64) []string {
	names := map[string]bool{}
	for series := range s {
		if name, ok := strings.CutPrefix(series, "delivery_registration_queued_deliveries{registration="); ok {
			names[strings.TrimSuffix(name, "}")] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

func TestMetricsTellTheLedgerOfTheWholeStore(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		r, release := ledgerStory(t, client)
		other := startReplica(t, client, nil, func(c *delivery.Config) { c.MetricsRegistrations = 2 })
		s := scrape(t, r)
		require.Equal(t, "accepted 43 = delivered 2 + failed 21 + suppressed 1 + maintenance 1 + overflow 2 + expired 0 + withdrawn 0 + filtered 1 + queued 15", balance(s, ""))
		require.Equal(t, "accepted 4 = delivered 2 + failed 1 + suppressed 0 + maintenance 0 + overflow 0 + expired 0 + withdrawn 0 + filtered 1 + queued 0", balance(s, e1))
		require.Zero(t, s["delivery_ledger_discrepancy_deliveries"])
		require.Len(t, shownRegistrations(s), 7, "few registrations are all shown, beside the rest")
		require.Equal(t, []float64{3, 1, 2}, []float64{s["health_registrations{state=HEALTHY}"], s["health_registrations{state=DEGRADED}"], s["health_registrations{state=DOWN}"]})

		s = scrape(t, other)
		require.Equal(t, "accepted 43 = delivered 2 + failed 21 + suppressed 1 + maintenance 1 + overflow 2 + expired 0 + withdrawn 0 + filtered 1 + queued 15", balance(s, ""),
			"the store's, whichever replica is asked")
		shown := shownRegistrations(s)
		require.Len(t, shown, 3)
		sum := 0.0
		for _, name := range shown {
			sum += s["delivery_registration_accepted_deliveries_total{registration="+name+"}"]
		}
		require.Contains(t, shown, "other")
		require.Equal(t, 43.0, sum, "the rest is what the shown ones leave")

		release()
		require.NoError(t, r.Delete(t.Context(), registration("e3", "app").RegID))
		soon(t, func() bool { return verify(t, client).Queued == 2 }, "all but what is held")
		soon(t, func() bool { s = scrape(t, r); return s["delivery_ledger_queued_deliveries"] == 2 }, "the next look at the books")
		require.Equal(t, "accepted 43 = delivered 15 + failed 21 + suppressed 1 + maintenance 1 + overflow 2 + expired 0 + withdrawn 0 + filtered 1 + queued 2", balance(s, ""),
			"what was deleted stays in the books")
		require.NotContains(t, shownRegistrations(s), "acme:whatsapp:e3:app")
		require.Empty(t, verify(t, client).Findings)
	})
}

func TestMetricsTellWhatTheStoreHasForgotten(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		b := newBot(t)
		r := startReplica(t, client, b)
		require.NoError(t, r.Create(t.Context(), registration("e1", "app")))
		for _, rc := range r.send(t, message("e1", "ann", 1), message("e1", "bob", 2), message("e1", "eve", 3)) {
			r.settled(t, rc.ID)
		}
		require.Zero(t, scrape(t, r)["delivery_ledger_forgotten_deliveries_total"])
		s := &sabotage{t: t, client: client}
		s.do("HINCRBY", s.ledger(), "c:accepted", 1)
		s.do("HINCRBY", s.key("st", "e1"), "c:delivered", -2)
		var seen map[string]float64
		soon(t, func() bool { seen = scrape(t, r); return seen["delivery_ledger_discrepancy_deliveries"] == 1 }, "the next look at the books")
		require.Equal(t, 2.0, seen["delivery_registration_discrepancy_deliveries{registration="+e1+"}"])
		flush(t, client)
		soon(t, func() bool { seen = scrape(t, r); return seen["delivery_ledger_forgotten_deliveries_total"] == 4 }, "the next look at the books")
		require.Zero(t, seen["delivery_ledger_accepted_deliveries_total"])
	})
}

// ledger is the key of the only ledger that a single server's calls for one entity write.
func (s *sabotage) ledger() string { return onlyKey(s.t, s.client, "pg:*:led") }

// flush empties the store.
func flush(t testing.TB, client redis.UniversalClient) {
	t.Helper()
	cluster, ok := client.(*redis.ClusterClient)
	if !ok {
		require.NoError(t, client.FlushAll(t.Context()).Err())
		return
	}
	require.NoError(t, cluster.ForEachMaster(t.Context(), func(ctx context.Context, master *redis.Client) error { return master.FlushAll(ctx).Err() }))
}
