package intake

import (
	"bytes"
	"context"
	"strings"
	"time"

	"posthouse/internal/mail"
	"posthouse/internal/mail/message"
	"posthouse/internal/postfix/maillog"
	"posthouse/internal/spool"
)

// builder puts one message together: envelope, content with its new fields,
// and what was learnt on the way. It belongs to one goroutine at a time.
type builder struct {
	in     *Intake
	cfg    *Config
	env    mail.Envelope
	filter message.Filter
	staged spool.Staged

	addMissing bool      // this message gets the fields it lacks
	begun      time.Time // when its content began: the date of added fields
	received   int64     // bytes of content taken, as received
	err        error     // the first thing that went wrong

	messageID, resentID string // values found, as logs show them
	seen                map[string]struct{}
	extract             *extraction // recipients wanted from the header; nil when not
}

// collected are the fields whose value every message is asked for.
const collected message.FieldSet = 1<<message.MessageID | 1<<message.ResentMessageID

// begin stages a place for the content and writes the Received field.
func (b *builder) begin(size int64, trace *message.Trace, opt message.Options) error {
	staged, err := b.in.deps.Store.Stage(size)
	if err != nil {
		b.err = err
		return err
	}
	b.staged = staged
	trace.Host, trace.MailName = b.cfg.Hostname, b.cfg.MailName
	trace.ID = b.cfg.IDs.Format(b.env.ID)
	b.begun = trace.Date
	opt.Collect = opt.Collect.Union(collected)
	opt.Value = b.fieldValue
	opt.EndOfHeader = b.endOfHeader
	b.filter.Reset(staged, opt)
	if _, err := staged.Write(trace.Append(make([]byte, 0, 256))); err != nil {
		b.err = err
	}
	return b.err
}

// Write takes content. Once something went wrong it swallows the rest, so
// that a session can read on; finish reports it.
func (b *builder) Write(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	b.received += int64(len(p))
	// A notice may be larger than the message that it returns: refused here, it
	// could never be made, and what it speaks of would wait for it for ever.
	if limit := b.cfg.MaxMessageSize; limit > 0 && b.received > limit && b.env.Origin != mail.FromBounce {
		b.err = ErrTooBig
		return 0, b.err
	}
	n, err := b.filter.Write(p)
	if err != nil && b.err == nil {
		b.err = err
	}
	return n, err
}

// fieldValue takes the value of a collected header field.
func (b *builder) fieldValue(f message.Field, value []byte) {
	switch f {
	case message.MessageID:
		text := idText(value)
		if b.messageID == "" {
			b.messageID = text
		}
		b.in.logQueued(serviceCleanup, maillog.Info, b.env.ID, "message-id", "message-id="+text)
	case message.ResentMessageID:
		b.resentID = idText(value)
		b.in.logQueued(serviceCleanup, maillog.Info, b.env.ID, "resent-message-id", "resent-message-id="+b.resentID)
	default:
		if b.extract != nil {
			b.extract.take(f, value)
		}
	}
}

// endOfHeader returns the fields that the message lacks, in Postfix's order.
// A message sent on by its reader lacks the resent forms (RFC 5322 §3.6.6).
func (b *builder) endOfHeader() []byte {
	h := b.filter.Header()
	id, date, from, prefix := message.MessageID, message.Date, message.From, ""
	if h.Resent() {
		id, date, from, prefix = message.ResentMessageID, message.ResentDate, message.ResentFrom, "Resent-"
	}
	var out []byte
	if b.addMissing {
		if !h.Seen.Has(id) {
			out = append(append(out, prefix...), "Message-Id: "...)
			start := len(out)
			out = message.AppendMessageID(out, b.cfg.IDs, b.env.ID, b.cfg.Hostname, b.begun)
			b.fieldValue(id, out[start:])
			out = append(out, '\r', '\n')
		}
		if !h.Seen.Has(date) {
			out = append(append(out, prefix...), "Date: "...)
			out = append(message.AppendDate(out, b.begun), '\r', '\n')
		}
		if !h.Seen.Has(from) {
			out = append(append(out, prefix...), "From: "...)
			out = append(message.AppendFrom(out, b.env.Sender, b.env.FullName), '\r', '\n')
		}
	}
	if b.messageID == "" && !h.Seen.Has(message.MessageID) {
		b.in.logQueued(serviceCleanup, maillog.Info, b.env.ID, "message-id", "message-id=<>")
	}
	return out
}

// maxID is how much of a message identifier is kept, in bytes: no line of a
// header may be longer (RFC 5322 §2.1.1). It goes into the log for each field
// and into memory for each message, and its sender decides what it is.
const maxID = 998

// idText is a message identifier as logs show it: on one line.
func idText(value []byte) string {
	value = bytes.TrimLeft(value, " \t\r\n")
	value = value[:min(len(value), maxID)]
	return strings.ReplaceAll(string(value), "\r\n", "?")
}

// addRecipient adds a recipient unless the same one is there already, and
// tells whether it did. Case is no difference, as nobody has two mailboxes
// told apart by it; what the sender asked for is one.
func (b *builder) addRecipient(r mail.Recipient) bool {
	// The first recipient needs no table: most messages have one.
	if len(b.env.Recipients) > 0 {
		if b.seen == nil {
			b.seen = make(map[string]struct{}, 8)
			b.seen[recipientKey(&b.env.Recipients[0])] = struct{}{}
		}
		key := recipientKey(&r)
		if _, dup := b.seen[key]; dup {
			return false
		}
		if len(b.seen) < b.cfg.DuplicateFilterLimit {
			b.seen[key] = struct{}{}
		}
	}
	b.env.Recipients = append(b.env.Recipients, r)
	return true
}

// recipientKey is what makes a recipient the same as another.
func recipientKey(r *mail.Recipient) string {
	key := strings.ToLower(string(r.Address))
	if r.DSNOriginal != "" || r.Notify != 0 || r.OrigAddress != "" {
		key += "\n" + strings.ToLower(string(r.OrigAddress)) + "\n" + string(rune('0'+r.Notify)) + "\n" + strings.ToLower(r.DSNOriginal)
	}
	return key
}

// finish ends the content, checks the whole, and commits it.
func (b *builder) finish(ctx context.Context) error {
	if b.err == nil {
		b.err = b.filter.Close()
	}
	if b.err != nil {
		return b.err
	}
	h := b.filter.Header()
	if h.Received+1 >= b.cfg.HopLimit {
		b.in.logQueued(serviceCleanup, maillog.Warning, b.env.ID, "hopcount", "message rejected: hopcount exceeded")
		b.err = ErrTooManyHops
		return b.err
	}
	if b.extract != nil {
		b.extract.apply(b)
	}
	if len(b.env.Recipients) == 0 {
		b.err = ErrNoRecipients
		return b.err
	}
	b.env.MessageID = b.messageID
	b.env.SMTPUTF8 = b.env.SMTPUTF8 && (h.NonASCII || needsUTF8(&b.env))
	b.env.Size = b.staged.Size()
	// Once the commit is under way the message may become durable: then it
	// must reach the queue, however impatient the client is.
	staged := b.staged
	b.staged = nil
	if b.err = b.in.deps.Store.Commit(context.WithoutCancel(ctx), &b.env, staged); b.err != nil {
		return b.err
	}
	return nil
}

// discard gives the staged content back.
func (b *builder) discard() {
	if b.staged != nil {
		b.staged.Discard()
		b.staged = nil
	}
}

// needsUTF8 tells whether an address of the envelope goes beyond ASCII.
func needsUTF8(env *mail.Envelope) bool {
	if !isASCII(string(env.Sender)) {
		return true
	}
	for i := range env.Recipients {
		if !isASCII(string(env.Recipients[i].Address)) {
			return true
		}
	}
	return false
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}
