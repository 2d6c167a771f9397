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
		if !st.live(id) {
			err = spool.ErrNotFound // removed meanwhile, and its file with it
		}
		return nil, err
	}
	return c, nil
}

// live tells whether a message is in the spool.
func (st *Store) live(id mail.QueueID) bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	_, ok := st.index[id]
	return ok
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

// readHead returns the encoded envelope of a message, from the log, or from
// its row when the log cannot be read there. The caller releases the buffer
// after use of the envelope, whatever the error: spool.ErrCorrupt,
// spool.ErrNotFound or the disk's.
func (st *Store) readHead(id mail.QueueID, e entry) (*contents.Buffer, []byte, error) {
	buf, head, _, err := st.readRecord(id, e, false)
	if err == nil || e.flags&hasRow == 0 || errors.Is(err, spool.ErrNotFound) {
		return buf, head, err
	}
	if row, rowErr := st.rows.Envelope(id); rowErr == nil {
		if _, rowErr = decodeEnvelope(id, row.Enc); rowErr == nil {
			return buf, row.Enc, nil
		}
	}
	return buf, nil, err
}

// lostEnvelope is all that is known of a message whose envelope is damaged.
func lostEnvelope(id mail.QueueID) mail.Envelope {
	return mail.Envelope{ID: id, Arrival: id.Time(), Client: mail.Client{UID: -1}}
}

// readMessage returns a message in its first state, marked corrupt if its
// envelope is damaged wherever it is kept. The error is spool.ErrNotFound,
// spool.ErrFormat or the disk's: a message that cannot be read just now is not
// a damaged one, and whoever is told that it is records it for good.
func (st *Store) readMessage(id mail.QueueID, e entry) (*mail.Message, error) {
	buf, head, err := st.readHead(id, e)
	defer st.pool.Release(buf)
	env := lostEnvelope(id)
	if err == nil {
		env, err = decodeEnvelope(id, head)
	}
	if err != nil && !errors.Is(err, spool.ErrCorrupt) {
		return nil, fmt.Errorf("spool: read message %s: %w", id.Short(), err)
	}
	m := mail.NewMessage(env)
	if err != nil {
		m.State.Corrupt = err.Error()
	}
	return m, nil
}

// decodeEnvelope returns a message's envelope, or what of it can be decoded
// and an error: spool.ErrCorrupt, also when it is that of another message, or
// spool.ErrFormat.
func decodeEnvelope(id mail.QueueID, head []byte) (mail.Envelope, error) {
	env, err := spool.DecodeEnvelope(head)
	switch {
	case err == nil && env.ID != id:
		err = fmt.Errorf("%w: envelope of another message", spool.ErrCorrupt)
	case err == nil && len(env.Recipients) == 0:
		err = fmt.Errorf("%w: the envelope is lost", spool.ErrCorrupt)
	}
	env.ID = id
	return env, err
}
