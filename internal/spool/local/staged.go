package local

import (
	"errors"
	"fmt"
	"syscall"

	"posthouse/internal/spool"
	"posthouse/internal/spool/local/contents"
	"posthouse/internal/spool/local/seglog"
)

// staged is a content on its way in: in memory until it is larger than
// Options.LargeSize, then in a file.
type staged struct {
	st   *Store
	buf  *contents.Buffer // nil before the first byte and after the end
	file *contents.Writer // nil while small
	size int64
	hint int   // announced size, bounded
	err  error // of an earlier write: the content is not whole
}

// defaultHint is the buffer for a content whose size was not announced.
const defaultHint = 4 << 10

// Stage implements spool.Store.
func (st *Store) Stage(size int64) (spool.Staged, error) {
	st.mu.Lock()
	closed := st.closed
	st.mu.Unlock()
	if closed {
		return nil, spool.ErrClosed
	}
	if err := st.Err(); err != nil {
		return nil, err
	}
	if err := st.space.check(max(size, 0)); err != nil {
		st.wakeJanitor()
		return nil, err
	}
	s := &staged{st: st, hint: defaultHint}
	if size > 0 && size <= st.opts.LargeSize {
		// Room for the headers that intake puts in front.
		s.hint = int(size) + 512
	}
	return s, nil
}

// Size implements spool.Staged.
func (s *staged) Size() int64 { return s.size }

// Write implements spool.Staged.
func (s *staged) Write(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	if s.file == nil && s.size+int64(len(p)) > s.st.opts.LargeSize {
		if err := s.spill(); err != nil {
			return 0, s.fail(err)
		}
	}
	if s.file != nil {
		if _, err := s.file.Write(p); err != nil {
			return 0, s.fail(err)
		}
		s.size += int64(len(p))
		return len(p), nil
	}
	if s.buf == nil {
		s.buf = s.st.pool.Get(max(s.hint, len(p)))
	} else if len(s.buf.B)+len(p) > cap(s.buf.B) {
		s.buf = s.st.pool.Grow(s.buf, len(p))
	}
	s.buf.B = append(s.buf.B, p...)
	s.size += int64(len(p))
	return len(p), nil
}

func (s *staged) fail(err error) error {
	if errors.Is(err, syscall.ENOSPC) {
		err = fmt.Errorf("%w: %w", spool.ErrNoSpace, err)
	}
	s.err = err
	return err
}

// spill goes over to a file, beginning with what is in memory.
func (s *staged) spill() error {
	w, err := s.st.largeDir.Create()
	if err != nil {
		return err
	}
	s.file = w
	if s.buf != nil {
		_, err = w.Write(s.buf.B)
		s.st.pool.Release(s.buf)
		s.buf = nil
	}
	return err
}

// Discard implements spool.Staged.
func (s *staged) Discard() {
	if s.buf != nil {
		s.st.pool.Release(s.buf)
		s.buf = nil
	}
	if s.file != nil {
		s.file.Discard()
		s.file = nil
	}
	if s.err == nil {
		s.err = errors.New("spool: staged content was used up")
	}
}

// take returns the content in memory, which the caller then holds.
func (s *staged) take() *contents.Buffer {
	b := s.buf
	if b == nil {
		b = s.st.pool.Get(0) // an empty message
	}
	s.buf = nil
	return b
}

// keepLarge gives a large content its name and fills in r.
func (s *staged) keepLarge(r *request) error {
	w := s.file
	s.file = nil
	ref, err := w.Keep(r.log.ID)
	if err != nil {
		return s.fail(err)
	}
	r.log.Kind, r.log.Body = seglog.Large, ref
	return nil
}
