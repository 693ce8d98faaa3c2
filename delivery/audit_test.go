package delivery_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/pulsegate/pulsegate/delivery"
)

func deed(company string, a delivery.Action, request string) delivery.Deed {
	return delivery.Deed{
		Company: company, Action: a, RequestID: request, By: delivery.Actor{TokenID: "t-1", Scope: "admin"}, Details: map[string]string{"mode": "LIVE"},
	}.On(delivery.RegID{Entity: delivery.Entity{CompanyKey: company, NetworkKey: "sms", ExternalID: "e"}, AppID: "bot"})
}

func good(context.Context) error { return nil }

func TestAuditTrailKeepsWhatWasDone(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		r := startReplica(t, client, nil)
		ctx := t.Context()
		began := time.Now()
		require.NoError(t, r.Audit(ctx, deed("acme", delivery.RegistrationPut, "q1"), good))
		require.NoError(t, r.Audit(ctx, deed("acme", delivery.ControlPass, "q2"), good))
		require.NoError(t, r.Audit(ctx, deed("rival", delivery.TokenRevoke, "q3"), good))
		require.ErrorIs(t, r.Audit(ctx, deed("acme", delivery.ModeSwitch, "q4"), func(context.Context) error { return delivery.ErrLiveTaken }), delivery.ErrLiveTaken)
		last := deed("acme", delivery.TokenCreate, "q5")
		require.NoError(t, r.Audit(ctx, last, func(context.Context) error { last.Details["tokenId"] = "t-9"; return nil }))

		got, err := r.Deeds(ctx, "acme", delivery.DeedQuery{})
		require.NoError(t, err)
		require.Equal(t, []string{"q5 done", "q2 done", "q1 done"}, told(got))
		require.Equal(t, "t-9", got[0].Details["tokenId"])
		require.Equal(t, delivery.Actor{TokenID: "t-1", Scope: "admin"}, got[2].By)
		require.WithinDuration(t, began, got[2].At, 15*time.Second)
		for i, q := range map[int]delivery.DeedQuery{1: {Limit: 1}, 2: {Before: got[0].Number}, 3: {AppID: "bot"}, 0: {AppID: "other"}} {
			page, err := r.Deeds(ctx, "acme", q)
			require.NoError(t, err)
			require.Len(t, page, i)
		}
	})
}

func told(list []delivery.Deed) []string {
	var out []string
	for _, d := range list {
		out = append(out, d.RequestID+" "+string(d.Outcome))
	}
	return out
}

// TestAuditTrailKnowsOfWhatNobodyEnded has a deed whose process dies in the middle, and one whose store goes away.
func TestAuditTrailKnowsOfWhatNobodyEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startReplica(t, newMiniredis(t), nil)
		ctx := t.Context()
		func() {
			defer func() { _ = recover() }()
			_ = r.Audit(ctx, deed("acme", delivery.RegistrationDelete, "died"), func(context.Context) error { panic("here") })
		}()
		err := r.Audit(ctx, deed("acme", delivery.ControlPass, "away"), func(context.Context) error { return fmt.Errorf("write: %w", delivery.ErrUnavailable) })
		require.ErrorIs(t, err, delivery.ErrUnavailable)
		got, err := r.Deeds(ctx, "acme", delivery.DeedQuery{})
		require.NoError(t, err)
		require.ElementsMatch(t, []string{"died pending", "away pending"}, told(got))

		<-time.After(2 * time.Minute)
		require.NoError(t, r.Audit(ctx, deed("acme", delivery.ModeSwitch, "later"), good))
		got, err = r.Deeds(ctx, "acme", delivery.DeedQuery{})
		require.NoError(t, err)
		require.ElementsMatch(t, []string{"later done", "died unknown", "away unknown"}, told(got))
	})
}

func TestNothingIsDoneThatTheAuditTrailCannotKeep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := newMiniredis(t)
		r := startReplica(t, client, nil)
		require.NoError(t, client.Close())
		done := false
		err := r.Audit(t.Context(), deed("acme", delivery.ModeSwitch, "q"), func(context.Context) error { done = true; return errors.New("not here") })
		require.ErrorIs(t, err, delivery.ErrUnavailable)
		require.False(t, done)
	})
}

// TestAuditTrailIsBounded writes more than is kept of bots' daily work, and lets a year pass.
func TestAuditTrailIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := newMiniredis(t)
		r := startReplica(t, client, nil)
		require.NoError(t, r.Audit(t.Context(), deed("acme", delivery.TokenCreate, "kept"), good))
		keys, err := client.Keys(t.Context(), "pg:*:daily:acme").Result()
		require.NoError(t, err)
		require.Empty(t, keys)
		require.NoError(t, r.Audit(t.Context(), deed("acme", delivery.ControlPass, "first"), good))
		keys, err = client.Keys(t.Context(), "pg:*:daily:acme").Result()
		require.NoError(t, err)
		require.Len(t, keys, 1)
		filler := make([]any, 1000)
		for i := range filler {
			filler[i] = fmt.Sprintf("1 %d done {}", time.Now().UnixMilli())
		}
		for range 20 {
			require.NoError(t, client.LPush(t.Context(), keys[0], filler...).Err())
		}
		require.NoError(t, r.Audit(t.Context(), deed("acme", delivery.ControlPass, "last"), good))
		require.EqualValues(t, 20_000, client.LLen(t.Context(), keys[0]).Val())
		got, err := r.Deeds(t.Context(), "acme", delivery.DeedQuery{Limit: 30_000})
		require.NoError(t, err)
		require.Contains(t, told(got), "kept done", "the daily work of bots pushes nothing else out")
		require.NotContains(t, told(got), "first done")

		r.stop() // it would look at the store twice a second, for more than a year
		<-time.After(399 * 24 * time.Hour)
		require.NoError(t, r.Audit(t.Context(), deed("acme", delivery.ControlPass, "old"), good))
		<-time.After(2 * 24 * time.Hour)
		require.NoError(t, r.Audit(t.Context(), deed("acme", delivery.TokenRevoke, "new"), good))
		got, err = r.Deeds(t.Context(), "acme", delivery.DeedQuery{From: 400 * 24 * time.Hour})
		require.NoError(t, err)
		require.Equal(t, []string{"new done", "old done"}, told(got))
	})
}
