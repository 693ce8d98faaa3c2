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

// sparing is said of many at once: the first is told of at once, and those after it by their number, in one line for each stretch of time.
// Its zero value is ready. Safe for concurrent use.
type sparing struct {
	mu    sync.Mutex
	said  map[string]time.Time // by what was said
	since map[string]int       // untold
}

const sparingFor = 10 * time.Second

// warn says what is wrong with one of them, or keeps it for later.
func (s *sparing) warn(log *slog.Logger, what string, id RegID, err error) {
	s.mu.Lock()
	if s.said == nil {
		s.said, s.since = map[string]time.Time{}, map[string]int{}
	}
	s.since[what]++
	n := s.since[what]
	tell := time.Since(s.said[what]) >= sparingFor
	if tell {
		s.said[what], s.since[what] = time.Now(), 0
	}
	s.mu.Unlock()
	if tell {
		log.Warn(what, "registrations", n, "one", id.member(), "error", err)
	}
}
