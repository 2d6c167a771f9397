package server

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"posthouse/internal/postfix/maillog"
)

// Deps is what a Server needs from the world.
type Deps struct {
	Log      maillog.Logger // required
	Resolver Resolver       // nil: no client has a name
}

// Listener says what a connection came in through.
type Listener struct {
	Service string // name in the log: "smtpd", "submission/smtpd"
	Name    string // name in warnings about limits, as in master.cf: "smtp", "127.0.0.1:2525"
	Key     string // what Acceptors know it by (Peer.Listener)
}

// readBuffer is the size of a session's read buffer: a command line, or a
// small message whole.
const readBuffer = 8192

// Server runs sessions. Its methods are safe for concurrent use.
type Server struct {
	acc      Acceptor
	deps     Deps
	settings atomic.Pointer[settings]
	gate     *gate
	clients  clientCounts
	readers  sync.Pool // of *bufio.Reader, readBuffer large
	buffers  sync.Pool // of *[]byte, for replies

	base     context.Context // of all sessions that Serve began; ends when they are cut off
	cut      context.CancelFunc
	draining chan struct{} // closed when Shutdown begins

	mu        sync.Mutex
	stopped   bool // Shutdown began
	listeners map[net.Listener]struct{}
	sessions  map[*session]struct{}
	empty     chan struct{} // closed when sessions became empty after stopped
}

// New returns a Server that asks acc about mail.
func New(cfg Config, acc Acceptor, deps Deps) *Server {
	s := &Server{
		acc:       acc,
		deps:      deps,
		gate:      newGate(cfg.MaxSessions),
		clients:   clientCounts{n: make(map[netip.Addr]int)},
		draining:  make(chan struct{}),
		listeners: make(map[net.Listener]struct{}),
		sessions:  make(map[*session]struct{}),
		empty:     make(chan struct{}),
	}
	s.readers.New = func() any { return bufio.NewReaderSize(nil, readBuffer) }
	s.buffers.New = func() any { b := make([]byte, 0, 1024); return &b }
	s.base, s.cut = context.WithCancel(context.Background())
	s.settings.Store(newSettings(cfg))
	return s
}

// Reconfigure makes cfg apply to sessions that begin from now on.
func (s *Server) Reconfigure(cfg Config) {
	s.settings.Store(newSettings(cfg))
	s.gate.resize(cfg.MaxSessions)
}

// Sessions is how many sessions there are.
func (s *Server) Sessions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sessions)
}

// Serve accepts connections until ctx ends, Shutdown is called or the
// listener fails, and closes the listener. Sessions outlive it: Shutdown ends
// them. The error is the listener's, nil in the other cases.
func (s *Server) Serve(ctx context.Context, l net.Listener, opt Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.mu.Lock()
	if s.stopped {
		s.mu.Unlock()
		return l.Close()
	}
	s.listeners[l] = struct{}{}
	s.mu.Unlock()
	stopClose := context.AfterFunc(ctx, func() { _ = l.Close() })
	stopDrain := context.AfterFunc(s.base, cancel)
	defer func() {
		stopClose()
		stopDrain()
		_ = l.Close()
		s.mu.Lock()
		delete(s.listeners, l)
		s.mu.Unlock()
	}()
	return s.accept(ctx, l, opt)
}

func (s *Server) accept(ctx context.Context, l net.Listener, opt Listener) error {
	pause := time.Duration(0)
	for {
		// A place is taken first, so that clients beyond the limit wait in
		// the kernel's queue, as they do at Postfix's process limit.
		if s.gate.enter(ctx) != nil {
			return nil
		}
		conn, err := l.Accept()
		if err != nil {
			s.gate.leave()
			if ctx.Err() != nil || s.isStopped() {
				return nil
			}
			var ne net.Error
			if !errors.As(err, &ne) || errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("accept connection: %w", err)
			}
			// Out of file descriptors, most likely: it passes.
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			s.deps.Log.Log(opt.Service, maillog.Warning, maillog.Text("accept connection: "+err.Error()))
			sleep(ctx, s.draining, pause)
			continue
		}
		pause = 0
		go func() {
			defer s.gate.leave()
			s.serve(s.base, conn, opt)
		}()
	}
}

// ServeConn runs a session on conn and returns when it is over, with conn
// closed. It does not count against MaxSessions. When ctx ends the session is
// cut off.
func (s *Server) ServeConn(ctx context.Context, conn net.Conn, opt Listener) {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	s.serve(ctx, conn, opt)
}

func (s *Server) serve(ctx context.Context, conn net.Conn, opt Listener) {
	se := newSession(ctx, s, conn, opt)
	s.mu.Lock()
	if s.stopped {
		se.stopping = true
	}
	s.sessions[se] = struct{}{}
	s.mu.Unlock()
	se.run()
	s.mu.Lock()
	delete(s.sessions, se)
	if s.stopped && len(s.sessions) == 0 {
		s.closeEmpty()
	}
	s.mu.Unlock()
}

// closeEmpty tells Shutdown that there are no sessions left. s.mu is held.
func (s *Server) closeEmpty() {
	select {
	case <-s.empty:
	default:
		close(s.empty)
	}
}

func (s *Server) isStopped() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopped
}

// Shutdown closes the listeners, tells sessions that wait for a command 421,
// lets those that receive content finish it and have their answer, and
// returns when all are gone. When ctx ends first, the rest is cut off, and
// the error is the context's.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	if !s.stopped {
		s.stopped = true
		close(s.draining)
	}
	for l := range s.listeners {
		_ = l.Close()
	}
	for se := range s.sessions {
		se.stop()
	}
	if len(s.sessions) == 0 {
		s.closeEmpty()
	}
	s.mu.Unlock()
	defer s.cut()
	select {
	case <-s.empty:
		return nil
	case <-ctx.Done():
	}
	s.cut()
	s.mu.Lock()
	for se := range s.sessions {
		se.abandon()
	}
	s.mu.Unlock()
	<-s.empty
	return ctx.Err()
}

// sleep waits for d, less when something ends before.
func sleep(ctx context.Context, stop <-chan struct{}, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-stop:
	case <-ctx.Done():
	}
}
