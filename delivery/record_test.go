package delivery_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/pulsegate/pulsegate/cmd/rig"
	"github.com/pulsegate/pulsegate/delivery"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

func TestRecordsOfCallsSayWhereAndHowLong(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		r := startReplica(t, client, newBot(t))
		reg := registration("e1", "app")
		require.NoError(t, r.Create(t.Context(), reg))
		for _, state := range []delivery.RequestState{delivery.RequestSuccess, delivery.RequestError} {
			noted, err := r.NoteCall(t.Context(), delivery.Record{Reg: reg.RegID, State: state, CallbackURL: "https://bot.example.org/", Tries: 1, Latency: 17 * time.Millisecond, Code: "202"})
			require.NoError(t, err)
			read, err := r.Record(t.Context(), "acme", noted.ID)
			require.NoError(t, err)
			require.Equal(t, state, read.State)
			require.Equal(t, []any{"https://bot.example.org/", 1, 17 * time.Millisecond, "202"}, []any{read.CallbackURL, read.Tries, read.Latency, read.Code})
		}
	})
}

func TestRecordsAreFoundBehindThoseThatAreNotAskedFor(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		r := startReplica(t, client, newBot(t))
		first, other := registration("e1", "app"), registration("e2", "app")
		require.NoError(t, r.Create(t.Context(), first))
		require.NoError(t, r.Create(t.Context(), other))
		big := bytes.Repeat([]byte("x"), 250_000)
		call := func(reg delivery.Registration, payload []byte) delivery.Record {
			rec, err := r.NoteCall(t.Context(), delivery.Record{Reg: reg.RegID, State: delivery.RequestError, Code: "403", Payload: payload})
			require.NoError(t, err)
			return rec
		}
		call(first, []byte("the first"))
		for range 80 {
			call(first, big)
		}
		got, err := r.Records(t.Context(), "acme", "app", delivery.RecordQuery{From: time.Hour, States: []delivery.RequestState{delivery.RequestError}})
		require.NoError(t, err)
		require.Len(t, got, 81)
		size := 0
		for _, rec := range got {
			size += len(rec.Payload)
		}
		require.Equal(t, 67*len(big), size, "16 MiB of payloads, and the rest is read one by one")
		got, err = r.Records(t.Context(), "acme", "app", delivery.RecordQuery{From: time.Hour, Limit: 3})
		require.NoError(t, err)
		require.Len(t, got, 3)
		got, err = r.Records(t.Context(), "acme", "app", delivery.RecordQuery{From: time.Hour, Limit: 3, Origin: delivery.OriginGateway})
		require.NoError(t, err)
		require.Empty(t, got)
		sent := r.settled(t, r.send(t, message("e2", "ann", 1))[0].ID)
		got, err = r.Records(t.Context(), "acme", "app", delivery.RecordQuery{From: time.Hour, Limit: 3, Origin: delivery.OriginGateway})
		require.NoError(t, err)
		require.Len(t, got, 1)
		require.Equal(t, sent.ID, got[0].ID)
	})
}

func TestRecordsOutliveTheirRegistration(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		r := startReplica(t, client, newBot(t))
		for _, e := range []string{"e1", "e2"} {
			require.NoError(t, r.Create(t.Context(), registration(e, "app")))
		}
		rec := r.settled(t, r.send(t, message("e1", "ann", 1))[0].ID)
		query := delivery.RecordQuery{From: time.Hour}
		for _, e := range []string{"e1", "e2"} { // while the app has another one, and when it has none
			require.NoError(t, r.Delete(t.Context(), registration(e, "app").RegID))
			got, err := r.Records(t.Context(), "acme", "app", query)
			require.NoError(t, err)
			require.Len(t, got, 1)
			require.Equal(t, rec.ID, got[0].ID)
		}
		_, err := r.Records(t.Context(), "acme", "another", query)
		require.ErrorIs(t, err, delivery.ErrNotFound)
		_, err = r.Records(t.Context(), "other", "app", query)
		require.ErrorIs(t, err, delivery.ErrNotFound)
		require.NoError(t, r.Create(t.Context(), registration("e1", "app")))
		got, err := r.Records(t.Context(), "acme", "app", query)
		require.NoError(t, err)
		require.Len(t, got, 1, "once, though it was deleted before")
	})
}

func TestEntriesAreFoundBehindThoseOfOthers(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		r := startReplica(t, client, newBot(t))
		reg := registration("e1", "app")
		reg.Mode = delivery.Maintenance
		require.NoError(t, r.Create(t.Context(), reg))
		r.send(t, message("e1", "the first", 1))
		for i := range 600 {
			r.send(t, message("e1", fmt.Sprint("another ", i), 1))
		}
		author := func(e delivery.Entry) string {
			var h delivery.Handoff
			require.NoError(t, json.Unmarshal(e.Data, &h))
			return h.AuthorID
		}
		got, err := r.Outbox().List(t.Context(), "acme", 1, func(e delivery.Entry) bool { return author(e) == "the first" }, delivery.EntryHandoff)
		require.NoError(t, err)
		require.Len(t, got, 1)
		got, err = r.Outbox().List(t.Context(), "acme", 3, nil, delivery.EntryHandoff)
		require.NoError(t, err)
		require.Len(t, got, 3)
		got, err = r.Outbox().List(t.Context(), "acme", 1000, nil, delivery.EntryHandoff)
		require.NoError(t, err)
		require.Len(t, got, 601)
	})
}

func TestFailuresAreKeptForAMonth(t *testing.T) {
	client := rig.StartServer(t, rig.ServerConfig{}).Client()
	b := newBot(t)
	r := startReplica(t, client, b, func(c *delivery.Config) { c.KeepFailures, c.KeepSuccesses = 4, 2 })
	reg := registration("e1", "app")
	require.NoError(t, r.Create(t.Context(), reg))
	_, err := r.NoteCall(t.Context(), delivery.Record{Reg: reg.RegID, State: delivery.RequestError})
	require.NoError(t, err)
	log := client.Keys(t.Context(), "*:log:*").Val()[0]
	require.NoError(t, client.Del(t.Context(), log).Err())
	old := func(days int) {
		at := r.Now().Add(-time.Duration(days) * 24 * time.Hour).UnixMilli()
		require.NoError(t, client.XAdd(t.Context(), &redis.XAddArgs{Stream: log, ID: fmt.Sprint(at, "-0"), Values: []any{"i", fmt.Sprint("old ", days), "g", "BOT", "e", "1"}}).Err())
	}
	for _, days := range []int{40, 32, 30} {
		old(days)
	}
	kept := func() int64 { return client.XLen(t.Context(), log).Val() }
	require.EqualValues(t, 3, kept())
	b.status(http.StatusBadRequest)
	fail := func() { r.settled(t, r.send(t, message("e1", "ann", 1))[0].ID) }
	fail()
	require.EqualValues(t, 2, kept(), "that of 30 days ago, and this one")
	for range 5 {
		fail()
	}
	require.EqualValues(t, 4, kept(), "no more than was set")
	_, err = r.NoteCall(t.Context(), delivery.Record{Reg: reg.RegID, State: delivery.RequestError})
	require.NoError(t, err)
	require.EqualValues(t, 4, kept())
}
