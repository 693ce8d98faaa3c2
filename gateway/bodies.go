package gateway

import (
	"io"
	"sync/atomic"
)

// bodyBytes is how many bytes of request bodies may be in memory at once, if nothing else is set: eight bodies of the largest size.
const bodyBytes = 8 * bodyLimit

// bodies bounds the bytes of request bodies that are in memory at once, over all requests, so that no number of sources can exhaust it.
// Whoever does not fit is told so at once, and nobody waits. Safe for concurrent use.
type bodies struct {
	limit int64
	held  atomic.Int64
}

// fits says whether a body of a declared length would fit now.
func (b *bodies) fits(length int64) bool { return b.held.Load()+max(length, 0) <= b.limit }

// give takes back what a request held.
func (b *bodies) give(n int64) {
	if n > 0 {
		b.held.Add(-n)
	}
}

// body is a request body that counts what is read of it. What was only declared counts for nothing: it might never come.
type body struct {
	io.ReadCloser
	of   *bodies
	held int64
}

// Read implements io.Reader. It returns errBusy when there is no room for more.
func (r *body) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.held += int64(n)
	if r.of.held.Add(int64(n)) > r.of.limit {
		return n, errBusy
	}
	return n, err
}
