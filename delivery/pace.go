package delivery

import "time"

const (
	paceSlack = 10 * time.Millisecond // by how much a try may come early, to make up for one that came late
	paceSpare = 50                    // one part in so many of a rate is left unused
)

// pace spaces the tries of a registration that allows so many in a second: never more in any second, and no burst after a rest. Its zero
// value allows any number. It belongs to the lane that holds the lease, and the lane keeps the lease until the next try would be allowed,
// so that the next lane owes nothing.
type pace struct {
	every time.Duration // between two tries; 0: no limit
	next  time.Time     // when the next is allowed, but for the slack
}

// limit sets how many tries a second may begin; 0 is no limit. The first one waits for its turn where another process may have made
// some a moment ago.
func (p *pace) limit(perSecond int, now time.Time, others bool) {
	if perSecond <= 0 {
		*p = pace{}
		return
	}
	p.every = time.Second * (paceSpare + 1) / time.Duration(paceSpare*perSecond)
	if others && p.next.IsZero() {
		p.next = now.Add(p.every + paceSlack)
	}
}

// allows says whether a try may begin after n others that are about to.
func (p *pace) allows(n int, now time.Time) bool {
	return p.every == 0 || !p.at(n).After(now)
}

// at is when that is.
func (p *pace) at(n int) time.Time { return p.next.Add(time.Duration(n)*p.every - paceSlack) }

// begun notes a try.
func (p *pace) begun(now time.Time) {
	if p.every == 0 {
		return
	}
	if p.next.Before(now) {
		p.next = now
	}
	p.next = p.next.Add(p.every)
}
