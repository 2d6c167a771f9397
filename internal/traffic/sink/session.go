package sink

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strconv"
)

// readSize holds a few pipelined transactions of small messages, so that one
// read usually brings a whole message.
const readSize = 64 << 10

var (
	errHangUp  = errors.New("sink: done with this connection")
	errTooLong = errors.New("sink: line too long")
)

// session is one connection. Only its own goroutine touches it.
type session struct {
	srv    *Server
	p      *persona // of the listener
	conn   net.Conn
	client string // address without port, the greylisting key
	peer   string
	local  string
	buf    []byte // input; buf[r:w] is unread
	r, w   int
	out    []byte // replies not yet written

	helo   string
	esmtp  bool
	inTLS  bool
	inMail bool
	mail   []byte     // the MAIL line
	sender []byte     // of it
	rcpts  [][]byte   // RCPT lines, kept only for a ledger
	took   []*persona // for each accepted recipient its domain's personality or nil
	msg    []byte     // raw content, kept only for a ledger
}

func (srv *Server) session(c net.Conn, p *persona) {
	srv.total.connections.Add(1)
	srv.total.open.Add(1)
	p.connections.Add(1)
	open := p.open.Add(1)
	defer srv.total.open.Add(-1)
	defer p.open.Add(-1)

	buf := srv.readers.Get().(*[readSize]byte)
	defer srv.readers.Put(buf)
	s := &session{srv: srv, p: p, conn: c, buf: buf[:], out: make([]byte, 0, 512)}
	s.peer, s.local = c.RemoteAddr().String(), c.LocalAddr().String()
	s.client, _, _ = net.SplitHostPort(s.peer)
	if err := s.greet(open); err != nil {
		return
	}
	for {
		line, err := s.readLine()
		if err != nil {
			return
		}
		if err := s.command(line); err != nil {
			s.flush()
			return
		}
	}
}

func (s *session) greet(open int64) error {
	if s.p.MaxConnections > 0 && open > int64(s.p.MaxConnections) {
		return s.refuse(s.p, &Action{Kind: HangUp, Reply: fullReply})
	}
	ok, err := s.act(s.p, &s.p.Steps[Connect])
	if ok {
		s.reply("220 ", "", s.srv.cfg.Hostname, " ESMTP")
	}
	return err
}

// readLine returns the next command line without its line end. Before it has
// to wait for one it writes the replies that are due.
func (s *session) readLine() ([]byte, error) {
	for {
		if i := bytes.IndexByte(s.buf[s.r:s.w], '\n'); i >= 0 {
			line := s.buf[s.r : s.r+i]
			s.r += i + 1
			return bytes.TrimSuffix(line, []byte{'\r'}), nil
		}
		if err := s.fill(); err != nil {
			return nil, err
		}
	}
}

// fill writes what is due and reads more input behind the unread part.
func (s *session) fill() error {
	if err := s.flush(); err != nil {
		return err
	}
	if s.r > 0 {
		s.w = copy(s.buf, s.buf[s.r:s.w])
		s.r = 0
	}
	if s.w == len(s.buf) {
		return errTooLong
	}
	n, err := s.conn.Read(s.buf[s.w:])
	s.w += n
	if n > 0 {
		return nil
	}
	return err
}

func (s *session) flush() error {
	if len(s.out) == 0 {
		return nil
	}
	_, err := s.conn.Write(s.out)
	s.out = s.out[:0]
	return err
}

// reply queues "CODE ENHANCED text"; enhanced is left out when not offered.
func (s *session) reply(code, enhanced string, text ...string) {
	s.out = append(s.out, code...)
	if enhanced != "" && s.srv.cfg.Extensions&EnhancedCodes != 0 {
		s.out = append(s.out, enhanced...)
	}
	for _, t := range text {
		s.out = append(s.out, t...)
	}
	s.out = append(s.out, '\r', '\n')
}

// act does what the personality wants at a stage. ok means: accept, and the
// caller replies. An error ends the connection.
func (s *session) act(p *persona, a *Action) (ok bool, err error) {
	if a.Kind == Accept && a.Delay == 0 {
		return true, nil
	}
	if a.Delay > 0 {
		if err := s.flush(); err != nil {
			return false, err
		}
		if !s.srv.pause(a.Delay) {
			return false, errHangUp
		}
	}
	if a.Kind == Accept {
		return true, nil
	}
	return false, s.refuse(p, a)
}

func (s *session) refuse(p *persona, a *Action) error {
	s.srv.total.refused.Add(1)
	p.refused.Add(1)
	switch a.Kind {
	case Refuse:
		s.reply(a.Reply, "")
		return nil
	case HangUp:
		s.reply(a.Reply, "")
		s.flush()
	case HangMute:
		if s.flush() == nil {
			// Reading on is how the end of the peer's patience is noticed.
			io.Copy(io.Discard, s.conn)
		}
	}
	return errHangUp
}

// command carries out one command line.
func (s *session) command(line []byte) error {
	verb, rest := split(line)
	switch verb {
	case "MAIL":
		return s.doMail(line, rest)
	case "RCPT":
		return s.doRcpt(line, rest)
	case "DATA":
		return s.doData()
	case "HELO", "EHLO", "LHLO":
		return s.doHelo(verb, string(rest))
	case "RSET":
		s.reset()
		return s.simple(Rset, "250 ", "2.0.0 ", "Ok")
	case "NOOP":
		return s.simple(Noop, "250 ", "2.0.0 ", "Ok")
	case "VRFY":
		return s.simple(Vrfy, "252 ", "2.0.0 ", "Try it")
	case "QUIT":
		if err := s.simple(Quit, "221 ", "2.0.0 ", "Bye"); err != nil {
			return err
		}
		return errHangUp
	case "STARTTLS":
		return s.startTLS()
	}
	s.reply("502 ", "5.5.2 ", "Error: command not recognized")
	return nil
}

func (s *session) simple(at Stage, code, enhanced, text string) error {
	ok, err := s.act(s.p, &s.p.Steps[at])
	if ok {
		s.reply(code, enhanced, text)
	}
	return err
}

// split returns the verb in upper case, as one of the constants of the
// protocol so that nothing is allocated, and the trimmed rest of the line.
func split(line []byte) (verb string, rest []byte) {
	n := bytes.IndexByte(line, ' ')
	if n < 0 {
		n = len(line)
	}
	for _, v := range [...]string{"MAIL", "RCPT", "DATA", "RSET", "QUIT", "EHLO", "HELO", "LHLO", "NOOP", "VRFY", "STARTTLS"} {
		if len(v) == n && bytes.EqualFold(line[:n], []byte(v)) {
			return v, bytes.TrimSpace(line[n:])
		}
	}
	return "", nil
}

func (s *session) doHelo(verb, name string) error {
	cfg := &s.srv.cfg
	if cfg.LMTP != (verb == "LHLO") || (verb == "EHLO" && cfg.Extensions&NoESMTP != 0) {
		s.reply("502 ", "5.5.1 ", "Error: command not implemented here")
		return nil
	}
	ok, err := s.act(s.p, &s.p.Steps[Helo])
	if !ok {
		return err
	}
	s.reset()
	s.helo, s.esmtp = name, verb != "HELO"
	if !s.esmtp {
		s.reply("250 ", "", cfg.Hostname)
		return nil
	}
	lines := []string{cfg.Hostname}
	offer := func(e Extension, text string) {
		if cfg.Extensions&e != 0 {
			lines = append(lines, text)
		}
	}
	offer(Pipelining, "PIPELINING")
	if cfg.MaxSize > 0 {
		offer(Size, "SIZE "+strconv.FormatInt(cfg.MaxSize, 10))
	} else {
		offer(Size, "SIZE")
	}
	offer(EightBit, "8BITMIME")
	offer(UTF8, "SMTPUTF8")
	offer(DSN, "DSN")
	offer(EnhancedCodes, "ENHANCEDSTATUSCODES")
	if cfg.TLS != nil && !s.inTLS {
		lines = append(lines, "STARTTLS")
	}
	for _, l := range lines[:len(lines)-1] {
		s.reply("250-", "", l)
	}
	s.reply("250 ", "", lines[len(lines)-1])
	return nil
}

func (s *session) startTLS() error {
	if s.srv.cfg.TLS == nil || s.inTLS {
		s.reply("502 ", "5.5.1 ", "Error: command not implemented here")
		return nil
	}
	s.reply("220 ", "2.0.0 ", "Ready to start TLS")
	// What was sent in the clear behind STARTTLS must not count as sent
	// under TLS (RFC 3207 §6).
	s.r, s.w = 0, 0
	if err := s.flush(); err != nil {
		return err
	}
	c := tls.Server(s.conn, s.srv.cfg.TLS)
	if err := c.HandshakeContext(s.srv.ctx); err != nil {
		return err
	}
	s.conn, s.inTLS = c, true
	s.reset()
	return nil
}
