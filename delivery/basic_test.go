package delivery_test

import (
	"testing"
	"testing/synctest"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/pulsegate/pulsegate/health"
	"github.com/stretchr/testify/require"
)

func TestEventIsDeliveredAndSettled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBot(t)
		r := startReplica(t, newMiniredis(t), b)
		require.NoError(t, r.Create(t.Context(), registration("e1", "app")))
		rc := r.send(t, message("e1", "ann", 1))
		require.Equal(t, delivery.Queued, rc[0].Fate)
		synctest.Wait()
		require.Len(t, b.requests(), 1)
		require.Equal(t, delivery.Delivered, r.fate(t, rc[0].ID).Fate)
		h := r.healthOf(t, "app")
		require.Equal(t, health.Healthy, h.Verdict.State)
		require.EqualValues(t, 1, h.Counts.Acknowledged)
		require.True(t, h.Standing.Verified)
	})
}
