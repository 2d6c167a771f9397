package server

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"posthouse/internal/mail"
	"posthouse/internal/postfix/maillog"
	"posthouse/internal/smtp"
)

// Where a session is when it is not at a command; log lines show it.
const (
	atConnect = "CONNECT"
	atUnknown = "UNKNOWN"
	atEnd     = "END-OF-MESSAGE"
)

// session is one conversation. All fields but those under mu belong to the
// goroutine that runs it.
type session struct {
	srv *Server
	cfg *settings // fixed for the session
	ctx context.Context
	opt Listener
	raw net.Conn // the connection; under TLS if there is TLS

	br       *bufio.Reader // reads through session.Read
	out      []byte        // replies not yet sent
	waits    waiting       // what br's next read is for
	began    time.Time     // when the present wait began; zero before it
	received int64         // bytes since began, while waiting for content
	readErr  error         // why the input ended; nil while it goes on

	peer  Peer
	addr  netip.Addr // of the client; invalid when it has none
	esmtp bool       // the last greeting was EHLO or LHLO
	tls   bool

	tx        Transaction // nil outside a transaction
	mailArgs  smtp.MailArgs
	rcptArgs  smtp.RcptArgs
	lastRcpt  mail.Address // the last accepted recipient
	rcpts     int          // accepted recipients
	overshoot int          // recipients refused beyond the limit
	bdat      bdatState
	chunks    smtp.ChunkReader

	where   string // the last command, for log lines
	content int64  // bytes of content received before it broke off; -1 when none was awaited
	errors  int    // since the last delivered message
	junk    int    // likewise
	early   bool   // improper pipelining has been logged
	counts  [smtp.NumVerbs]Count
	end     ending

	mu       sync.Mutex
	conn     net.Conn // raw, or TLS over it
	idle     bool     // waits for a command
	stopping bool     // is to end when idle
}

// ending is how a session ends.
type ending uint8

const (
	goesOn   ending = iota
	byClient        // QUIT, or the connection is gone
	byServer        // we hang up; the client may still be sending
)

func newSession(ctx context.Context, srv *Server, conn net.Conn, opt Listener) *session {
	s := &session{
		srv:     srv,
		cfg:     srv.settings.Load(),
		ctx:     ctx,
		opt:     opt,
		raw:     conn,
		conn:    conn,
		where:   atConnect,
		content: -1,
	}
	s.peer = Peer{
		Client:    mail.Client{Name: "localhost", ReverseName: "localhost", Addr: "127.0.0.1", Protocol: "SMTP", UID: -1},
		Service:   opt.Service,
		Listener:  opt.Key,
		Connected: time.Now(),
	}
	if a, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		ap := a.AddrPort()
		s.addr = ap.Addr().Unmap()
		s.peer.Addr, s.peer.Port = s.addr.WithZone("").String(), ap.Port()
		s.peer.Name, s.peer.ReverseName = unknown, unknown
	}
	if a, ok := conn.LocalAddr().(*net.TCPAddr); ok {
		ap := a.AddrPort()
		s.peer.ServerAddr, s.peer.ServerPort = ap.Addr().Unmap().WithZone("").String(), ap.Port()
	}
	return s
}

func (s *session) run() {
	br, _ := s.srv.readers.Get().(*bufio.Reader)
	buf, _ := s.srv.buffers.Get().(*[]byte)
	s.br, s.out = br, (*buf)[:0]
	br.Reset(s)
	count := 0
	if s.addr.IsValid() {
		// Counted before the name is looked up: that takes as long as the
		// client's own name servers please, and one client could hold every
		// session waiting for them.
		if count = s.srv.clients.add(s.addr); !s.tooMany(count) {
			s.peer.Name, s.peer.ReverseName = s.srv.clientNames(s.ctx, s.cfg, s.opt.Service, s.addr)
		}
	}
	s.log(maillog.Info, &Connected{Name: s.peer.Name, Addr: s.peer.Addr, Port: s.peer.Port})
	if s.admit(count) {
		s.commands()
	}
	if s.addr.IsValid() {
		s.srv.clients.remove(s.addr)
	}
	s.reset()
	_ = s.flush()
	s.closeConn(s.end == byServer)
	s.log(maillog.Info, &Disconnected{Name: s.peer.Name, Addr: s.peer.Addr, Commands: s.counts})
	*buf = s.out[:0]
	br.Reset(nil)
	s.srv.readers.Put(br)
	s.srv.buffers.Put(buf)
}

// tooMany tells whether a client may not have so many sessions.
func (s *session) tooMany(n int) bool {
	return s.cfg.MaxPerClient > 0 && n > s.cfg.MaxPerClient && !exempt(s.cfg.ExemptNets, s.addr)
}

// admit greets the client, or does not. count is how many sessions it has.
func (s *session) admit(count int) bool {
	if s.tooMany(count) {
		s.log(maillog.Warning, maillog.Text("Connection concurrency limit exceeded: "+itoa(count)+" from "+s.client()+" for service "+s.opt.Name))
		s.reply("421 4.7.0 " + s.cfg.Hostname + " Error: too many connections from " + s.peer.Addr)
		s.end = byServer
		return false
	}
	if s.cfg.ImplicitTLS {
		if !s.handshake() {
			return false
		}
	} else if s.cfg.ForbidEarly {
		if b := early(s.raw); b != nil {
			s.earlyTalker(atConnect, b)
			return false
		}
	}
	s.out = append(s.out, s.cfg.banner...)
	return true
}

// commands is the conversation after the greeting.
func (s *session) commands() {
	for s.end == goesOn {
		if s.errors >= s.cfg.HardErrorLimit && s.cfg.HardErrorLimit > 0 {
			s.reply("421 4.7.0 " + s.cfg.Hostname + " Error: too many errors")
			s.broken("too many errors")
			s.end = byServer
			return
		}
		line, bare, tooLong, err := s.readLine()
		switch {
		case err != nil:
			s.inputEnded(err)
		case tooLong:
			s.log(maillog.Warning, maillog.Text(s.client()+": request longer than "+itoa(s.cfg.MaxLine)+": "+printable(line, 30)+"..."))
			s.fail("500 5.5.2 Error: line too long")
		case bare && s.cfg.Newlines == RejectNewlines:
			s.refused(s.where, "bare <LF> received")
			s.reply("550 5.5.2 " + s.cfg.Hostname + " Error: bare <LF> received")
			s.end = byServer
		default:
			s.command(line)
		}
	}
}

// command carries out one command line.
func (s *session) command(line []byte) {
	if s.errors >= s.cfg.SoftErrorLimit && s.cfg.SoftErrorLimit > 0 {
		sleep(s.ctx, s.srv.draining, s.cfg.ErrorSleep)
	}
	if !utf8.Valid(line) {
		s.fail("500 5.5.2 Error: bad UTF-8 syntax")
		return
	}
	verb, word, args := smtp.ParseCommand(line)
	if len(word) == 0 || slices.Contains(line, 0) {
		s.fail("500 5.5.2 Error: bad syntax")
		return
	}
	if s.cfg.LMTP == (verb == smtp.HELO || verb == smtp.EHLO) && verb <= smtp.LHLO {
		verb = smtp.VerbUnknown // RFC 2033 §4.1: each protocol has its own greeting
	}
	s.counts[verb].Total++
	if verb == smtp.VerbUnknown {
		s.unknown(line, word)
		return
	}
	if s.cfg.TLS == TLSEncrypt && !s.tls && !beforeTLS(verb) {
		s.where = verb.String()
		s.fail("530 5.7.0 Must issue a STARTTLS command first")
		return
	}
	s.where = verb.String()
	if s.br.Buffered() > 0 && (!s.esmtp || endsGroup(verb)) && verb != smtp.QUIT && s.pipelined(verb) {
		return
	}
	if s.dispatch(verb, line, args) {
		s.counts[verb].OK++
	} else {
		s.errors++
	}
	if junk(verb) {
		if s.junk++; s.junk > s.cfg.JunkCommandLimit && s.cfg.JunkCommandLimit > 0 {
			s.errors++
		}
	}
}

// dispatch tells whether the command succeeded.
func (s *session) dispatch(verb smtp.Verb, line, args []byte) bool {
	switch verb {
	case smtp.MAIL:
		return s.mailFrom(string(args))
	case smtp.RCPT:
		return s.rcptTo(string(args))
	case smtp.DATA:
		return s.data(args)
	case smtp.BDAT:
		return s.bdatChunk(line, args)
	case smtp.HELO, smtp.EHLO, smtp.LHLO:
		return s.greet(verb, args)
	case smtp.RSET:
		return s.rset(args)
	case smtp.NOOP:
		return s.ok("250 2.0.0 Ok")
	case smtp.QUIT:
		s.end = byClient
		return s.ok("221 2.0.0 Bye")
	case smtp.VRFY:
		return s.vrfy(args)
	case smtp.ETRN:
		return s.etrn(args)
	case smtp.STARTTLS:
		return s.starttls(args)
	case smtp.AUTH:
		return s.no("503 5.5.1 Error: authentication not enabled")
	default: // XCLIENT, XFORWARD
		return s.no("550 5.7.0 Error: insufficient authorization")
	}
}

// unknown answers what is no command. Clients that speak something else
// altogether are shown the door: a browser that is tricked into sending a
// form to our port must not get through to the part that looks like SMTP.
func (s *session) unknown(line, word []byte) {
	s.where = atUnknown
	c := word[0] | 0x20
	if smtp.LooksLikeHeader(word) || c < 'a' || c > 'z' || slices.Contains(s.cfg.ForbidWords, strings.ToUpper(string(word))) {
		s.log(maillog.Warning, maillog.Text("non-SMTP command from "+s.client()+": "+printable(line, 100)))
		s.reply("221 2.7.0 Error: I can break rules, too. Goodbye.")
		s.end = byServer
		return
	}
	s.fail("500 5.5.2 Error: command not recognized")
}

// pipelined deals with a client that went on talking where it had to wait.
// It tells whether the session is over because of it.
func (s *session) pipelined(verb smtp.Verb) bool {
	if verb == smtp.STARTTLS && s.esmtp {
		return false // startTLS throws it away
	}
	b, _ := s.br.Peek(s.br.Buffered())
	if s.cfg.ForbidEarly {
		s.earlyTalker(verb.String(), b)
		return true
	}
	if !s.early {
		s.early = true
		s.log(maillog.Info, maillog.Text("improper command pipelining after "+verb.String()+" from "+s.client()+": "+escaped(b, 200)))
	}
	return false
}

func (s *session) earlyTalker(after string, b []byte) {
	s.log(maillog.Info, maillog.Text("improper command pipelining after "+after+" from "+s.client()+": "+escaped(b, 200)))
	s.reply("554 5.5.0 Error: SMTP protocol synchronization")
	s.end = byServer
}

// beforeTLS lists what may be said in the clear where TLS is required.
func beforeTLS(v smtp.Verb) bool {
	switch v {
	case smtp.HELO, smtp.EHLO, smtp.LHLO, smtp.STARTTLS, smtp.NOOP, smtp.QUIT:
		return true
	}
	return false
}

// endsGroup lists the commands after which a pipelining client must wait
// (RFC 2920 §3.1).
func endsGroup(v smtp.Verb) bool {
	switch v {
	case smtp.HELO, smtp.EHLO, smtp.LHLO, smtp.DATA, smtp.VRFY, smtp.NOOP:
		return true
	}
	return false
}

// junk lists the commands that get a client nowhere.
func junk(v smtp.Verb) bool {
	switch v {
	case smtp.HELO, smtp.EHLO, smtp.LHLO, smtp.RSET, smtp.NOOP, smtp.VRFY, smtp.ETRN:
		return true
	}
	return false
}

// inputEnded ends a session whose client cannot be heard any more.
func (s *session) inputEnded(err error) {
	switch {
	case errors.Is(err, errDraining):
		s.reply("421 4.3.2 " + s.cfg.Hostname + " " + s.cfg.ShutdownText)
		s.end = byServer
	case errors.Is(err, errTimeout):
		s.reply("421 4.4.2 " + s.cfg.Hostname + " Error: timeout exceeded")
		s.broken("timeout")
		s.end = byServer
	case errors.Is(err, errLineLong):
		s.reply("421 4.7.0 " + s.cfg.Hostname + " Error: line too long")
		s.broken("endless command line")
		s.end = byServer
	default:
		s.out = s.out[:0]
		if s.where != atEnd {
			s.broken("lost connection")
		}
		s.end = byClient
	}
}

func (s *session) broken(reason string) {
	s.log(maillog.Info, &Broken{Reason: reason, After: s.where, Bytes: s.content, Name: s.peer.Name, Addr: s.peer.Addr})
}

// refused logs a refusal of ours.
func (s *session) refused(stage, text string) {
	e := &Refused{Stage: stage, Name: s.peer.Name, Addr: s.peer.Addr, Text: text, Proto: s.peer.Protocol, Helo: s.peer.Helo}
	if s.tx != nil {
		e.ID, e.Mail, e.From, e.To = s.tx.ID(), true, s.mailArgs.From, s.lastRcpt
	}
	s.log(maillog.Info, e)
}

func (s *session) log(sev maillog.Severity, ev maillog.Event) {
	s.srv.deps.Log.Log(s.opt.Service, sev, ev)
}

// client is how log lines name the client.
func (s *session) client() string { return s.peer.Name + "[" + s.peer.Addr + "]" }

// reply queues one line.
func (s *session) reply(line string) {
	s.out = append(append(s.out, line...), '\r', '\n')
}

// ok and no queue the reply of a command, and are its result.
func (s *session) ok(line string) bool { s.reply(line); return true }
func (s *session) no(line string) bool { s.reply(line); return false }

// fail queues the reply to something that counts as an error.
func (s *session) fail(line string) {
	s.reply(line)
	s.errors++
}

// answer queues a reply of others and tells whether it is a positive one.
func (s *session) answer(r *smtp.Reply) bool {
	s.out = r.Append(s.out)
	if r.Close {
		s.end = byServer
	}
	return r.Code < 400
}

// handshake moves the session to TLS; false when it is over.
func (s *session) handshake() bool {
	if s.cfg.tls == nil {
		s.log(maillog.Warning, maillog.Text("Wrapper-mode request dropped from "+s.client()+" for service "+s.opt.Name+". TLS context initialization failed. For details see earlier warnings in your logs."))
		s.end = byServer
		return false
	}
	if err := s.startTLS(s.ctx); err != nil {
		s.log(maillog.Info, maillog.Text("SSL_accept error from "+s.client()+": "+printable([]byte(err.Error()), 200)))
		s.out = s.out[:0]
		s.broken("lost connection")
		s.end = byClient
		return false
	}
	s.tls = true
	if tc, ok := s.conn.(*tls.Conn); ok {
		st := tc.ConnectionState()
		s.peer.TLS = strings.Replace(tls.VersionName(st.Version), "TLS 1", "TLSv1", 1)
		if s.cfg.TLSLog > 0 {
			s.log(maillog.Info, maillog.Text("Anonymous TLS connection established from "+s.client()+": "+s.peer.TLS+" with cipher "+tls.CipherSuiteName(st.CipherSuite)))
		}
	}
	return true
}
