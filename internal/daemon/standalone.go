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
	return &stdioConn{in: in, out: out, done: make(chan struct{})}
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
