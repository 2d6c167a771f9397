package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"posthouse/internal/operator"
)

// Server answers clients with an Operator.
type Server struct {
	op       operator.Operator
	access   atomic.Pointer[Access]
	patience time.Duration
	peer     func(net.Conn) (int, error)
	self     int // the server's own user ID

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu     sync.Mutex
	open   map[io.Closer]struct{} // listeners and connections; nil after Close
	guests map[int]int            // connections of guests, by user ID
	crowd  int                    // and of all of them
}

// Guests are users who may not do everything. Every program on the machine
// can be one, so what they can make the server hold is bounded: a relay must
// not fall to whoever may look at its queue.
const (
	guestsAtOnce  = 64       // connections of all guests
	oneGuest      = 16       // connections of one of them
	guestRequest  = 64 << 10 // bytes of a guest's request
	longestPause  = time.Second
	shortestPause = 5 * time.Millisecond
)

// Config is how a Server behaves.
type Config struct {
	Access Access
	// Patience is how long a client may be silent, or may leave an answer
	// unread; 0 means one minute.
	Patience time.Duration
}

// NewServer returns a Server that has no listener yet.
func NewServer(op operator.Operator, cfg Config) *Server {
	s := &Server{op: op, patience: cfg.Patience, peer: peerUID, self: os.Geteuid(), open: make(map[io.Closer]struct{}), guests: make(map[int]int)}
	if s.patience == 0 {
		s.patience = time.Minute
	}
	s.SetAccess(cfg.Access)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// SetAccess replaces who may do what, for requests from now on.
func (s *Server) SetAccess(a Access) { s.access.Store(&a) }

// Serve accepts clients until Close, and then returns nil.
func (s *Server) Serve(l net.Listener) error {
	if !s.add(l) {
		return l.Close()
	}
	defer s.remove(l)
	pause := time.Duration(0)
	for {
		conn, err := l.Accept()
		switch {
		case s.ctx.Err() != nil:
			if err == nil {
				_ = conn.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("control socket: %w", err)
		case err != nil:
			// Out of file descriptors, most likely: it passes, and the mail
			// that flows meanwhile is worth more than this socket.
			pause = min(max(2*pause, shortestPause), longestPause)
			s.rest(pause)
			continue
		}
		pause = 0
		s.welcome(conn)
	}
}

// rest waits for d, or for Close.
func (s *Server) rest(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-s.ctx.Done():
	}
}

// welcome begins a session, unless there are too many of the like.
func (s *Server) welcome(conn net.Conn) {
	uid, err := s.peer(conn)
	if err != nil || !s.add(conn) {
		_ = conn.Close()
		return
	}
	c := &session{Server: s, link: newLink(conn, s.patience), uid: uid}
	guest := !s.trusts(uid)
	if guest && !s.enter(uid) {
		_ = c.sendJSON(kindError, failure{Code: codeFailed, Text: "too many connections: try again later"})
		s.remove(conn)
		return
	}
	if guest {
		c.longest = guestRequest
	}
	s.wg.Go(func() {
		defer s.remove(conn)
		if guest {
			defer s.leave(uid)
		}
		c.converse()
	})
}

// trusts tells whether a user may do everything.
func (s *Server) trusts(uid int) bool {
	// The server's own user can do all this to it with signals and files anyway.
	return uid == 0 || uid == s.access.Load().Owner || uid == s.self
}

// enter counts a guest's connection and tells whether there was room for it.
func (s *Server) enter(uid int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.crowd >= guestsAtOnce || s.guests[uid] >= oneGuest {
		return false
	}
	s.crowd++
	s.guests[uid]++
	return true
}

func (s *Server) leave(uid int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.crowd--
	if s.guests[uid]--; s.guests[uid] == 0 {
		delete(s.guests, uid)
	}
}

// Close stops listening, ends every session and waits for them.
func (s *Server) Close() {
	s.cancel()
	s.mu.Lock()
	for c := range s.open {
		_ = c.Close()
	}
	s.open = nil
	s.mu.Unlock()
	s.wg.Wait()
}

func (s *Server) add(c io.Closer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		return false
	}
	s.open[c] = struct{}{}
	return true
}

func (s *Server) remove(c io.Closer) {
	_ = c.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, c)
}

// session is one client.
type session struct {
	*Server
	*link
	uid int
}

// converse answers one request after another.
func (c *session) converse() {
	for {
		kind, payload, err := c.receive()
		if err != nil || kind != kindRequest {
			return
		}
		var req request
		if err := json.Unmarshal(payload, &req); err != nil {
			return
		}
		if err := c.answer(&req); err != nil {
			return
		}
	}
}

// answer handles a request. An error means that the connection is of no more use.
func (c *session) answer(req *request) error {
	var res result
	err := c.permit(req)
	if err == nil {
		err = c.run(req, &res)
	}
	var broken *sendError
	switch {
	case errors.As(err, &broken):
		return broken.err
	case err != nil:
		return c.sendJSON(kindError, failureOf(err))
	}
	return c.sendJSON(kindResult, &res)
}

// sendError is a failure of the connection, not of the request.
type sendError struct{ err error }

func (e *sendError) Error() string { return e.err.Error() }
func (e *sendError) Unwrap() error { return e.err }

// permit checks the client's version and rights.
func (c *session) permit(req *request) error {
	if req.Version != protocolVersion {
		return fmt.Errorf("%w: client speaks version %d, server %d", ErrProtocol, req.Version, protocolVersion)
	}
	if c.trusts(c.uid) {
		return nil
	}
	a := c.access.Load()
	name := UserName(c.uid)
	switch req.Op {
	case opPickup:
		return nil
	case opList, opCounts, opStatus:
		if !a.List.Has(name) {
			return fmt.Errorf("%w: User %s(%d) is not allowed to view the mail queue", ErrDenied, name, c.uid)
		}
		return nil
	case opAct:
		if req.Verb == operator.Retry && a.Flush.Has(name) {
			return nil
		}
	}
	return fmt.Errorf("%w: User %s(%d) may not do that", ErrDenied, name, c.uid)
}

func (c *session) run(req *request, res *result) (err error) {
	who := operator.Actor{User: UserName(c.uid), UID: c.uid, Via: req.Via}
	switch req.Op {
	case opList:
		return c.list()
	case opCounts:
		var n operator.Counts
		n, err = c.op.Counts(c.ctx)
		res.Counts = &n
	case opStatus:
		res.Status, err = c.op.Status(c.ctx)
	case opAct:
		return c.act(req, who, res)
	case opMessage:
		return c.message(req, res)
	case opRead:
		return c.read(req, res)
	case opPickup:
		err = c.op.Pickup(c.ctx)
	case opReload:
		err = c.op.Reload(c.ctx, who)
	case opStop:
		err = c.op.Stop(c.ctx, who)
	default:
		err = fmt.Errorf("%w: no operation %q", ErrProtocol, req.Op)
	}
	return err
}

// list streams. A client that does not read makes send wait, and with it the
// walk over the queue; one that never does is dropped.
func (c *session) list() error {
	buf := make([]byte, 0, listChunk+4096)
	var broken error
	err := c.op.List(c.ctx, func(v *operator.View) bool {
		buf = appendView(buf, v)
		if len(buf) >= listChunk {
			broken = c.send(kindViews, buf)
			buf = buf[:0]
		}
		return broken == nil
	})
	if broken == nil && err == nil && len(buf) > 0 {
		broken = c.send(kindViews, buf)
	}
	if broken != nil {
		return &sendError{broken}
	}
	return err
}

func (c *session) act(req *request, who operator.Actor, res *result) error {
	rep, err := c.op.Act(c.ctx, req.Verb, req.Selection, who)
	for out := rep.Outcomes; len(out) > 0; {
		n := min(len(out), outcomeChunk)
		if err := c.sendJSON(kindOutcome, out[:n]); err != nil {
			return &sendError{err}
		}
		out = out[n:]
	}
	res.Missed = rep.Missed
	return err
}

func (c *session) message(req *request, res *result) error {
	m, err := c.op.Message(c.ctx, req.ID)
	if err != nil {
		return err
	}
	res.Message, res.Queue, res.Size = m.Message, m.Queue, m.Content.Size()
	return m.Content.Close()
}

// read sends a piece of a message's content.
func (c *session) read(req *request, res *result) (err error) {
	m, err := c.op.Message(c.ctx, req.ID)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Content.Close()) }()
	res.Size = m.Content.Size()
	n := min(int64(req.Length), maxRead, res.Size-req.Offset)
	if req.Offset < 0 || n < 0 {
		return fmt.Errorf("%w: read of %d bytes at %d", ErrProtocol, req.Length, req.Offset)
	}
	buf := make([]byte, n)
	if got, err := m.Content.ReadAt(buf, req.Offset); got < len(buf) {
		return fmt.Errorf("read content: %w", err)
	}
	if err := c.send(kindData, buf); err != nil {
		return &sendError{err}
	}
	return nil
}
