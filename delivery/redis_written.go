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
	untold *untold // the server may not be asked, or does not know
}

// untold says until when, in Unix nanoseconds, a server is not asked that has refused the question. Safe for concurrent use.
type untold struct{ until atomic.Int64 }

// untoldTime is for how long that holds: a refusal may have been that of a moment.
const untoldTime = 10 * time.Second

func (u *untold) holds() bool { return time.Now().UnixNano() < u.until.Load() }
func (u *untold) refused()    { u.until.Store(time.Now().Add(untoldTime).UnixNano()) }

// syncPending begins the line of INFO that tells.
const syncPending = "aof_pending_bio_fsync:"

// watch begins to watch a server's file; what is to be watched goes over the connection.
func watch(server pipeliner, untold *untold) *file {
	client, ok := server.(interface{ Conn() *redis.Conn })
	if !ok || untold == nil || untold.holds() {
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
			f.untold.refused()
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
