package main

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"text/tabwriter"
)

// benchReport is everything that a bench found.
type benchReport struct {
	Events       int64      `json:"events"`
	Connections  int        `json:"connections"`
	Alternations int        `json:"alternations"`
	Size         int        `json:"size"`
	OwnIDs       bool       `json:"ownIds"`
	Cores        int        `json:"cores"`
	Go           string     `json:"go"`
	Rows         []benchRow `json:"rows"`
	Bars         []benchBar `json:"bars"`
}

func newBenchReport(b benchCommand) *benchReport {
	return &benchReport{
		Events: b.Events, Connections: b.Connections, Alternations: b.Alternations, Size: b.Size, OwnIDs: b.OwnIDs,
		Cores: runtime.NumCPU(), Go: runtime.Version(),
	}
}

// judge is nil when every event is accounted for and nothing is void.
func (b *benchReport) judge() error {
	var failures []error
	for _, row := range b.Rows {
		failures = append(failures, row.judge())
	}
	return errors.Join(failures...)
}

// print prints the tables, or the figures as JSON.
func (b *benchReport) print(out io.Writer, c benchCommand) error {
	if c.JSON {
		return writeLine(out, b)
	}
	_, _ = fmt.Fprintf(out, "\n%d events of %d bytes, %d connections, %d cores, medians of %d turns\n\n", b.Events, b.Size, b.Connections, b.Cores, b.Alternations)
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	b.printRows(table)
	if err := table.Flush(); err != nil {
		return err
	}
	return b.printBars(out)
}

// printRows prints what was measured in closed loops.
func (b *benchReport) printRows(table io.Writer) {
	_, _ = fmt.Fprintln(table, "cell\tstraight/s\trelay/s\tgateway/s\tgateway:relay\tyardstick\tanswer p50\tp99\tlost\tdoubled\t")
	for _, row := range b.Rows {
		lost, doubled := lostOf(row.Gateway)
		_, _ = fmt.Fprintf(table, "%s\t%.0f\t%.0f\t%.0f\t%.2f\t%s\t%.1f ms\t%.1f ms\t%d\t%d\t\n", row.Cell, medianRate(row.Straight),
			medianRate(row.Relay), medianRate(row.Gateway), row.Ratio, row.verdict(),
			medianOf(row.Gateway, func(r benchResult) float64 { return r.Answer.P50 }),
			medianOf(row.Gateway, func(r benchResult) float64 { return r.Answer.P99 }), lost, doubled)
	}
	_, _ = fmt.Fprint(table, "\nCPU seconds per 1,000 events\tgateway\tredis\tgenerator\tbots\trelay\tits generator\tits bots\tgateway+redis:relay\t\n")
	for _, row := range b.Rows {
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%.2f\t\n", row.Cell,
			cpuText(row.Gateway, partGateway), cpuText(row.Gateway, partRedis), cpuText(row.Gateway, partGenerator), cpuText(row.Gateway, partBots),
			cpuText(row.Relay, partRelay), cpuText(row.Relay, partGenerator), cpuText(row.Relay, partBots), row.CPURatio)
	}
	_, _ = fmt.Fprint(table, "\npeak memory\tgateway\tredis\tgenerator\tbots\trelay\t\n")
	for _, row := range b.Rows {
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t\n", row.Cell, peakText(row.Gateway, partGateway), peakText(row.Gateway, partRedis),
			peakText(row.Gateway, partGenerator), peakText(row.Gateway, partBots), peakText(row.Relay, partRelay))
	}
}

// printBars prints one line for each thing that the gateway is held to.
func (b *benchReport) printBars(out io.Writer) error {
	if len(b.Bars) == 0 {
		return nil
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "\nbar\trequired\tmeasured\t")
	for _, bar := range b.Bars {
		verdict := "not met"
		if bar.Met {
			verdict = "met"
		}
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", bar.Name, bar.Required, bar.Measured, verdict)
	}
	return table.Flush()
}

// cpuText is the median CPU time of a process, in seconds per 1,000 events.
func cpuText(runs []benchResult, name string) string {
	return fmt.Sprintf("%.4f", medianOf(runs, func(r benchResult) float64 { return r.CPU[name] }))
}

// peakText is the most memory that a process had in any run.
func peakText(runs []benchResult, name string) string {
	var most int64
	for _, r := range runs {
		most = max(most, r.Peak[name])
	}
	return megabytes(most)
}
