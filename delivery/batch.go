package delivery

import "sync"

// batcher is group commit: calls that come while a batch is under way gather and go together in the next. There is no timer and no
// goroutine of its own: of the callers that wait, the first leads.
type batcher[C any] struct {
	run func([]C) // carries out a batch and leaves each answer in its call
	max int       // calls in one batch

	mu    sync.Mutex
	queue []*waiting[C]
	busy  bool
}

type waiting[C any] struct {
	call C
	lead chan bool // true: lead the next batch; false: the call is done
}

// do returns when the call has been carried out.
func (b *batcher[C]) do(call C) {
	w := &waiting[C]{call: call, lead: make(chan bool, 1)}
	b.mu.Lock()
	b.queue = append(b.queue, w)
	lead := !b.busy
	b.busy = true
	b.mu.Unlock()
	if !lead && !<-w.lead {
		return
	}
	b.leadBatch()
}

func (b *batcher[C]) leadBatch() {
	b.mu.Lock()
	n := min(len(b.queue), b.max)
	batch := b.queue[:n:n]
	b.queue = append([]*waiting[C](nil), b.queue[n:]...)
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, w := range batch[1:] {
			w.lead <- false
		}
		if len(b.queue) > 0 {
			b.queue[0].lead <- true
		} else {
			b.busy = false
		}
	}()
	calls := make([]C, n)
	for i, w := range batch {
		calls[i] = w.call
	}
	b.run(calls)
}
