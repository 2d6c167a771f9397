package contents

import (
	"math/bits"
	"sync"
	"sync/atomic"

	"posthouse/internal/mail"
)

// Buffer holds a small content: while it is received, then for as long as it
// is cached or a reader is open. The last to let go of it gives it back to its
// pool.
type Buffer struct {
	B []byte

	refs  atomic.Int32
	class int // size class, -1 for a buffer that is not pooled

	// Owned by Cache.
	id         mail.QueueID
	prev, next *Buffer // older, newer
}

// Hold adds a hold on b.
func (b *Buffer) Hold() { b.refs.Add(1) }

// Pool keeps buffers of sizes 2, 3, 4, 6, 8, 12, … KiB: two classes to a
// power of two waste a quarter at worst on average half of that.
type Pool struct {
	classes [bufferClasses]sync.Pool
}

const (
	minBuffer     = 2 << 10
	bufferClasses = 24 // up to 6 MiB
)

func classSize(c int) int {
	size := minBuffer << (c / 2)
	if c%2 == 1 {
		size += size / 2
	}
	return size
}

// classFor is the smallest class that holds n bytes, or -1.
func classFor(n int) int {
	if n <= minBuffer {
		return 0
	}
	c := 2 * (bits.Len(uint(n-1)) - bits.Len(minBuffer))
	for c < bufferClasses && classSize(c) < n {
		c++
	}
	if c >= bufferClasses {
		return -1
	}
	return c
}

// Get returns an empty buffer for n bytes, held once.
func (p *Pool) Get(n int) *Buffer {
	c := classFor(n)
	if c < 0 {
		b := &Buffer{B: make([]byte, 0, n), class: -1}
		b.refs.Store(1)
		return b
	}
	b, _ := p.classes[c].Get().(*Buffer)
	if b == nil {
		b = &Buffer{B: make([]byte, 0, classSize(c)), class: c}
	}
	b.refs.Store(1)
	return b
}

// Release lets go of b once.
func (p *Pool) Release(b *Buffer) {
	if b.refs.Add(-1) != 0 || b.class < 0 {
		return
	}
	b.B = b.B[:0]
	p.classes[b.class].Put(b)
}

// Grow returns a buffer with the bytes of b and room for n more; b is used up.
func (p *Pool) Grow(b *Buffer, n int) *Buffer {
	bigger := p.Get(max(len(b.B)+n, 2*cap(b.B)))
	bigger.B = append(bigger.B, b.B...)
	p.Release(b)
	return bigger
}

// Cache keeps the contents committed last, up to a number of bytes: a
// fresh message is usually delivered within milliseconds, and should not be
// read back for it. Its owner guards it.
type Cache struct {
	limit  int64 // bytes
	used   int64 // bytes of buffers, unused room included
	byID   map[mail.QueueID]*Buffer
	oldest *Buffer // a list through next, oldest first
	newest *Buffer
}

// NewCache returns a cache of up to limit bytes.
func NewCache(limit int64) *Cache {
	return &Cache{limit: limit, byID: make(map[mail.QueueID]*Buffer)}
}

// Get returns a content with one more hold on it, or nil.
func (c *Cache) Get(id mail.QueueID) *Buffer {
	b := c.byID[id]
	if b != nil {
		b.Hold()
	}
	return b
}

// Add takes over one hold on b, and returns the buffers that had to go.
func (c *Cache) Add(id mail.QueueID, b *Buffer, evicted []*Buffer) []*Buffer {
	if int64(cap(b.B)) > c.limit {
		return append(evicted, b)
	}
	b.id, b.prev, b.next = id, c.newest, nil
	if c.newest != nil {
		c.newest.next = b
	} else {
		c.oldest = b
	}
	c.newest = b
	c.byID[id] = b
	for c.used += int64(cap(b.B)); c.used > c.limit; {
		old := c.oldest
		c.Remove(old.id)
		evicted = append(evicted, old)
	}
	return evicted
}

// Remove takes a content out; the caller gets the cache's hold on it.
func (c *Cache) Remove(id mail.QueueID) *Buffer {
	b := c.byID[id]
	if b == nil {
		return nil
	}
	delete(c.byID, id)
	c.used -= int64(cap(b.B))
	if b.prev != nil {
		b.prev.next = b.next
	} else {
		c.oldest = b.next
	}
	if b.next != nil {
		b.next.prev = b.prev
	} else {
		c.newest = b.prev
	}
	b.prev, b.next = nil, nil
	return b
}
