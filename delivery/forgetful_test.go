package delivery_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

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

// A store that forgets how events ended has them in its queue again, behind the cursor of a lane that is at work: as long as it was, nobody looked there.
func TestEventsThatAStoreHasAgainAreDeliveredWhileTheLaneIsBusy(t *testing.T) {
	client := rig.StartServer(t, rig.ServerConfig{}).Client()
	b := newBot(t)
	failing := make(chan struct{})
	b.answers(func(q request) int {
		switch q.event["author"].(map[string]any)["id"] {
		case "ben":
			<-failing
			return 400
		default:
			<-time.After(400 * time.Millisecond)
			return 202
		}
	})
	r := startReplica(t, client, b)
	require.NoError(t, r.Create(t.Context(), registration("e1", "app")))
	ended := make(chan struct{})
	var busy sync.WaitGroup
	stop := sync.OnceFunc(func() { close(ended); busy.Wait() })
	t.Cleanup(stop)
	busy.Go(func() { // the lane is never without work
		for i := 0; ; i++ {
			r.Accept(context.Background(), "acme", []delivery.Incoming{message("e1", fmt.Sprint("author ", i), i)})
			select {
			case <-time.After(150 * time.Millisecond):
			case <-ended:
				return
			}
		}
	})
	again := r.send(t, message("e1", "ben", 1))[0].ID
	soon(t, func() bool { return timesSeen(b, again) == 1 }, "the first try")
	before := snapshot(t, client)
	close(failing)
	require.Equal(t, delivery.Failed, r.settled(t, again).Fate)
	restore(t, client, before)
	soon(t, func() bool { return timesSeen(b, again) > 2 }, "it to be delivered again")
	stop()
	require.Equal(t, delivery.Failed, r.settled(t, again).Fate)
	soon(t, func() bool { return verify(t, client).Queued == 0 }, "all of it to be settled")
}

// An emptied store gave the version of before to what was registered in it anew, and a replica delivered by what it remembered of that.
func TestNoVersionIsGivenTwiceByAStoreThatWasEmptied(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		b := newBot(t)
		r, other := startReplica(t, client, b), startReplica(t, client, b)
		require.NoError(t, r.Create(t.Context(), registration("e1", "app")))
		require.Equal(t, delivery.Delivered, r.settled(t, r.send(t, message("e1", "ann", 1))[0].ID).Fate)
		<-time.After(5 * time.Millisecond)
		require.NoError(t, client.FlushAll(t.Context()).Err())
		soon(t, func() bool {
			return other.Put(t.Context(), registration("e1", "app", func(r *delivery.Registration) { r.CallbackURL = "http://new.example/" })) == nil
		}, "the store")
		require.Equal(t, delivery.Delivered, r.settled(t, r.send(t, message("e1", "ann", 2))[0].ID).Fate)
		require.Equal(t, "new.example", b.requests()[1].host)
	})
}

// Where a job was is known to one process of the server only: after a restart it left out whom it took for done.
func TestAJobGoesOnAfterARestartWithoutLeavingAnybodyOut(t *testing.T) {
	const authors = 600
	server := rig.StartServer(t, rig.ServerConfig{Args: rig.AppendOnly()})
	b := newBot(t)
	r := startReplica(t, server.Client(), b)
	reg := registration("e1", "app")
	require.NoError(t, r.Create(t.Context(), reg))
	for i := range authors {
		r.send(t, message("e1", fmt.Sprint("author ", i), i))
	}
	require.NoError(t, r.SetMode(t.Context(), reg.RegID, delivery.Monitoring))
	entries, err := r.Outbox().Take(t.Context(), 1000, time.Minute)
	require.NoError(t, err)
	job := entries[slices.IndexFunc(entries, func(e delivery.Entry) bool { return e.Kind == delivery.EntryJob })]
	for range 3 {
		job, err = r.Outbox().RunJob(t.Context(), job)
		require.NoError(t, err)
		require.NoError(t, r.Outbox().Update(t.Context(), job))
	}
	require.Equal(t, delivery.EntryPending, job.State)
	server.Restart()
	soon(t, func() bool {
		if next, err := r.Outbox().RunJob(t.Context(), job); err == nil {
			job = next
		}
		return job.State == delivery.EntryDone
	}, "the end of the job")
	for i := range authors {
		owner, err := r.Control(t.Context(), entity("e1"), fmt.Sprint("author ", i))
		require.NoError(t, err)
		require.Equal(t, delivery.Agent, owner.Owner.Type, i)
	}
}

// Books that say that more waits than is there keep nobody from what is.
func TestEventsAreDeliveredWhateverTheBooksSayOfOthers(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		b := newBot(t)
		b.answers(func(request) int { <-time.After(50 * time.Millisecond); return 202 })
		r := startReplica(t, client, b)
		id := registration("e1", "app").RegID
		require.NoError(t, r.Create(t.Context(), registration("e1", "app")))
		require.Equal(t, delivery.Delivered, r.settled(t, r.send(t, message("e1", "ann", 1))[0].ID).Fate)
		require.NoError(t, client.HIncrBy(t.Context(), delivery.StandingKey(id), "qn", 5000).Err())
		var sent []delivery.Receipt
		for i := range 700 { // more than is read at once
			sent = append(sent, r.send(t, message("e1", fmt.Sprint("author ", i%20), i))...)
		}
		for _, rc := range sent {
			require.Equal(t, delivery.Delivered, r.settled(t, rc.ID).Fate)
			require.Equal(t, 1, timesSeen(b, rc.ID))
		}
	})
}
