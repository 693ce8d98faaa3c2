package gateway

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics counts what the gateway answers. Its label sets are closed: route names are those of Routes and "unknown", codes are
// HTTP statuses.
type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	meters   map[string]*meter // by route
	bodies   *prometheus.Desc
}

// newMetrics returns metrics that belong to no registry yet.
func newMetrics() *metrics {
	m := &metrics{
		meters: make(map[string]*meter),
		bodies: prometheus.NewDesc("pulsegate_gateway_body_bytes", "Bytes of request bodies in memory now.", nil, nil),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pulsegate_gateway_requests_total",
			Help: "Answers given, by route and HTTP status.",
		}, []string{"route", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "pulsegate_gateway_request_seconds",
			Help:    "Time from the request's header to the end of the answer.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"route"}),
	}
	for _, r := range append(Routes(), stray(errNoRoute)) {
		m.meters[r.Name] = m.meter(r.Name)
	}
	return m
}

// meter counts the answers of one route.
type meter struct {
	requests *prometheus.CounterVec // by code
	seconds  prometheus.Observer
}

func (m *metrics) meter(route string) *meter {
	return &meter{m.requests.MustCurryWith(prometheus.Labels{"route": route}), m.seconds.WithLabelValues(route)}
}

// note counts one answer.
func (m *meter) note(status int, took time.Duration) {
	m.requests.WithLabelValues(codeLabel(status)).Inc()
	m.seconds.Observe(took.Seconds())
}

// codeLabel keeps the set of codes closed, whatever a platform answers.
func codeLabel(status int) string {
	if http.StatusText(status) == "" {
		return "other"
	}
	return strconv.Itoa(status)
}

// Describe implements prometheus.Collector.
func (g *Gateway) Describe(ch chan<- *prometheus.Desc) {
	g.metrics.requests.Describe(ch)
	g.metrics.seconds.Describe(ch)
	ch <- g.metrics.bodies
}

// Collect implements prometheus.Collector.
func (g *Gateway) Collect(ch chan<- prometheus.Metric) {
	g.metrics.requests.Collect(ch)
	g.metrics.seconds.Collect(ch)
	ch <- prometheus.MustNewConstMetric(g.metrics.bodies, prometheus.GaugeValue, float64(g.bodies.held.Load()))
}

// Gatherer is where /metrics gathers from.
type Gatherer = prometheus.Gatherer

// scrape is the page for Prometheus.
func scrape(from Gatherer) http.Handler {
	return promhttp.HandlerFor(from, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second})
}
