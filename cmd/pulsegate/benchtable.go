package main

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"text/tabwriter"
	"time"
)

// benchResult is one run.
type benchResult struct {
	Rate     float64            `json:"eventsPerSecond"` // from the first byte sent to the last new event at the bots
	Accepted int64              `json:"accepted"`
	Refused  int64              `json:"refused"`
	Retried  int64              `json:"retried"`
	Lost     int64              `json:"lost"`    // accepted, and never came to the bots
	Doubled  int64              `json:"doubled"` // came more than once
	Strange  int64              `json:"strange"` // came without a number
	P50      float64            `json:"acceptP50Ms"`
	P99      float64            `json:"acceptP99Ms"`
	CPU      map[string]float64 `json:"cpuSecondsPer1000Events"` // by process, from its start to its end
	Sample   string             `json:"refusal,omitempty"`
}

// resultOf puts together what both ends say.
func resultOf(load loadReport, bots botsReport) benchResult {
	r := benchResult{
		Accepted: load.Accepted, Refused: load.Refused, Retried: load.Retried, Sample: load.Sample,
		Lost: max(0, load.Accepted-bots.Distinct), Doubled: bots.Doubled, Strange: bots.Strange,
		P50: load.P50, P99: load.P99,
	}
	if took := time.Duration(bots.Last - load.Began); took > 0 {
		r.Rate = float64(bots.Distinct) / took.Seconds()
	}
	return r
}

// cpu notes the CPU time of each process.
func (r *benchResult) cpu(used map[string]time.Duration, events int64) {
	r.CPU = make(map[string]float64)
	for name, d := range used {
		r.CPU[name] = d.Seconds() * 1000 / float64(max(1, events))
	}
}

// benchRow is all runs with one number of registrations.
type benchRow struct {
	Registrations int64         `json:"registrations"`
	Straight      []benchResult `json:"straight"` // the generator posting to the bots itself
	Relay         []benchResult `json:"relay"`
	Gateway       []benchResult `json:"gateway"`
	Ratios        []float64     `json:"ratios"` // gateway to relay, turn by turn
	Ratio         float64       `json:"ratio"`  // their median
	Yardstick     float64       `json:"yardstick"`
	Void          bool          `json:"void"` // the relay is too slow beside the straight generator
}

// add takes one run in.
func (row *benchRow) add(kind string, r benchResult) {
	switch kind {
	case partGenerator:
		row.Straight = append(row.Straight, r)
	case partRelay:
		row.Relay = append(row.Relay, r)
	case partGateway:
		row.Gateway = append(row.Gateway, r)
		row.Ratios = append(row.Ratios, r.Rate/row.Relay[len(row.Relay)-1].Rate)
		row.Ratio = median(row.Ratios)
	}
	if straight := medianRate(row.Straight); len(row.Relay) > 0 && straight > 0 {
		row.Yardstick = medianRate(row.Relay) / straight
		row.Void = row.Yardstick < yardstick
	}
}

// lost sums the events that the gateway lost, and those that it did not take in.
func (row benchRow) lost() (lost, refused int64) {
	for _, r := range row.Gateway {
		lost += r.Lost
		refused += r.Refused
	}
	return lost, refused
}

// judgeBench is nil when every event is accounted for and the yardstick held.
func judgeBench(rows []benchRow) error {
	var failures []error
	for _, row := range rows {
		lost, refused := row.lost()
		if lost > 0 {
			failures = append(failures, fmt.Errorf("the gateway lost %d accepted events at %d registrations", lost, row.Registrations))
		}
		if refused > 0 {
			failures = append(failures, fmt.Errorf("the gateway did not queue %d events at %d registrations: %s", refused, row.Registrations, row.refusal()))
		}
		if row.Void {
			failures = append(failures, fmt.Errorf("the run at %d registrations is void: the relay reached only %.2f of the generator posting straight to the bots, it must reach %.2f",
				row.Registrations, row.Yardstick, yardstick))
		}
	}
	return errors.Join(failures...)
}

// refusal is the first answer that did not queue an event.
func (row benchRow) refusal() string {
	for _, r := range row.Gateway {
		if r.Sample != "" {
			return r.Sample
		}
	}
	return ""
}

// printBench prints the table, or the figures as JSON.
func printBench(out io.Writer, b benchCommand, rows []benchRow) error {
	if b.JSON {
		return writeLine(out, map[string]any{
			"events": b.Events, "connections": b.Connections, "alternations": b.Alternations, "size": b.Size, "ownIds": b.OwnIDs,
			"cores": runtime.NumCPU(), "go": runtime.Version(), "rows": rows,
		})
	}
	_, _ = fmt.Fprintf(out, "\n%d events of %d bytes, %d connections, %d cores, median of %d turns\n\n", b.Events, b.Size, b.Connections,
		runtime.NumCPU(), b.Alternations)
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintln(table, "registrations\tstraight/s\trelay/s\tgateway/s\tgateway:relay\tyardstick\taccept p50\tp99\tlost\tdoubled\t")
	for _, row := range rows {
		lost, _ := row.lost()
		_, _ = fmt.Fprintf(table, "%d\t%.0f\t%.0f\t%.0f\t%.2f\t%s\t%.1f ms\t%.1f ms\t%d\t%d\t\n", row.Registrations, medianRate(row.Straight),
			medianRate(row.Relay), medianRate(row.Gateway), row.Ratio, row.verdict(),
			medianOf(row.Gateway, func(r benchResult) float64 { return r.P50 }),
			medianOf(row.Gateway, func(r benchResult) float64 { return r.P99 }), lost, row.doubled())
	}
	_, _ = fmt.Fprint(table, "\nCPU seconds per 1,000 events\tgateway run: gateway\tredis\tgenerator\tbots\trelay run: relay\tgenerator\tbots\t\n")
	for _, row := range rows {
		_, _ = fmt.Fprintf(table, "%d registrations\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", row.Registrations,
			cpuOf(row.Gateway, partGateway), cpuOf(row.Gateway, partRedis), cpuOf(row.Gateway, partGenerator), cpuOf(row.Gateway, partBots),
			cpuOf(row.Relay, partRelay), cpuOf(row.Relay, partGenerator), cpuOf(row.Relay, partBots))
	}
	return table.Flush()
}

// verdict says whether the yardstick held.
func (row benchRow) verdict() string {
	if row.Void {
		return fmt.Sprintf("%.2f VOID", row.Yardstick)
	}
	return fmt.Sprintf("%.2f", row.Yardstick)
}

// doubled sums the requests for events that had come before.
func (row benchRow) doubled() (sum int64) {
	for _, r := range row.Gateway {
		sum += r.Doubled
	}
	return sum
}

// cpuOf is the median CPU time of a process.
func cpuOf(runs []benchResult, name string) string {
	return fmt.Sprintf("%.4f", medianOf(runs, func(r benchResult) float64 { return r.CPU[name] }))
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
