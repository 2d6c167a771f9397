package dns

import (
	"sync"
	"time"
)

// question is what an answer is kept under.
type question struct {
	name  string
	qtype uint16
}

// cache keeps answers until they expire. When it is full, a few entries that
// come up first in the map's random order make room, expired ones preferred:
// cheap, and close to the best for answers that all live about as long.
type cache struct {
	mu      sync.Mutex
	limit   int // entries at most; negative: keeps nothing
	entries map[question]answer
}

// evictSample is how many entries are looked at to make room for one.
const evictSample = 8

func newCache(limit int) *cache {
	return &cache{limit: limit, entries: make(map[question]answer)}
}

func (c *cache) get(q question, now time.Time) (answer, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a, ok := c.entries[q]
	if ok && !now.Before(a.expires) {
		delete(c.entries, q)
		return answer{}, false
	}
	return a, ok
}

func (c *cache) put(q question, a answer, now time.Time) {
	if c.limit < 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, replace := c.entries[q]; !replace && len(c.entries) >= c.limit {
		c.makeRoom(now)
	}
	c.entries[q] = a
}

// makeRoom removes at least one entry: of a sample the expired ones, or else
// the one that expires first.
func (c *cache) makeRoom(now time.Time) {
	var first question
	var firstExpires time.Time
	seen, removed := 0, 0
	for q, a := range c.entries {
		if !now.Before(a.expires) {
			delete(c.entries, q)
			removed++
		} else if firstExpires.IsZero() || a.expires.Before(firstExpires) {
			first, firstExpires = q, a.expires
		}
		if seen++; seen == evictSample {
			break
		}
	}
	if removed == 0 {
		delete(c.entries, first)
	}
}
