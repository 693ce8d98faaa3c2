package delivery

import (
	"slices"
	"strconv"
	"strings"
)

// Read-ahead of one registration: an author with more waiting than this may delay the registration's other authors.
const (
	readAheadEvents = 4096
	readAheadBytes  = 8 << 20
	readBatch       = 512
)

// lines holds the events that a lane has read and not started: a line for each author, of whom at most one event is under way.
type lines struct {
	m      map[string]*line
	ready  []string // authors whose next event may start
	events int
	bytes  int
}

type line struct {
	tasks []*task
	busy  bool
}

func (q *lines) push(t *task) {
	ln := q.m[t.author]
	if ln == nil {
		ln = &line{}
		q.m[t.author] = ln
	}
	if !ln.busy && len(ln.tasks) == 0 {
		q.ready = append(q.ready, t.author)
	}
	ln.tasks = append(ln.tasks, t)
	q.events++
	q.bytes += len(t.body)
}

// waits says that there is an event that may start.
func (q *lines) waits() bool {
	for len(q.ready) > 0 {
		if ln := q.m[q.ready[0]]; ln != nil && !ln.busy && len(ln.tasks) > 0 {
			return true
		}
		q.ready = q.ready[1:]
	}
	return false
}

// next takes the event that may start, which there is by waits; its author is busy until done.
func (q *lines) next() *task {
	ln := q.m[q.ready[0]]
	q.ready = q.ready[1:]
	ln.busy = true
	return q.pop(ln)
}

// heads appends to list the events that may start next, up to n.
func (q *lines) heads(list []*task, n int) []*task {
	for _, author := range q.ready {
		if n == 0 {
			break
		}
		if ln := q.m[author]; ln != nil && !ln.busy && len(ln.tasks) > 0 {
			list = append(list, ln.tasks[0])
			n--
		}
	}
	return list
}

// putBack undoes next: the event is again the first of its author. One whose line was dropped meanwhile is dropped, too.
func (q *lines) putBack(t *task) {
	ln := q.m[t.author]
	if ln == nil {
		return
	}
	ln.busy = false
	ln.tasks = slices.Insert(ln.tasks, 0, t)
	q.ready = slices.Insert(q.ready, 0, t.author)
	q.events++
	q.bytes += len(t.body)
}

func (q *lines) pop(ln *line) *task {
	t := ln.tasks[0]
	ln.tasks[0] = nil
	ln.tasks = ln.tasks[1:]
	q.events--
	q.bytes -= len(t.body)
	return t
}

// done frees the author of an event that is under way no more.
func (q *lines) done(author string) {
	ln := q.m[author]
	if ln == nil {
		return
	}
	ln.busy = false
	if len(ln.tasks) > 0 {
		q.ready = append(q.ready, author)
	} else {
		delete(q.m, author)
	}
}

// passed frees the author of an event that was not tried: what comes after it takes its turn.
func (q *lines) passed(author string) {
	ln := q.m[author]
	if ln == nil {
		return
	}
	ln.busy = false
	if len(ln.tasks) > 0 {
		q.ready = slices.Insert(q.ready, 0, author)
	} else {
		delete(q.m, author)
	}
}

// takeIf removes up to n waiting events for which gone says so, whoever is busy.
func (q *lines) takeIf(n int, gone func(*task) bool) []*task {
	var out []*task
	for author, ln := range q.m {
		for len(ln.tasks) > 0 && len(out) < n && gone(ln.tasks[0]) {
			out = append(out, q.pop(ln))
		}
		if len(ln.tasks) == 0 && !ln.busy {
			delete(q.m, author)
		}
	}
	return out
}

// remove takes a waiting event out, wherever it stands; nil when it does not wait.
func (q *lines) remove(author, sid string) *task {
	ln := q.m[author]
	if ln == nil {
		return nil
	}
	i := slices.IndexFunc(ln.tasks, func(t *task) bool { return t.sid == sid })
	if i < 0 {
		return nil
	}
	t := ln.tasks[i]
	ln.tasks = slices.Delete(ln.tasks, i, i+1)
	q.events--
	q.bytes -= len(t.body)
	if len(ln.tasks) == 0 && !ln.busy {
		delete(q.m, author)
	}
	return t
}

// room is how many events and bytes may still be read.
func (q *lines) room() (events, bytes int) {
	return max(0, min(readBatch, readAheadEvents-q.events)), max(0, readAheadBytes-q.bytes)
}

// after says whether stream id a comes after b.
func after(a, b string) bool {
	am, as := splitID(a)
	bm, bs := splitID(b)
	return am > bm || am == bm && as > bs
}

func splitID(id string) (ms, seq uint64) {
	head, tail, _ := strings.Cut(id, "-")
	ms, _ = strconv.ParseUint(head, 10, 64) // ids come from the store; a damaged one sorts first
	seq, _ = strconv.ParseUint(tail, 10, 64)
	return ms, seq
}
