package memnet

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// bufferSize bounds what one direction holds, as a socket buffer does, so
// that a writer to a stalled peer blocks in the end.
const bufferSize = 64 << 10

const never = int64(1) << 62

// Stream is one direction of a connection.
type Stream struct {
	mu   sync.Mutex
	cond *sync.Cond

	buf       []byte // written, not yet read
	passed    int64  // bytes handed to the reader
	wrote     int64  // bytes taken from the writer
	stallAt   int64  // the reader gets no byte beyond this many
	cutAt     int64  // the connection breaks when the writer gets here
	onCut     func() // breaks the other direction too
	eof       bool   // the writer closed
	gone      bool   // the reader closed: writes fail
	reset     bool   // broken
	readStop  deadline
	writeStop deadline
}

func newStream() *Stream {
	s := &Stream{stallAt: never, cutAt: never}
	s.cond = sync.NewCond(&s.mu)
	return s
}

// deadline wakes the waiters of a stream when it passes.
type deadline struct {
	timer *time.Timer
	over  bool
	gen   int // a timer that fires late must not end a newer deadline
}

// set is called with the stream's lock held.
func (d *deadline) set(s *Stream, t time.Time) {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.gen++
	d.over = false
	switch gen, left := d.gen, time.Until(t); {
	case t.IsZero():
	case left <= 0:
		d.over = true
	default:
		d.timer = time.AfterFunc(left, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			if d.gen == gen {
				d.over = true
				s.cond.Broadcast()
			}
		})
	}
	s.cond.Broadcast()
}

// Stall holds back all bytes not yet read until Resume.
func (s *Stream) Stall() { s.with(func() { s.stallAt = s.passed }) }

// StallAfter lets n more bytes through to the reader, then stalls.
func (s *Stream) StallAfter(n int) { s.with(func() { s.stallAt = s.passed + int64(n) }) }

// Resume ends a stall.
func (s *Stream) Resume() { s.with(func() { s.stallAt = never }) }

// CutAfter breaks the whole connection once n more bytes have been written to
// this direction; the reader still gets those n unless the cut overtakes them.
func (s *Stream) CutAfter(n int) { s.with(func() { s.cutAt = s.wrote + int64(n) }) }

// Written returns how many bytes this direction took from its writer.
func (s *Stream) Written() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.wrote
}

func (s *Stream) with(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	s.cond.Broadcast()
}

func (s *Stream) read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		n := min(int64(len(s.buf)), s.stallAt-s.passed)
		switch {
		case s.gone:
			return 0, net.ErrClosed
		case s.readStop.over:
			return 0, os.ErrDeadlineExceeded
		case n > 0:
			c := copy(p, s.buf[:n])
			s.buf = append(s.buf[:0], s.buf[c:]...)
			s.passed += int64(c)
			s.cond.Broadcast()
			return c, nil
		case len(p) == 0:
			return 0, nil
		case s.reset:
			return 0, syscall.ECONNRESET
		case s.eof && len(s.buf) == 0 && s.passed < s.stallAt:
			return 0, io.EOF
		}
		s.cond.Wait()
	}
}

func (s *Stream) write(p []byte) (n int, err error) {
	cut := false
	defer func() {
		if cut {
			s.onCut()
		}
	}()
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(p) > 0 {
		room := min(bufferSize-len(s.buf), len(p))
		switch {
		case s.eof:
			return n, net.ErrClosed
		case s.reset:
			return n, syscall.ECONNRESET
		case s.gone:
			return n, syscall.EPIPE
		case s.writeStop.over:
			return n, os.ErrDeadlineExceeded
		case s.wrote >= s.cutAt:
			cut = true
			return n, syscall.ECONNRESET
		case room > 0:
			room = int(min(int64(room), s.cutAt-s.wrote))
			s.buf = append(s.buf, p[:room]...)
			p, n, s.wrote = p[room:], n+room, s.wrote+int64(room)
			s.cond.Broadcast()
		default:
			s.cond.Wait()
		}
	}
	cut = s.wrote >= s.cutAt
	return n, nil
}

func (s *Stream) breakOff() { s.with(func() { s.reset = true }) }
func (s *Stream) finish()   { s.with(func() { s.eof = true; s.writeStop.set(s, time.Time{}) }) }
func (s *Stream) leave()    { s.with(func() { s.gone = true; s.readStop.set(s, time.Time{}) }) }
