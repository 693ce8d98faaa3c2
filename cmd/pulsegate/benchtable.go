package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// benchReport is everything that a bench found.
type benchReport struct {
	Events       int64         `json:"events"`
	Connections  int           `json:"connections"`
	Alternations int           `json:"alternations"`
	Size         int           `json:"size"`
	OwnIDs       bool          `json:"ownIds"`
	Cores        int           `json:"cores"`
	Go           string        `json:"go"`
	Redis        string        `json:"redis"`
	Seconds      float64       `json:"seconds"`    // that all of it took
	Others       float64       `json:"otherCores"` // that were busy with anything but the bench, median of all runs
	Rows         []benchRow    `json:"rows"`
	Open         []benchOpen   `json:"open"`
	Backlog      *benchBacklog `json:"backlog,omitempty"`
	Slow         *benchSlow    `json:"slow,omitempty"`
	Ladder       []benchLadder `json:"ladder"`
	Bars         []benchBar    `json:"bars"`
}

func newBenchReport(ctx context.Context, b benchCommand) *benchReport {
	return &benchReport{
		Events: b.Events, Connections: b.Connections, Alternations: b.Alternations, Size: b.Size, OwnIDs: b.OwnIDs,
		Cores: runtime.NumCPU(), Go: runtime.Version(), Redis: redisVersion(ctx),
	}
}

// redisVersion is that of the redis-server on the PATH; empty when it does not say.
func redisVersion(ctx context.Context) string {
	text, err := exec.CommandContext(ctx, "redis-server", "--version").Output()
	if err != nil {
		return ""
	}
	_, after, _ := strings.Cut(string(text), "v=")
	version, _, _ := strings.Cut(after, " ")
	return version
}

// noisyCores is from how many cores on, taken by others, a report says so.
const noisyCores = 0.2

// allRuns are the runs of every cell.
func (b *benchReport) allRuns() []benchResult {
	var all []benchResult
	for _, row := range b.Rows {
		all = slices.Concat(all, row.Straight, row.Relay, row.Floor, row.Gateway)
	}
	for _, row := range b.Open {
		all = slices.Concat(all, row.Relay, row.Gateway)
	}
	for _, row := range b.Ladder {
		all = slices.Concat(all, row.Relay, row.Gateway)
	}
	if b.Backlog != nil {
		all = slices.Concat(all, b.Backlog.With, b.Backlog.Without)
	}
	if b.Slow != nil {
		all = append(all, b.Slow.Run)
	}
	return all
}

// judge is nil when every event is accounted for and nothing is void.
func (b *benchReport) judge() error {
	var failures []error
	for _, row := range b.Rows {
		failures = append(failures, row.judge())
	}
	for _, row := range b.Open {
		failures = append(failures, judgeRuns("cell "+row.Cell, row.Gateway))
	}
	if b.Backlog != nil {
		failures = append(failures, judgeRuns("cell backlog", append(slices.Clone(b.Backlog.With), b.Backlog.Without...)))
		for _, ledger := range b.Backlog.Ledgers {
			failures = append(failures, ledger.judge("cell backlog"))
		}
	}
	if b.Slow != nil {
		failures = append(failures, judgeRuns("cell slow", []benchResult{b.Slow.Run}))
	}
	for _, row := range b.Ladder {
		failures = append(failures, judgeRuns("cell "+row.Cell, row.Gateway))
	}
	return errors.Join(failures...)
}

// print prints the tables, or the figures as JSON.
func (b *benchReport) print(out io.Writer, c benchCommand) error {
	if c.JSON {
		return writeLine(out, b)
	}
	_, _ = fmt.Fprintf(out, "\n%d cores, redis-server %s, %s; events of %d bytes, %d of them in a run of a closed loop over %d connections; medians of %d turns; %v in all\n",
		b.Cores, b.Redis, b.Go, b.Size, b.Events, b.Connections, b.Alternations, time.Duration(b.Seconds*float64(time.Second)).Round(time.Second))
	if b.Others >= noisyCores {
		_, _ = fmt.Fprintf(out, "The machine was busy with other things too: they took %.1f cores. These are not the figures of the machine alone.\n", b.Others)
	}
	for _, section := range []func(io.Writer){b.printRows, b.printCPU, b.printPeaks, b.printOpen, b.printBacklog, b.printSlow, b.printLadder} {
		table := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
		section(table)
		if err := table.Flush(); err != nil {
			return err
		}
	}
	return b.printBars(out)
}

// printRows prints what was measured in closed loops.
func (b *benchReport) printRows(table io.Writer) {
	if len(b.Rows) == 0 {
		return
	}
	_, _ = fmt.Fprintln(table, "\nclosed loop\tstraight/s\trelay/s\tfloor/s\tgateway/s\tfloor:relay\tgateway:relay\tyardstick\tanswer p50\tp99\tlost\tdoubled\t")
	for _, row := range b.Rows {
		lost, doubled := lostOf(row.Gateway)
		_, _ = fmt.Fprintf(table, "%s\t%.0f\t%.0f\t%s\t%.0f\t%s\t%.2f\t%s\t%.1f ms\t%.1f ms\t%d\t%d\t\n", row.Cell, medianRate(row.Straight),
			medianRate(row.Relay), orDash("%.0f", medianRate(row.Floor)), medianRate(row.Gateway), orDash("%.2f", row.FloorRatio), row.Ratio, row.verdict(),
			medianOf(row.Gateway, func(r benchResult) float64 { return r.Answer.P50 }),
			medianOf(row.Gateway, func(r benchResult) float64 { return r.Answer.P99 }), lost, doubled)
	}
}

// orDash is a figure for people; a 0 was not measured.
func orDash(format string, figure float64) string {
	if figure == 0 {
		return "-"
	}
	return fmt.Sprintf(format, figure)
}

// printCPU prints what each process of a closed loop used.
func (b *benchReport) printCPU(table io.Writer) {
	if len(b.Rows) == 0 {
		return
	}
	_, _ = fmt.Fprintln(table, "\nCPU s per 1,000 events\tgateway\tredis\tgenerator\tbots\trelay\tits generator\tits bots\tfloor\tits redis\tfloor+redis:relay\tgateway+redis:relay\t")
	for _, row := range b.Rows {
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%.2f\t\n", row.Cell,
			cpuText(row.Gateway, partGateway), cpuText(row.Gateway, partRedis), cpuText(row.Gateway, partGenerator), cpuText(row.Gateway, partBots),
			cpuText(row.Relay, partRelay), cpuText(row.Relay, partGenerator), cpuText(row.Relay, partBots),
			cpuText(row.Floor, partFloor), cpuText(row.Floor, partRedis), orDash("%.2f", row.FloorCPURatio), row.CPURatio)
	}
}

// printPeaks prints the most memory that each process had.
func (b *benchReport) printPeaks(table io.Writer) {
	_, _ = fmt.Fprintln(table, "\npeak memory\tgateway\tredis\tgenerator\tbots\trelay\t")
	line := func(name string, gateway, relay []benchResult) {
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t\n", name, peakText(gateway, partGateway), peakText(gateway, partRedis),
			peakText(gateway, partGenerator), peakText(gateway, partBots), peakText(relay, partRelay))
	}
	for _, row := range b.Rows {
		line(row.Cell, row.Gateway, row.Relay)
	}
	for _, row := range b.Open {
		line(row.Cell, row.Gateway, row.Relay)
	}
	if b.Backlog != nil {
		line(cellBacklog, b.Backlog.With, nil)
	}
	if b.Slow != nil {
		line(cellSlow, []benchResult{b.Slow.Run}, nil)
	}
}

// cpuText is the median CPU time of a process, in seconds per 1,000 events.
func cpuText(runs []benchResult, name string) string {
	return orDash("%.4f", medianOf(runs, func(r benchResult) float64 { return r.CPU[name] }))
}

// peakText is the most memory that a process had in any run.
func peakText(runs []benchResult, name string) string {
	var most int64
	for _, r := range runs {
		most = max(most, r.Peak[name])
	}
	if most == 0 {
		return "-"
	}
	return megabytes(most)
}
