package main

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// registerMetrics adds the rooms' metrics, those of this process, and the durability of the store.
func registerMetrics(registry *prometheus.Registry, rooms ...prometheus.Collector) error {
	var failures []error
	for _, c := range append(rooms, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})) {
		failures = append(failures, registry.Register(c))
	}
	if err := errors.Join(failures...); err != nil {
		return fmt.Errorf("register metrics: %w", err)
	}
	return nil
}

// tierMetrics describe what a tierWatch tells.
type tierMetrics struct{ tier, kept, servers *prometheus.Desc }

func newTierMetrics() tierMetrics {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("pulsegate_store_"+name, help, labels, nil)
	}
	return tierMetrics{
		tier:    desc("durability", "1 for the durability tier of the store.", "tier"),
		kept:    desc("durability_kept", "1 while the store gives the tier that --durability asks for, or none is asked for."),
		servers: desc("servers_changed_total", "Times that the store was another server than before, or had been started again."),
	}
}

// Describe implements prometheus.Collector.
func (w *tierWatch) Describe(ch chan<- *prometheus.Desc) {
	ch <- w.metrics.tier
	ch <- w.metrics.kept
	ch <- w.metrics.servers
}

// Collect implements prometheus.Collector.
func (w *tierWatch) Collect(ch chan<- prometheus.Metric) {
	w.mu.Lock()
	now, lacking, changes := w.now, w.lacking, w.changes
	w.mu.Unlock()
	flag := func(yes bool) float64 {
		if yes {
			return 1
		}
		return 0
	}
	for _, t := range tiers() {
		ch <- prometheus.MustNewConstMetric(w.metrics.tier, prometheus.GaugeValue, flag(t == now), string(t))
	}
	ch <- prometheus.MustNewConstMetric(w.metrics.kept, prometheus.GaugeValue, flag(lacking == ""))
	ch <- prometheus.MustNewConstMetric(w.metrics.servers, prometheus.CounterValue, float64(changes))
}
