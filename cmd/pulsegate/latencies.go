package main

import (
	"sync"
	"time"

	// HdrHistogram counts times of any spread in a few kilobytes, with an error below one percent at every quantile: sums of what many
	// goroutines note, without keeping millions of values. It imports nothing but the standard library.
	"github.com/HdrHistogram/hdrhistogram-go"
)

// latencies counts how long things took. Safe for concurrent use.
type latencies struct {
	mu     sync.Mutex
	counts *hdrhistogram.Histogram // in microseconds
}

// longestLatency is what anything longer counts as.
const longestLatency = 10 * time.Minute

func newLatencies() *latencies {
	return &latencies{counts: hdrhistogram.New(1, longestLatency.Microseconds(), 3)}
}

// note counts one.
func (l *latencies) note(took time.Duration) {
	us := min(max(took, time.Microsecond), longestLatency).Microseconds()
	l.mu.Lock()
	defer l.mu.Unlock()
	_ = l.counts.RecordValue(us) // fails only out of range
}

// summary is what was noted so far.
func (l *latencies) summary() latencySummary {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := func(percent float64) float64 { return float64(l.counts.ValueAtQuantile(percent)) / 1000 }
	return latencySummary{
		Count: l.counts.TotalCount(), P50: at(50), P90: at(90), P99: at(99), P999: at(99.9), Max: float64(l.counts.Max()) / 1000,
	}
}

// latencySummary is how long many things took, in milliseconds.
type latencySummary struct {
	Count int64   `json:"count"`
	P50   float64 `json:"p50Ms"`
	P90   float64 `json:"p90Ms"`
	P99   float64 `json:"p99Ms"`
	P999  float64 `json:"p999Ms"`
	Max   float64 `json:"maxMs"`
}

// millis is a duration in milliseconds.
func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
