package gateway

import (
	"crypto/sha256"
	"sync"
	"time"
)

// cacheSize is how many tokens are remembered; past it all are forgotten, since that many bearers at once are rare.
const cacheSize = 4096

// cache remembers tokens that were found good, by their digest, so that a bearer's next request costs a digest instead of a signature
// and its JSON. Only what a token says and when it ends matters here, and a hit checks the end again; whether it was revoked is asked after
// that, of the list of those that were, so that nothing here can outlive a revocation.
type cache struct {
	mu   sync.Mutex
	good map[[sha256.Size]byte]bearer
}

// find returns the claims of a token that was found good and has not ended since.
func (c *cache) find(key [sha256.Size]byte, now time.Time) (bearer, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b, ok := c.good[key]
	if ok && !now.Before(b.Expires.Add(tokenLeeway)) {
		delete(c.good, key)
		return bearer{}, false
	}
	return b, ok
}

// forget empties the cache.
func (c *cache) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.good = nil
}

// keep remembers a good token.
func (c *cache) keep(key [sha256.Size]byte, b bearer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.good == nil || len(c.good) >= cacheSize {
		c.good = map[[sha256.Size]byte]bearer{}
	}
	c.good[key] = b
}

// empty forgets all tokens.
func (c *cache) empty() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.good = nil
}
