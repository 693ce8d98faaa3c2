package main

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// registerMetrics adds the rooms' metrics, those of this process, and the durability tier of the store.
func registerMetrics(registry *prometheus.Registry, t tier, rooms ...prometheus.Collector) error {
	durability := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "pulsegate_store_durability",
		Help: "1 for the durability tier of the store.",
	}, []string{"tier"})
	for _, name := range []tier{tierMemory, tierProcess, tierDisk, tierUnknown} {
		value := 0.0
		if name == t {
			value = 1
		}
		durability.WithLabelValues(string(name)).Set(value)
	}
	var failures []error
	for _, c := range append(rooms, durability, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})) {
		failures = append(failures, registry.Register(c))
	}
	if err := errors.Join(failures...); err != nil {
		return fmt.Errorf("register metrics: %w", err)
	}
	return nil
}
