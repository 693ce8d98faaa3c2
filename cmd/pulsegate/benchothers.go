package main

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// printOpen prints what was measured at half of the saturation.
func (b *benchReport) printOpen(table io.Writer) {
	if len(b.Open) == 0 {
		return
	}
	_, _ = fmt.Fprintln(table, "\nopen loop, at half saturation\toffered/s\trelay p50\tp99\tgateway p50\tp90\tp99\tp99.9\tgenerator late p50\tp99\tlost\tdoubled\t")
	for _, row := range b.Open {
		lost, doubled := lostOf(row.Gateway)
		of := func(figure func(latencySummary) float64) float64 {
			return medianOf(row.Gateway, func(r benchResult) float64 { return figure(r.Arrival) })
		}
		_, _ = fmt.Fprintf(table, "%s\t%.0f\t%.2f ms\t%.2f ms\t%.2f ms\t%.2f ms\t%.2f ms\t%.2f ms\t%.2f ms\t%.2f ms\t%d\t%d\t\n", row.Cell, row.Rate,
			medianOf(row.Relay, arrivalP50), medianOf(row.Relay, arrivalP99), medianOf(row.Gateway, arrivalP50),
			of(func(l latencySummary) float64 { return l.P90 }), medianOf(row.Gateway, arrivalP99), of(func(l latencySummary) float64 { return l.P999 }),
			medianOf(row.Gateway, func(r benchResult) float64 { return r.Late.P50 }), medianOf(row.Gateway, func(r benchResult) float64 { return r.Late.P99 }), lost, doubled)
	}
	for _, row := range b.Open {
		_, _ = fmt.Fprintf(table, "%s: what held Redis up the longest, by its own account: %s\n", row.Cell, row.stallText())
	}
}

// printBacklog prints what a backlog costs.
func (b *benchReport) printBacklog(table io.Writer) {
	if b.Backlog == nil {
		return
	}
	_, _ = fmt.Fprintln(table, "\nbeside a backlog\tgateway/s\tCPU s per 1,000: gateway\tredis\tboth\tlost\tdoubled\t")
	for _, one := range []struct {
		waiting int64
		runs    []benchResult
	}{{0, b.Backlog.Without}, {b.Backlog.Backlog, b.Backlog.With}} {
		lost, _ := lostOf(one.runs)
		doubled := one.runs[len(one.runs)-1].Doubled // of one process over all runs
		_, _ = fmt.Fprintf(table, "%d events wait\t%.0f\t%s\t%s\t%.4f\t%d\t%d\t\n", one.waiting, medianRate(one.runs), cpuText(one.runs, partGateway),
			cpuText(one.runs, partRedis), medianOf(one.runs, benchResult.path), lost, doubled)
	}
	_, _ = fmt.Fprintf(table, "built at %.0f events/s in %d registrations, while %d others get events\n", b.Backlog.BuildRate, b.Backlog.Held, b.Backlog.Registrations)
}

// printSlow prints the run with bots that take their time.
func (b *benchReport) printSlow(table io.Writer) {
	if b.Slow == nil {
		return
	}
	s := b.Slow
	_, _ = fmt.Fprintf(table, "\nbots that take 2 s\tregistrations\toffered/s\tanswered/s\tat once\tgateway's peak\tdue to the bot p50\tp99\tlost\tdoubled\t\n")
	_, _ = fmt.Fprintf(table, "slow\t%d\t%.0f\t%.0f\t%d\t%s\t%.2f ms\t%.2f ms\t%d\t%d\t\n", s.Registrations, s.Offered, s.Answered, s.Run.Most,
		peakText([]benchResult{s.Run}, partGateway), s.Run.Arrival.P50, s.Run.Arrival.P99, s.Run.Lost, s.Run.Doubled)
}

// printLadder prints throughput and latency against load.
func (b *benchReport) printLadder(table io.Writer) {
	for _, row := range b.Ladder {
		_, _ = fmt.Fprintf(table, "\n%s\toffered/s\tcame/s\tp50\tp99\tp99.9\t\n", row.Cell)
		for _, one := range []struct {
			name string
			runs []benchResult
		}{{partRelay, row.Relay}, {partGateway, row.Gateway}} {
			for _, r := range one.runs {
				_, _ = fmt.Fprintf(table, "%s\t%.0f\t%.0f\t%.2f ms\t%.2f ms\t%.2f ms\t\n", one.name, r.Offered, r.Rate, r.Arrival.P50, r.Arrival.P99, r.Arrival.P999)
			}
		}
	}
}

// printBars prints one line for each thing that the gateway is held to.
func (b *benchReport) printBars(out io.Writer) error {
	if len(b.Bars) == 0 {
		return nil
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "\nbar\trequired\tmeasured\tthe floor\t")
	for _, bar := range b.Bars {
		verdict := "NOT MET"
		if bar.Met {
			verdict = "met"
		}
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", bar.Name, bar.Required, bar.Measured, orDash("%.2f", bar.Floor), verdict)
	}
	return table.Flush()
}
