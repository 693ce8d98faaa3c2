package delivery

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// errUnwritten stands beside a reply whose writes the server may still hold in its memory only.
var errUnwritten = errors.New("the append-only file is not written in time")

// file watches the append-only file of a server over one connection. A server that syncs its file every second puts off writing it while a
// sync is under way, for up to 2 s, and answers all the same: killed then, it forgets what it has answered. It says so itself: when an INFO
// finds no sync pending, everything before it is written before its answer is sent, because that is when a server writes, and nobody else
// begins a sync. A nil file is one that is not watched: its server does not say, and is believed.
type file struct {
	conn   *redis.Conn // the one that the scripts ran on: a server that was started again would know nothing of them
	info   *redis.StringCmd
	untold *atomic.Bool // set when the server may not be asked, or does not know
}

// syncPending begins the line of INFO that tells.
const syncPending = "aof_pending_bio_fsync:"

// watch begins to watch a server's file; what is to be watched goes over the connection.
func watch(server pipeliner, untold *atomic.Bool) *file {
	client, ok := server.(interface{ Conn() *redis.Conn })
	if !ok || untold == nil || untold.Load() {
		return nil
	}
	return &file{conn: client.Conn(), untold: untold}
}

// ask puts the question behind what is in the pipeline.
func (f *file) ask(ctx context.Context, pipe redis.Pipeliner) {
	if f != nil {
		f.info = pipe.Info(ctx, "persistence")
	}
}

// written is nil when what went before the question is written. It waits for the end of a sync as long as ctx lets it.
func (f *file) written(ctx context.Context) error {
	for f != nil {
		text, err := f.info.Result()
		var refused redis.Error
		_, pending, told := strings.Cut(text, syncPending)
		switch {
		case errors.As(err, &refused):
			f.untold.Store(true)
			return nil
		case err != nil:
			return &StoreError{Condition: StoreAway, what: "confirm", err: err}
		case !told || strings.HasPrefix(pending, "0"):
			return nil
		case !rest(ctx, time.Millisecond):
			return &StoreError{Condition: StoreUnwritable, what: "confirm", err: errUnwritten}
		}
		f.info = f.conn.Info(ctx, "persistence")
	}
	return nil
}

func (f *file) close() {
	if f != nil {
		_ = f.conn.Close() // gives the connection back
	}
}
