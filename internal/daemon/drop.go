package daemon

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"time"

	"posthouse/internal/intake/pickup"
	"posthouse/internal/mail"
	"posthouse/internal/postfix/maillog"
	"posthouse/internal/postfix/queuefile"
	"posthouse/internal/smtp"
	"posthouse/internal/smtp/server"
)

// dropAcceptor takes mail of a local user into the maildrop (sendmail -bs). A
// user of this host may send anywhere, as with sendmail; intake checks the
// rest when it takes the message from there.
type dropAcceptor struct {
	drop     *pickup.Maildrop
	maxSize  int64
	settings server.Config
}

func newDropAcceptor(s *settings) *dropAcceptor {
	cfg := server.DefaultConfig(s.cfg.String("myhostname"))
	cfg.Banner = s.cfg.String("smtpd_banner")
	cfg.MaxMessageSize = s.cfg.Size("message_size_limit")
	cfg.LookupNames, cfg.ForbidEarly = false, false
	return &dropAcceptor{drop: pickup.NewMaildrop(s.paths.queue), maxSize: cfg.MaxMessageSize, settings: cfg}
}

// serve runs one session.
func (a *dropAcceptor) serve(ctx context.Context, conn net.Conn) {
	srv := server.New(a.settings, a, server.Deps{Log: maillog.Discard()})
	srv.ServeConn(ctx, conn, server.Listener{Service: "smtpd", Name: "stdin"})
}

// Mail begins a message.
func (a *dropAcceptor) Mail(_ context.Context, _ *server.Peer, args *smtp.MailArgs) (server.Transaction, *smtp.Reply) {
	return &dropTransaction{acceptor: a, args: *args}, nil
}

// dropTransaction is one message on its way into the maildrop.
type dropTransaction struct {
	acceptor *dropAcceptor
	args     smtp.MailArgs
	rcpts    []smtp.RcptArgs
	file     *pickup.Writer // nil before Data and after Commit
	out      *bufio.Writer
	lines    lineRecords
}

// Rcpt takes every recipient.
func (t *dropTransaction) Rcpt(_ context.Context, args *smtp.RcptArgs) *smtp.Reply {
	t.rcpts = append(t.rcpts, *args)
	return nil
}

// ID is 0: the message gets its ID from intake.
func (t *dropTransaction) ID() mail.QueueID { return 0 }

// unavailable is what a client is told when the maildrop cannot be written.
func unavailable() *smtp.Reply {
	return smtp.NewReply(451, "4.3.0", "Error: queue file write error")
}

// Data begins the file.
func (t *dropTransaction) Data(context.Context) (io.Writer, *smtp.Reply) {
	f, err := t.acceptor.drop.Create()
	if err != nil {
		return nil, unavailable()
	}
	t.file, t.out = f, bufio.NewWriterSize(f, 64<<10)
	t.lines = lineRecords{out: t.out, left: t.acceptor.maxSize}
	t.lines.keep(t.envelope())
	return &t.lines, nil
}

func (t *dropTransaction) envelope() error {
	b := pickup.AppendHead(nil, time.Now())
	attr := func(name, value string) {
		b = queuefile.AppendRecord(b, queuefile.TypeAttr, []byte(name+"="+value))
	}
	if t.args.EnvelopeID != "" {
		attr("envelope_id", t.args.EnvelopeID)
	}
	if t.args.Ret != mail.RetUnset {
		attr("ret_flags", strconv.Itoa(int(t.args.Ret)))
	}
	attr("rewrite_context", "local")
	b = queuefile.AppendRecord(b, queuefile.TypeSender, []byte(queuefile.Internal(t.args.From)))
	if t.args.Body8Bit {
		attr("encoding", "8bit")
	}
	for i := range t.rcpts {
		r := &t.rcpts[i]
		if r.DSNOriginal != "" {
			attr("dsn_orig_rcpt", r.DSNOriginal)
		}
		if r.Notify != 0 {
			attr("notify_flags", strconv.Itoa(int(r.Notify)))
		}
		b = queuefile.AppendRecord(b, queuefile.TypeRcpt, []byte(queuefile.Internal(r.To)))
	}
	b = queuefile.AppendRecord(b, queuefile.TypeMessage, nil)
	_, err := t.out.Write(b)
	return err
}

// Commit makes the message durable.
func (t *dropTransaction) Commit(context.Context) *smtp.Reply {
	if t.file == nil {
		return unavailable()
	}
	t.lines.end()
	if errors.Is(t.lines.err, errMessageTooBig) {
		t.Abort()
		return smtp.NewReply(552, "5.3.4", "Error: message file too big")
	}
	tail := queuefile.AppendRecord(nil, queuefile.TypeExtracted, nil)
	tail = queuefile.AppendRecord(tail, queuefile.TypeEnd, nil)
	_, err := t.out.Write(tail)
	if err = errors.Join(t.lines.err, err, t.out.Flush()); err != nil {
		t.Abort()
		return unavailable()
	}
	name, err := t.file.Commit()
	t.file = nil
	if err != nil {
		return unavailable()
	}
	return smtp.NewReply(250, "2.0.0", "Ok: queued as "+name)
}

// Abort removes an unfinished file.
func (t *dropTransaction) Abort() {
	if t.file != nil {
		t.file.Discard()
		t.file = nil
	}
}

// errMessageTooBig ends content beyond message_size_limit.
var errMessageTooBig = errors.New("message too big")

// lineRecords turns CRLF content into records, a line each; lines beyond
// queuefile.LineLimit go into several.
type lineRecords struct {
	out  *bufio.Writer
	line []byte // begun, without its end
	rec  []byte // scratch
	left int64  // bytes that may still come
	err  error  // the first; the rest is swallowed
}

func (l *lineRecords) keep(err error) {
	if l.err == nil {
		l.err = err
	}
}

// Write takes content in pieces of any size; it never fails (see
// server.Transaction).
func (l *lineRecords) Write(p []byte) (int, error) {
	n := len(p)
	if l.left -= int64(n); l.left < 0 {
		l.keep(errMessageTooBig)
	}
	for len(p) > 0 && l.err == nil {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			l.line = append(l.line, p...)
			l.pieces()
			break
		}
		l.line = append(l.line, p[:i]...)
		p = p[i+1:]
		l.flush()
	}
	return n, nil
}

// pieces writes what a line has beyond the limit, so that no line is held whole.
// The CR of a line's end stays, since at least one byte always does.
func (l *lineRecords) pieces() {
	for len(l.line) > queuefile.LineLimit+1 {
		rest := l.line[queuefile.LineLimit:]
		l.record(queuefile.TypeCont, l.line[:queuefile.LineLimit])
		l.line = l.line[:copy(l.line, rest)]
	}
}

// flush writes a complete line, without its CR.
func (l *lineRecords) flush() {
	l.line = bytes.TrimSuffix(l.line, []byte("\r"))
	l.pieces()
	l.record(queuefile.TypeNormal, l.line)
	l.line = l.line[:0]
}

func (l *lineRecords) record(t queuefile.Type, text []byte) {
	l.rec = queuefile.AppendRecord(l.rec[:0], t, text)
	_, err := l.out.Write(l.rec)
	l.keep(err)
}

// end writes a last line that had no end.
func (l *lineRecords) end() {
	if len(l.line) > 0 && l.err == nil {
		l.flush()
	}
}
