package memnet

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// Conn is one end of a connection.
type Conn struct {
	in, out       *Stream
	local, remote net.Addr

	mu     sync.Mutex
	closed bool
}

var _ net.Conn = (*Conn)(nil)

func (c *Conn) wrap(op string, err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	return &net.OpError{Op: op, Net: "tcp", Source: c.local, Addr: c.remote, Err: err}
}

// Read reads what the peer wrote; io.EOF after it closed.
func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.in.read(p)
	return n, c.wrap("read", err)
}

// Write blocks while the peer does not read and the buffer is full.
func (c *Conn) Write(p []byte) (int, error) {
	n, err := c.out.write(p)
	return n, c.wrap("write", err)
}

// CloseWrite ends our direction; the peer reads io.EOF.
func (c *Conn) CloseWrite() error {
	c.out.finish()
	return nil
}

// Close ends both directions. What was written can still be read by the peer.
func (c *Conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return c.wrap("close", net.ErrClosed)
	}
	c.closed = true
	c.out.finish()
	c.in.leave()
	return nil
}

// LocalAddr is this end's address.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr is the other end's address.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline sets both deadlines.
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline ends waiting reads at t; the zero time means never.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.in.with(func() { c.in.readStop.set(c.in, t) })
	return nil
}

// SetWriteDeadline ends waiting writes at t; the zero time means never.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.out.with(func() { c.out.writeStop.set(c.out, t) })
	return nil
}

// Link is a connection seen from outside, to inject faults.
type Link struct {
	Client   *Conn   // the dialing end
	Server   *Conn   // the accepting end
	ToServer *Stream // bytes from client to server
	ToClient *Stream // bytes from server to client
}

// Cut breaks the connection: both ends get ECONNRESET, after reading what had
// already arrived.
func (l *Link) Cut() {
	l.ToServer.breakOff()
	l.ToClient.breakOff()
}

// Stall silences both directions.
func (l *Link) Stall() {
	l.ToServer.Stall()
	l.ToClient.Stall()
}

// NewLink returns a connection between two addresses that belongs to no
// Network.
func NewLink(client, server net.Addr) *Link {
	up, down := newStream(), newStream()
	l := &Link{
		Client:   &Conn{in: down, out: up, local: client, remote: server},
		Server:   &Conn{in: up, out: down, local: server, remote: client},
		ToServer: up, ToClient: down,
	}
	up.onCut, down.onCut = l.Cut, l.Cut
	return l
}

// Pipe returns the two ends of a new connection, 127.0.0.1 on both sides.
func Pipe() (client, server *Conn) {
	home := net.IPv4(127, 0, 0, 1)
	l := NewLink(&net.TCPAddr{IP: home, Port: 40000}, &net.TCPAddr{IP: home, Port: 25})
	return l.Client, l.Server
}
