package delivery_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/pulsegate/pulsegate/delivery"
	"github.com/pulsegate/pulsegate/health"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// A notice that joins a mail which somebody is sending already would be in no mail at all.
func TestMailThatSomebodyHasTakenIsJoinedByNoOtherNotice(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		r := startReplica(t, client, newBot(t))
		out, to := r.Outbox(), delivery.Contact{Company: "acme", Address: "oncall@example.net"}
		const wait = 300 * time.Millisecond
		gather := func(n int, digest bool) string {
			data, err := json.Marshal(health.Transition{At: int64(n), Kind: health.ToDegraded})
			require.NoError(t, err)
			id := registration(fmt.Sprint("e", n), "app").RegID
			e := delivery.Entry{
				ID: fmt.Sprint("0-t-", n, digest), Kind: delivery.EntryTransition, CompanyKey: id.CompanyKey, NetworkKey: id.NetworkKey,
				ExternalID: id.ExternalID, AppID: id.AppID, At: int64(n), Data: data,
			}
			mail, err := out.Gather(t.Context(), e, to, delivery.Gathering{Digest: digest, Within: wait})
			require.NoError(t, err)
			return mail
		}
		for _, digest := range []bool{true, false} {
			if !digest {
				require.Empty(t, gather(0, digest), "the first goes by itself")
			}
			first := gather(1, digest)
			require.NotEmpty(t, first)
			require.Equal(t, first, gather(2, digest), "it joins")
			var mail delivery.Entry
			soon(t, func() bool {
				taken, err := out.Take(t.Context(), 10, time.Minute)
				require.NoError(t, err)
				for _, e := range taken {
					if e.ID == first {
						mail = e
					}
				}
				return mail.ID != ""
			}, "the mail to be due")
			told, err := out.Gathered(t.Context(), mail)
			require.NoError(t, err)
			require.Len(t, told, 2)
			require.NotEqual(t, first, gather(3, digest), "somebody tells of that one already")
			again, err := out.Gathered(t.Context(), mail)
			require.NoError(t, err)
			require.Equal(t, told, again, "what it tells of is fixed")
			require.Equal(t, first, gather(2, digest), "asked again, the answer is the same")
		}
	})
}
