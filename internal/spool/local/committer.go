package local

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"

	"posthouse/internal/mail"
	"posthouse/internal/spool"
)

// request is one record on its way into the log.
type request struct {
	kind    uint8
	flags   uint8
	id      mail.QueueID
	rcpts   int
	head    []byte
	content *buffer // body of a kindMessage; the request holds it
	body    []byte  // body of other kinds
	headCRC uint32
	bodyCRC uint32
	size    int64        // of a large content
	ops     *spool.Batch // kindBatch
	from    location     // flagCopied: where the message was
	done    func(error)  // called with the outcome, or
	outcome chan error   // it is sent here; room for one

	off int64 // in the segment; set by the committer
}

func (r *request) bytes() []byte {
	if r.content != nil {
		return r.content.b
	}
	return r.body
}

func (r *request) recordLen() int64 { return recordLen(int64(len(r.head)), int64(len(r.bytes()))) }

// committer turns requests into log records. See the package comment.
type committer struct {
	st *Store

	mu     sync.Mutex
	queue  []*request
	closed bool
	wake   chan struct{} // room for one: the queue is no longer empty, or closed

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

// submit queues a request. Requests become durable in the order of submit.
func (c *committer) submit(r *request) error {
	if err := c.st.Err(); err != nil {
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
	defer close(c.st.committed)
	var taken []*request
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
func (c *committer) commitAll(reqs []*request) {
	for len(reqs) > 0 {
		n, err := c.commit(reqs)
		switch {
		case errors.Is(err, errLogFull):
			c.withoutSpace(reqs[:max(n, 1)])
			n = max(n, 1)
		case err != nil:
			c.st.fail(err)
			c.finish(reqs, c.st.Err())
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
func (c *committer) commit(reqs []*request) (n int, err error) {
	if err := c.st.Err(); err != nil {
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
	return n, c.st.applyBatch(c.seg, reqs[:n], position{seg: c.seg.seq, off: uint32(end), batch: c.batch})
}

// layOut fills the buffer with the records of as many requests as go into one
// write. full tells that the segment ends with them. end is where replay goes
// on after them: at the end mark if there is one, so that it sees it.
func (c *committer) layOut(reqs []*request) (n int, full bool, end int64) {
	c.batch++
	c.buf = c.buf[:0]
	h := header{batch: c.batch, seg: c.seg.seq, start: uint32(c.off)}
	for _, r := range reqs {
		end = c.off + int64(len(c.buf))
		if end+r.recordLen()+headerLen > c.st.opts.SegmentSize && end > headerLen {
			mark := header{batch: c.batch, seg: c.seg.seq, start: uint32(c.off), kind: kindEnd, off: uint32(end)}
			c.buf = mark.append(c.buf, c.st.mark)
			return n, true, end
		}
		if n > 0 && int64(len(c.buf))+r.recordLen() > maxBatchBytes {
			return n, false, end
		}
		r.off = end
		h.kind, h.flags, h.id, h.off = r.kind, r.flags, r.id, uint32(end)
		h.headLen, h.bodyLen, h.headCRC, h.bodyCRC = uint32(len(r.head)), uint32(len(r.bytes())), r.headCRC, r.bodyCRC
		c.buf = h.appendRecord(c.buf, c.st.mark, r.head, r.bytes())
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
	if end > c.zeros && end+zeroAhead <= c.st.opts.SegmentSize {
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
func (c *committer) withoutSpace(reqs []*request) {
	var keep []*request
	for _, r := range reqs {
		if r.kind == kindBatch {
			keep = append(keep, r)
		} else {
			c.finish([]*request{r}, errLogFull)
		}
	}
	for len(keep) > 0 {
		n, err := c.commit(keep)
		switch {
		case errors.Is(err, errLogFull):
			c.finish(keep, err)
			return
		case err != nil:
			c.st.fail(err)
			c.finish(keep, c.st.Err())
			return
		}
		c.finish(keep[:n], nil)
		keep = keep[n:]
	}
}

// nextSegment goes on in a fresh segment, waiting for it if need be.
func (c *committer) nextSegment() error {
	p := <-c.st.segReady
	if errors.Is(p.err, syscall.ENOSPC) {
		return errLogFull
	}
	if p.err != nil {
		return p.err
	}
	c.adopt(p.seg)
	return nil
}

// adopt makes seg the one that is written.
func (c *committer) adopt(seg *segment) {
	st := c.st
	st.mu.Lock()
	defer st.mu.Unlock()
	if c.seg != nil {
		c.seg.size = max(c.seg.size, c.zeros)
		c.seg.sealed = true
		c.seg.refs--
	}
	st.segs[seg.seq] = seg
	seg.refs++
	c.seg, c.off, c.zeros, c.full = seg, headerLen, seg.size, false
}

// finish tells requests their outcome.
func (c *committer) finish(reqs []*request, err error) {
	for _, r := range reqs {
		if r.content != nil && err != nil {
			c.st.pool.release(r.content)
			r.content = nil
		}
		if r.done != nil {
			r.done(err)
		} else {
			r.outcome <- err
		}
	}
}

// wait submits r and waits for its outcome, or for ctx.
func (c *committer) wait(ctx context.Context, r *request) error {
	r.outcome = make(chan error, 1)
	if err := c.submit(r); err != nil {
		if r.content != nil {
			c.st.pool.release(r.content)
		}
		return err
	}
	if ctx.Done() == nil {
		return <-r.outcome
	}
	select {
	case err := <-r.outcome:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
