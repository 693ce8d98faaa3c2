package delivery

import (
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
	inFlight    *prometheus.Desc
	trips       *prometheus.Desc
	condition   *prometheus.Desc
	unserved    *prometheus.Desc
	ailments    *prometheus.Desc
	losses      *prometheus.Desc
	books       bookDescs

	usual struct{ tries, fates, outcomes prometheus.Counter } // those of an acknowledged delivery, found once
}

func newMetrics() *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "pulsegate_delivery_" + name, Help: help}, labels)
	}
	plain := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "pulsegate_delivery_" + name, Help: help})
	}
	m := &metrics{
		books:       newBookDescs(),
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
		lanes:     newDesc("delivery_lanes", "Registrations that this process works on now."),
		inFlight:  newDesc("delivery_tries_in_flight", "Tries under way now, and those about to begin."),
		trips:     newDesc("delivery_redis_round_trips_total", "Round trips to Redis."),
		condition: newDesc("store_condition", "1 for how the store is, the worst of its parts.", "condition"),
		unserved:  newDesc("store_unserved_parts", "Parts of the store that nothing can be done in: of one, or on a cluster of the shards."),
		ailments:  newDesc("store_ailments_total", "Times that one registration's data in the store could not be read or written and was left out."),
		losses:    newDesc("store_losses_total", "Times that this process found data gone from the store, or put back what had lost its place."),
	}
	m.showZeros()
	well := className(health.Acknowledged)
	m.usual.tries, m.usual.fates, m.usual.outcomes = m.tries.WithLabelValues(well), m.fates.WithLabelValues(string(Delivered)), m.outcomes.WithLabelValues(well)
	return m
}

// showZeros makes every series exist from the start, so that a rate over it is right from its first event on.
func (m *metrics) showZeros() {
	for _, f := range FinalFates() {
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
	ch <- c.metrics.inFlight
	ch <- c.metrics.trips
	ch <- c.metrics.condition
	ch <- c.metrics.unserved
	ch <- c.metrics.ailments
	ch <- c.metrics.losses
	c.metrics.books.describe(ch)
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
	ch <- prometheus.MustNewConstMetric(c.metrics.inFlight, prometheus.GaugeValue, float64(c.slots.inFlight()))
	ch <- prometheus.MustNewConstMetric(c.metrics.trips, prometheus.CounterValue, float64(c.store.trips.Load()))
	c.collectStore(ch)
	if b, known := c.books.read(); known {
		c.metrics.books.collect(b, ch)
	}
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
	if o.cancelled || o.short {
		return
	}
	if o.class == health.Acknowledged {
		m.usual.tries.Inc()
	} else {
		m.tries.WithLabelValues(className(o.class)).Inc()
	}
	m.tryTime.Observe(o.latency.Seconds())
}

func (m *metrics) countSettled(c *settleCall) {
	for i := range c.outcomes {
		d := &c.outcomes[i]
		if d.fate == Delivered && d.o.class == health.Acknowledged {
			m.usual.fates.Inc()
			m.usual.outcomes.Inc()
			continue
		}
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

// restOfRegistrations is the label of all registrations together that have no series of their own. No name is like it: names hold colons.
const restOfRegistrations = "other"

// bookDescs describe what the metrics tell of the whole store, whichever process is asked.
type bookDescs struct {
	states                                                     *prometheus.Desc
	accepted, ended, queued, bytes, discrepancy, forgotten     *prometheus.Desc
	regAccepted, regEnded, regQueued, regBytes, regDiscrepancy *prometheus.Desc
}

func newDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("pulsegate_"+name, help, labels, nil)
}

func newBookDescs() bookDescs {
	const of, ledger = "registration", "delivery_ledger_"
	return bookDescs{
		states:         newDesc("health_registrations", "Registrations of the whole store, by state.", "state"),
		accepted:       newDesc(ledger+"accepted_deliveries_total", "Deliveries taken in by the whole store since it was made."),
		ended:          newDesc(ledger+"ended_deliveries_total", "Of these, those that have their fate.", "fate"),
		queued:         newDesc(ledger+"queued_deliveries", "Of these, those that wait or are under way."),
		bytes:          newDesc(ledger+"queued_bytes", "Bytes of the events that wait or are under way."),
		discrepancy:    newDesc(ledger+"discrepancy_deliveries", "Accepted less ended and queued: 0, or something is wrong."),
		forgotten:      newDesc(ledger+"forgotten_deliveries_total", "Deliveries that the store had confirmed and knew no more when this process looked again."),
		regAccepted:    newDesc("delivery_registration_accepted_deliveries_total", "Deliveries taken in for the registration; other: for all that have no series of their own.", of),
		regEnded:       newDesc("delivery_registration_ended_deliveries_total", "Of these, those that have their fate.", of, "fate"),
		regQueued:      newDesc("delivery_registration_queued_deliveries", "Of these, those that lie in the queue, waiting or under way.", of),
		regBytes:       newDesc("delivery_registration_queued_bytes", "Bytes of the events that wait or are under way.", of),
		regDiscrepancy: newDesc("delivery_registration_discrepancy_deliveries", "Accepted less ended and queued, read in one step: 0, or something is wrong.", of),
	}
}

func (d bookDescs) describe(ch chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{
		d.states, d.accepted, d.ended, d.queued, d.bytes, d.discrepancy, d.forgotten, d.regAccepted, d.regEnded, d.regQueued, d.regBytes, d.regDiscrepancy,
	} {
		ch <- desc
	}
}

func (d bookDescs) collect(b books, ch chan<- prometheus.Metric) {
	gauge := func(desc *prometheus.Desc, n int64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(n), labels...)
	}
	counter := func(desc *prometheus.Desc, n int64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(n), labels...)
	}
	for _, s := range []health.State{health.Healthy, health.Degraded, health.Down} {
		gauge(d.states, b.states[s], string(s))
	}
	counter(d.accepted, b.total.accepted)
	for _, fate := range FinalFates() {
		counter(d.ended, b.total.fates[fate], string(fate))
	}
	gauge(d.queued, b.total.queued)
	gauge(d.bytes, b.total.bytes)
	gauge(d.discrepancy, b.total.discrepancy())
	counter(d.forgotten, b.forgotten)
	of := func(name string, l ledger) {
		counter(d.regAccepted, l.accepted, name)
		for _, fate := range FinalFates() {
			counter(d.regEnded, l.fates[fate], name, string(fate))
		}
		gauge(d.regQueued, l.queued, name)
		gauge(d.regBytes, l.bytes, name)
	}
	for _, s := range b.shown {
		of(s.name, s.ledger)
		gauge(d.regDiscrepancy, s.discrepancy(), s.name)
	}
	of(restOfRegistrations, b.rest)
}

// collectStore tells how the store is.
func (c *Carrier) collectStore(ch chan<- prometheus.Metric) {
	status := c.store.reach.status()
	for _, condition := range Conditions() {
		value := 0.0
		if condition == status.Condition {
			value = 1
		}
		ch <- prometheus.MustNewConstMetric(c.metrics.condition, prometheus.GaugeValue, value, string(condition))
	}
	ch <- prometheus.MustNewConstMetric(c.metrics.unserved, prometheus.GaugeValue, float64(status.Parts-status.Serving))
	ch <- prometheus.MustNewConstMetric(c.metrics.losses, prometheus.CounterValue, float64(c.keeper.count.Load()))
	ch <- prometheus.MustNewConstMetric(c.metrics.ailments, prometheus.CounterValue, float64(c.store.sick.count.Load()))
}
