package local

import (
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"posthouse/internal/mail"
	"posthouse/internal/spool"
	"posthouse/internal/spool/local/contents"
	"posthouse/internal/spool/local/seglog"
)

// smallContent is a content in memory.
type smallContent struct {
	st     *Store
	buf    *contents.Buffer
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
		c.st.pool.Release(c.buf)
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
	if b := st.cache.Get(id); b != nil {
		st.mu.Unlock()
		return &smallContent{st: st, buf: b, body: b.B}, nil
	}
	st.users++
	st.mu.Unlock()
	defer st.leave()
	buf, _, body, err := st.readRecord(id, e, true)
	if err != nil {
		st.pool.Release(buf)
		return nil, err
	}
	if e.flags&isLarge == 0 {
		return &smallContent{st: st, buf: buf, body: body}, nil
	}
	defer st.pool.Release(buf)
	c, err := st.largeDir.Open(id, body)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// readRecord reads a message's record, with its body if wanted, into a buffer
// that the caller has to release, whatever the error. A failure counts only
// while the message is where it was looked for: when it has been moved since,
// the segment that it left may be gone.
func (st *Store) readRecord(id mail.QueueID, e entry, withBody bool) (buf *contents.Buffer, head, body []byte, err error) {
	for {
		if buf, head, body, err = st.readAt(id, e, withBody); err == nil {
			return buf, head, body, nil
		}
		st.mu.Lock()
		now, live := st.index[id]
		if !live && st.recovered {
			err = spool.ErrNotFound
		}
		st.mu.Unlock()
		if !live || now.at == e.at {
			return buf, head, body, err
		}
		st.pool.Release(buf)
		e.at = now.at
	}
}

func (st *Store) readAt(id mail.QueueID, e entry, withBody bool) (buf *contents.Buffer, head, body []byte, err error) {
	n := seglog.ReadLen(e.head, 0)
	if withBody {
		n = seglog.ReadLen(e.head, e.body)
	}
	if reason := st.log.Missing(e.at, n); reason != "" {
		return st.pool.Get(0), nil, nil, fmt.Errorf("%w: %s", spool.ErrCorrupt, reason)
	}
	buf = st.pool.Get(int(n))
	buf.B = buf.B[:n]
	head, body, err = st.log.Read(buf.B, e.at, id, e.head, e.body)
	return buf, head, body, err
}

// readHead returns the encoded envelope of a message, or one that holds no
// more than its ID when it cannot be read. The caller releases the buffer
// after use of the envelope.
func (st *Store) readHead(id mail.QueueID, e entry) (*contents.Buffer, []byte) {
	buf, head, _, err := st.readRecord(id, e, false)
	if err == nil {
		return buf, head
	}
	if e.flags&hasRow != 0 {
		if row, err := st.rows.Envelope(id); err == nil {
			return buf, row.Enc
		}
	}
	return buf, spool.AppendEnvelope(nil, &mail.Envelope{ID: id, Arrival: id.Time(), Client: mail.Client{UID: -1}})
}

// readMessage returns a message in its first state.
func (st *Store) readMessage(id mail.QueueID, e entry) *mail.Message {
	buf, head := st.readHead(id, e)
	defer st.pool.Release(buf)
	return decodeMessage(id, head)
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
