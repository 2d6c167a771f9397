package bounce

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"time"

	"posthouse/internal/intake"
	"posthouse/internal/mail"
	"posthouse/internal/postfix/maillog"
	"posthouse/internal/queue"
	"posthouse/internal/spool"
)

// service is the name that Postfix's bounce program logs under.
const service = "bounce"

// Config is what a Bouncer is told.
type Config struct {
	Hostname string      // our name; required
	MailName string      // in field names: "X-Postfix-Queue-ID"; "" means "Postfix", which parsers of notices expect
	Origin   string      // domain of addresses that have none; "" means Hostname
	IDs      mail.IDForm // how queue IDs are shown

	SizeLimit     int64         // larger originals are returned without their body, in bytes; 0 means 50000
	QueueLifetime time.Duration // how long mail is retried (maximal_queue_lifetime); 0 means 5 days
	DelayWarning  time.Duration // after how long a delay is told (delay_warning_time)

	DoubleBounce string // local part of the sender of postmaster notices; "" means "double-bounce"

	// Which notices the postmaster gets a copy of (notify_classes), and where
	// they go; "" means postmaster.
	CopyFailures      bool // class bounce: headers of mail that was returned
	CopyDoubleBounces bool // class 2bounce: notices that cannot be delivered
	CopyDelays        bool // class delay: headers of mail that is late
	FailureRecipient  mail.Address
	DoubleRecipient   mail.Address
	DelayRecipient    mail.Address
}

func (c Config) defaults() Config {
	if c.MailName == "" {
		c.MailName = "Postfix"
	}
	if c.Origin == "" {
		c.Origin = c.Hostname
	}
	if c.SizeLimit <= 0 {
		c.SizeLimit = 50000
	}
	if c.QueueLifetime <= 0 {
		c.QueueLifetime = 5 * 24 * time.Hour
	}
	if c.DoubleBounce == "" {
		c.DoubleBounce = "double-bounce"
	}
	for _, a := range [...]*mail.Address{&c.FailureRecipient, &c.DoubleRecipient, &c.DelayRecipient} {
		if *a == "" {
			*a = "postmaster"
		}
		if a.Domain() == "" {
			*a += mail.Address("@" + c.Origin)
		}
	}
	return c
}

// doubleBounce is the sender of notices about notices.
func (c *Config) doubleBounce() mail.Address {
	return mail.Address(c.DoubleBounce + "@" + c.Origin)
}

// Submitter takes a composed notice; intake.Intake has it.
type Submitter interface {
	Submit(ctx context.Context, s *intake.Submission, content io.Reader) (mail.QueueID, error)
}

// Deps are the parts that a Bouncer works with. All are required.
type Deps struct {
	Log  maillog.Logger
	Now  func() time.Time // time.Now outside tests; its zone is the one shown in notices
	Open func(id mail.QueueID) (spool.Content, error)
}

// Bouncer composes notices. It is safe for concurrent use.
type Bouncer struct {
	submit Submitter
	deps   Deps
	cfg    atomic.Pointer[Config]
}

var _ queue.Bouncer = (*Bouncer)(nil)

// New returns a Bouncer.
func New(cfg Config, submit Submitter, deps Deps) *Bouncer {
	b := &Bouncer{submit: submit, deps: deps}
	b.Reconfigure(cfg)
	return b
}

// Reconfigure replaces the configuration.
func (b *Bouncer) Reconfigure(cfg Config) {
	cfg = cfg.defaults()
	b.cfg.Store(&cfg)
}

// Discards tells whether mail to a is to be dropped instead of delivered: it
// answers a notice about a notice. The delivery record then reads
// "undeliverable postmaster notification discarded".
func (b *Bouncer) Discards(a mail.Address) bool {
	return strings.EqualFold(string(a), string(b.cfg.Load().doubleBounce()))
}

// Notify reports on recipients of m; see queue.Bouncer.
func (b *Bouncer) Notify(ctx context.Context, kind queue.Notice, m *mail.Message, rcpts []int) error {
	c := b.cfg.Load()
	now := b.deps.Now()
	if strings.EqualFold(string(m.Sender), string(c.doubleBounce())) {
		if kind == queue.NoticeFailure {
			b.log(maillog.Warning, m.ID, "undeliverable postmaster notification discarded")
		}
		return nil
	}
	if m.Sender == mail.NullSender {
		return b.notifyNull(ctx, c, kind, m, rcpts, now)
	}
	told := wanted(kind, m, rcpts)
	if len(told) > 0 {
		r := &report{cfg: c, kind: kind, m: m, rcpts: told, now: now, to: m.Sender}
		id, err := b.send(ctx, r)
		if err != nil {
			return fmt.Errorf("%s notice for %s: %w", words(kind).log, c.IDs.Format(m.ID), err)
		}
		b.log(maillog.Info, m.ID, "sender "+words(kind).log+" notification: "+c.IDs.Format(id))
	}
	switch {
	case kind == queue.NoticeFailure && c.CopyFailures:
		b.copy(ctx, &report{cfg: c, kind: kind, m: m, rcpts: rcpts, now: now, to: c.FailureRecipient, postmaster: true, headersOnly: true})
	case kind == queue.NoticeDelay && c.CopyDelays:
		b.copy(ctx, &report{cfg: c, kind: kind, m: m, rcpts: rcpts, now: now, to: c.DelayRecipient, postmaster: true})
	}
	return nil
}

// notifyNull handles mail whose sender must not be answered. A failed notice
// goes to the postmaster, whole, where that is wanted.
func (b *Bouncer) notifyNull(ctx context.Context, c *Config, kind queue.Notice, m *mail.Message, rcpts []int, now time.Time) error {
	switch {
	case kind == queue.NoticeFailure && c.CopyDoubleBounces:
		r := &report{cfg: c, kind: kind, m: m, rcpts: rcpts, now: now, to: c.DoubleRecipient, postmaster: true}
		id, err := b.send(ctx, r)
		if err != nil {
			return fmt.Errorf("double bounce notice for %s: %w", c.IDs.Format(m.ID), err)
		}
		b.log(maillog.Info, m.ID, "postmaster non-delivery notification: "+c.IDs.Format(id))
	case kind == queue.NoticeDelay && c.CopyDelays:
		b.copy(ctx, &report{cfg: c, kind: kind, m: m, rcpts: rcpts, now: now, to: c.DelayRecipient, postmaster: true})
	}
	return nil
}

// copy sends the postmaster's copy; see the package comment about its failure.
func (b *Bouncer) copy(ctx context.Context, r *report) {
	id, err := b.send(ctx, r)
	if err != nil {
		b.log(maillog.Warning, r.m.ID, "postmaster "+words(r.kind).log+" notification failed: "+err.Error())
		return
	}
	b.log(maillog.Info, r.m.ID, "postmaster "+words(r.kind).log+" notification: "+r.cfg.IDs.Format(id))
}

// send composes a report and submits it.
func (b *Bouncer) send(ctx context.Context, r *report) (mail.QueueID, error) {
	content, err := b.deps.Open(r.m.ID)
	if err != nil {
		return 0, fmt.Errorf("open original: %w", err)
	}
	text, err := r.compose(content)
	if err != nil {
		return 0, closed(content, fmt.Errorf("read original: %w", err))
	}
	s := &intake.Submission{Origin: mail.FromBounce, Recipients: []mail.Recipient{{Address: r.to}}, Body8Bit: true, SMTPUTF8: r.m.SMTPUTF8}
	if r.postmaster {
		s.Sender = r.cfg.doubleBounce()
	}
	id, err := b.submit.Submit(ctx, s, text)
	return id, closed(content, err)
}

// closed closes content and returns err. What was read has been read: a
// failing Close changes nothing.
func closed(content spool.Content, err error) error {
	_ = content.Close()
	return err
}

func (b *Bouncer) log(sev maillog.Severity, id mail.QueueID, text string) {
	b.deps.Log.Log(service, sev, &maillog.Queued{ID: id, What: "notification", Text: text})
}

// wanted returns the recipients that are to be reported (RFC 3461 §4.1).
func wanted(kind queue.Notice, m *mail.Message, rcpts []int) []int {
	out := make([]int, 0, len(rcpts))
	for _, i := range rcpts {
		n := m.Recipients[i].Notify
		if kind == queue.NoticeFailure && n.WantsFailure() ||
			kind == queue.NoticeDelay && n.WantsDelay() ||
			kind == queue.NoticeSuccess && n.WantsSuccess() {
			out = append(out, i)
		}
	}
	return out
}
