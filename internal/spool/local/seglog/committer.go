package seglog

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"

	"posthouse/internal/spool"
)

// committer writes the log. See the package comment.
type committer struct {
	log *Log

	mu     sync.Mutex
	queue  []*Request
	closed bool
	wake   chan struct{} // room for one: the queue is no longer empty, or closed
	rotate atomic.Bool   // the segment is to end before the next record

	// Owned by the goroutine.
	seg   *segment
	off   int64  // where the next record goes
	zeros int64  // the file is written up to here
	batch uint64 // number of the last batch written
	full  bool   // seg has its end mark
	buf   []byte
	blank []byte // zeroAhead zeros
}

// maxBatchBytes bounds one write, so that its callers do not wait for more
// than a few milliseconds of disk throughput.
const maxBatchBytes = 4 << 20

func (c *committer) submit(r *Request) error {
	if err := c.log.Err(); err != nil {
		return err
	}
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return spool.ErrClosed
	}
	c.queue = append(c.queue, r)
	first := len(c.queue) == 1
	c.mu.Unlock()
	if first {
		c.nudge()
	}
	return nil
}

func (c *committer) nudge() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// close makes run end after what was submitted.
func (c *committer) close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.nudge()
}

// run is the committer's goroutine.
func (c *committer) run() {
	defer close(c.log.committed)
	var taken []*Request
	for {
		c.mu.Lock()
		taken, c.queue = c.queue, taken[:0]
		closed := c.closed
		c.mu.Unlock()
		if len(taken) == 0 {
			if closed {
				return
			}
			<-c.wake
			continue
		}
		c.commitAll(taken)
		clear(taken)
	}
}

// commitAll makes requests durable, in batches that fit a write and a segment.
func (c *committer) commitAll(reqs []*Request) {
	for len(reqs) > 0 {
		n, err := c.commit(reqs)
		switch {
		case errors.Is(err, errLogFull):
			c.withoutSpace(reqs[:max(n, 1)], err)
			n = max(n, 1)
		case err != nil:
			c.finish(reqs, c.log.Fail(err))
			return
		default:
			c.finish(reqs[:n], nil)
		}
		reqs = reqs[n:]
	}
}

// errLogFull: the disk has no room for the batch, and nothing was changed.
var errLogFull = fmt.Errorf("%w: the log cannot grow", spool.ErrNoSpace)

// commit makes the first n requests durable and visible. All errors but
// errLogFull are final.
func (c *committer) commit(reqs []*Request) (n int, err error) {
	if err := c.log.Err(); err != nil {
		return 0, err
	}
	if c.full {
		if err := c.nextSegment(); err != nil {
			return 0, err
		}
	}
	n, full, end := c.layOut(reqs)
	if err := c.write(); err != nil {
		if errors.Is(err, syscall.ENOSPC) {
			// What got there is refused, and must not come back by a crash
			// that keeps it. Without a first header there is no record.
			_, _ = c.seg.file.WriteAt(c.blank[:headerLen], c.off)
			return n, errLogFull
		}
		return n, fmt.Errorf("write log: %w", err)
	}
	// From here not even a full disk is a reason to go on: what the page cache
	// holds is no longer what the disk will hold.
	if err := c.seg.file.SyncData(); err != nil {
		return n, fmt.Errorf("sync log: %w", err)
	}
	c.off += int64(len(c.buf))
	c.zeros = max(c.zeros, c.off)
	c.full = full
	if cap(c.buf) > 2*maxBatchBytes {
		c.buf = nil
	}
	c.log.mu.Lock()
	c.seg.size = max(c.seg.size, c.zeros)
	c.log.mu.Unlock()
	return n, c.log.sink.Apply(reqs[:n], Position{Seg: c.seg.seq, Off: uint32(end), Batch: c.batch})
}

// layOut fills the buffer with the records of as many requests as go into one
// write. full tells that the segment ends with them. end is where replay goes
// on after them: at the end mark if there is one, so that it sees it.
func (c *committer) layOut(reqs []*Request) (n int, full bool, end int64) {
	c.batch++
	c.buf = c.buf[:0]
	h := header{batch: c.batch, seg: c.seg.seq, start: uint32(c.off)}
	for _, r := range reqs {
		end = c.off + int64(len(c.buf))
		full := end+r.Len()+headerLen > c.log.opts.SegmentSize || n == 0 && c.rotate.Swap(false)
		if full && end > headerLen {
			mark := header{batch: c.batch, seg: c.seg.seq, start: uint32(c.off), kind: kindEnd, off: uint32(end)}
			c.buf = mark.append(c.buf, c.log.opts.Mark)
			return n, true, end
		}
		if n > 0 && int64(len(c.buf))+r.Len() > maxBatchBytes {
			return n, false, end
		}
		r.At = Location{c.seg.seq, uint32(end)}
		h.kind, h.flags, h.id, h.off = r.Kind, 0, r.ID, uint32(end)
		if r.Copied {
			h.flags = flagCopied
		}
		h.headLen, h.bodyLen, h.headCRC, h.bodyCRC = uint32(len(r.Head)), uint32(len(r.Body)), r.HeadCRC, r.BodyCRC
		c.buf = h.appendRecord(c.buf, c.log.opts.Mark, r.Head, r.Body)
		n++
	}
	return n, false, c.off + int64(len(c.buf))
}

// write puts the buffer at the end of the log. When it fails for lack of
// space, the log ends where it did: the next batch is written over what may
// have got there, and as its number is higher, what remains behind the new end
// is not mistaken for records.
func (c *committer) write() error {
	end := c.off + int64(len(c.buf))
	if end > c.zeros && end+zeroAhead <= c.log.opts.SegmentSize {
		// It only saves time: without space it is not done.
		if n, err := c.seg.file.WriteAt(c.blank, end); err == nil {
			c.zeros = end + int64(n)
		}
	}
	_, err := c.seg.file.WriteAt(c.buf, c.off)
	return err
}

// withoutSpace is what happens to a batch that the disk has no room for:
// messages are refused, and what finishes messages that are inside is tried
// again without them.
func (c *committer) withoutSpace(reqs []*Request, cause error) {
	var keep []*Request
	for _, r := range reqs {
		if r.Kind == Batch {
			keep = append(keep, r)
		} else {
			c.finish([]*Request{r}, cause)
		}
	}
	for len(keep) > 0 {
		n, err := c.commit(keep)
		switch {
		case errors.Is(err, errLogFull):
			c.finish(keep, err)
			return
		case err != nil:
			c.finish(keep, c.log.Fail(err))
			return
		}
		c.finish(keep[:n], nil)
		keep = keep[n:]
	}
}

// nextSegment goes on in a fresh segment, waiting for it if need be.
func (c *committer) nextSegment() error {
	p := <-c.log.ready
	if p.err != nil && !errors.Is(p.err, errSync) {
		// That may have been long ago.
		p = <-c.log.ready
	}
	switch {
	case errors.Is(p.err, errSync):
		return p.err
	case p.err != nil:
		return fmt.Errorf("%w: %w", errLogFull, p.err)
	}
	c.adopt(p.seg)
	return nil
}

// adopt makes seg the one that is written.
func (c *committer) adopt(seg *segment) {
	c.log.mu.Lock()
	defer c.log.mu.Unlock()
	if c.seg != nil {
		c.seg.sealed = true
	}
	c.log.segs[seg.seq] = seg
	c.seg, c.off, c.zeros, c.full = seg, headerLen, seg.size, false
}

// finish tells requests their outcome.
func (c *committer) finish(reqs []*Request, err error) {
	for _, r := range reqs {
		if err != nil {
			c.log.sink.Refused(r)
		}
		if r.Done != nil {
			r.Done(err)
		} else {
			r.outcome <- err
		}
	}
}

// Submit queues a request; its outcome goes to Done. Requests become durable
// in the order of Submit. After an error there is no outcome.
func (l *Log) Submit(r *Request) error { return l.com.submit(r) }

// Wait submits a request and waits for its outcome, or for ctx. used is false
// when the request is still under way because ctx ended first.
func (l *Log) Wait(ctx context.Context, r *Request) (used bool, err error) {
	if r.outcome == nil {
		r.outcome = make(chan error, 1)
	}
	if err := l.com.submit(r); err != nil {
		l.sink.Refused(r)
		return true, err
	}
	if ctx.Done() == nil {
		return true, <-r.outcome
	}
	select {
	case err := <-r.outcome:
		return true, err
	case <-ctx.Done():
		return false, ctx.Err()
	}
}
