package delivery_test

import (
	"context"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/pulsegate/pulsegate/delivery"
)

// indexing does something once, right after the indexes of an app were written and before its registration is.
type indexing struct {
	redis.Hook

	key  string
	once sync.Once
	then func()
}

func (h *indexing) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (h *indexing) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }
func (h *indexing) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := next(ctx, cmds)
		for _, cmd := range cmds {
			if args := cmd.Args(); len(args) > 1 && args[0] == "sadd" && args[1] == h.key {
				h.once.Do(h.then)
			}
		}
		return err
	}
}

// indexes are the members of an app's index and of the company's.
func indexes(t testing.TB, client redis.UniversalClient, app string) (ofApp, ofCompany []string) {
	return client.SMembers(t.Context(), "pg:app:acme:"+app).Val(), client.SMembers(t.Context(), "pg:company:acme").Val()
}

func TestCreateThatLosesTheRaceForLiveLeavesNothingInTheIndexes(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		r := startReplica(t, client, nil)
		hook := &indexing{key: "pg:app:acme:loser"}
		hook.then = func() { require.NoError(t, r.Create(t.Context(), registration("e1", "winner"))) }
		client.AddHook(hook)
		require.ErrorIs(t, r.Create(t.Context(), registration("e1", "loser")), delivery.ErrLiveTaken)
		ofApp, ofCompany := indexes(t, client, "loser")
		require.Empty(t, ofApp)
		require.Len(t, ofCompany, 1)
		ofApp, _ = indexes(t, client, "winner")
		require.Len(t, ofApp, 1)
	})
}

func TestCreateStaysInTheIndexesWhenALoserTakesItOutMeanwhile(t *testing.T) {
	onBothStores(t, func(t *testing.T, client redis.UniversalClient) {
		r := startReplica(t, client, nil)
		hook := &indexing{key: "pg:app:acme:bot"}
		hook.then = func() {
			ofApp, _ := indexes(t, client, "bot")
			require.Len(t, ofApp, 1)
			require.NoError(t, client.SRem(t.Context(), "pg:app:acme:bot", ofApp[0]).Err())
			require.NoError(t, client.SRem(t.Context(), "pg:company:acme", ofApp[0]).Err())
		}
		client.AddHook(hook)
		require.NoError(t, r.Create(t.Context(), registration("e1", "bot")))
		ofApp, ofCompany := indexes(t, client, "bot")
		require.Len(t, ofApp, 1)
		require.Equal(t, ofApp, ofCompany)
	})
}
