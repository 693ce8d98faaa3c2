package delivery

import "sync"

// batcher is group commit: calls to one place that come while a batch is under way there gather and go together in the next. There is no
// timer and no goroutine of its own: of the callers that wait, the first leads. A place that is slow keeps only its own callers waiting.
type batcher[C any] struct {
	run    func([]C)      // carries out a batch and leaves each answer in its call
	place  func(C) string // where a call goes
	weight func(C) int    // how much of a batch it takes
	late   func(C) bool   // leaves its refusal in a call that has waited too long, and says so; nil: none ever has
	max    int            // weight of one batch; a call that weighs more goes alone

	mu    sync.Mutex
	lines map[string]*queue[C]
	spare sync.Pool // of *waiting[C]
}

// queue is the calls that wait at one place.
type queue[C any] struct {
	waiting []*waiting[C]
	busy    bool
}

type waiting[C any] struct {
	call C
	lead chan bool // true: lead the next batch; false: the call is done
}

// do returns when the call has been carried out, or has waited too long.
func (b *batcher[C]) do(call C) {
	w, ok := b.spare.Get().(*waiting[C])
	if !ok {
		w = &waiting[C]{lead: make(chan bool, 1)}
	}
	w.call = call
	defer b.put(w)
	place := b.place(call)
	b.mu.Lock()
	q := b.lines[place]
	if q == nil {
		if b.lines == nil {
			b.lines = map[string]*queue[C]{}
		}
		q = &queue[C]{}
		b.lines[place] = q
	}
	q.waiting = append(q.waiting, w)
	lead := !q.busy
	q.busy = true
	b.mu.Unlock()
	if !lead && !<-w.lead {
		return
	}
	b.leadBatch(q, w)
}

// put keeps what a call waited with for the next: it was told once, and nobody else knows of it any more.
func (b *batcher[C]) put(w *waiting[C]) {
	var none C
	w.call = none
	b.spare.Put(w)
}

// leadBatch carries out the next batch, and hands on the lead.
func (b *batcher[C]) leadBatch(q *queue[C], leader *waiting[C]) {
	batch := b.next(q, leader)
	defer func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, w := range batch {
			if w != leader {
				w.lead <- false
			}
		}
		if len(q.waiting) > 0 {
			q.waiting[0].lead <- true
		} else {
			q.busy = false
		}
	}()
	if len(batch) == 0 {
		return // the leader itself has waited too long
	}
	calls := make([]C, len(batch))
	for i, w := range batch {
		calls[i] = w.call
	}
	b.run(calls)
}

// next takes the next batch from the queue, and sends away who has waited too long. It is empty when the leader has.
func (b *batcher[C]) next(q *queue[C], leader *waiting[C]) []*waiting[C] {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.late != nil {
		b.dropLate(q, leader)
	}
	if len(q.waiting) == 0 || q.waiting[0] != leader {
		return nil
	}
	n, weight := 1, b.weight(leader.call)
	for n < len(q.waiting) {
		if weight += b.weight(q.waiting[n].call); weight > b.max {
			break
		}
		n++
	}
	batch := q.waiting[:n:n]
	q.waiting = append([]*waiting[C](nil), q.waiting[n:]...)
	return batch
}

// dropLate takes out who has waited too long. The leader knows by itself.
func (b *batcher[C]) dropLate(q *queue[C], leader *waiting[C]) {
	stay := q.waiting[:0]
	for _, w := range q.waiting {
		switch {
		case !b.late(w.call):
			stay = append(stay, w)
		case w != leader:
			w.lead <- false
		}
	}
	q.waiting = stay
}
