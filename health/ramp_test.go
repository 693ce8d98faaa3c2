package health_test

import (
	"testing"

	"github.com/pulsegate/pulsegate/health"
	"github.com/stretchr/testify/require"
)

func TestRampDoublesAfterAsManyAcknowledgementsAsItIsWide(t *testing.T) {
	r := health.Ramp{Width: 1}
	var widths []int
	for range 15 {
		widths = append(widths, r.Width)
		r = r.Count(true, 16)
	}
	require.Equal(t, []int{1, 2, 2, 4, 4, 4, 4, 8, 8, 8, 8, 8, 8, 8, 8}, widths)
	require.Equal(t, health.Ramp{}, r, "the next width would be the limit: the ramp is over")
}

func TestFailureTakesTheRampBackToOne(t *testing.T) {
	r := health.Ramp{Width: 1}
	for range 6 {
		r = r.Count(true, 100)
	}
	require.Equal(t, 4, r.Width)
	r = r.Count(false, 100)
	require.Equal(t, health.Ramp{Width: 1}, r)
	require.Equal(t, 2, r.Count(true, 100).Width, "acknowledgements before the failure do not help")
}

func TestNoRampStaysNoRamp(t *testing.T) {
	for _, acknowledged := range []bool{true, false} {
		require.Equal(t, health.Ramp{}, health.Ramp{}.Count(acknowledged, 8))
	}
}

func TestRampOfANarrowRegistrationEndsAtOnce(t *testing.T) {
	for limit := range 3 {
		require.Equal(t, health.Ramp{}, health.Ramp{Width: 1}.Count(true, limit))
	}
}

// checkRamp plays random outcomes and compares the width with a plain count of acknowledgements in a row.
func checkRamp(t testing.TB, d draw) {
	limit := d("limit", 1, 70)
	r := health.Ramp{Width: 1}
	width, row := 1, 0
	for range d("outcomes", 1, 200) {
		acknowledged := d("acknowledged", 0, 9) > 0
		r = r.Count(acknowledged, limit)
		switch row++; {
		case width == 0:
		case !acknowledged:
			width, row = 1, 0
		case row == width:
			width, row = 2*width, 0
			if width >= limit {
				width = 0
			}
		}
		require.Equal(t, width, r.Width)
		require.True(t, r.Width < max(limit, 2), "never wider than the limit")
	}
}

func TestRampEqualsAPlainCount(t *testing.T) {
	for i := range 2000 {
		checkRamp(t, seeded(uint64(i)))
	}
}
