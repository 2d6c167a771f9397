package bounce

import (
	"bytes"
	"io"
	"strconv"
	"strings"
	"time"

	"posthouse/internal/mail"
	"posthouse/internal/mail/message"
	"posthouse/internal/queue"
	"posthouse/internal/spool"
)

// wording is what differs between kinds of notice.
type wording struct{ log, subject, copySubject, original string }

func words(kind queue.Notice) wording {
	switch kind {
	case queue.NoticeDelay:
		return wording{"delay", "Delayed Mail (still being retried)", "Postmaster Warning: Delayed Mail", "Undelivered Message"}
	case queue.NoticeSuccess:
		return wording{"delivery status", "Successful Mail Delivery Report", "", "Message"}
	default:
		return wording{"non-delivery", "Undelivered Mail Returned to Sender", "Postmaster Copy: Undelivered Mail", "Undelivered Message"}
	}
}

// report is one notice being composed.
type report struct {
	cfg         *Config
	kind        queue.Notice
	m           *mail.Message
	rcpts       []int
	now         time.Time
	to          mail.Address
	postmaster  bool // a copy: other subject, no words of comfort
	headersOnly bool // whatever the sender asked for

	buf      bytes.Buffer
	id       string
	boundary string
}

// compose returns the notice as a stream of LF lines around the stored
// original: intake writes CRLF.
func (r *report) compose(content spool.Content) (io.Reader, error) {
	r.id = r.cfg.IDs.Format(r.m.ID)
	r.boundary = r.id + "." + strconv.FormatInt(r.now.Unix(), 10) + "/" + r.cfg.Hostname
	r.header()
	r.explain()
	r.status()
	size := content.Size()
	whole := r.wholeOriginal()
	if !whole {
		var err error
		if size, err = message.HeaderSize(io.NewSectionReader(content, 0, size)); err != nil {
			return nil, err
		}
	}
	r.originalPart(whole)
	// The part ends with a line end of its own before the boundary's (RFC 2046 §5.1.1).
	return io.MultiReader(&r.buf, io.NewSectionReader(content, 0, size), strings.NewReader("\n--"+r.boundary+"--\n")), nil
}

// wholeOriginal tells whether the body is returned too (RFC 3461 §4.3: RET
// speaks of failure notices only).
func (r *report) wholeOriginal() bool {
	return r.kind == queue.NoticeFailure && !r.headersOnly && r.m.Ret != mail.RetHeaders && r.m.Size <= r.cfg.SizeLimit
}

func (r *report) lines(s ...string) {
	for _, l := range s {
		r.buf.WriteString(l)
		r.buf.WriteByte('\n')
	}
}

func (r *report) date(t time.Time) string {
	return string(message.AppendDate(nil, t.In(r.now.Location())))
}

func (r *report) header() {
	subject, submitted := words(r.kind).subject, "auto-replied" // RFC 3834 §5
	if r.postmaster {
		subject, submitted = words(r.kind).copySubject, "auto-generated"
	}
	r.lines(
		"Date: "+r.date(r.now),
		"From: Mail Delivery System <MAILER-DAEMON@"+r.cfg.Origin+">",
		"Subject: "+subject,
		"To: "+string(r.to),
		"Auto-Submitted: "+submitted,
		"MIME-Version: 1.0",
		"Content-Type: multipart/report; report-type=delivery-status;",
		"\tboundary=\""+r.boundary+"\"",
		"Content-Transfer-Encoding: 8bit",
		"",
		"This is a MIME-encapsulated message.",
		"",
	)
}

// explain writes the part for people.
func (r *report) explain() {
	r.lines("--"+r.boundary,
		"Content-Description: Notification",
		"Content-Type: text/plain; charset=utf-8",
		"Content-Transfer-Encoding: 8bit",
		"")
	if !r.postmaster {
		r.buf.WriteString(r.comfort())
	}
	for _, i := range r.rcpts {
		r.lines("")
		st := &r.m.RcptState[i].Last
		text := printable(st.Text)
		if r.kind == queue.NoticeSuccess && st.RemoteMTA != "" {
			text = "delivery via " + printable(st.RemoteMTA) + ": " + text
		}
		r.wrap("<" + printable(string(r.m.Recipients[i].Address)) + ">: " + text)
	}
	r.lines("")
}

func (r *report) comfort() string {
	const (
		intro   = "This is the mail system at host "
		help    = "For further assistance, please send mail to postmaster.\n\nIf you do so, please include this problem report. You can\ndelete your own text from the attached returned message.\n\n"
		signoff = "                   The mail system\n"
	)
	head := intro + r.cfg.Hostname + ".\n\n"
	switch r.kind {
	case queue.NoticeDelay:
		return head +
			"####################################################################\n" +
			"# THIS IS A WARNING ONLY.  YOU DO NOT NEED TO RESEND YOUR MESSAGE. #\n" +
			"####################################################################\n\n" +
			"Your message could not be delivered for more than " + strconv.FormatInt(int64(r.cfg.DelayWarning/time.Hour), 10) + " hour(s).\n" +
			"It will be retried until it is " + strconv.FormatInt(int64(r.cfg.QueueLifetime/(24*time.Hour)), 10) + " day(s) old.\n\n" +
			help + signoff
	case queue.NoticeSuccess:
		return head +
			"Your message was successfully delivered to the destination(s)\n" +
			"listed below. If the message was delivered to mailbox you will\n" +
			"receive no further notifications. Otherwise you may still receive\n" +
			"notifications of mail delivery errors from other systems.\n\n" + signoff
	default:
		return head +
			"I'm sorry to have to inform you that your message could not\n" +
			"be delivered to one or more recipients. It's attached below.\n\n" +
			help + signoff
	}
}

// status writes the part for programs (RFC 3464; for internationalised mail
// RFC 6533 §3).
func (r *report) status() {
	kind := "message/delivery-status"
	if r.m.SMTPUTF8 {
		kind = "message/global-delivery-status"
	}
	r.lines("--"+r.boundary,
		"Content-Description: Delivery report",
		"Content-Type: "+kind)
	if r.m.SMTPUTF8 {
		r.lines("Content-Transfer-Encoding: 8bit")
	}
	r.lines("", "Reporting-MTA: dns; "+r.cfg.Hostname)
	if r.m.EnvelopeID != "" {
		r.lines("Original-Envelope-Id: " + printable(r.m.EnvelopeID))
	}
	r.lines(
		"X-"+r.cfg.MailName+"-Queue-ID: "+r.id,
		"X-"+r.cfg.MailName+"-Sender: "+typed(string(r.sender())),
		"Arrival-Date: "+r.date(r.m.Arrival))
	for _, i := range r.rcpts {
		r.recipient(i)
	}
	r.lines("")
}

// sender is the original's sender in a form that can be shown.
func (r *report) sender() mail.Address {
	if r.m.Sender == mail.NullSender {
		return mail.Address("MAILER-DAEMON@" + r.cfg.Origin)
	}
	return r.m.Sender
}

// recipient writes the fields about one recipient (RFC 3464 §2.3).
func (r *report) recipient(i int) {
	rcpt, st := &r.m.Recipients[i], &r.m.RcptState[i].Last
	r.lines("", "Final-Recipient: "+typed(string(rcpt.Address)))
	orig := rcpt.DSNOriginal
	if orig == "" { // what Postfix assumes when the client gave none
		a := rcpt.OrigAddress
		if a == "" {
			a = rcpt.Address
		}
		orig = strings.Replace(typed(string(a)), "; ", ";", 1)
	}
	r.lines("Original-Recipient: "+printable(orig),
		"Action: "+r.action(st),
		"Status: "+st.Code.String())
	if st.RemoteMTA != "" {
		r.lines("Remote-MTA: dns; " + printable(st.RemoteMTA))
	}
	diag, text := st.DiagType, st.DiagText
	if text == "" {
		text = st.Text
	}
	if diag == "" {
		diag = "X-" + r.cfg.MailName
		if st.RemoteMTA != "" && st.OK() {
			diag = "smtp" // a success is told in the words of who took it
		}
	}
	r.wrap("Diagnostic-Code: " + diag + "; " + printable(text))
	if r.kind == queue.NoticeDelay {
		r.lines("Will-Retry-Until: " + r.date(r.retryUntil()))
	}
}

// action says what happened (RFC 3464 §2.3.3). A success over the network is
// "relayed": it is only reported because the next hop will not report.
func (r *report) action(st *mail.Status) string {
	switch {
	case r.kind == queue.NoticeDelay:
		return "delayed"
	case r.kind == queue.NoticeFailure:
		return "failed"
	case st.RemoteMTA != "":
		return "relayed"
	}
	return "delivered"
}

// retryUntil is when the lifetime ends: a requeue starts it anew.
func (r *report) retryUntil() time.Time {
	start := r.m.State.Created
	if start.IsZero() {
		start = r.m.Arrival
	}
	return start.Add(r.cfg.QueueLifetime)
}

// originalPart writes the head of the part that returns the original.
func (r *report) originalPart(whole bool) {
	description, kind := words(r.kind).original, "message/rfc822"
	switch {
	case whole && r.m.SMTPUTF8:
		kind = "message/global"
	case !whole && r.m.SMTPUTF8:
		description, kind = description+" Headers", "message/global-headers"
	case !whole:
		description, kind = description+" Headers", "text/rfc822-headers"
	}
	r.lines("--"+r.boundary,
		"Content-Description: "+description,
		"Content-Type: "+kind,
		"Content-Transfer-Encoding: 8bit",
		"",
		"Return-Path: <"+printable(string(r.sender()))+">")
}

// Lines are at most 79 bytes long, and continued behind four blanks, as
// Postfix has them.
const (
	wrapWidth  = 79
	wrapIndent = "    "
)

// wrap writes a text, broken at blanks where it is too long; a word that is
// too long by itself stays whole.
func (r *report) wrap(s string) {
	indent, width := "", wrapWidth
	for {
		s = strings.TrimRight(s, " \t")
		cut := breakAt(s, width)
		r.lines(indent + strings.TrimRight(s[:cut], " \t"))
		if s = strings.TrimLeft(s[cut:], " \t"); s == "" {
			return
		}
		indent, width = wrapIndent, wrapWidth-len(wrapIndent)
	}
}

// breakAt returns where the first line of s ends: behind the last word that
// fits, but behind the first word in any case.
func breakAt(s string, width int) int {
	end := 0
	for end < len(s) {
		next := strings.IndexAny(s[end:], " \t")
		if next < 0 {
			next = len(s)
		} else {
			next += end
		}
		if next > width && end > 0 {
			return end
		}
		end = next
		for end < len(s) && (s[end] == ' ' || s[end] == '\t') {
			end++
		}
	}
	return end
}

// typed writes an address with its type (RFC 3464 §2.3.2, RFC 6533 §3).
func typed(a string) string {
	for i := range len(a) {
		if a[i] >= 0x80 {
			return "utf-8; " + printable(a)
		}
	}
	return "rfc822; " + printable(a)
}

// printable replaces control characters: text of strangers must not begin
// lines of its own.
func printable(s string) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' || c == 127 {
			return '?'
		}
		return c
	}, s)
}
