package local

import (
	"time"

	"posthouse/internal/mail"
	"posthouse/internal/spool/local/contents"
	"posthouse/internal/spool/local/seglog"
)

// copier moves the live rest of mostly dead segments to the head of the log,
// a step at a time. A copy is an ordinary record, written and synced with
// whatever else is committed; it takes effect only if the message is still
// where it was copied from (Store.applyCopy), and a segment is free once
// nothing live is left in it. The janitor owns it.
type copier struct {
	st    *Store
	walk  *seglog.Walk // of the segment being copied; nil for none
	after time.Time    // the next step may begin
}

const (
	// copyStep is how many bytes are copied at a time.
	copyStep = 256 << 10

	// A segment is copied when its live part is below these: usually, when
	// more of the log is dead than alive, and when the disk is nearly full.
	copyUsual    = 0.25
	copyMostDead = 0.5
	copyFull     = 0.9

	// copyAgain is the pause after a copy failed: what failed it, a full disk or
	// a store that is ending, lasts longer than many tries.
	copyAgain = time.Second
)

// step copies some messages and returns when to go on, 0 for not before
// something happens.
func (c *copier) step() time.Duration {
	if wait := time.Until(c.after); wait > 0 {
		return wait
	}
	if c.walk == nil && !c.pick() {
		return 0
	}
	reqs, bufs, done := c.collect()
	copied := int64(0)
	outcomes := make(chan error, len(reqs))
	for _, r := range reqs {
		copied += r.log.Len()
		r.log.Done = func(err error) { outcomes <- err }
		if err := c.st.log.Submit(&r.log); err != nil {
			outcomes <- err
		}
	}
	failed := false
	for range reqs {
		failed = <-outcomes != nil || failed
	}
	for _, b := range bufs {
		c.st.pool.Release(b)
	}
	if failed {
		c.leave(false)
		c.after = time.Now().Add(copyAgain)
		return copyAgain
	}
	if done {
		c.leave(true)
	}
	wait := max(time.Duration(float64(copied)/float64(c.st.opts.CopyRate)*float64(time.Second)), time.Microsecond)
	c.after = time.Now().Add(wait)
	return wait
}

// pick chooses the segment with the least in it. Its copy takes room before
// the original gives any back, and must leave most of what is free: the reserve
// is for finishing what is inside.
func (c *copier) pick() bool {
	free, err := c.st.space.measure()
	if err != nil || c.st.Err() != nil {
		return false
	}
	short := free < 2*c.st.space.reserve
	c.st.mu.Lock()
	before, ready := c.st.durable.Seg, c.st.recovered
	c.st.mu.Unlock()
	if !ready {
		return false
	}
	c.walk = c.st.log.PickSparse(before, free/2, func(live, dead int64) float64 {
		switch {
		case short:
			return copyFull
		case dead > live+2*c.st.opts.SegmentSize:
			return copyMostDead
		}
		return copyUsual
	})
	return c.walk != nil
}

// leave ends the work on a segment.
func (c *copier) leave(finished bool) {
	c.walk.Close(finished)
	c.walk = nil
	c.st.wakeJanitor()
}

// collect reads the next live messages of the segment. done tells that there
// are no more.
func (c *copier) collect() (reqs []*request, bufs []*contents.Buffer, done bool) {
	for copied, looked := int64(0), int64(0); copied < copyStep && looked < 64*copyStep; {
		rec, n, ok := c.walk.Next()
		if !ok {
			return reqs, bufs, true
		}
		looked += n
		if r, buf := c.request(rec.ID, rec.At); r != nil {
			reqs, bufs = append(reqs, r), append(bufs, buf)
			copied += n
		}
	}
	return reqs, bufs, false
}

// request makes a copy of a message, nil if it is not live at that place or
// cannot be read.
func (c *copier) request(id mail.QueueID, here seglog.Location) (*request, *contents.Buffer) {
	c.st.mu.Lock()
	e, ok := c.st.index[id]
	c.st.mu.Unlock()
	if !ok || e.at != here {
		return nil, nil
	}
	buf, head, body, err := c.st.readRecord(id, e, true)
	if err != nil {
		c.st.pool.Release(buf)
		return nil, nil
	}
	r := &request{from: here, log: seglog.Request{
		Kind: seglog.Message, Copied: true, ID: id, Head: head, Body: body, HeadCRC: seglog.Checksum(head), BodyCRC: seglog.Checksum(body),
	}}
	if e.flags&isLarge != 0 {
		r.log.Kind = seglog.Large
	}
	r.log.Owner = r
	return r, buf
}
