package delivery

import (
	"hash/maphash"
	"sync"
	"time"
)

// slowAfter is how long a try, or a lane of whose tries none ends, may take before the lane is slow.
const slowAfter = time.Second

// manner is what is known of how a registration's tries end.
type manner uint8

const (
	unknown manner = iota
	quick
	slow
	manners
)

// slots shares out the tries in flight of this process among its lanes, so that lanes that hang leave the others their share, however
// many they are. All slow lanes together have at most half of the slots, and all that are not known to be quick three quarters. Beyond its
// first slot a lane may hold only a fraction of those that are left: the fewer are free, the fewer it gets. Lanes that hold none and
// cannot have one wait in line. What is not prevented: where more lanes than there are slots were quick and hang all of a sudden, the others
// take turns with them until each of those has had its first timeout. Safe for concurrent use.
type slots struct {
	spared [manners]int // slots that a manner may not touch

	mu      sync.Mutex
	all     int
	free    int
	waiting [manners][]*share // lanes that hold none
	known   [1 << 16]manner   // of registrations by their hash, for their next lanes; two may share a place
	rests   [1 << 16]uint32   // when their lanes gave the lease back last, in ms since began; 0: never
	idle    [1 << 16]bool     // they have given it back, and nobody was seen to take it
	began   time.Time
	seed    maphash.Seed
}

// share is what one lane has of the slots. Its fields belong to slots.
type share struct {
	place   uint16          // in known
	nudge   chan<- struct{} // told when a slot was given to the lane that waited
	held    int             // slots, those granted included
	granted int             // of them: not taken up yet
	queued  bool
	manner  manner
	moved   time.Time // when it took its first slot, or gave one back, last
}

func newSlots(n int) *slots {
	return &slots{all: n, free: n, spared: [manners]int{unknown: n / 4, slow: n / 2}, began: time.Now(), seed: maphash.MakeSeed()}
}

// join makes a lane's share. It begins as the registration's last lane ended.
func (s *slots) join(id RegID, nudge chan<- struct{}) share {
	place := s.placeOf(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	return share{place: place, nudge: nudge, manner: s.known[place]}
}

func (s *slots) placeOf(id RegID) uint16 { return uint16(maphash.Comparable(s.seed, id)) }

// rested notes that a lane has given its lease back.
func (s *slots) rested(sh *share) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rests[sh.place] = uint32(time.Since(s.began).Milliseconds()) + 1
	s.idle[sh.place] = true
}

// wasRested says that a registration's last lane gave its lease back. It does so once: whoever asks takes it, or finds that another has.
func (s *slots) wasRested(id RegID) bool {
	place := s.placeOf(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.idle[place]
	s.idle[place] = false
	return was
}

// restedWithin says that the lane before this one gave its lease back so short a time ago.
func (s *slots) restedWithin(sh *share, d time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.rests[sh.place]
	return at > 0 && time.Since(s.began).Milliseconds()+1-int64(at) < d.Milliseconds()
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
		m := sh.mannerNow(now)
		s.waiting[m] = append(s.waiting[m], sh)
	}
	return false
}

// give gives back a slot that was held for so long; 0 when no try was made on it.
func (s *slots) give(sh *share, after time.Duration) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.back(sh, now)
	if m := mannerOf(after); after > 0 && m != sh.manner {
		sh.manner, s.known[sh.place] = m, m
	}
	s.serve(now)
}

// unwanted ends a lane's waiting for a slot, and gives back what was granted to it: it has no use for one now.
func (s *slots) unwanted(sh *share) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sh.queued = false
	if sh.granted == 0 {
		return
	}
	now := time.Now()
	for ; sh.granted > 0; sh.granted-- {
		s.back(sh, now)
	}
	s.serve(now)
}

// inFlight is how many slots are taken.
func (s *slots) inFlight() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all - s.free
}

func (s *slots) back(sh *share, now time.Time) {
	sh.held--
	sh.moved = now
	s.free++
}

func (s *slots) grant(sh *share, now time.Time) {
	if sh.held == 0 {
		sh.moved = now
	}
	sh.held++
	s.free--
}

// may says whether a lane may have one more.
func (s *slots) may(sh *share, now time.Time) bool {
	m := sh.mannerNow(now)
	left := s.free - s.spared[m]
	switch {
	case m == slow:
		return left > sh.held
	case sh.held == 0:
		return left > 0
	default:
		return left > 8*sh.held
	}
}

// mannerNow is slow also when nothing of what the lane holds has come back for long.
func (sh *share) mannerNow(now time.Time) manner {
	if sh.held > 0 && now.Sub(sh.moved) >= slowAfter {
		return slow
	}
	return sh.manner
}

// mannerOf is that of a try that took so long.
func mannerOf(took time.Duration) manner {
	if took >= slowAfter {
		return slow
	}
	return quick
}

// serve gives what is free to those who wait.
func (s *slots) serve(now time.Time) {
	for _, i := range [...]manner{quick, unknown, slow} {
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
