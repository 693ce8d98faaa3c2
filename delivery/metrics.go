package delivery

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/pulsegate/pulsegate/health"
)

// metrics belong to one Carrier. Label sets are closed.
type metrics struct {
	accepted    prometheus.Counter
	rejected    *prometheus.CounterVec
	fates       *prometheus.CounterVec
	tries       *prometheus.CounterVec
	outcomes    *prometheus.CounterVec
	tryTime     prometheus.Histogram
	transitions *prometheus.CounterVec
	handoffs    *prometheus.CounterVec
	lost        prometheus.Counter
	lanes       *prometheus.Desc
	trips       *prometheus.Desc
	states      *prometheus.Desc
	queue       *prometheus.Desc
}

func newMetrics() *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "pulsegate_delivery_" + name, Help: help}, labels)
	}
	plain := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "pulsegate_delivery_" + name, Help: help})
	}
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("pulsegate_"+name, help, labels, nil)
	}
	m := &metrics{
		accepted:    plain("events_accepted_total", "Events stored and answered with 202."),
		rejected:    counter("events_rejected_total", "Events not stored, by reason.", "reason"),
		fates:       counter("deliveries_total", "Deliveries that reached a fate in this process, by fate.", "fate"),
		tries:       counter("tries_total", "HTTP requests to bots, by class of their end.", "class"),
		outcomes:    counter("outcomes_total", "Outcomes of deliveries, by class.", "class"),
		transitions: counter("transitions_total", "Transitions of health made by this process, by kind.", "kind"),
		handoffs:    counter("handoffs_total", "Conversations handed to agents, by kind.", "kind"),
		lost:        plain("leases_lost_total", "Leases that another replica had taken."),
		tryTime: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "pulsegate_delivery_try_seconds", Help: "Time of one HTTP request to a bot until its status.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}),
		lanes:  desc("delivery_lanes", "Registrations that this process works on now."),
		trips:  desc("delivery_redis_round_trips_total", "Round trips to Redis."),
		states: desc("health_registrations", "Registrations of the whole store, by state.", "state"),
		queue:  desc("delivery_queue_events", "Events waiting or under way in the registrations that have work."),
	}
	m.showZeros()
	return m
}

// showZeros makes every series exist from the start, so that a rate over it is right from its first event on.
func (m *metrics) showZeros() {
	for _, f := range []Fate{Delivered, Failed, Suppressed, InMaintenance, Overflow, Expired, Withdrawn, Filtered} {
		m.fates.WithLabelValues(string(f))
	}
	for _, c := range append(health.Classes(), health.Acknowledged) {
		m.outcomes.WithLabelValues(className(c))
		if c != health.Suppressed {
			m.tries.WithLabelValues(className(c))
		}
	}
	for _, k := range []health.Kind{health.ToDegraded, health.ToDown, health.StillDown, health.ToUnverified, health.ToHealthy} {
		m.transitions.WithLabelValues(string(k))
	}
	for _, k := range []HandoffKind{StandardHandoff, AutomaticHandoff, MaintenanceHandoff} {
		m.handoffs.WithLabelValues(string(k))
	}
}

func (m *metrics) parts() []prometheus.Collector {
	return []prometheus.Collector{m.accepted, m.rejected, m.fates, m.tries, m.outcomes, m.tryTime, m.transitions, m.handoffs, m.lost}
}

// Describe implements prometheus.Collector.
func (c *Carrier) Describe(ch chan<- *prometheus.Desc) {
	for _, p := range c.metrics.parts() {
		p.Describe(ch)
	}
	ch <- c.metrics.lanes
	ch <- c.metrics.trips
	ch <- c.metrics.states
	ch <- c.metrics.queue
}

// Collect implements prometheus.Collector.
func (c *Carrier) Collect(ch chan<- prometheus.Metric) {
	for _, p := range c.metrics.parts() {
		p.Collect(ch)
	}
	c.mu.Lock()
	lanes := len(c.lanes)
	c.mu.Unlock()
	ch <- prometheus.MustNewConstMetric(c.metrics.lanes, prometheus.GaugeValue, float64(lanes))
	ch <- prometheus.MustNewConstMetric(c.metrics.trips, prometheus.CounterValue, float64(c.store.trips.Load()))
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	census, err := c.census(ctx)
	if err != nil {
		return // the rest of the page is still true
	}
	for _, s := range []health.State{health.Healthy, health.Degraded, health.Down} {
		ch <- prometheus.MustNewConstMetric(c.metrics.states, prometheus.GaugeValue, float64(census.states[s]), string(s))
	}
	ch <- prometheus.MustNewConstMetric(c.metrics.queue, prometheus.GaugeValue, float64(census.waiting))
}

func (m *metrics) countReceipts(receipts []Receipt) {
	for _, r := range receipts {
		switch {
		case r.Err == nil:
			m.accepted.Inc()
		default:
			m.rejected.WithLabelValues(reasonOf(r.Err)).Inc()
		}
	}
}

// countFates counts the deliveries that had their fate at accept.
func (m *metrics) countFates(ac *accepted) {
	for _, f := range ac.fates {
		m.countHandoffs(f.handed, 1)
		if f.fate == Queued {
			continue
		}
		m.fates.WithLabelValues(string(f.fate)).Inc()
		if f.fate == Suppressed {
			m.outcomes.WithLabelValues(string(health.Suppressed)).Inc()
		}
	}
}

func (m *metrics) countTry(o outcome) {
	if o.cancelled {
		return
	}
	m.tries.WithLabelValues(className(o.class)).Inc()
	m.tryTime.Observe(o.latency.Seconds())
}

func (m *metrics) countSettled(c *settleCall) {
	for _, d := range c.outcomes {
		m.fates.WithLabelValues(string(d.fate)).Inc()
		if d.fate == Delivered || d.fate == Failed || d.fate == Suppressed {
			m.outcomes.WithLabelValues(className(d.o.class)).Inc()
		}
	}
	m.countHandoffs(AutomaticHandoff, c.handedOff)
}

func (m *metrics) countHandoffs(k HandoffKind, n int64) {
	if k != "" && n > 0 {
		m.handoffs.WithLabelValues(string(k)).Add(float64(n))
	}
}

func className(c health.Class) string {
	if c == health.Acknowledged {
		return "acknowledged"
	}
	return string(c)
}
