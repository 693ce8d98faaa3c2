package main_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	main "github.com/pulsegate/pulsegate/cmd/pulsegate"
)

func TestLifecycleStopsInReverseOrderAndGoesOnAfterAFailure(t *testing.T) {
	l := main.NewLifecycle()
	var order []string
	for _, name := range []string{"store", "carrier", "listener"} {
		main.OnStop(l, name, time.Second, func(context.Context) error {
			order = append(order, name)
			if name == "carrier" {
				return errors.New("broken")
			}
			return nil
		})
	}
	require.EqualError(t, main.StopAll(l), "stop carrier: broken")
	require.Equal(t, []string{"listener", "carrier", "store"}, order)
	require.NoError(t, main.StopAll(l))
	require.Len(t, order, 3)
}

func TestLifecycleLeavesBehindWhatDoesNotStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := main.NewLifecycle()
		stuck := make(chan struct{})
		stopped := false
		main.OnStop(l, "store", time.Second, func(context.Context) error { stopped = true; return nil })
		main.OnStop(l, "carrier", 5*time.Second, func(context.Context) error { <-stuck; return nil })
		began := time.Now()
		require.EqualError(t, main.StopAll(l), "stop carrier: not within 5s")
		require.True(t, stopped)
		require.Less(t, time.Since(began), 6*time.Second)
		close(stuck)
	})
}
