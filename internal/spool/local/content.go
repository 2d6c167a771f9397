package local

import (
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"posthouse/internal/mail"
	"posthouse/internal/spool"
)

// smallContent is a content in memory.
type smallContent struct {
	st     *Store
	buf    *buffer
	body   []byte // of buf
	closed atomic.Bool
}

// Size implements spool.Content.
func (c *smallContent) Size() int64 { return int64(len(c.body)) }

// Bytes implements spool.Content. They are valid until Close.
func (c *smallContent) Bytes() []byte { return c.body }

// ReadAt implements io.ReaderAt.
func (c *smallContent) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errors.New("spool: negative offset")
	}
	if off >= int64(len(c.body)) {
		return 0, io.EOF
	}
	n := copy(p, c.body[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// Close implements spool.Content. The buffer may be used again after it.
func (c *smallContent) Close() error {
	if !c.closed.Swap(true) {
		c.st.pool.release(c.buf)
		c.body = nil
	}
	return nil
}

// Content implements spool.Store.
func (st *Store) Content(id mail.QueueID) (spool.Content, error) {
	st.mu.Lock()
	switch {
	case st.closed:
		st.mu.Unlock()
		return nil, spool.ErrClosed
	case !st.recovered:
		st.mu.Unlock()
		return nil, errNotRecovered
	}
	e, ok := st.index[id]
	if !ok {
		st.mu.Unlock()
		return nil, spool.ErrNotFound
	}
	if b := st.cache.byID[id]; b != nil {
		b.refs.Add(1)
		st.mu.Unlock()
		return &smallContent{st: st, buf: b, body: b.b}, nil
	}
	st.users++
	st.mu.Unlock()
	defer st.leave()
	buf, _, body, err := st.readRecord(id, e, true)
	if err != nil {
		if buf != nil {
			st.pool.release(buf)
		}
		return nil, err
	}
	if e.flags&isLarge == 0 {
		return &smallContent{st: st, buf: buf, body: body}, nil
	}
	defer st.pool.release(buf)
	return st.openLarge(id, body)
}

// readRecord reads a message's record, into a buffer that the caller has to
// release if it is not nil, and checks its head, and its body if wanted. The
// head is nil when it is damaged. An error is ErrCorrupt or the disk's.
func (st *Store) readRecord(id mail.QueueID, e entry, withBody bool) (buf *buffer, head, body []byte, err error) {
	st.mu.Lock()
	seg := st.segs[e.seg]
	if seg != nil {
		seg.refs++
	}
	st.mu.Unlock()
	if seg == nil {
		return nil, nil, nil, fmt.Errorf("%w: log segment %08x is missing", spool.ErrCorrupt, e.seg)
	}
	defer st.release(seg)
	n := headerLen + int64(e.head)
	if withBody {
		n += int64(e.body)
	}
	if n+int64(e.off) > max(st.opts.SegmentSize, st.segmentSize(seg)) {
		return nil, nil, nil, fmt.Errorf("%w: log segment %08x is too short", spool.ErrCorrupt, e.seg)
	}
	buf = st.pool.get(int(n))
	buf.b = buf.b[:n]
	if _, err := seg.file.ReadAt(buf.b, int64(e.off)); err != nil {
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("%w: log segment %08x ends too early", spool.ErrCorrupt, e.seg)
		}
		return buf, nil, nil, err
	}
	var h header
	if !h.parse(buf.b, st.mark, e.seg, int64(e.off)) || h.id != id || h.headLen != e.head || h.bodyLen != e.body {
		return buf, nil, nil, fmt.Errorf("%w: damaged record in log segment %08x at %d", spool.ErrCorrupt, e.seg, e.off)
	}
	head, body = buf.b[headerLen:headerLen+e.head], buf.b[headerLen+e.head:]
	if checksum(head) != h.headCRC {
		head = nil
		err = fmt.Errorf("%w: damaged envelope in log segment %08x at %d", spool.ErrCorrupt, e.seg, e.off)
	}
	if withBody && checksum(body) != h.bodyCRC {
		err = fmt.Errorf("%w: damaged content in log segment %08x at %d", spool.ErrCorrupt, e.seg, e.off)
	}
	return buf, head, body, err
}

func (st *Store) segmentSize(seg *segment) int64 {
	st.mu.Lock()
	defer st.mu.Unlock()
	return seg.size
}

// readHead returns the encoded envelope of a message, or one that holds no
// more than its ID when it cannot be read.
func (st *Store) readHead(id mail.QueueID, e entry) []byte {
	buf, head, _, err := st.readRecord(id, e, false)
	if buf != nil {
		defer st.pool.release(buf)
	}
	if err == nil {
		return append([]byte(nil), head...)
	}
	if e.flags&hasRow != 0 {
		if _, head, err := st.rows.envelope(id); err == nil {
			return head
		}
	}
	return spool.AppendEnvelope(nil, &mail.Envelope{ID: id, Arrival: id.Time(), Client: mail.Client{UID: -1}})
}

// readMessage returns a message in its first state.
func (st *Store) readMessage(id mail.QueueID, e entry) *mail.Message {
	return decodeMessage(id, st.readHead(id, e))
}

// decodeMessage returns a message in its first state, marked corrupt if head
// does not decode or is not this message's.
func decodeMessage(id mail.QueueID, head []byte) *mail.Message {
	env, err := spool.DecodeEnvelope(head)
	switch {
	case err == nil && env.ID != id:
		err = fmt.Errorf("%w: envelope of another message", spool.ErrCorrupt)
	case err == nil && len(env.Recipients) == 0:
		err = fmt.Errorf("%w: the envelope is lost", spool.ErrCorrupt)
	}
	env.ID = id
	m := mail.NewMessage(env)
	if err != nil {
		m.State.Corrupt = err.Error()
	}
	return m
}
