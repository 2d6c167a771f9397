package local

import (
	"time"

	"posthouse/internal/mail"
)

// copier moves the live rest of mostly dead segments to the head of the log,
// a step at a time. A copy is an ordinary record, written and synced with
// whatever else is committed; it takes effect only if the message is still
// where it was copied from (Store.applyCopy), and a segment is free once
// nothing live is left in it. The janitor owns it.
type copier struct {
	st    *Store
	seg   *segment // being copied; nil for none
	off   int64    // how far it has been looked through
	after time.Time
}

const (
	// copyStep is how many bytes are copied at a time.
	copyStep = 256 << 10

	// A segment is copied when its live part is below these: usually, when
	// more of the log is dead than alive, and when the disk is nearly full.
	copyUsual    = 0.25
	copyMostDead = 0.5
	copyFull     = 0.9
)

// step copies some messages and returns when to go on, 0 for not before
// something happens.
func (c *copier) step() time.Duration {
	if wait := time.Until(c.after); wait > 0 {
		return wait
	}
	if c.seg == nil && !c.pick() {
		return 0
	}
	reqs, bufs, done := c.collect()
	copied := int64(0)
	for _, r := range reqs {
		r.outcome = make(chan error, 1)
		copied += r.recordLen()
		if err := c.st.com.submit(r); err != nil {
			r.outcome <- err
		}
	}
	failed := false
	for i, r := range reqs {
		failed = <-r.outcome != nil || failed
		c.st.pool.release(bufs[i])
	}
	if failed { // out of space, or closing: not the time for it
		c.leave(false)
		return 0
	}
	if done {
		c.leave(true)
	}
	wait := max(time.Duration(float64(copied)/float64(c.st.opts.CopyRate)*float64(time.Second)), time.Microsecond)
	c.after = time.Now().Add(wait)
	return wait
}

// pick chooses the segment with the least in it.
func (c *copier) pick() bool {
	free, err := c.st.space.measure()
	short := err == nil && free < 2*c.st.space.reserve
	st := c.st
	st.mu.Lock()
	defer st.mu.Unlock()
	if !st.recovered {
		return false
	}
	var dead, live int64
	var best *segment
	for seq, seg := range st.segs {
		dead += seg.size - seg.live
		live += seg.live
		if seg.sealed && !seg.stuck && seg.count > 0 && seq < st.durable.seg && (best == nil || seg.ratio() < best.ratio()) {
			best = seg
		}
	}
	limit := copyUsual
	if dead > live+2*st.opts.SegmentSize {
		limit = copyMostDead
	}
	if short {
		limit = copyFull
	}
	if best == nil || best.ratio() >= limit {
		return false
	}
	best.refs++
	c.seg, c.off = best, headerLen
	return true
}

// leave ends the work on a segment. What is still live in one that was looked
// through cannot be read; it stays where it is.
func (c *copier) leave(lookedThrough bool) {
	c.st.mu.Lock()
	c.seg.refs--
	c.seg.stuck = lookedThrough && c.seg.count > 0
	c.st.mu.Unlock()
	c.seg = nil
	c.st.wakeJanitor()
}

// collect reads the next live messages of the segment. done tells that there
// are no more.
func (c *copier) collect() (reqs []*request, bufs []*buffer, done bool) {
	w := &window{seg: &segment{seq: c.seg.seq, file: c.seg.file, size: c.st.segmentSize(c.seg)}}
	for n, looked := int64(0), int64(0); n < copyStep && looked < 64*copyStep; {
		b, err := w.at(c.off, headerLen)
		var h header
		if err != nil || len(b) < headerLen || !h.parse(b, c.st.mark, c.seg.seq, c.off) || h.kind == kindEnd {
			return reqs, bufs, true
		}
		here := location{c.seg.seq, h.off}
		c.off += h.recordLen()
		looked += h.recordLen()
		if h.kind != kindMessage && h.kind != kindLarge {
			continue
		}
		if r, buf := c.request(h.id, here); r != nil {
			reqs, bufs = append(reqs, r), append(bufs, buf)
			n += r.recordLen()
		}
	}
	return reqs, bufs, false
}

// request makes a copy of a message, nil if it is not live at that place.
func (c *copier) request(id mail.QueueID, here location) (*request, *buffer) {
	c.st.mu.Lock()
	e, ok := c.st.index[id]
	c.st.mu.Unlock()
	if !ok || e.location != here {
		return nil, nil
	}
	buf, head, body, err := c.st.readRecord(id, e, true)
	if err != nil {
		if buf != nil {
			c.st.pool.release(buf)
		}
		return nil, nil
	}
	r := &request{kind: kindMessage, flags: flagCopied, id: id, from: here, head: head, body: body, headCRC: checksum(head), bodyCRC: checksum(body)}
	if e.flags&isLarge != 0 {
		r.kind = kindLarge
	}
	return r, buf
}
