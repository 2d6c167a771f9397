package sink

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Extension is a set of ESMTP extensions to offer.
type Extension uint16

// The extensions. STARTTLS is offered when Config.TLS is set.
const (
	Pipelining Extension = 1 << iota
	Size
	EightBit // 8BITMIME
	UTF8     // SMTPUTF8
	DSN
	EnhancedCodes
	NoESMTP // refuse EHLO altogether

	// AllExtensions is what a modern server offers.
	AllExtensions = Pipelining | Size | EightBit | UTF8 | DSN | EnhancedCodes
)

// ErrClosed is returned by calls on a closed server.
var ErrClosed = errors.New("sink: server closed")

// Config is how a sink is set up. The zero Config accepts everything and
// offers no extension.
type Config struct {
	Hostname    string                 // in the greeting and the EHLO reply; "" means "sink.example"
	LMTP        bool                   // speak LMTP (RFC 2033): LHLO, and one final reply per recipient
	Extensions  Extension              // to offer
	MaxSize     int64                  // announced with SIZE, and refused with 552 at MAIL; 0 means no limit
	TLS         *tls.Config            // offer STARTTLS with it; nil does not
	Default     Personality            // of listeners opened with Listen
	Domains     map[string]Personality // by recipient domain, lower case; ".example.com" also means its subdomains
	Ledger      func(Delivery)         // called for each accepted message before its 250; from many goroutines
	KeepContent bool                   // put the content into Delivery.Content
	Now         func() time.Time       // the clock of greylisting and throttling; nil means time.Now
}

// Delivery is one accepted message, as the Ledger sees it. It may be kept.
type Delivery struct {
	Client     string   // address and port of the peer
	Listener   string   // address and port it connected to
	Helo       string   // the peer's name for itself
	TLS        bool     // came over STARTTLS
	Mail       string   // the MAIL command line, parameters included
	Sender     string   // without angle brackets
	Rcpts      []string // the RCPT command lines of accepted recipients
	Recipients []string // without angle brackets
	MessageID  string   // of the header, with angle brackets; "" when there is none
	Test       string   // of the X-Test header
	Size       int64    // bytes of content, dots unstuffed, CRLF line ends counted as sent
	Hash       [32]byte // SHA-256 of the content, dots unstuffed
	BareNL     bool     // the content has an LF without CR or a CR without LF
	Content    []byte   // nil unless Config.KeepContent
}

// Server is a running sink. Its methods may be called from any goroutine.
type Server struct {
	cfg     Config
	domains map[string]*persona
	total   tally
	readers sync.Pool // of *[readSize]byte
	ctx     context.Context
	stop    context.CancelFunc
	wg      sync.WaitGroup
	target  atomic.Int64 // message count at which waiters want to be woken; 0 when nobody waits

	mu        sync.Mutex
	closed    bool
	personas  []*persona // of listeners and domains, for Counters
	listeners map[net.Listener]struct{}
	conns     map[net.Conn]struct{}
	reached   chan struct{} // closed and replaced when target is reached
}

// New returns a server that does not listen yet.
func New(cfg Config) (*Server, error) {
	if cfg.Hostname == "" {
		cfg.Hostname = "sink.example"
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := &Server{
		cfg: cfg, domains: map[string]*persona{}, reached: make(chan struct{}),
		listeners: map[net.Listener]struct{}{}, conns: map[net.Conn]struct{}{},
	}
	s.readers.New = func() any { return new([readSize]byte) }
	s.ctx, s.stop = context.WithCancel(context.Background())
	for domain, p := range cfg.Domains {
		if domain != strings.ToLower(domain) || domain == "" {
			return nil, fmt.Errorf("%w: domain %q is not lower case", ErrPersonality, domain)
		}
		if p.Name == "" {
			p.Name = domain
		}
		s.domains[domain] = newPersona(p, cfg.Now)
		s.personas = append(s.personas, s.domains[domain])
	}
	return s, nil
}

// Listen opens a TCP address ("127.0.0.1:0") or a unix socket ("unix:/path")
// with the default personality, and serves it in the background.
func (s *Server) Listen(address string) (net.Addr, error) {
	return s.ListenAs(address, s.cfg.Default)
}

// ListenAs is Listen with a personality of its own.
func (s *Server) ListenAs(address string, p Personality) (net.Addr, error) {
	network := "tcp"
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		network, address = "unix", path
	}
	l, err := net.Listen(network, address)
	if err != nil {
		return nil, err
	}
	if err := s.Serve(l, p); err != nil {
		return nil, err
	}
	return l.Addr(), nil
}

// Serve takes connections from l in the background, and closes l when the
// server is closed.
func (s *Server) Serve(l net.Listener, p Personality) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errors.Join(ErrClosed, l.Close())
	}
	pers := newPersona(p, s.cfg.Now)
	s.personas = append(s.personas, pers)
	s.listeners[l] = struct{}{}
	s.wg.Go(func() { s.accept(l, pers) })
	return nil
}

func (s *Server) accept(l net.Listener, p *persona) {
	for {
		c, err := l.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) || s.ctx.Err() != nil {
				return
			}
			// Out of descriptors: the next connection may find one free.
			if !s.pause(10 * time.Millisecond) {
				return
			}
			continue
		}
		if !s.track(c) {
			c.Close()
			return
		}
		s.wg.Go(func() {
			defer s.untrack(c)
			s.session(c, p)
		})
	}
}

func (s *Server) track(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.conns[c] = struct{}{}
	return true
}

func (s *Server) untrack(c net.Conn) {
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
	c.Close()
}

// pause waits d and tells whether the server is still open.
func (s *Server) pause(d time.Duration) bool {
	if d <= 0 {
		return s.ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.ctx.Done():
		return false
	}
}

// Close closes all listeners and cuts all connections, and returns when their
// goroutines have ended.
func (s *Server) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return ErrClosed
	}
	s.closed = true
	s.stop()
	for l := range s.listeners {
		l.Close()
	}
	for c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
	return nil
}

// Counters returns what happened so far, over all personalities.
func (s *Server) Counters() Counts { return s.total.counts() }

// ByPersonality returns what happened so far for each personality by its
// name. Domains count only what they were asked: recipients and refusals.
func (s *Server) ByPersonality() map[string]Counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := make(map[string]Counts, len(s.personas))
	for _, p := range s.personas {
		m[p.Name] = m[p.Name].plus(p.counts())
	}
	return m
}

// WaitMessages returns when n messages have been accepted since the start, or
// ctx ends, or the server is closed.
func (s *Server) WaitMessages(ctx context.Context, n int64) error {
	for {
		s.mu.Lock()
		reached := s.reached
		if t := s.target.Load(); t == 0 || n < t {
			s.target.Store(n)
		}
		s.mu.Unlock()
		// Looking after the target is set cannot miss the message that reaches it.
		if s.total.messages.Load() >= n {
			return nil
		}
		select {
		case <-reached:
		case <-ctx.Done():
			return ctx.Err()
		case <-s.ctx.Done():
			return ErrClosed
		}
	}
}

// counted notes that the n-th message came and wakes those who wait for it.
func (s *Server) counted(n int64) {
	if t := s.target.Load(); t == 0 || n < t {
		return
	}
	s.mu.Lock()
	s.target.Store(0)
	close(s.reached)
	s.reached = make(chan struct{})
	s.mu.Unlock()
}

// lookup finds the personality of a lower-case domain: its own or that of the
// nearest parent listed with a leading dot.
func (s *Server) lookup(domain []byte) *persona {
	if p := s.domains[string(domain)]; p != nil {
		return p
	}
	for i := range domain {
		if domain[i] == '.' {
			if p := s.domains[string(domain[i:])]; p != nil {
				return p
			}
		}
	}
	return s.domains["."+string(domain)]
}
