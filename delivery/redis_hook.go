package delivery

import (
	"context"
	"time"

	"github.com/redis/go-redis/v9"
)

// DialHook leaves dialing as it is.
func (r *reach) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessHook refuses a command to a part that is away, and takes in what became of it.
func (r *reach) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		p := r.ofCommand(cmd)
		if p == nil || ctx.Value(probed{}) != nil {
			return next(ctx, cmd)
		}
		if err := r.refusal(p); err != nil {
			cmd.SetErr(err)
			return err
		}
		began := time.Now()
		err := next(ctx, cmd)
		if err != nil {
			r.note(p, err, time.Since(began))
		}
		return err
	}
}

// ProcessPipelineHook does the same for each command of a pipeline: on a cluster those to healthy parts are sent.
func (r *reach) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if ctx.Value(probed{}) != nil {
			return next(ctx, cmds)
		}
		send, refused := r.admitted(cmds)
		if len(send) == 0 {
			return refused
		}
		began := time.Now()
		err := next(ctx, send)
		for _, cmd := range send {
			if failure := cmd.Err(); failure != nil {
				r.note(r.ofCommand(cmd), failure, time.Since(began))
			}
		}
		if refused != nil {
			return refused
		}
		return err
	}
}

// admitted are the commands that may be sent; the others have their error, and the first of them is returned.
func (r *reach) admitted(cmds []redis.Cmder) (send []redis.Cmder, refused error) {
	if !r.live.Load() {
		return cmds, nil
	}
	send = make([]redis.Cmder, 0, len(cmds))
	for _, cmd := range cmds {
		var err error
		if p := r.ofCommand(cmd); p != nil {
			err = r.refusal(p)
		}
		if err == nil {
			send = append(send, cmd)
			continue
		}
		cmd.SetErr(err)
		if refused == nil {
			refused = err
		}
	}
	return send, refused
}
