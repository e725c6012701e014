package account

import (
	"crypto/sha256"
	"sync"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

// maxChecked bounds the tokens that are remembered, in each of two generations:
// about 8 MB in all.
const maxChecked = 8192

// tokenCache remembers whose a good token is, so that an app that asks often
// costs one signature check (50 µs) and not one a request. It holds no token, only
// its SHA-256. When the young generation is full it becomes the old one; a token
// in use moves on.
type tokenCache struct {
	mu         sync.Mutex
	young, old map[[sha256.Size]byte]checked
}

// checked is what a good token says.
type checked struct {
	actor registry.Actor
	until time.Time
}

func newTokenCache() *tokenCache {
	return &tokenCache{young: map[[sha256.Size]byte]checked{}}
}

// get finds a token that is still good at the given time.
func (c *tokenCache) get(key [sha256.Size]byte, now time.Time) (checked, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t, ok := c.young[key]
	if !ok {
		if t, ok = c.old[key]; ok {
			c.put(key, t)
		}
	}
	return t, ok && now.Before(t.until)
}

func (c *tokenCache) add(key [sha256.Size]byte, t checked) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.put(key, t)
}

// put is called with mu held.
func (c *tokenCache) put(key [sha256.Size]byte, t checked) {
	if len(c.young) >= maxChecked {
		c.young, c.old = make(map[[sha256.Size]byte]checked, maxChecked), c.young
	}
	c.young[key] = t
}
