package main

import (
	"slices"
	"time"
)

// benchResult is one run.
type benchResult struct {
	Offered  float64            `json:"offeredPerSecond,omitempty"` // of an open loop
	Rate     float64            `json:"eventsPerSecond"`            // from the first byte sent to the last new event at the bots
	Accepted int64              `json:"accepted"`
	Refused  int64              `json:"refused"`
	Retried  int64              `json:"retried"`
	Lost     int64              `json:"lost"`    // accepted, and never came to the bots
	Doubled  int64              `json:"doubled"` // came more than once
	Strange  int64              `json:"strange"` // came without a number
	Answer   latencySummary     `json:"answer"`  // from when a request was due to its answer
	Arrival  latencySummary     `json:"arrival"` // from when an event was due to the bot; only in an open loop
	Late     latencySummary     `json:"late"`    // from when a request was due to its first byte: the generator's own share
	Most     int64              `json:"mostAtOnce"`
	CPU      map[string]float64 `json:"cpuSecondsPer1000Events"` // by process, from the first event to the last
	Peak     map[string]int64   `json:"peakBytes"`               // by process, over its whole life
	Others   float64            `json:"otherCores"`              // cores that were busy with anything but the bench
	Ledger   benchLedger        `json:"ledger,omitzero"`         // of a gateway
	Sample   string             `json:"refusal,omitempty"`
}

// resultOf puts together what both ends say; arrived is what the bots had before.
func resultOf(load loadReport, bots botsReport, arrived int64) benchResult {
	r := benchResult{
		Accepted: load.Accepted, Refused: load.Refused, Retried: load.Retried, Sample: load.Sample,
		Lost: max(0, load.Accepted-(bots.Distinct-arrived)), Doubled: bots.Doubled, Strange: bots.Strange,
		Answer: load.Answer, Arrival: bots.After, Late: load.Late, Most: bots.Most,
	}
	if took := time.Duration(bots.Last - load.Began); took > 0 {
		r.Rate = float64(bots.Distinct-arrived) / took.Seconds()
	}
	return r
}

// usage notes the CPU time of each process, and its memory.
func (r *benchResult) usage(before, after usage, peaks map[string]int64) {
	r.CPU, r.Peak, r.Others = make(map[string]float64), peaks, after.others(before)
	for name, used := range after.parts {
		r.CPU[name] = (used - before.parts[name]).Seconds() * 1000 / float64(max(1, r.Accepted))
	}
}

// path is the CPU time of what stands between generator and bots, in seconds per 1,000 events.
func (r benchResult) path() float64 {
	return r.CPU[partGateway] + r.CPU[partRedis] + r.CPU[partRelay] + r.CPU[partFloor]
}

// ratio of two figures; 0 when it has none.
func ratio(a, b float64) float64 {
	if b <= 0 {
		return 0
	}
	return a / b
}

func medianRate(runs []benchResult) float64 {
	return medianOf(runs, func(r benchResult) float64 { return r.Rate })
}

func medianOf(runs []benchResult, figure func(benchResult) float64) float64 {
	figures := make([]float64, 0, len(runs))
	for _, r := range runs {
		figures = append(figures, figure(r))
	}
	return median(figures)
}

// medianRatio is the median of the turns' ratios of a figure.
func medianRatio(a, b []benchResult, figure func(benchResult) float64) float64 {
	var ratios []float64
	for i := range min(len(a), len(b)) {
		ratios = append(ratios, ratio(figure(a[i]), figure(b[i])))
	}
	return median(ratios)
}

// median of figures; 0 when there are none.
func median(figures []float64) float64 {
	if len(figures) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(figures))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}
