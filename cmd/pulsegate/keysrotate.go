package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"time"
)

// keysRotateCommand replaces the current key.
type keysRotateCommand struct {
	vaultFlags
	Wait time.Duration `help:"How long to wait for every running gateway to have the new key." default:"10m"`
}

// settleTime is longer than what a gateway seals can be on its way into the store.
const settleTime = 3 * time.Second

// sights is how often in a row all gateways must be seen to have what they should, since one that connects anew is not seen for a moment.
const sights = 3

// Run replaces the key in steps, each of which may be the last of this process: run again, it goes on where it stopped. What is to become
// the current key lies in a file of its own, beside the key file, until all is done.
func (c keysRotateCommand) Run(s streams, log *slog.Logger) error {
	return c.withVault(s, log, func(ctx context.Context, v vault) error {
		r := rotation{vault: v, out: s.out, wait: c.Wait, draft: v.file.path + ".next"}
		for _, step := range []func(context.Context) error{r.add, r.known, r.promote, r.promoted, r.reseal, r.finish} {
			if err := step(ctx); err != nil {
				return r.stopped(ctx, err)
			}
		}
		return nil
	})
}

// rotation is one replacement of the current key.
type rotation struct {
	vault
	out   io.Writer
	wait  time.Duration
	draft string // where the new secret lies until all is done
	line  string // the new secret
	id    string // its name
}

// stopped says why a rotation ends before it is done. Whoever interrupts it is told that, and not what the interrupt made of the step.
func (r *rotation) stopped(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	return fmt.Errorf("interrupted before key %s seals everything: run the same command again, it goes on where it stopped; nothing is lost", r.id)
}

func (r *rotation) say(format string, args ...any) { _, _ = fmt.Fprintf(r.out, format+"\n", args...) }

// add makes the new key, or finds the one that was made, and puts it behind all others: gateways open and verify with it, no more.
func (r *rotation) add(context.Context) error {
	draft, ring, err := r.next()
	if err != nil {
		return err
	}
	r.line, r.id = draft.lines[0], ring.ids()[0]
	if slices.Contains(r.file.lines, r.line) {
		r.say("1/5 key %s is in %s already: going on", r.id, r.file.path)
		return nil
	}
	if len(r.file.lines) == keyFileKeys {
		return wrongSetting("the key file %s holds %d keys: remove one first, with pulsegate keys remove", r.file.path, keyFileKeys)
	}
	r.say("1/5 key %s is added to %s; gateways on other machines need the file too", r.id, r.file.path)
	return r.keep(r.file.with(r.line, false))
}

// next reads the file with the new secret, and makes it first if there is none.
func (r *rotation) next() (keyFile, keys, error) {
	if _, err := os.Stat(r.draft); errors.Is(err, fs.ErrNotExist) {
		if err := makeKeyFile(r.draft); err != nil {
			return keyFile{}, keys{}, fmt.Errorf("make a new key: %w", err)
		}
	}
	return readKeyFile(r.draft)
}

// keep writes the key file, if it is not so already.
func (r *rotation) keep(f keyFile) error {
	if slices.Equal(f.lines, r.file.lines) {
		return nil
	}
	if err := f.write(); err != nil {
		return err
	}
	r.file = f
	return nil
}

// known waits until every gateway has the new key, and requires it of those that start from now on.
func (r *rotation) known(ctx context.Context) error {
	err := r.all(ctx, "2/5", "has key "+r.id, func(ids []string) bool { return slices.Contains(ids, r.id) })
	if err != nil {
		return err
	}
	required, err := r.Required(ctx)
	if err != nil {
		return err
	}
	if len(required) == 0 {
		required = r.ring.ids()[:1]
	}
	if slices.Contains(required, r.id) {
		return nil
	}
	return r.Require(ctx, append(required, r.id)...)
}

// promote makes the new key the current one.
func (r *rotation) promote(context.Context) error {
	if err := r.keep(r.file.with(r.line, true)); err != nil {
		return err
	}
	_, ring, err := readKeyFile(r.file.path)
	if err != nil {
		return err
	}
	r.ring = ring
	return r.Renew(ring.secrets...)
}

// promoted waits until every gateway seals with the new key.
func (r *rotation) promoted(ctx context.Context) error {
	return r.all(ctx, "3/5", "seals with key "+r.id, func(ids []string) bool { return len(ids) > 0 && ids[0] == r.id })
}

// all waits until something is true of the rings of all running gateways.
func (r *rotation) all(ctx context.Context, step, what string, of func(ids []string) bool) error {
	ctx, cancel := context.WithTimeout(ctx, r.wait)
	defer cancel()
	said := ""
	for seen := 0; ; {
		rings, err := r.Rings(ctx)
		if err != nil && ctx.Err() == nil {
			return err
		}
		missing := slices.Sorted(maps.Keys(rings))
		missing = slices.DeleteFunc(missing, func(name string) bool { return of(rings[name]) })
		switch {
		case err != nil || len(missing) > 0:
			seen = 0
		case seen == sights:
			r.say("%s every gateway %s (%d running)", step, what, len(rings))
			return nil
		default:
			seen++
		}
		if now := strings.Join(missing, ", "); now != "" && now != said {
			said = now
			r.say("%s waiting until every gateway %s; %d of %d do not yet: %s", step, what, len(missing), len(rings), printable(now, longestName))
		}
		if !pause(ctx, watchEvery/2) {
			return fmt.Errorf("not every gateway %s after %v: give those the file %s and run this again; nothing is lost", what, r.wait, r.file.path)
		}
	}
}

// reseal seals everything with the new key, until a walk finds nothing that is sealed with another.
func (r *rotation) reseal(ctx context.Context) error {
	for round := 1; ; round++ {
		told := time.Now()
		found, err := r.Reseal(ctx, func(seen int64) {
			if time.Since(told) > time.Second {
				told = time.Now()
				r.say("4/5 %d registrations seen", seen)
			}
		})
		if err != nil {
			return fmt.Errorf("%w: run this again, it goes on where it stopped", err)
		}
		if n := len(found.Unreadable); n > 0 {
			return fmt.Errorf("%d registrations have a secret that no key of the file opens, the first is %s: write them again, or delete them, and run this again", n, printable(found.Unreadable[0], longestName))
		}
		r.say("4/5 %d of %d registrations sealed anew", found.Resealed, found.Registrations)
		if round > 1 && found.Settled(r.id) {
			return nil
		}
		if !pause(ctx, settleTime) { // what a gateway sealed before it had the key may be on its way
			return ctx.Err()
		}
	}
}

// finish requires the new key alone, and says what may go.
func (r *rotation) finish(ctx context.Context) error {
	if err := r.Require(ctx, r.id); err != nil {
		return err
	}
	if err := os.Remove(r.draft); err != nil {
		return fmt.Errorf("remove %s: %w", r.draft, err)
	}
	old := slices.DeleteFunc(r.ring.ids(), func(id string) bool { return id == r.id })
	r.say("5/5 key %s seals and signs. Nothing is sealed with %s any more, so it is safe to remove (pulsegate keys remove) as soon as the tokens", r.id, strings.Join(old, ", "))
	r.say("    that were signed with it have ended: at the latest in 90 days, unless some were made with a longer --ttl. Keep it with backups of the store.")
	return nil
}
