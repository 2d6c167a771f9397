package client

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"posthouse/internal/smtp"
)

// Timeouts bound every step. They are Postfix's smtp_*_timeout; zero means
// that default.
type Timeouts struct {
	Connect  time.Duration // 30s; for whoever connects, New is given a connection
	Hello    time.Duration // 300s, greeting and each EHLO
	StartTLS time.Duration // 300s, the command and the handshake
	Mail     time.Duration // 300s
	Rcpt     time.Duration // 300s, for each reply
	DataInit time.Duration // 120s
	DataXfer time.Duration // 180s, for each write of content
	DataDone time.Duration // 600s, for each reply after the final dot
	Reset    time.Duration // 20s
	Quit     time.Duration // 300s, for writing QUIT; its reply is not awaited
}

// DefaultTimeouts are Postfix's.
func DefaultTimeouts() Timeouts { return Timeouts{}.WithDefaults() }

// WithDefaults returns t with Postfix's value in place of every zero.
func (t Timeouts) WithDefaults() Timeouts {
	for _, f := range []struct {
		v   *time.Duration
		def time.Duration
	}{
		{&t.Connect, 30 * time.Second},
		{&t.Hello, 300 * time.Second},
		{&t.StartTLS, 300 * time.Second},
		{&t.Mail, 300 * time.Second},
		{&t.Rcpt, 300 * time.Second},
		{&t.DataInit, 120 * time.Second},
		{&t.DataXfer, 180 * time.Second},
		{&t.DataDone, 600 * time.Second},
		{&t.Reset, 20 * time.Second},
		{&t.Quit, 300 * time.Second},
	} {
		if *f.v == 0 {
			*f.v = f.def
		}
	}
	return t
}

// Options are what a connection is used with.
type Options struct {
	Timeouts  Timeouts // zero fields: the defaults
	LMTP      bool     // LHLO, and one reply for each recipient after the final dot
	LineLimit int      // fold content lines longer than this many bytes; 0: never
	Buffers   *Buffers // where content buffers come from; nil: each connection has its own
}

// Buffers lends out the buffers that content is sent through: they are large,
// and most connections wait most of the time. Share one among all connections.
type Buffers struct{ pool sync.Pool }

// contentBuffer is how much content is written at once: a usual message and
// its final dot are one write.
const contentBuffer = 32 << 10

func (b *Buffers) get(w io.Writer) *bufio.Writer {
	if bw, ok := b.pool.Get().(*bufio.Writer); ok {
		bw.Reset(w)
		return bw
	}
	return bufio.NewWriterSize(w, contentBuffer)
}

func (b *Buffers) put(bw *bufio.Writer) {
	bw.Reset(nil)
	b.pool.Put(bw)
}

// Conn is one connection. It is used by one goroutine at a time.
type Conn struct {
	nc   net.Conn
	opt  Options
	ctx  context.Context // of the call under way
	stop func() bool     // ends watching ctx
	in   *bufio.Reader
	out  []byte        // commands not yet written
	step Step          // what is being done, for errors
	wait time.Duration // for the reads or writes under way

	ext        smtp.Extensions
	esmtp      bool   // see ESMTP
	serverName string // first word of the EHLO reply
	tls        *tls.ConnectionState
	needReset  bool // the last transaction left the server in the middle of one
	broken     bool // of no further use

	// committed: the final dot is on its way, and the server's answer to it is
	// worth waiting for even when the context ends.
	committed atomic.Bool
	uses      int // transactions begun
}

// batchBytes is how many bytes of commands may be unanswered. It must fit
// into any send buffer, see the package comment; 80 recipients do fit into it.
const batchBytes = 4 << 10

// replyBuffer is what is read at once.
const replyBuffer = 4 << 10

var errInjected = errors.New("plaintext behind the reply to STARTTLS")

// New takes over a connection that is already established.
func New(nc net.Conn, opt Options) *Conn {
	opt.Timeouts = opt.Timeouts.WithDefaults()
	if opt.LineLimit == 1 {
		opt.LineLimit = 2 // folding puts a blank in front: there must be room for more
	}
	if opt.Buffers == nil {
		opt.Buffers = new(Buffers)
	}
	c := &Conn{nc: nc, opt: opt, ctx: context.Background(), stop: nothingToStop}
	c.in = bufio.NewReaderSize(reader{c}, replyBuffer)
	return c
}

func nothingToStop() bool { return true }

// Extensions is what the server offers now; nothing before Hello and after
// StartTLS.
func (c *Conn) Extensions() smtp.Extensions { return c.ext }

// ESMTP tells whether the server understood EHLO (or LHLO), or while it has
// not answered, whether it was asked with it.
func (c *Conn) ESMTP() bool { return c.esmtp }

// ServerName is what the server called itself in its reply to EHLO or HELO.
func (c *Conn) ServerName() string { return c.serverName }

// TLS is the state of TLS, nil in the clear.
func (c *Conn) TLS() *tls.ConnectionState { return c.tls }

// Uses is how many transactions were begun.
func (c *Conn) Uses() int { return c.uses }

// Reusable tells whether another transaction may be begun.
func (c *Conn) Reusable() bool { return !c.broken && c.in.Buffered() == 0 }

// NetConn is the connection underneath, for its addresses.
func (c *Conn) NetConn() net.Conn { return c.nc }

// begin binds the connection to ctx for one call: when it ends, reads and
// writes under way fail. finish undoes it.
func (c *Conn) begin(ctx context.Context, s Step) {
	c.ctx, c.step = ctx, s
	if ctx.Done() == nil {
		return
	}
	nc := c.nc
	c.stop = context.AfterFunc(ctx, func() {
		if c.committed.Load() {
			_ = nc.SetReadDeadline(time.Now().Add(dotGrace))
			return
		}
		_ = nc.SetDeadline(time.Unix(1, 0))
	})
}

// dotGrace is how long the answer to the final dot is waited for once the
// context has ended: without it the message would be sent twice.
const dotGrace = 5 * time.Second

func (c *Conn) finish() {
	if !c.stop() {
		c.broken = true // the deadline may be set at any moment
	}
	c.stop = nothingToStop
	c.ctx = context.Background()
	c.committed.Store(false)
}

// fail marks the connection as broken and describes err.
func (c *Conn) fail(err error) *Error {
	c.broken = true
	if c.committed.Load() && c.step == StepDot {
		return failure(context.Background(), c.step, err) // nobody knows whether it arrived
	}
	return failure(c.ctx, c.step, err)
}

func failure(ctx context.Context, s Step, err error) *Error {
	var timeout net.Error
	switch {
	case ctx.Err() != nil:
		return &Error{Step: s, Kind: Canceled, Err: context.Cause(ctx)}
	case errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return &Error{Step: s, Kind: TimedOut, Err: err}
	default:
		return &Error{Step: s, Kind: Lost, Err: err}
	}
}

// reader and writer give every read and write its deadline.
type reader struct{ c *Conn }

// Read reads once, until the deadline that reply set.
func (r reader) Read(p []byte) (int, error) { return r.c.nc.Read(p) }

type writer struct{ c *Conn }

// Write sends p within c.wait from now.
func (w writer) Write(p []byte) (int, error) {
	c := w.c
	if err := c.nc.SetWriteDeadline(time.Now().Add(c.wait)); err != nil {
		return 0, err
	}
	// The context may have ended before the deadline above replaced the one
	// that its end had set.
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.nc.Write(p)
}

// reply reads one reply, all of it within the given time.
func (c *Conn) reply(within time.Duration) (*smtp.Reply, error) {
	if err := c.nc.SetReadDeadline(time.Now().Add(within)); err != nil {
		return nil, c.fail(err)
	}
	if err := c.ctx.Err(); err != nil { // see writer
		if !c.committed.Load() {
			return nil, c.fail(err)
		}
		_ = c.nc.SetReadDeadline(time.Now().Add(dotGrace))
	}
	r, err := smtp.ReadReply(c.in)
	if errors.Is(err, smtp.ErrReply) {
		c.broken = true
		return nil, &Error{Step: c.step, Kind: OutOfStep, Err: err}
	}
	if err != nil {
		return nil, c.fail(err)
	}
	if r.Code == 421 { // RFC 5321 §3.8: the server closes the channel
		c.broken = true
	}
	return r, nil
}

// write sends p within the given time.
func (c *Conn) write(p []byte, within time.Duration) error {
	c.wait = within
	if _, err := (writer{c}).Write(p); err != nil {
		return c.fail(err)
	}
	return nil
}

// flush sends the commands gathered in out.
func (c *Conn) flush(within time.Duration) error {
	err := c.write(c.out, within)
	c.out = c.out[:0]
	return err
}

// command sends one command and reads its reply.
func (c *Conn) command(s Step, within time.Duration, line string) (*smtp.Reply, error) {
	c.step = s
	c.out = append(append(c.out[:0], line...), '\r', '\n')
	if err := c.flush(within); err != nil {
		return nil, err
	}
	return c.reply(within)
}

// Greeting reads the server's greeting. Anything but 2xx is an *Error of kind
// Refused.
func (c *Conn) Greeting(ctx context.Context) error {
	c.begin(ctx, StepGreeting)
	defer c.finish()
	r, err := c.reply(c.opt.Timeouts.Hello)
	if err != nil {
		return err
	}
	if r.Code/100 != 2 {
		c.broken = true
		return &Error{Step: StepGreeting, Kind: Refused, Reply: r}
	}
	return nil
}

// Hello introduces us as name: EHLO, and HELO if that is not understood (LHLO
// only for LMTP). A refusal is an *Error of kind Refused.
func (c *Conn) Hello(ctx context.Context, name string) error {
	c.begin(ctx, StepHello)
	defer c.finish()
	c.esmtp = true
	verb := "EHLO "
	if c.opt.LMTP {
		verb = "LHLO "
	}
	r, err := c.command(StepHello, c.opt.Timeouts.Hello, verb+name)
	if err != nil {
		return err
	}
	c.esmtp = r.Code/100 == 2
	if !c.esmtp && r.Code != 421 && !c.opt.LMTP {
		if r, err = c.command(StepHello, c.opt.Timeouts.Hello, "HELO "+name); err != nil {
			return err
		}
	}
	if r.Code/100 != 2 {
		c.broken = true
		return &Error{Step: StepHello, Kind: Refused, Reply: r}
	}
	c.serverName, _, _ = strings.Cut(r.Lines[0], " ")
	if c.esmtp {
		c.ext = smtp.ParseExtensions(r)
	}
	return nil
}

// StartTLS asks for TLS and does the handshake. What the server offered
// before is void (RFC 3207 §4.2): Hello must follow. A refusal of the command
// is an *Error of kind Refused and leaves the connection usable in the clear;
// after any other error it is of no use.
func (c *Conn) StartTLS(ctx context.Context, cfg *tls.Config) error {
	c.begin(ctx, StepStartTLS)
	defer c.finish()
	r, err := c.command(StepStartTLS, c.opt.Timeouts.StartTLS, "STARTTLS")
	if err != nil {
		return err
	}
	if r.Code/100 != 2 {
		return &Error{Step: StepStartTLS, Kind: Refused, Reply: r}
	}
	if c.in.Buffered() > 0 {
		// Anything sent along with the 220 was not protected and must not be
		// taken for part of the protected conversation (RFC 3207 §6).
		c.broken = true
		return &Error{Step: StepStartTLS, Kind: OutOfStep, Err: errInjected}
	}
	return c.handshake(ctx, cfg)
}

func (c *Conn) handshake(ctx context.Context, cfg *tls.Config) error {
	if err := c.nc.SetDeadline(time.Now().Add(c.opt.Timeouts.StartTLS)); err != nil {
		return c.fail(err)
	}
	t := tls.Client(c.nc, cfg)
	if err := t.HandshakeContext(ctx); err != nil {
		return c.fail(err)
	}
	state := t.ConnectionState()
	c.nc, c.tls, c.ext = t, &state, smtp.Extensions{}
	return nil
}

// Quit says goodbye without waiting for the answer, and closes.
func (c *Conn) Quit() {
	if !c.broken {
		c.step = StepQuit
		c.out = append(c.out[:0], "QUIT\r\n"...)
		_ = c.flush(c.opt.Timeouts.Quit)
	}
	c.Close()
}

// Close closes at once. It may be called more than once.
func (c *Conn) Close() {
	c.broken = true
	_ = c.nc.Close()
}
