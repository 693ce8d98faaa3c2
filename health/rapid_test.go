package health_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// drawn lets rapid choose, and make a failure small.
func drawn(t *rapid.T) draw {
	return func(label string, low, high int) int { return rapid.IntRange(low, high).Draw(t, label) }
}

// rapidly runs a property; t.Context is the test's.
func rapidly(t *testing.T, property func(t testing.TB, d draw)) {
	rapid.Check(t, func(r *rapid.T) { property(within{TB: t, r: r}, drawn(r)) })
}

// within is a test whose failures are those of one of its examples.
type within struct {
	testing.TB
	r *rapid.T
}

func (w within) Errorf(format string, args ...any) { w.r.Errorf(format, args...) }
func (w within) FailNow()                          { w.r.FailNow() }
func (w within) Helper()                           {}

func TestH01RandomHistoriesEqualAListOfOutcomes(t *testing.T) {
	s, rounds, histories := inMemory(t), 10, 0
	if os.Getenv("PULSEGATE_FAULTS") == "full" {
		rounds = 100
	}
	for range rounds {
		rapidly(t, func(t testing.TB, d draw) {
			require.NoError(t, s.client.FlushAll(t.Context()).Err())
			checkHistory(t, s, "history", d)
			histories++
		})
	}
	t.Attr("measured", fmt.Sprintf("%d random histories, 0 mismatches", histories))
}

func TestRapidLivesKeepTheirPromises(t *testing.T) { rapidly(t, checkLife) }
func TestRapidRampEqualsAPlainCount(t *testing.T)  { rapidly(t, checkRamp) }
func TestRapidDifferentIdsShareNoKey(t *testing.T) { rapidly(t, checkPair) }
