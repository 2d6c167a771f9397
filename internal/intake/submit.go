package intake

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"posthouse/internal/mail"
	"posthouse/internal/mail/message"
	"posthouse/internal/postfix/maillog"
	"posthouse/internal/smtp"
	"posthouse/internal/spool"
)

// Submission is a message that did not come over SMTP.
type Submission struct {
	Origin     mail.Origin // FromLocal or FromBounce
	UID        int         // of the local submitter
	FullName   string      // of the local submitter; "" when unknown
	Sender     mail.Address
	Recipients []mail.Recipient
	// Extract adds the recipients that the header names (sendmail -t): those
	// of To, Cc and Bcc, or of their resent forms when there are any.
	Extract    bool
	Notify     mail.Notify // DSN NOTIFY of extracted recipients
	Ret        mail.Ret    // DSN RET
	EnvelopeID string      // DSN ENVID
	Body8Bit   bool
	SMTPUTF8   bool
	OrigID     mail.QueueID // the ID it was known by before; 0 when there was none
	Arrival    time.Time    // when it was submitted; zero means now
}

// extraction gathers recipients from header fields.
type extraction struct {
	notify        mail.Notify
	plain, resent []mail.Address
}

func (x *extraction) take(f message.Field, value []byte) {
	list := message.ParseAddressList(value)
	if message.ResentFields.Has(f) {
		x.resent = append(x.resent, list...)
	} else {
		x.plain = append(x.plain, list...)
	}
}

// apply adds what was gathered. Resent fields, when the header has any, are
// the only ones that count (RFC 5322 §3.6.6). What is no address is told to
// the log and left out: the others are not to wait for it.
func (x *extraction) apply(b *builder) {
	list := x.plain
	if b.filter.Header().Resent() {
		list = x.resent
	}
	for _, a := range list {
		if err := b.addLocal(mail.Recipient{Address: a, Notify: x.notify}); err != nil {
			b.in.logQueued(serviceCleanup, maillog.Warning, b.env.ID, "recipient", "no address in header: "+string(a))
		}
	}
}

// addLocal adds a recipient of a submission.
func (b *builder) addLocal(r mail.Recipient) error {
	full, err := checked(b.cfg, r.Address)
	if err != nil || full == mail.NullSender {
		return fmt.Errorf("%w: %q", ErrAddress, r.Address)
	}
	if full != r.Address && r.OrigAddress == "" {
		r.OrigAddress = r.Address
	}
	r.Address = full
	b.addRecipient(r)
	return nil
}

// checked completes an address and makes sure that it is one: what programs
// hand over must not smuggle line ends or brackets into an SMTP command.
func checked(c *Config, a mail.Address) (mail.Address, error) {
	if a == mail.NullSender {
		return a, nil
	}
	full, err := smtp.ParseAddress(string(c.qualify(a)), true)
	if err != nil {
		return "", fmt.Errorf("%w: %q", ErrAddress, a)
	}
	return c.qualify(full), nil
}

// Submit takes a message that a local program, or this program itself, made.
// content has lines ending in LF or CRLF. It returns the queue ID once the
// message is durable.
func (in *Intake) Submit(ctx context.Context, s *Submission, content io.Reader) (mail.QueueID, error) {
	b, err := in.beginSubmission(s)
	if err != nil {
		return 0, err
	}
	defer b.discard()
	if err := copyContent(b, content); err != nil {
		return 0, fmt.Errorf("submit: %w", err)
	}
	if err := b.finish(ctx); err != nil {
		return 0, fmt.Errorf("submit: %w", err)
	}
	in.deps.Queue.Enqueue(mail.NewMessage(b.env))
	return b.env.ID, nil
}

func (in *Intake) beginSubmission(s *Submission) (*builder, error) {
	c := in.cfg.Load()
	now := in.deps.Now()
	b := &builder{in: in, cfg: c, addMissing: true}
	sender, err := checked(c, s.Sender)
	if err != nil {
		return nil, fmt.Errorf("submit: sender: %w", err)
	}
	b.env = mail.Envelope{
		ID: in.deps.IDs.Next(), Arrival: s.Arrival, Sender: sender, Origin: s.Origin,
		Client:   mail.Client{Name: "localhost", UID: -1},
		FullName: s.FullName, OrigID: s.OrigID, Body8Bit: s.Body8Bit, SMTPUTF8: s.SMTPUTF8,
		EnvelopeID: s.EnvelopeID, Ret: s.Ret,
	}
	if b.env.Arrival.IsZero() {
		b.env.Arrival = now
	}
	if s.Origin == mail.FromLocal {
		b.env.Client.UID = s.UID
		in.logPickup(s.UID, s.Sender, b.env.ID, s.OrigID)
	}
	for _, r := range s.Recipients {
		if err := b.addLocal(r); err != nil {
			return nil, fmt.Errorf("submit: recipient: %w", err)
		}
	}
	opt := message.Options{DropMailboxLines: true}
	if s.Extract {
		b.extract = &extraction{notify: s.Notify}
		opt.Collect = message.RecipientFields.Union(message.ResentRecipientFields)
	}
	trace := message.Trace{Origin: s.Origin, Client: &b.env.Client, Date: now}
	if err := b.begin(0, &trace, opt); err != nil {
		b.discard()
		return nil, fmt.Errorf("submit: %w", err)
	}
	return b, nil
}

// copyContent reads a submission to its end. A message that turned out to be
// at fault is reported as that, not as a failed write.
func copyContent(b *builder, r io.Reader) error {
	_, err := io.Copy(struct{ io.Writer }{b}, r)
	if b.err != nil {
		return b.err
	}
	return err
}

// logPickup writes "QID: uid=0 from=<…>[ orig_id=…]".
func (in *Intake) logPickup(uid int, sender mail.Address, id, orig mail.QueueID) {
	text := append(make([]byte, 0, 64), "uid="...)
	text = strconv.AppendInt(text, int64(uid), 10)
	text = append(append(append(text, " from=<"...), sender...), '>')
	if orig != 0 {
		text = append(append(text, " orig_id="...), in.cfg.Load().IDs.Format(orig)...)
	}
	in.logQueued(servicePickup, maillog.Info, id, "pickup", string(text))
}

// Resubmit puts a message through intake anew (postsuper -r): a new ID, one
// more Received field, the recipients that are still pending, and the retry
// and lifetime clocks started again; the arrival stays. The content is not
// changed otherwise, and the hop limit does not apply: an operator's requeue
// is no loop.
func (in *Intake) Resubmit(ctx context.Context, m *mail.Message, content spool.Content) (mail.QueueID, error) {
	c, now := in.cfg.Load(), in.deps.Now()
	env := m.Envelope
	env.ID, env.OrigID = in.deps.IDs.Next(), m.ID
	env.Recipients = make([]mail.Recipient, 0, m.PendingCount())
	for i := range m.RcptState {
		if !m.RcptState[i].Phase.Final() {
			env.Recipients = append(env.Recipients, m.Envelope.Recipients[i])
		}
	}
	if len(env.Recipients) == 0 {
		return 0, fmt.Errorf("resubmit: %w", ErrNoRecipients)
	}
	in.logPickup(c.UID, env.Sender, env.ID, env.OrigID)
	in.logQueued(serviceCleanup, maillog.Info, env.ID, "message-id", "message-id="+orNone(env.MessageID))
	staged, err := in.deps.Store.Stage(m.Size)
	if err != nil {
		return 0, fmt.Errorf("resubmit: %w", err)
	}
	trace := message.Trace{
		Host: c.Hostname, MailName: c.MailName, ID: c.IDs.Format(env.ID), Date: now,
		Origin: mail.FromLocal, Client: &mail.Client{UID: c.UID},
	}
	_, err = staged.Write(trace.Append(nil))
	if err == nil {
		_, err = io.Copy(struct{ io.Writer }{staged}, io.NewSectionReader(content, 0, content.Size()))
	}
	if err != nil {
		staged.Discard()
		return 0, fmt.Errorf("resubmit: %w", err)
	}
	env.Size = staged.Size()
	ctx = context.WithoutCancel(ctx) // see builder.finish
	if err := in.deps.Store.Commit(ctx, &env, staged); err != nil {
		return 0, fmt.Errorf("resubmit: %w", err)
	}
	again := mail.NewMessage(env)
	again.State.Created = now
	// A crash before this takes effect leaves the clocks where the arrival
	// set them, and nothing worse: an error is for the log.
	if err := in.deps.Store.Apply(ctx, (&spool.Batch{}).Add(spool.SetState{ID: env.ID, State: again.State})); err != nil {
		in.logQueued(serviceCleanup, maillog.Warning, env.ID, "write-error", "retry clock not recorded: "+err.Error())
	}
	in.deps.Queue.Enqueue(again)
	return env.ID, nil
}

func orNone(id string) string {
	if id == "" {
		return "<>"
	}
	return id
}

// AtFault tells whether err of Submit lies in the message, so that it will be
// refused again however often it is offered.
func AtFault(err error) bool {
	return errors.Is(err, ErrNoRecipients) || errors.Is(err, ErrTooBig) || errors.Is(err, ErrTooManyHops) || errors.Is(err, ErrAddress)
}
