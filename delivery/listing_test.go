package delivery_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

func TestCompanyIsListedInOrderFromAnyRegistrationOn(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		r := startReplica(t, client, nil)
		const entities = 700 // more than are read at once
		var creating sync.WaitGroup
		for w := range 8 {
			creating.Go(func() {
				for i := w; i < entities; i += 8 {
					_ = r.Create(t.Context(), registration(fmt.Sprintf("e%03d", i), "app"))
				}
			})
		}
		creating.Wait()
		require.NoError(t, r.Create(t.Context(), registration("e007", "second", func(r *delivery.Registration) { r.Mode = delivery.Monitoring })))
		require.NoError(t, client.SAdd(t.Context(), "pg:company:acme", ghost, "no name", "other:whatsapp:e1:app").Err())

		var all []delivery.RegID
		for reg, err := range r.OfCompany(t.Context(), "acme", "") {
			require.NoError(t, err)
			all = append(all, reg.RegID)
		}
		require.Len(t, all, entities+1)
		require.Equal(t, []string{"app", "second"}, []string{all[7].AppID, all[8].AppID})

		var rest []delivery.RegID
		for reg, err := range r.OfCompany(t.Context(), "acme", all[600].Cursor()) {
			require.NoError(t, err)
			if rest = append(rest, reg.RegID); len(rest) == 50 {
				break
			}
		}
		require.Equal(t, all[601:651], rest)
		of, err := r.OfApp(t.Context(), "acme", "app")
		require.NoError(t, err)
		require.Len(t, of, entities)
		hs, err := r.Health(t.Context(), "acme", "app")
		require.NoError(t, err)
		require.Len(t, hs, entities)
	})
}

func TestViewsKeepWhatIsUsedWithinABound(t *testing.T) {
	v := delivery.NewViews(100_000)
	name := func(i int) delivery.Entity { return entity(fmt.Sprint(i)) }
	for i := range 1000 {
		v.Put(registration(fmt.Sprint(i), "app"))
		require.True(t, v.Has(name(0)), "what is used stays, at %d", i)
		if i > 10 {
			require.True(t, v.Has(name(i-10)), "what came just now is there, at %d", i)
		}
	}
	require.Less(t, v.Len(), 120)
	require.Greater(t, v.Len(), 30)
	require.False(t, v.Has(name(500)))
}
