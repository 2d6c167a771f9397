package server

import (
	"bytes"
	"context"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"posthouse/internal/mail"
	"posthouse/internal/postfix/maillog"
	"posthouse/internal/smtp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// recorder is a Logger that keeps lines as "service: severity text".
type recorder struct {
	mu    sync.Mutex
	lines []string
}

func (r *recorder) Log(service string, sev maillog.Severity, ev maillog.Event) {
	b := []byte(service + ": " + sev.Word())
	b = ev.AppendText(b, mail.ShortIDs)
	ev.Fields(mail.ShortIDs, func(string, any) {})
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, string(b))
}

func (r *recorder) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.lines...)
}

// memory is an Acceptor that keeps messages. Addresses tell it what to do:
// refuse@… is refused for good, later@… for now, nodata@… at DATA, full@… at
// the end, hangup@… with a hang-up.
type memory struct {
	mu       sync.Mutex
	messages []*message
	last     mail.QueueID
	open     int           // transactions neither committed nor aborted
	commit   chan struct{} // when set, Commit waits for it
}

type message struct {
	m       *memory
	id      mail.QueueID
	peer    mail.Client
	args    smtp.MailArgs
	rcpts   []smtp.RcptArgs
	content bytes.Buffer
	done    bool
}

func (m *memory) Mail(_ context.Context, peer *Peer, args *smtp.MailArgs) (Transaction, *smtp.Reply) {
	if r := verdict(args.From); r != nil {
		return nil, r
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.open++
	return &message{m: m, peer: peer.Client, args: *args}, nil
}

func verdict(a mail.Address) *smtp.Reply {
	switch a.Local() {
	case "refuse":
		return smtp.NewReply(550, "5.1.1", "<"+string(a)+">: refused")
	case "later":
		return smtp.NewReply(450, "4.1.1", "<"+string(a)+">: later")
	case "hangup":
		r := smtp.NewReply(421, "4.7.0", "go away")
		r.Close = true
		return r
	}
	return nil
}

func (t *message) Rcpt(_ context.Context, args *smtp.RcptArgs) *smtp.Reply {
	if r := verdict(args.To); r != nil {
		return r
	}
	if t.id == 0 {
		t.m.mu.Lock()
		t.m.last++
		t.id = t.m.last
		t.m.mu.Unlock()
	}
	t.rcpts = append(t.rcpts, *args)
	return nil
}

func (t *message) ID() mail.QueueID { return t.id }

func (t *message) Data(context.Context) (io.Writer, *smtp.Reply) {
	if t.args.From.Local() == "nodata" {
		return nil, smtp.NewReply(554, "5.7.1", "no data from you")
	}
	return &t.content, nil
}

func (t *message) Commit(context.Context) *smtp.Reply {
	if t.m.commit != nil {
		<-t.m.commit
	}
	t.m.mu.Lock()
	defer t.m.mu.Unlock()
	t.m.open--
	t.done = true
	if t.args.From.Local() == "full" {
		return smtp.NewReply(452, "4.3.1", "Insufficient system storage")
	}
	t.m.messages = append(t.m.messages, t)
	return smtp.NewReply(250, "2.0.0", "Ok: queued as "+t.id.Short())
}

func (t *message) Abort() {
	t.m.mu.Lock()
	defer t.m.mu.Unlock()
	if !t.done {
		t.done = true
		t.m.open--
	}
}

func (m *memory) check(t testing.TB) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.open != 0 {
		t.Errorf("%d transactions neither committed nor aborted", m.open)
	}
}

// null is an Acceptor that takes everything and keeps nothing.
type null struct{}

func (null) Mail(context.Context, *Peer, *smtp.MailArgs) (Transaction, *smtp.Reply) {
	return nullTx{}, nil
}

type nullTx struct{}

func (nullTx) Rcpt(context.Context, *smtp.RcptArgs) *smtp.Reply { return nil }
func (nullTx) ID() mail.QueueID                                 { return 1 }
func (nullTx) Data(context.Context) (io.Writer, *smtp.Reply)    { return io.Discard, nil }
func (nullTx) Abort()                                           {}
func (nullTx) Commit(context.Context) *smtp.Reply               { return nullReply }

var nullReply = smtp.NewReply(250, "2.0.0", "Ok: queued as 1")

// silent is a Logger that drops everything.
type silent struct{}

func (silent) Log(string, maillog.Severity, maillog.Event) {}

// addrConn is a connection that claims to come from somewhere.
type addrConn struct {
	net.Conn
	from string
}

func (c addrConn) RemoteAddr() net.Addr {
	host, _, _ := strings.Cut(c.from, "/")
	return &net.TCPAddr{IP: net.ParseIP(host), Port: 40000}
}

func (c addrConn) LocalAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 25), Port: 25} }

var listener = Listener{Service: "smtpd", Name: "smtp"}
