package daemon

import (
	"context"
	"io"
	"net"
	"sync"
	"time"
)

// stdioConn makes a connection of a pair of streams, for SMTP on standard
// input and output. Deadlines are not kept: the caller of sendmail -bs is a
// program of this host that can end it.
type stdioConn struct {
	in   io.Reader
	out  io.Writer
	once sync.Once
	done chan struct{} // closed by Close
}

func newStdioConn(in io.Reader, out io.Writer) *stdioConn {
	return &stdioConn{in: &crlfReader{in: in}, out: out, done: make(chan struct{})}
}

// crlfReader makes CRLF of every line end. A program that pipes SMTP into
// sendmail -bs ends its lines as files do, and since it is a local user's own
// input, no one can be smuggled past by taking that for what it means.
type crlfReader struct {
	in      io.Reader
	buf     [4096]byte
	pending []byte // read and not yet given out
	cr      bool   // the last byte given out was CR
}

// Read fills p.
func (r *crlfReader) Read(p []byte) (int, error) {
	if len(r.pending) == 0 {
		n, err := r.in.Read(r.buf[:])
		if n == 0 {
			return 0, err
		}
		r.pending = r.buf[:n]
	}
	n := 0
	for n < len(p) && len(r.pending) > 0 {
		c := r.pending[0]
		if c == '\n' && !r.cr {
			p[n], r.cr = '\r', true
			n++
			continue
		}
		p[n], r.cr = c, c == '\r'
		r.pending = r.pending[1:]
		n++
	}
	return n, nil
}

// Read reads from standard input.
func (c *stdioConn) Read(p []byte) (int, error) {
	select {
	case <-c.done:
		return 0, net.ErrClosed
	default:
		return c.in.Read(p)
	}
}

// Write writes to standard output.
func (c *stdioConn) Write(p []byte) (int, error) {
	select {
	case <-c.done:
		return 0, net.ErrClosed
	default:
		return c.out.Write(p)
	}
}

// Close makes further reads and writes fail.
func (c *stdioConn) Close() error {
	c.once.Do(func() { close(c.done) })
	return nil
}

// LocalAddr stands for this host.
func (c *stdioConn) LocalAddr() net.Addr { return stdioAddr{} }

// RemoteAddr stands for the local user.
func (c *stdioConn) RemoteAddr() net.Addr { return stdioAddr{} }

// SetDeadline does nothing; see the type.
func (c *stdioConn) SetDeadline(time.Time) error { return nil }

// SetReadDeadline does nothing; see the type.
func (c *stdioConn) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline does nothing; see the type.
func (c *stdioConn) SetWriteDeadline(time.Time) error { return nil }

type stdioAddr struct{}

// Network is "stdio".
func (stdioAddr) Network() string { return "stdio" }

// String is "stdio".
func (stdioAddr) String() string { return "stdio" }

var _ net.Conn = (*stdioConn)(nil)

// StandaloneSMTP is one SMTP session over a pair of streams for a local user
// (sendmail -bs). What it takes goes to the maildrop, so that it works while
// no relay runs.
func StandaloneSMTP(ctx context.Context, configDir string, in io.Reader, out io.Writer) error {
	s, err := load(configDir, io.Discard)
	if err != nil {
		return err
	}
	if err := s.paths.create(); err != nil {
		return err
	}
	newDropAcceptor(s).serve(ctx, newStdioConn(in, out))
	return nil
}
