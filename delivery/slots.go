package delivery

import (
	"sync"
	"time"
)

// How tries in flight are shared out.
const (
	slowAfter  = time.Second     // a lane of whose tries none ended for so long is slow
	slowMemory = 2 * time.Minute // how long a registration stays slow after its lane has ended
	slowMost   = 16_384          // registrations remembered as slow
)

// slots shares out the tries in flight of this process among its lanes, so that lanes that hang leave the others their share, however
// many they are. Half of the slots is for lanes whose tries end quickly: all slow ones together never have more than the other half. Beyond
// its first slot a lane may hold only a fraction of those that are left: the fewer are free, the fewer it gets. Lanes that hold none and
// cannot have one wait in line. What is not prevented: more lanes than there are slots that begin to hang in the same second hold all of
// them until their first tries time out. Safe for concurrent use.
type slots struct {
	reserve int

	mu      sync.Mutex
	free    int
	waiting [2][]*share         // lanes that hold none: quick ones, slow ones
	slow    map[RegID]time.Time // until when
	held    int                 // for the metrics: taken slots
}

// share is what one lane has of the slots. Its fields belong to slots.
type share struct {
	id      RegID
	nudge   chan<- struct{} // told when a slot was given to the lane that waited
	held    int             // slots, those granted included
	granted int             // of them: not taken up yet
	queued  bool
	slow    bool
	moved   time.Time // when it took its first slot, or gave one back, last
}

func newSlots(n int) *slots {
	return &slots{free: n, reserve: n / 2, slow: map[RegID]time.Time{}}
}

// join makes a lane's share. A registration whose last lane was slow begins as slow.
func (s *slots) join(id RegID, nudge chan<- struct{}) share {
	s.mu.Lock()
	defer s.mu.Unlock()
	until, slow := s.slow[id]
	return share{id: id, nudge: nudge, slow: slow && time.Now().Before(until)}
}

// take takes a slot. When it returns false, and the lane holds none, the lane is nudged as soon as there is one for it; a lane that holds
// some asks again when it gave one back.
func (s *slots) take(sh *share, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sh.granted > 0 {
		sh.granted--
		return true
	}
	if s.may(sh, now) {
		s.grant(sh, now)
		return true
	}
	if sh.held == 0 && !sh.queued {
		sh.queued = true
		s.enqueue(sh, now)
	}
	return false
}

// give gives back a slot that was held for so long; 0 when no try was made on it.
func (s *slots) give(sh *share, after time.Duration) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.back(sh, now)
	if slow := after >= slowAfter; after > 0 && slow != sh.slow {
		sh.slow = slow
		s.remember(sh, now)
	}
	s.serve(now)
}

// unwanted gives back what was granted to a lane that has no use for it now.
func (s *slots) unwanted(sh *share) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sh.granted == 0 {
		return
	}
	now := time.Now()
	for ; sh.granted > 0; sh.granted-- {
		s.back(sh, now)
	}
	s.serve(now)
}

// leave ends a share; tries may still hold slots of it.
func (s *slots) leave(sh *share) {
	s.unwanted(sh)
	s.mu.Lock()
	defer s.mu.Unlock()
	sh.queued = false
}

// inFlight is how many slots are taken.
func (s *slots) inFlight() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held
}

func (s *slots) back(sh *share, now time.Time) {
	sh.held--
	sh.moved = now
	s.free++
	s.held--
}

func (s *slots) grant(sh *share, now time.Time) {
	if sh.held == 0 {
		sh.moved = now
	}
	sh.held++
	s.free--
	s.held++
}

// may says whether a lane may have one more.
func (s *slots) may(sh *share, now time.Time) bool {
	switch left := s.free - s.reserve; {
	case sh.isSlow(now):
		return left > sh.held
	case sh.held == 0:
		return s.free > 0
	default:
		return s.free > 8*sh.held
	}
}

// isSlow says that a lane's last try took long, or that nothing of what it holds has come back for long.
func (sh *share) isSlow(now time.Time) bool {
	return sh.slow || sh.held > 0 && now.Sub(sh.moved) >= slowAfter
}

func (s *slots) enqueue(sh *share, now time.Time) {
	i := 0
	if sh.isSlow(now) {
		i = 1
	}
	s.waiting[i] = append(s.waiting[i], sh)
}

// serve gives what is free to those who wait.
func (s *slots) serve(now time.Time) {
	for i := range s.waiting {
		for len(s.waiting[i]) > 0 {
			sh := s.waiting[i][0]
			if sh.queued && !s.may(sh, now) {
				break
			}
			s.waiting[i] = s.waiting[i][1:]
			if !sh.queued {
				continue // it has left
			}
			sh.queued = false
			s.grant(sh, now)
			sh.granted++
			select {
			case sh.nudge <- struct{}{}:
			default:
			}
		}
	}
}

// remember keeps in mind whether a registration is slow, for its next lane.
func (s *slots) remember(sh *share, now time.Time) {
	if !sh.slow {
		delete(s.slow, sh.id)
		return
	}
	if len(s.slow) >= slowMost {
		for id, until := range s.slow {
			if !now.Before(until) {
				delete(s.slow, id)
			}
		}
	}
	if len(s.slow) < slowMost {
		s.slow[sh.id] = now.Add(slowMemory)
	}
}
