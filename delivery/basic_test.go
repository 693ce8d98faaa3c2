package delivery_test

import (
	"testing"
	"testing/synctest"
	"time"

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

func TestTransitionThatNobodyIsToldOfIsListedAndOwesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startReplica(t, newMiniredis(t), newBot(t))
		require.NoError(t, r.Create(t.Context(), registration("e1", "app")))
		r.send(t, message("e1", "ann", 1)) // its acknowledgement stands behind HEALTHY from now on
		synctest.Wait()
		waiting, _, err := r.Outbox().Waiting(t.Context())
		require.NoError(t, err)
		require.Zero(t, waiting)
		due, err := r.Outbox().Take(t.Context(), 10, time.Minute)
		require.NoError(t, err)
		require.Empty(t, due)
		listed, err := r.Outbox().List(t.Context(), "acme", 10, nil, delivery.EntryTransition)
		require.NoError(t, err)
		require.Len(t, listed, 1)
		require.Equal(t, delivery.EntryKept, listed[0].State)
		require.Equal(t, listed[0].At, listed[0].DoneAt)
	})
}
