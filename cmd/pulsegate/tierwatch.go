package main

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"
)

const (
	tierEvery = 3 * time.Second // between two looks
	tierTime  = 2 * time.Second // for one
)

// tierWatch knows the durability tier that the store gives at present: servers are failed over, and settings changed. It collects its
// metrics. Safe for concurrent use.
type tierWatch struct {
	store   *store
	wanted  tier // empty: whatever it gives
	log     *slog.Logger
	metrics tierMetrics

	mu       sync.Mutex
	now      tier
	lacking  string   // what must be changed so that the store gives the wanted tier
	warnings []string // what else should be
	runs     []string
	changes  int64
}

func newTierWatch(s *store, wanted tier, log *slog.Logger) *tierWatch {
	return &tierWatch{store: s, wanted: wanted, log: log, metrics: newTierMetrics(), now: s.tier}
}

// Run looks every three seconds until ctx ends. A store that does not answer keeps the tier that it had.
func (w *tierWatch) Run(ctx context.Context) error {
	if w.store.inside { // it is what it is
		<-ctx.Done()
		return nil
	}
	for {
		looking, cancel := context.WithTimeout(ctx, tierTime)
		found, err := inspectStore(looking, w.store.client)
		cancel()
		if err == nil {
			w.see(found)
		}
		if !pause(ctx, tierEvery) {
			return nil
		}
	}
}

// see takes in what the store said, and says once what has changed.
func (w *tierWatch) see(found durability) {
	w.mu.Lock()
	defer w.mu.Unlock()
	was, lacked := w.now, w.lacking
	w.now, w.lacking, w.warnings = found.gives(w.wanted), found.lacks(w.wanted), found.warnings()
	switch {
	case w.lacking != "" && lacked == "":
		w.log.Error("the store does not give the durability any more that was asked for", "durability", string(w.wanted), "gives", string(w.now), "fix", w.lacking)
	case w.lacking == "" && lacked != "":
		w.log.Info("the store gives the durability again that was asked for", "durability", string(w.wanted))
	case w.now != was:
		w.log.Warn("the store has another durability tier", "was", string(was), "is", string(w.now))
	}
	if w.runs != nil && !slices.Equal(w.runs, found.runs) {
		w.changes++
		w.log.Warn("the store is another server than before, or was started again", "tier", string(w.now))
	}
	w.runs = found.runs
}

// tier is the present tier.
func (w *tierWatch) tier() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return string(w.now)
}

// concerns are why the gateway is not ready, and what is amiss, in words.
func (w *tierWatch) concerns() (missing, warnings []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.lacking != "" {
		missing = append(missing, "durability: "+string(w.wanted)+" is asked for, but "+w.lacking)
	}
	for _, warning := range w.warnings {
		if warning != w.lacking {
			warnings = append(warnings, "durability: "+warning)
		}
	}
	return missing, warnings
}
