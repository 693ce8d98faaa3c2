package delivery_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/pulsegate/pulsegate/cmd/rig"
	"github.com/pulsegate/pulsegate/delivery"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// A promoted replica did not know the latest events that a lane had in hand. Settled together with others, they were taken for repeats of the
// first: the bytes of the wrong ones were left in the books, and the wrong ones were recorded.
func TestStoreThatForgotItsLatestEventsKeepsItsBooks(t *testing.T) {
	const bots, known, forgotten, later = 6, 20, 10, 5
	client := rig.StartServer(t, rig.ServerConfig{}).Client()
	b := newBot(t)
	hanging := make(chan struct{})
	release := sync.OnceFunc(func() { close(hanging) })
	t.Cleanup(release)
	b.answers(func(request) int { <-hanging; return 202 })
	r := startReplica(t, client, b)
	var ids []string
	send := func(n, i int) { // each of another length
		in := message(fmt.Sprint("e", n), fmt.Sprint("author ", i), i)
		in.Body = []byte(strings.Replace(string(in.Body), `"text":"`, `"text":"`+strings.Repeat("long ", i), 1))
		ids = append(ids, r.send(t, in)[0].ID)
	}
	for n := range bots {
		require.NoError(t, r.Create(t.Context(), registration(fmt.Sprint("e", n), "app", func(r *delivery.Registration) { r.MaxConcurrency = 100 })))
		for i := range known {
			send(n, i)
		}
	}
	before := snapshot(t, client)
	for n := range bots {
		for i := range forgotten {
			send(n, known+i)
		}
	}
	soon(t, func() bool { return len(b.requests()) == bots*(known+forgotten) }, "all of it to be under way")
	restore(t, client, before)
	for n := range bots { // in hand together with what is forgotten, and settled in any order
		for i := range later {
			send(n, known+forgotten+i)
		}
	}
	release()
	soon(t, func() bool { return verify(t, client).Queued == 0 }, "what is known to be settled")
	v := verify(t, client)
	require.Empty(t, v.Findings)
	require.EqualValues(t, bots*(known+later), v.Fates[delivery.Delivered])
	for _, id := range slices.Concat(ids[:bots*known], ids[bots*(known+forgotten):]) {
		require.Equal(t, delivery.Delivered, r.settled(t, id).Fate)
	}
}

// snapshot keeps what a server holds.
func snapshot(t testing.TB, client redis.UniversalClient) map[string]string {
	t.Helper()
	keys, err := client.Keys(t.Context(), "*").Result()
	require.NoError(t, err)
	kept := map[string]string{}
	for _, key := range keys {
		kept[key], err = client.Dump(t.Context(), key).Result()
		require.NoError(t, err)
	}
	return kept
}

// restore gives a server back what it held.
func restore(t testing.TB, client redis.UniversalClient, kept map[string]string) {
	t.Helper()
	pipe := client.TxPipeline()
	pipe.FlushAll(t.Context())
	for key, dump := range kept {
		pipe.Restore(t.Context(), key, 0, dump)
	}
	_, err := pipe.Exec(t.Context())
	require.NoError(t, err)
}
