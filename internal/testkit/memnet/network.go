package memnet

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
)

// backlog is how many connections may wait to be accepted.
const backlog = 128

// Network is a set of addresses that can be listened on and dialed. Addresses
// are "IP:port"; names are not resolved.
type Network struct {
	mu        sync.Mutex
	listeners map[string]*Listener
	black     map[string]bool
	onConnect map[string]func(*Link)
	nextPort  int
}

// New returns an empty network.
func New() *Network {
	return &Network{
		listeners: map[string]*Listener{}, black: map[string]bool{},
		onConnect: map[string]func(*Link){}, nextPort: 32768,
	}
}

// Listener accepts connections dialed to its address.
type Listener struct {
	network *Network
	addr    *net.TCPAddr
	key     string
	queue   chan *Conn
	once    sync.Once
	done    chan struct{}
}

// Listen takes an address; port 0 picks a free one. network is "tcp".
func (n *Network) Listen(network, address string) (net.Listener, error) {
	a, err := parse(address)
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: network, Err: err}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if a.Port == 0 {
		n.nextPort++
		a.Port = n.nextPort
	}
	if n.listeners[a.String()] != nil {
		return nil, &net.OpError{Op: "listen", Net: network, Addr: a, Err: syscall.EADDRINUSE}
	}
	l := &Listener{network: n, addr: a, key: a.String(), queue: make(chan *Conn, backlog), done: make(chan struct{})}
	n.listeners[l.key] = l
	return l, nil
}

// Accept waits for the next connection.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.queue:
		return c, nil
	case <-l.done:
		return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: l.addr, Err: net.ErrClosed}
	}
}

// Close refuses further connections; waiting ones are cut.
func (l *Listener) Close() error {
	err := error(&net.OpError{Op: "close", Net: "tcp", Addr: l.addr, Err: net.ErrClosed})
	l.once.Do(func() {
		err = nil
		l.network.mu.Lock()
		delete(l.network.listeners, l.key)
		l.network.mu.Unlock()
		close(l.done)
		for {
			select {
			case c := <-l.queue:
				c.in.breakOff()
				c.out.breakOff()
			default:
				return
			}
		}
	})
	return err
}

// Addr is the address listened on.
func (l *Listener) Addr() net.Addr { return l.addr }

// OnConnect runs f on each new connection to address before either end can
// use it; nil ends that.
func (n *Network) OnConnect(address string, f func(*Link)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if f == nil {
		delete(n.onConnect, address)
		return
	}
	n.onConnect[address] = f
}

// Blackhole makes connections to address hang until the dialer gives up.
func (n *Network) Blackhole(address string, on bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.black[address] = on
}

// Dial is DialContext without a context, from 127.0.0.1.
func (n *Network) Dial(network, address string) (net.Conn, error) {
	return n.DialContext(context.Background(), network, address)
}

// DialContext connects from 127.0.0.1 and the next free port. It has the
// signature of net.Dialer.DialContext.
func (n *Network) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return n.DialFrom(ctx, "127.0.0.1", network, address)
}

// DialFrom connects from an IP address of the caller's choice.
func (n *Network) DialFrom(ctx context.Context, from, network, address string) (net.Conn, error) {
	to, err := parse(address)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Err: err}
	}
	fail := func(err error) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: to, Err: err}
	}
	src, err := netip.ParseAddr(from)
	if err != nil {
		return fail(err)
	}
	key := to.String()
	n.mu.Lock()
	black, l, hook := n.black[key], n.listeners[key], n.onConnect[key]
	n.nextPort++
	port := n.nextPort
	n.mu.Unlock()
	if black {
		<-ctx.Done()
		return fail(ctx.Err())
	}
	if err := ctx.Err(); err != nil {
		return fail(err)
	}
	if l == nil {
		return fail(syscall.ECONNREFUSED)
	}
	link := NewLink(net.TCPAddrFromAddrPort(netip.AddrPortFrom(src, uint16(port))), to)
	if hook != nil {
		hook(link)
	}
	select {
	case <-l.done:
		return fail(syscall.ECONNREFUSED)
	case <-ctx.Done():
		return fail(ctx.Err())
	case l.queue <- link.Server:
	}
	select {
	case <-l.done:
		// Close may have drained the queue before our end was in it.
		link.Cut()
	default:
	}
	return link.Client, nil
}

func parse(address string) (*net.TCPAddr, error) {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, fmt.Errorf("memnet: %w", err)
	}
	return net.TCPAddrFromAddrPort(ap), nil
}
