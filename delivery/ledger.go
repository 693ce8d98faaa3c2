package delivery

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// FinalFates are the fates that a delivery ends in, in the order of the ledger.
func FinalFates() []Fate {
	return []Fate{Delivered, Failed, Suppressed, InMaintenance, Overflow, Expired, Withdrawn, Filtered}
}

// ledger is what became of deliveries: accepted is the sum of the fates and of what is queued.
type ledger struct {
	accepted int64
	fates    map[Fate]int64
	queued   int64 // under way included
	bytes    int64 // of what is queued
}

// readLedger reads the counters of a registration, or of a shard.
func readLedger(fields map[string]string) ledger {
	l := readCounters(fields, "c:")
	l.queued, l.bytes = toInt(fields["qn"]), toInt(fields["qb"])
	return l
}

// readCounters reads the counters whose names begin with a prefix: a ledger without a queue.
func readCounters(fields map[string]string, prefix string) ledger {
	l := ledger{accepted: toInt(fields[prefix+"accepted"]), fates: map[Fate]int64{}}
	for _, fate := range FinalFates() {
		l.fates[fate] = toInt(fields[prefix+string(fate)])
	}
	return l
}

// discrepancy is how many deliveries have neither a fate nor a place in a queue; below zero: how many have both, or two fates.
func (l ledger) discrepancy() int64 {
	n := l.accepted - l.queued
	for _, of := range l.fates {
		n -= of
	}
	return n
}

// plus is the ledger of both; times -1, of what is left without the other.
func (l ledger) plus(o ledger, times int64) ledger {
	sum := ledger{accepted: l.accepted + times*o.accepted, fates: maps.Clone(l.fates), queued: l.queued + times*o.queued, bytes: l.bytes + times*o.bytes}
	if sum.fates == nil {
		sum.fates = map[Fate]int64{}
	}
	for fate, n := range o.fates {
		sum.fates[fate] += times * n
	}
	return sum
}

// String spells the ledger out, with != where it does not balance.
func (l ledger) String() string {
	var b strings.Builder
	sign := "="
	if l.discrepancy() != 0 {
		sign = "!="
	}
	fmt.Fprintf(&b, "accepted %d %s ", l.accepted, sign)
	for _, f := range FinalFates() {
		fmt.Fprintf(&b, "%s %d + ", f, l.fates[f])
	}
	fmt.Fprintf(&b, "queued %d", l.queued)
	return b.String()
}

// favourites chooses the registrations that have series of their own in the metrics: those that were most often seen with work. Each look
// gives a point to whoever has work then, and points fade, by half in 70 looks. Not safe for concurrent use.
type favourites struct {
	limit  int
	points map[string]float64 // of registrations, by name
	shown  map[string]bool
}

const (
	favourFades = 0.99 // what is left of points at the next look
	favourStays = 1.5  // how much better another must be to take a place, so that series do not come and go
)

// look takes in who has work.
func (f *favourites) look(busy []string) {
	for name, n := range f.points {
		if f.points[name] = n * favourFades; n < 0.05 && !f.shown[name] {
			delete(f.points, name)
		}
	}
	for _, name := range busy {
		f.points[name]++
	}
	if len(f.points) > 20*f.limit {
		for _, name := range f.ranked(nil)[10*f.limit:] {
			delete(f.points, name)
		}
	}
}

// choose returns the names to be shown, in order; few are names that may take the places which are free.
func (f *favourites) choose(few []string) []string {
	names := f.ranked(few)
	names = names[:min(len(names), f.limit)]
	clear(f.shown)
	for _, name := range names {
		f.shown[name] = true
	}
	slices.Sort(names)
	return names
}

// drop forgets a registration that is gone.
func (f *favourites) drop(name string) {
	delete(f.points, name)
	delete(f.shown, name)
}

// ranked are all names that are known, the best first.
func (f *favourites) ranked(few []string) []string {
	rank := make(map[string]float64, len(f.points)+len(few))
	for _, name := range few {
		rank[name] = 0
	}
	for name, n := range f.points {
		if rank[name] = n; f.shown[name] {
			rank[name] = n*favourStays + 0.01
		}
	}
	return slices.SortedFunc(maps.Keys(rank), func(a, b string) int {
		return cmp.Or(cmp.Compare(rank[b], rank[a]), strings.Compare(a, b))
	})
}
