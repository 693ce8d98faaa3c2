package main

import (
	"context"
	"os"
	"slices"
	"time"
)

// watchEvery is how often a gateway looks whether its key file has changed.
const watchEvery = time.Second

// keyWatch gives a gateway the keys that its key file holds now, so that they can be replaced while it serves. A file that cannot be read,
// or lacks a key in use, is told of once, and the gateway keeps what it has.
type keyWatch struct {
	*instance
	seen os.FileInfo // as of when its keys were taken; nil: not yet
	told string      // the last error
	ring keys        // in use, if they are not those that the gateway began with
}

// Run looks until the context ends.
func (w *keyWatch) Run(ctx context.Context) error {
	w.ring = w.keys
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			w.look(ctx)
		}
	}
}

// look takes the keys of a file that has changed. What could not be taken is tried again at the next look: the store may have been away.
func (w *keyWatch) look(ctx context.Context) {
	info, err := os.Stat(w.file)
	if err == nil && w.seen != nil && os.SameFile(info, w.seen) && info.ModTime().Equal(w.seen.ModTime()) && info.Size() == w.seen.Size() {
		return
	}
	ring := keys{}
	if err == nil {
		_, ring, err = readKeyFile(w.file)
	}
	if err == nil {
		err = w.carrier.RenewKeys(ctx, ring.secrets...)
	}
	if err == nil {
		err = w.tokens.Renew(ring.tokens...)
	}
	if err != nil {
		if w.told != err.Error() {
			w.told = err.Error()
			w.log.Error("the key file has changed and cannot be used: the keys stay as they were", "error", err)
		}
		return
	}
	if w.seen, w.told = info, ""; !slices.Equal(ring.ids(), w.ring.ids()) {
		w.ring = ring
		w.log.Info("the key file has changed: its keys are in use", "keys", ring.ids())
	}
}
