package delivery_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/pulsegate/pulsegate/health"
	"github.com/stretchr/testify/require"
)

func TestH08ChangeIsSeenWithinASecondOnEveryReplica(t *testing.T) {
	client := newRedisServer(t)
	b := newBot(t)
	replicas := []*replica{startReplica(t, client, b), startReplica(t, client, b), startReplica(t, client, b)}
	r, worst, changes := replicas[0], time.Duration(0), 0
	// seen waits until every replica shows the state, and notes how long that took since the outcome that asks for it was settled.
	seen := func(app string, want health.State, since time.Time) {
		for _, other := range replicas {
			soon(t, func() bool { return other.healthOf(t, app).Standing.State == want }, string(want)+" of "+app)
			worst = max(worst, time.Since(since))
		}
		changes++
	}
	for i := range size(50, 5) {
		ext, app := fmt.Sprint("e", i), fmt.Sprint("app", i)
		require.NoError(t, r.Create(t.Context(), registration(ext, app)))
		b.status(http.StatusServiceUnavailable)
		seen(app, health.Degraded, r.settled(t, r.send(t, message(ext, "ann", 1))[0].ID).Completed)
		var ids []string
		for n := range 9 {
			ids = append(ids, r.send(t, message(ext, fmt.Sprint("author ", n), n))[0].ID)
		}
		var tenth time.Time
		for _, id := range ids {
			if at := r.settled(t, id).Completed; at.After(tenth) {
				tenth = at
			}
		}
		seen(app, health.Down, tenth)
	}
	require.Less(t, worst, time.Second)
	t.Attr("measured", fmt.Sprintf("%d changes on %d replicas, each shown by all within %v", changes, len(replicas), worst.Round(time.Millisecond)))
}
