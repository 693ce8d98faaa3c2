package notify

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pulsegate/pulsegate/delivery"
)

const (
	backlogAge  = time.Second // how long a look at the outbox serves further scrapes
	backlogTime = time.Second // for one look
)

// metrics are the counters of a Notifier and its view of the backlog.
type metrics struct {
	notices *prometheus.CounterVec // result: sent, joined, kept, again, refused, givenup
	calls   *prometheus.CounterVec // result: ok, again, refused
	pending *prometheus.Desc
	lag     *prometheus.Desc

	outbox  delivery.Outbox
	mu      sync.Mutex // guards all below, and is held while looking: scrapes share one look
	looked  time.Time
	waiting int64
	oldest  time.Duration
	known   bool
}

func newMetrics(outbox delivery.Outbox) *metrics {
	m := &metrics{
		outbox: outbox,
		notices: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pulsegate_notify_notices_total", Help: "Notices by what became of them; again counts tries that will be repeated, joined those that a mail tells of with others.",
		}, []string{"result"}),
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pulsegate_notify_platform_calls_total", Help: "Tag and control calls to the platform by their answer.",
		}, []string{"result"}),
		pending: prometheus.NewDesc("pulsegate_notify_outbox_pending", "Outbox entries that wait or are under way.", nil, nil),
		lag:     prometheus.NewDesc("pulsegate_notify_outbox_lag_seconds", "Age of the oldest due outbox entry.", nil, nil),
	}
	for _, result := range []string{"sent", "joined", "kept", "again", "refused", "givenup"} {
		m.notices.WithLabelValues(result)
	}
	for _, result := range []answered{callOK, callAgain, callRefused} {
		m.calls.WithLabelValues(string(result))
	}
	return m
}

// Describe implements prometheus.Collector.
func (n *Notifier) Describe(ch chan<- *prometheus.Desc) {
	n.count.notices.Describe(ch)
	n.count.calls.Describe(ch)
	ch <- n.count.pending
	ch <- n.count.lag
}

// Collect implements prometheus.Collector. The outbox is looked at for at most one second, and at most once a second; while the
// store is away its two gauges are absent.
func (n *Notifier) Collect(ch chan<- prometheus.Metric) {
	n.count.notices.Collect(ch)
	n.count.calls.Collect(ch)
	waiting, oldest, known := n.count.backlog()
	if !known {
		return
	}
	ch <- prometheus.MustNewConstMetric(n.count.pending, prometheus.GaugeValue, float64(waiting))
	ch <- prometheus.MustNewConstMetric(n.count.lag, prometheus.GaugeValue, oldest.Seconds())
}

func (m *metrics) backlog() (waiting int64, oldest time.Duration, known bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.looked.IsZero() || time.Since(m.looked) >= backlogAge {
		ctx, cancel := context.WithTimeout(context.Background(), backlogTime)
		defer cancel()
		var err error
		m.waiting, m.oldest, err = m.outbox.Waiting(ctx)
		m.looked, m.known = time.Now(), err == nil
	}
	return m.waiting, m.oldest, m.known
}
