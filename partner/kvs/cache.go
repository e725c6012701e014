package kvs

import (
	"sync"
	"time"
)

// maxCached bounds a cache, in entries of some 200 bytes.
const maxCached = 20_000

// cache remembers what AWS says of names and places, for a time. Nothing secret is in it.
type cache struct {
	life time.Duration
	now  func() time.Time

	mu      sync.Mutex
	entries map[string]cached
}

type cached struct {
	value string
	until time.Time
}

func newCache(life time.Duration, now func() time.Time) *cache {
	return &cache{life: life, now: now, entries: map[string]cached{}}
}

func (c *cache) get(key string) (string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.entries[key]
	return e.value, ok && c.now().Before(e.until)
}

func (c *cache) put(key, value string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.entries) >= maxCached {
		now := c.now()
		for k, e := range c.entries {
			if !now.Before(e.until) {
				delete(c.entries, k)
			}
		}
		if len(c.entries) >= maxCached {
			clear(c.entries) // it fills again
		}
	}
	c.entries[key] = cached{value, c.now().Add(c.life)}
}

// forget makes what turned out wrong be asked for again.
func (c *cache) forget(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.entries, key)
}
