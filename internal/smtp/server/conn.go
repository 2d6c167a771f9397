package server

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Why a session's input ended.
var (
	errDraining = errors.New("server is shutting down")
	errTimeout  = errors.New("timeout")
	errLineLong = errors.New("endless command line")
)

// waiting says what a session reads.
type waiting uint8

const (
	forCommand waiting = iota // may be interrupted by Shutdown
	forContent
)

// Read is where a session waits for its client: the read buffer is empty.
// So this is the moment to send what was replied so far, in one write, and to
// set the clock. One SetDeadline serves both.
func (s *session) Read(p []byte) (int, error) {
	deadline := s.deadline(time.Now())
	s.mu.Lock()
	if s.stopping && s.waits == forCommand {
		s.mu.Unlock()
		s.readErr = errDraining
		return 0, errDraining
	}
	s.idle = s.waits == forCommand
	_ = s.conn.SetDeadline(deadline)
	conn := s.conn
	s.mu.Unlock()

	n, err := 0, s.writeOut()
	if err == nil {
		n, err = conn.Read(p)
		s.received += int64(n)
	}
	s.mu.Lock()
	s.idle = false
	stopping := s.stopping && s.waits == forCommand
	s.mu.Unlock()
	switch {
	case n > 0 || err == nil:
		return n, nil // an error will come again
	case !errors.Is(err, os.ErrDeadlineExceeded):
		s.readErr = err
	case stopping:
		s.readErr = errDraining
	default:
		s.readErr = errTimeout
	}
	return 0, s.readErr
}

// deadline is when the present wait must be over. A command line has the
// timeout as a whole, so that a client cannot stay for ever by sending a byte
// now and then. Content has it anew for each read, but in the end must come
// at the minimal rate.
func (s *session) deadline(now time.Time) time.Time {
	d := now.Add(s.cfg.Timeout)
	if s.waits == forCommand {
		if s.began.IsZero() {
			s.began = now
		}
		return s.began.Add(s.cfg.Timeout)
	}
	if s.began.IsZero() {
		s.began, s.received = now, 0
	}
	if s.cfg.MinDataRate > 0 {
		last := s.began.Add(s.cfg.Timeout + time.Duration(float64(s.received)/float64(s.cfg.MinDataRate)*float64(time.Second)))
		if last.Before(d) {
			return last
		}
	}
	return d
}

// wait says what the next reads are for.
func (s *session) wait(w waiting) { s.waits, s.began = w, time.Time{} }

// readLine returns the next command line without its line end, valid until
// the next read. tooLong: the line was longer than allowed, and what is
// returned is its beginning. bare: it ended in an LF alone.
func (s *session) readLine() (line []byte, bare, tooLong bool, err error) {
	s.wait(forCommand)
	line, err = s.br.ReadSlice('\n')
	if err == nil && len(line) <= s.cfg.MaxLine {
		n := len(line) - 1
		if n > 0 && line[n-1] == '\r' {
			return line[:n-1], false, false, nil
		}
		return line[:n], true, false, nil
	}
	if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
		return nil, false, false, err
	}
	keep := append([]byte(nil), line[:min(len(line), 100)]...)
	for skipped := len(line); errors.Is(err, bufio.ErrBufferFull); skipped += len(line) {
		if skipped > 1<<20 {
			return keep, false, true, errLineLong
		}
		line, err = s.br.ReadSlice('\n')
	}
	return keep, false, true, err
}

// writeOut sends the replies that wait. The deadline is set.
func (s *session) writeOut() error {
	if len(s.out) == 0 {
		return nil
	}
	_, err := s.conn.Write(s.out)
	s.out = s.out[:0]
	return err
}

// flush sends the replies that wait, when the session does not go on reading.
func (s *session) flush() error {
	if len(s.out) == 0 {
		return nil
	}
	_ = s.conn.SetWriteDeadline(time.Now().Add(s.cfg.Timeout))
	return s.writeOut()
}

// stop makes the session end with 421 as soon as it waits for a command.
func (s *session) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopping = true
	if s.idle {
		_ = s.conn.SetReadDeadline(time.Unix(1, 0))
	}
}

// abandon cuts the connection.
func (s *session) abandon() {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.raw.Close()
}

// closeConn ends the connection. When the client may still be sending, a
// plain close would make the kernel send a reset, which can destroy our last
// reply before the client reads it; so we half close and listen a little.
func (s *session) closeConn(clientSends bool) {
	if tc, ok := s.conn.(*tls.Conn); ok {
		_ = tc.SetWriteDeadline(time.Now().Add(time.Second))
		_ = tc.CloseWrite()
	}
	if tcp, ok := s.raw.(*net.TCPConn); ok && clientSends {
		_ = tcp.CloseWrite()
		_ = tcp.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
		_, _ = io.CopyN(io.Discard, tcp, 256<<10)
	}
	s.abandon()
}

// startTLS shakes hands. What the client sent in the clear after STARTTLS is
// thrown away, or it would pass for something said under TLS (RFC 3207 §4.2).
func (s *session) startTLS(ctx context.Context) error {
	if err := s.flush(); err != nil {
		return err
	}
	s.br.Reset(s)
	tc := tls.Server(s.raw, s.cfg.tls)
	ctx, cancel := context.WithTimeout(ctx, s.cfg.TLSTimeout)
	defer cancel()
	_ = s.raw.SetDeadline(time.Time{}) // the context has the clock
	if err := tc.HandshakeContext(ctx); err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			return errTimeout
		}
		return err
	}
	s.mu.Lock()
	s.conn = tc
	s.mu.Unlock()
	return nil
}

// early returns what a client has sent before it was greeted. It does not
// wait. On connections that are not sockets nothing can be seen without
// taking it, and the result is nil.
func early(conn net.Conn) []byte {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return nil
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	var buf [256]byte
	n := 0
	_ = rc.Read(func(fd uintptr) bool {
		n, _, err = unix.Recvfrom(int(fd), buf[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		return true
	})
	if err != nil || n <= 0 {
		return nil
	}
	return buf[:n]
}
