package delivery

import (
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// ailments are things in the store that nobody can read or write for their own sake: what is well is not kept from working by them, so
// they are told of here. Safe for concurrent use.
type ailments struct {
	log   *slog.Logger
	count atomic.Int64

	mu   sync.Mutex
	told map[string]time.Time
}

const (
	ailmentEvery = time.Minute // between two lines of the log about one thing
	ailmentsTold = 10_000      // things that are remembered
)

func newAilments(log *slog.Logger) *ailments {
	return &ailments{log: log, told: map[string]time.Time{}}
}

// errSick stands for what could not be done for the sake of the data of one registration or entity. The log says what it is.
var errSick = errors.New("its data in the store cannot be read or written")

// tell notes what a script found: names and reasons in turn.
func (a *ailments) tell(list any) {
	for found := toTexts(list); len(found) >= 2; found = found[2:] {
		a.note(found[0], "data in the store cannot be read or written, the rest goes on without it", found[1])
	}
}

// note counts a fault of one registration or key, and logs it now and then.
func (a *ailments) note(of, problem string, err any) {
	a.count.Add(1)
	a.mu.Lock()
	defer a.mu.Unlock()
	if time.Since(a.told[of]) < ailmentEvery {
		return
	}
	if len(a.told) >= ailmentsTold {
		clear(a.told)
	}
	a.told[of] = time.Now()
	a.log.Error(problem, "of", of, "error", err)
}
