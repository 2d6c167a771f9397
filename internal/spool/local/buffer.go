package local

import (
	"math/bits"
	"sync"
	"sync/atomic"

	"posthouse/internal/mail"
)

// buffer holds a small content: while it is received, then for as long as it
// is cached or a reader is open. The last to let go of it gives it back to its
// pool.
type buffer struct {
	b     []byte
	refs  atomic.Int32
	class int // size class, -1 for a buffer that is not pooled

	// Owned by contentCache.
	id         mail.QueueID
	prev, next *buffer
}

// bufferPool keeps buffers of sizes 2, 3, 4, 6, 8, 12, … KiB: two classes to a
// power of two waste a quarter at worst on average half of that.
type bufferPool struct {
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

// get returns an empty buffer for n bytes, held once.
func (p *bufferPool) get(n int) *buffer {
	c := classFor(n)
	if c < 0 {
		b := &buffer{b: make([]byte, 0, n), class: -1}
		b.refs.Store(1)
		return b
	}
	b, _ := p.classes[c].Get().(*buffer)
	if b == nil {
		b = &buffer{b: make([]byte, 0, classSize(c)), class: c}
	}
	b.refs.Store(1)
	return b
}

// release lets go of b once.
func (p *bufferPool) release(b *buffer) {
	if b.refs.Add(-1) != 0 || b.class < 0 {
		return
	}
	b.b = b.b[:0]
	p.classes[b.class].Put(b)
}

// grow returns a buffer with the bytes of b and room for n more; b is used up.
func (p *bufferPool) grow(b *buffer, n int) *buffer {
	bigger := p.get(max(len(b.b)+n, 2*cap(b.b)))
	bigger.b = append(bigger.b, b.b...)
	p.release(b)
	return bigger
}

// contentCache keeps the contents committed last, up to a number of bytes: a
// fresh message is usually delivered within milliseconds, and should not be
// read back for it. The Store's mutex guards it.
type contentCache struct {
	limit  int64
	used   int64
	byID   map[mail.QueueID]*buffer
	oldest *buffer // a list through next, oldest first
	newest *buffer
}

// add takes over one hold on b, and returns the buffers that had to go.
func (c *contentCache) add(id mail.QueueID, b *buffer, evicted []*buffer) []*buffer {
	if int64(cap(b.b)) > c.limit {
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
	for c.used += int64(cap(b.b)); c.used > c.limit; {
		old := c.oldest
		c.remove(old.id)
		evicted = append(evicted, old)
	}
	return evicted
}

// remove takes a content out; the caller gets the cache's hold on it.
func (c *contentCache) remove(id mail.QueueID) *buffer {
	b := c.byID[id]
	if b == nil {
		return nil
	}
	delete(c.byID, id)
	c.used -= int64(cap(b.b))
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
