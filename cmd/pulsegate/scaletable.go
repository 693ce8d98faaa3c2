package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"syscall"
	"text/tabwriter"

	"github.com/pulsegate/pulsegate/delivery"
)

// scaleReport is everything that a run found.
type scaleReport struct {
	Cores       int            `json:"cores"`
	Go          string         `json:"go"`
	Redis       string         `json:"redis"`
	Size        int            `json:"size"`
	Steps       []scaleStep    `json:"steps"`
	List        scaleList      `json:"list"`
	ColdReadyMs float64        `json:"coldReadyMs"` // from the start of the gateway, which starts the redis-server, to ready
	Busy        scaleBusy      `json:"busy"`
	Backlogs    []scaleBacklog `json:"backlogs"`
	Verify      scaleVerify    `json:"verify"` // at the end
}

// scaleIdle is what an idle gateway uses.
type scaleIdle struct {
	RSS             int64   `json:"gatewayRSS"`
	CPUPercent      float64 `json:"gatewayCPUPercent"` // of one core
	RedisOps        float64 `json:"redisCommandsPerSecond"`
	RedisCPUPercent float64 `json:"redisCPUPercent"`
	MetricsBytes    int     `json:"metricsBytes"`
	MetricsMs       float64 `json:"metricsMs"`
}

// String is for the lines of progress.
func (i scaleIdle) String() string {
	return fmt.Sprintf("%.1f %% CPU, %s, %.1f commands/s, /metrics %d bytes in %.0f ms", i.CPUPercent, megabytes(i.RSS), i.RedisOps, i.MetricsBytes, i.MetricsMs)
}

// scaleStep is a number of idle registrations.
type scaleStep struct {
	Registrations    int64     `json:"registrations"`
	RegisterRate     float64   `json:"registeredPerSecond"`
	RedisBytesEach   float64   `json:"redisBytesEach"`
	FullRSS          int64     `json:"gatewayRSSAfterRegistering"`
	Idle             scaleIdle `json:"idle"`             // of the gateway that registered them
	ReadyMs          float64   `json:"readyMs"`          // from the start of a gateway to ready, the redis-server running
	Restarted        scaleIdle `json:"restarted"`        // idle again
	RestartBytesEach float64   `json:"gatewayBytesEach"` // of its resident memory, beside that of a gateway without registrations
}

// scaleList is the listing of a whole company.
type scaleList struct {
	Rows    int     `json:"rows"`
	Bytes   int     `json:"bytes"`
	Ms      float64 `json:"ms"`
	PeakRSS int64   `json:"gatewayPeakRSS"`
}

// scaleBusy is traffic for some of many registrations.
type scaleBusy struct {
	Registrations int64   `json:"registrations"`
	Events        int64   `json:"events"`
	Rate          float64 `json:"eventsPerSecond"`
	P50           float64 `json:"acceptP50Ms"`
	P99           float64 `json:"acceptP99Ms"`
	Lost          int64   `json:"lost"`
	PeakRSS       int64   `json:"gatewayPeakRSS"`
}

// scaleBacklog is a backlog that was built while the bots were DOWN, and drained.
type scaleBacklog struct {
	Registrations  int64       `json:"registrations"`
	Events         int64       `json:"events"`
	Queued         int64       `json:"queued"`
	AcceptRate     float64     `json:"acceptedPerSecond"`
	AcceptPeakRSS  int64       `json:"gatewayPeakRSSAccepting"`
	RedisBytesEach float64     `json:"redisBytesEach"`
	Verify         scaleVerify `json:"verify"` // while all of it waits
	DrainRate      float64     `json:"drainedPerSecond"`
	DrainPeakRSS   int64       `json:"gatewayPeakRSSDraining"`
	Left           int64       `json:"left"` // still queued when nothing had come for long
	Lost           int64       `json:"lost"`
}

// scaleVerify is one verification.
type scaleVerify struct {
	Registrations int                `json:"registrations"`
	Queued        int64              `json:"queued"`
	Balanced      bool               `json:"balanced"`
	Seconds       float64            `json:"seconds"`
	PeakRSS       int64              `json:"peakRSS"`
	Findings      []delivery.Finding `json:"findings"`
}

// begin notes what the figures were taken on.
func (s *scaleReport) begin(ctx context.Context, r *scaleRun) {
	s.Cores, s.Go, s.Size = runtime.NumCPU(), runtime.Version(), r.scaleCommand.Size
	text, _ := r.client.Info(ctx, "server").Result() // a version that is not told stays empty
	for line := range strings.Lines(text) {
		if version, ok := strings.CutPrefix(line, "redis_version:"); ok {
			s.Redis = strings.TrimSpace(version)
		}
	}
}

// judge is nil when nothing was lost and everything balances.
func (s *scaleReport) judge() error {
	var failures []error
	if s.Busy.Lost != 0 {
		failures = append(failures, fmt.Errorf("%d events were lost while %d registrations were busy", s.Busy.Lost, s.Busy.Registrations))
	}
	for _, b := range s.Backlogs {
		if b.Lost != 0 {
			failures = append(failures, fmt.Errorf("%d events of a backlog in %d registrations were lost", b.Lost, b.Registrations))
		}
		if b.Left != 0 {
			failures = append(failures, fmt.Errorf("%d events of a backlog in %d registrations were still queued when none had come for %v", b.Left, b.Registrations, benchPatience))
		}
		if !b.Verify.Balanced {
			failures = append(failures, fmt.Errorf("a backlog in %d registrations does not balance", b.Registrations))
		}
	}
	if !s.Verify.Balanced {
		failures = append(failures, errors.New("the store does not balance at the end"))
	}
	return errors.Join(failures...)
}

// megabytes spells an amount of memory out.
func megabytes(bytes int64) string { return fmt.Sprintf("%.0f MB", float64(bytes)/1e6) }

// print prints the tables, or the figures as JSON.
func (s *scaleReport) print(out io.Writer, c scaleCommand) error {
	if c.JSON {
		return writeLine(out, s)
	}
	_, _ = fmt.Fprintf(out, "\n%d cores, redis-server %s, %s, events of %d bytes\n\n", s.Cores, s.Redis, s.Go, s.Size)
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintln(table, "idle registrations\tput/s\tRedis bytes each\tgateway\tCPU\tRedis commands/s\t/metrics\t\tready after\tgateway then\tbytes each\t")
	for _, step := range s.Steps {
		_, _ = fmt.Fprintf(table, "%d\t%.0f\t%.0f\t%s\t%.1f %%\t%.1f\t%.0f kB\t%.0f ms\t%.0f ms\t%s\t%.0f\t\n", step.Registrations, step.RegisterRate, step.RedisBytesEach,
			megabytes(step.Idle.RSS), step.Idle.CPUPercent, step.Idle.RedisOps, float64(step.Idle.MetricsBytes)/1000, step.Idle.MetricsMs, step.ReadyMs,
			megabytes(step.Restarted.RSS), step.RestartBytesEach)
	}
	_, _ = fmt.Fprintln(table, "\nbacklog in registrations\tevents\taccepted/s\tgateway's peak\tRedis bytes each\tverified in\tdrained/s\tgateway's peak\tlost\t")
	for _, b := range s.Backlogs {
		_, _ = fmt.Fprintf(table, "%d\t%d\t%.0f\t%s\t%.0f\t%.1f s\t%.0f\t%s\t%d\t\n", b.Registrations, b.Events, b.AcceptRate, megabytes(b.AcceptPeakRSS),
			b.RedisBytesEach, b.Verify.Seconds, b.DrainRate, megabytes(b.DrainPeakRSS), b.Lost)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	return s.printRest(out)
}

// printRest prints what has one row only.
func (s *scaleReport) printRest(out io.Writer) error {
	_, _ = fmt.Fprintf(out, "\nstart of gateway and redis-server together: ready after %.0f ms\n", s.ColdReadyMs)
	_, _ = fmt.Fprintf(out, "list of all %d registrations: %.0f ms, %.1f MB, gateway's peak %s\n", s.List.Rows, s.List.Ms, float64(s.List.Bytes)/1e6, megabytes(s.List.PeakRSS))
	if s.Busy.Events > 0 {
		_, _ = fmt.Fprintf(out, "%d busy registrations among them: %.0f events/s, accepted in %.1f ms (p50), %.1f ms (p99), %d lost, gateway's peak %s\n", s.Busy.Registrations,
			s.Busy.Rate, s.Busy.P50, s.Busy.P99, s.Busy.Lost, megabytes(s.Busy.PeakRSS))
	}
	_, err := fmt.Fprintf(out, "verified at the end: %d registrations in %.1f s with %s, %d findings, balanced: %t\n", s.Verify.Registrations, s.Verify.Seconds,
		megabytes(s.Verify.PeakRSS), len(s.Verify.Findings), s.Verify.Balanced)
	return err
}

// peakOf is the most memory that a process which has ended had; 0 when the system does not say.
func peakOf(state *os.ProcessState) int64 {
	usage, ok := state.SysUsage().(*syscall.Rusage)
	if !ok || runtime.GOOS != "linux" {
		return 0
	}
	return usage.Maxrss * 1024
}
