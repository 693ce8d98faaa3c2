package gateway

import (
	"crypto/sha256"
	"sync"
	"time"
)

// cacheSize is how many tokens are remembered; past it all are forgotten, since that many bearers at once are rare.
const cacheSize = 4096

// cache remembers tokens that were found good, by their digest, so that a bearer's next request costs a digest instead of a signature
// and its JSON. Only what a token says and when it ends matters to whether it is good, and a hit checks the end again.
type cache struct {
	mu   sync.Mutex
	good map[[sha256.Size]byte]Claims
}

// find returns the claims of a token that was found good and has not ended since.
func (c *cache) find(key [sha256.Size]byte, now time.Time) (Claims, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	claims, ok := c.good[key]
	if ok && !now.Before(claims.Expires.Add(tokenLeeway)) {
		delete(c.good, key)
		return Claims{}, false
	}
	return claims, ok
}

// keep remembers a good token.
func (c *cache) keep(key [sha256.Size]byte, claims Claims) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.good == nil || len(c.good) >= cacheSize {
		c.good = map[[sha256.Size]byte]Claims{}
	}
	c.good[key] = claims
}
