package main

import (
	"errors"
	"fmt"
)

// benchRow is all runs of one cell.
type benchRow struct {
	cell benchCell

	Cell          string        `json:"cell"`
	Registrations int64         `json:"registrations"`
	Size          int           `json:"size"`  // of an event, in bytes
	Batch         int64         `json:"batch"` // events of a request to the gateway
	Straight      []benchResult `json:"straight"`
	Relay         []benchResult `json:"relay"`
	Floor         []benchResult `json:"floor,omitempty"` // the relay with the least of a store behind it
	Gateway       []benchResult `json:"gateway"`
	Ratios        []float64     `json:"ratios"`                  // gateway to relay, turn by turn
	Ratio         float64       `json:"ratio"`                   // their median
	CPURatio      float64       `json:"cpuRatio"`                // CPU time of gateway and Redis to that of the relay, median of the turns
	FloorRatio    float64       `json:"floorRatio,omitempty"`    // floor to relay, median of the turns
	FloorCPURatio float64       `json:"floorCpuRatio,omitempty"` // CPU time of the floor and its Redis to that of the relay, median of the turns
	Yardstick     float64       `json:"yardstick"`
	Void          bool          `json:"void"` // the relay is too slow beside the straight generator
}

// yardstick is the least share of the generator's straight rate that the relay must reach for a bench to count.
const yardstick = 0.45

// add takes one run in.
func (row *benchRow) add(kind string, r benchResult) {
	switch kind {
	case partGenerator:
		row.Straight = append(row.Straight, r)
	case partRelay:
		row.Relay = append(row.Relay, r)
	case partFloor:
		row.Floor = append(row.Floor, r)
		row.FloorRatio = medianRatio(row.Floor, row.Relay, func(r benchResult) float64 { return r.Rate })
		row.FloorCPURatio = medianRatio(row.Floor, row.Relay, benchResult.path)
	case partGateway:
		row.Gateway = append(row.Gateway, r)
		row.Ratios = append(row.Ratios, ratio(r.Rate, row.Relay[len(row.Relay)-1].Rate))
		row.Ratio = median(row.Ratios)
		row.CPURatio = medianRatio(row.Gateway, row.Relay, benchResult.path)
	}
	if len(row.Relay) > 0 && len(row.Straight) > 0 {
		row.Yardstick = medianRatio(row.Relay, row.Straight, func(r benchResult) float64 { return r.Rate })
		row.Void = row.Yardstick < yardstick
	}
}

// judge is nil when every event is accounted for and the yardstick held.
func (row benchRow) judge() error {
	failure := judgeRuns("cell "+row.Cell, row.Gateway)
	if row.Void {
		failure = errors.Join(failure, fmt.Errorf("cell %s is void: the relay reached only %.2f of the generator posting straight to the bots, it must reach %.2f",
			row.Cell, row.Yardstick, yardstick))
	}
	return failure
}

// judgeRuns is nil when the gateway took every event in, lost none, and its ledger says so.
func judgeRuns(of string, runs []benchResult) error {
	var lost, refused int64
	var sample string
	var failures []error
	for _, r := range runs {
		lost += r.Lost
		refused += r.Refused
		sample = firstOf(sample, r.Sample)
		failures = append(failures, r.Ledger.judge(of))
	}
	if lost > 0 {
		failures = append(failures, fmt.Errorf("%s: the gateway lost %d accepted events", of, lost))
	}
	if refused > 0 {
		failures = append(failures, fmt.Errorf("%s: the gateway did not queue %d events: %s", of, refused, sample))
	}
	return errors.Join(failures...)
}

// verdict says whether the yardstick held.
func (row benchRow) verdict() string {
	if row.Void {
		return fmt.Sprintf("%.2f VOID", row.Yardstick)
	}
	return fmt.Sprintf("%.2f", row.Yardstick)
}

// lost sums the events that the gateway lost; doubled, its requests for events that had come before.
func lostOf(runs []benchResult) (lost, doubled int64) {
	for _, r := range runs {
		lost += r.Lost
		doubled += r.Doubled
	}
	return lost, doubled
}
