package main_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	main "github.com/pulsegate/pulsegate/cmd/pulsegate"
)

// bench runs a small bench in processes of its own, and returns its figures and what it said.
func bench(t testing.TB, args ...string) (figures main.BenchReport, said string) {
	t.Setenv("PULSEGATE_TEST_RUN", "1")
	t.Setenv("GORACE", "atexit_sleep_ms=0")
	_, out, said := run(append([]string{"bench", "--json", "--events", "300", "--connections", "8", "--alternations", "1"}, args...)...)
	require.NoError(t, json.Unmarshal([]byte(out), &figures), said)
	return figures, said
}

func TestBenchAccountsForEveryEvent(t *testing.T) {
	figures, said := bench(t, "--cell", "closed-1", "--cell", "closed-3", "--cell", "array-3", "--cell", "ndjson-3")
	require.Len(t, figures.Rows, 4)
	for _, row := range figures.Rows {
		require.Len(t, row.Gateway, 1)
		accountedFor(t, row.Gateway[0], 1000+300, said)
		require.EqualValues(t, 300, row.Relay[0].Accepted)
		require.Zero(t, row.Relay[0].Lost)
		require.Positive(t, row.Ratio)
	}
	require.NotContains(t, said, "ledger")
	floor := figures.Rows[0].Floor
	require.Len(t, floor, 1)
	require.EqualValues(t, 300, floor[0].Accepted, said)
	require.Zero(t, floor[0].Lost+floor[0].Refused+floor[0].Doubled, said)
	require.Positive(t, floor[0].Peak["redis"])
	require.Equal(t, figures.Rows[0].FloorRatio, figures.Bars[0].Floor)
	require.Empty(t, figures.Rows[1].Floor, "no bar, no floor")
}

func TestBenchAtARateMeasuresUntilTheBot(t *testing.T) {
	figures, said := bench(t, "--cell", "open-3", "--open-time", "500ms")
	require.Len(t, figures.Open, 1)
	open := figures.Open[0]
	result := open.Gateway[0]
	accountedFor(t, result, 1000+int64(open.Rate/2), said)
	require.Equal(t, result.Accepted, result.Arrival.Count, "each event was timed")
	require.GreaterOrEqual(t, result.Arrival.Max, result.Arrival.P50)
	require.Positive(t, open.Relay[0].Arrival.P50)
	require.Len(t, figures.Bars, 2)
}

func TestBenchBesideABacklogLeavesItWaiting(t *testing.T) {
	figures, said := bench(t, "--cell", "backlog", "--backlog", "2500")
	without, with := figures.Backlog.Ledgers[0], figures.Backlog.Ledgers[1]
	require.Empty(t, without.Problems, said)
	require.Empty(t, with.Problems, said)
	require.Zero(t, without.Queued)
	require.EqualValues(t, 2500, with.Queued)
	require.EqualValues(t, 1300, with.Fates["delivered"])
	require.Zero(t, figures.Backlog.With[0].Lost)
}

// accountedFor requires that all events of a run came through, and that the ledger says so.
func accountedFor(t testing.TB, r main.BenchResult, events int64, said string) {
	t.Helper()
	require.Zero(t, r.Lost+r.Refused+r.Strange, said)
	require.Empty(t, r.Ledger.Problems, said)
	require.Equal(t, events, r.Ledger.Accepted)
	require.Equal(t, events, r.Ledger.Fates["delivered"])
	require.Zero(t, r.Ledger.Queued)
}

func TestBenchFailsWhenItsFiguresAreWorthNothing(t *testing.T) {
	fine := main.BenchResult{Rate: 1}
	for name, c := range map[string]struct {
		report main.BenchReport
		says   string
	}{
		"lost":    {main.BenchReport{Rows: []main.BenchRow{{Cell: "closed-7", Gateway: []main.BenchResult{fine, {Lost: 2}}}}}, "closed-7: the gateway lost 2"},
		"refused": {main.BenchReport{Open: []main.BenchOpen{{Cell: "open-7", Gateway: []main.BenchResult{{Refused: 3, Sample: "422 no"}}}}}, "did not queue 3 events: 422 no"},
		"ledger": {
			main.BenchReport{Slow: &main.BenchSlow{Run: main.BenchResult{Ledger: main.BenchLedger{Problems: []string{"accepted 2, fates and queued 1"}}}}},
			"slow: the ledger does not balance: accepted 2, fates and queued 1",
		},
		"ladder": {main.BenchReport{Ladder: []main.BenchLadder{{Cell: "ladder-7", Gateway: []main.BenchResult{{Lost: 1}}}}}, "ladder-7: the gateway lost 1"},
		"void":   {main.BenchReport{Rows: []main.BenchRow{{Cell: "closed-7", Yardstick: .3, Void: true}}}, "closed-7 is void"},
	} {
		require.ErrorContains(t, main.JudgeBench(&c.report), c.says, name)
	}
	missed := main.BenchReport{Rows: []main.BenchRow{{Cell: "closed-1", Ratio: .1, Gateway: []main.BenchResult{fine}}}}
	require.NoError(t, main.JudgeBench(&missed), "a bar that is not met is no failure")
	bars := main.BenchBars(&missed)
	require.Len(t, bars, 2)
	require.False(t, bars[0].Met)
	require.False(t, bars[1].Met, "CPU that was not measured meets nothing")
}

func TestBenchRefusesCellsThatAreNotThere(t *testing.T) {
	for cell, says := range map[string]string{
		"fast": "no such cell", "slow-3": "no such cell", "closed-": "write a number from 1 to 100000", "array-0": "write a number", "batch-1001": "to 1000",
	} {
		status, _, errs := run("bench", "--cell", cell)
		require.Equal(t, 2, status, cell)
		require.Contains(t, errs, "--cell "+cell)
		require.Contains(t, errs, says)
	}
}

func TestEventsAreDueAtRandomTimesOfTheRate(t *testing.T) {
	const requests, rate = 100_000, 4000.0
	due := slices.Collect(main.Arrivals(requests, rate))
	require.Len(t, due, requests)
	require.True(t, slices.IsSorted(due))
	require.InEpsilon(t, requests/rate, due[requests-1].Seconds(), .02)
	require.Equal(t, due, slices.Collect(main.Arrivals(requests, rate)), "every run has the same")
	short, mean := 0, time.Duration(float64(time.Second)/rate)
	for i := 1; i < requests; i++ {
		if due[i]-due[i-1] < mean {
			short++
		}
	}
	require.InDelta(t, 1-1/2.718, float64(short)/requests, .01, "the gaps of a Poisson process are exponential")
}

func TestLatencyAtARateCountsWhatAStallKeptFromBeingSent(t *testing.T) {
	const stall = 400 * time.Millisecond
	var requests atomic.Int64
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if requests.Add(1) == 1 {
			time.Sleep(stall)
		}
		w.WriteHeader(http.StatusAccepted)
	}))
	defer target.Close()
	status, out, errs := run("bench-load", "--target", strings.TrimPrefix(target.URL, "http://"), "--events", "200", "--rate", "1000",
		"--connections", "1", "--registrations", "1")
	require.Zero(t, status, errs)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	var report main.LoadReport
	require.NoError(t, json.Unmarshal([]byte(lines[len(lines)-1]), &report))
	require.EqualValues(t, 200, report.Accepted)
	require.Greater(t, report.Answer.P50, 100.0, "the events that were due during the stall waited too")
	require.GreaterOrEqual(t, report.Answer.Max, stall.Seconds()*1000)
}

func TestPlotIsXMLWhateverWasMeasured(t *testing.T) {
	of := func(offered ...float64) (runs []main.BenchResult) {
		for _, rate := range offered {
			runs = append(runs, main.BenchResult{Offered: rate, Rate: rate * .9, Arrival: main.Latencies{P50: rate / 1000, P99: rate / 10}})
		}
		return runs
	}
	for name, ladder := range map[string]main.BenchLadder{
		"nothing": {}, "zeros": {Relay: of(0), Gateway: of(0)}, "some": {Registrations: 1000, Relay: of(100, 20_000, 45_000), Gateway: of(50, 12_000)},
	} {
		plot := main.PlotBench(ladder)
		require.NotContains(t, string(plot), "NaN", name)
		require.NotContains(t, string(plot), "Inf", name)
		decoder := xml.NewDecoder(bytes.NewReader(plot))
		for {
			_, err := decoder.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			require.NoError(t, err, name)
		}
	}
	require.Contains(t, string(main.PlotBench(main.BenchLadder{Registrations: 1000, Gateway: of(12_000)})), ">10,000<")
}

func TestFiguresOfABenchAreInTheREADME(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	var walk func(reflect.Type)
	walk = func(of reflect.Type) {
		for of.Kind() == reflect.Slice || of.Kind() == reflect.Pointer {
			of = of.Elem()
		}
		if of.Kind() != reflect.Struct {
			return
		}
		for field := range of.Fields() {
			if name, _, _ := strings.Cut(field.Tag.Get("json"), ","); name != "" {
				require.Regexp(t, "`"+name+`(\[\])?`+"`", string(text), "%s.%s", of, field.Name)
				walk(field.Type)
			}
		}
	}
	walk(reflect.TypeFor[main.BenchReport]())
}
