package gateway_test

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/pulsegate/pulsegate/gateway"
)

var _ gateway.Carrier = (*delivery.Carrier)(nil)

// newCarrier is a real carrier over a store in the process. It does not run, so that accepted events stay queued.
func newCarrier(t testing.TB) *delivery.Carrier {
	store := miniredis.RunT(t)
	client := redis.NewClient(&redis.Options{Addr: store.Addr(), ContextTimeoutEnabled: true, MaxRetries: -1})
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	sealer, err := delivery.NewSealer(bytes.Repeat([]byte("s"), 32))
	require.NoError(t, err)
	carrier, err := delivery.New(delivery.Config{Client: client, Sealer: sealer})
	require.NoError(t, err)
	require.NoError(t, carrier.Ready(t.Context()))
	return carrier
}

func TestTranscriptsHoldForTheRealCarrier(t *testing.T) {
	files, err := filepath.Glob("../testdata/http/*.txt")
	require.NoError(t, err)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			carrier := newCarrier(t)
			s := newStage(t, func(c *gateway.Config) { c.Carrier = carrier })
			require.NoError(t, s.access.Store.AddAdministrator(t.Context(), "ops", "acme", adminPassword))
			RunTranscript(t, file, Target{Handler: s.gateway.Handler(), Tokens: s.tokens})
		})
	}
}
