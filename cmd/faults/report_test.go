package main_test

import (
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	main "github.com/pulsegate/pulsegate/cmd/faults"
)

func TestReportOfRowsThatPass(t *testing.T) {
	var out strings.Builder
	table, count, verdict := main.Read([]string{"R05", "H04"}, strings.NewReader(strings.Join([]string{
		`{"Action":"start","Package":"p/delivery"}`,
		`{"Action":"run","Package":"p/delivery","Test":"TestR05KillingRedisLosesNothing"}`,
		`{"Action":"run","Package":"p/delivery","Test":"TestR05KillingRedisLosesNothing/always"}`,
		`{"Action":"attr","Package":"p/delivery","Test":"TestR05KillingRedisLosesNothing/always","Key":"measured","Value":"20 kills, 0 lost"}`,
		`{"Action":"pass","Package":"p/delivery","Test":"TestR05KillingRedisLosesNothing/always","Elapsed":1}`,
		`{"Action":"pass","Package":"p/delivery","Test":"TestR05KillingRedisLosesNothing","Elapsed":1.25}`,
		`{"Action":"pass","Package":"p/delivery","Elapsed":1.3}`,
		`{"Action":"run","Package":"p/health","Test":"TestH04RampOfAURL"}`,
		`{"Action":"attr","Package":"p/health","Test":"TestH04RampOfAURL","Key":"measured","Value":"1|2|4"}`,
		`{"Action":"pass","Package":"p/health","Test":"TestH04RampOfAURL","Elapsed":0}`,
	}, "\n")), &out)
	require.NoError(t, verdict)
	require.Equal(t, "2 rows, 2 tests, all passed", count)
	require.Equal(t, "| row | what was done | result | measured |\n|---|---|---|---|\n"+
		"| R05 | Killing redis loses nothing | passed | 20 kills, 0 lost |\n"+
		"| H04 | Ramp of AURL | passed | 1\\|2\\|4 |\n", table)
	require.Contains(t, out.String(), "passed  R05 Killing redis loses nothing (1.2s) 20 kills, 0 lost\n")
}

func TestReportOfWhatIsNotWell(t *testing.T) {
	for name, c := range map[string]struct {
		required, lines []string
		says            string
	}{
		"failed": {nil, []string{
			`{"Action":"output","Package":"p","Test":"TestC01X","Output":"it is so\n"}`, `{"Action":"fail","Package":"p","Test":"TestC01X"}`,
			`{"Action":"fail","Package":"p"}`,
		}, "C01 TestC01X in p: FAILED"},
		"skipped": {nil, []string{`{"Action":"skip","Package":"p","Test":"TestC01X"}`}, "C01 TestC01X in p: skipped"},
		"skipped in part": {nil, []string{
			`{"Action":"skip","Package":"p","Test":"TestC01X/a"}`, `{"Action":"pass","Package":"p","Test":"TestC01X"}`,
		}, "C01 TestC01X in p: skipped"},
		"hung":      {nil, []string{`{"Action":"run","Package":"p","Test":"TestC01X"}`, `{"Action":"fail","Package":"p"}`}, "C01 TestC01X in p: did not end"},
		"missing":   {[]string{"C01", "C02"}, []string{`{"Action":"pass","Package":"p","Test":"TestC01X"}`}, "no test for C02"},
		"no test":   {nil, nil, "no test was run"},
		"not built": {nil, []string{`{"ImportPath":"p","Action":"build-output","Output":"x.go: syntax\n"}`, `{"ImportPath":"p","Action":"build-fail"}`}, "p:\nx.go: syntax"},
		"another":   {nil, []string{`{"Action":"pass","Package":"p","Test":"TestC01X"}`, `{"Action":"fail","Package":"q"}`}, "q:"},
		"no JSON":   {nil, []string{"go: no such package"}, "go: no such package"},
	} {
		_, _, verdict := main.Read(c.required, strings.NewReader(strings.Join(c.lines, "\n")), io.Discard)
		require.ErrorContains(t, verdict, c.says, name)
	}
}

func TestRequiredRows(t *testing.T) {
	rows := main.RequiredRows()
	require.Len(t, rows, 23+10+6+10+3)
	require.Subset(t, rows, []string{"R01", "R23", "H10", "C06", "D01", "D10", "D14", "M02", "M05"})
	require.NotContains(t, rows, "D11")
}

func TestRunOfAWrongFlag(t *testing.T) {
	require.Equal(t, 1, main.Run([]string{"--nope"}, io.Discard, io.Discard))
}

// TestNamesBecomeSentences holds the way in which a name is read.
func TestNamesBecomeSentences(t *testing.T) {
	for name, want := range map[string]string{
		"TestR05KillingRedisLosesNothing": "Killing redis loses nothing",
		"TestD07Statuses100To599":         "Statuses 100 to 599",
		"TestD14HTTP2BotsThatStall":       "HTTP2 bots that stall",
		"TestR08SentinelFailover":         "Sentinel failover",
		"TestC06":                         "",
	} {
		require.Equal(t, want, main.Done(name[4:7], name), name)
	}
}
