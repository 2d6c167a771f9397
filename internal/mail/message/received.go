package message

import (
	"strconv"
	"strings"
	"time"

	"posthouse/internal/mail"
)

// dateLayout is Postfix's, which pads the day with a blank (RFC 5322 §3.3
// allows it).
const dateLayout = "Mon, _2 Jan 2006 15:04:05 -0700 (MST)"

// AppendDate appends a date as header fields have it.
func AppendDate(b []byte, t time.Time) []byte { return t.AppendFormat(b, dateLayout) }

// Trace is what a Received field says (RFC 5321 §4.4).
type Trace struct {
	Host     string       // our name
	MailName string       // the name of the software
	ID       string       // the queue ID, in the form that is shown
	Date     time.Time    // in the zone to show
	Origin   mail.Origin  // chooses the form: from a client, a local user, or ourselves
	Client   *mail.Client // for FromSMTP and FromLocal
	SMTPUTF8 bool         // the client asked for SMTPUTF8 (RFC 6531 §4.3: other protocol names)
	For      mail.Address // the only recipient; "" when there are several
	TLS      bool         // tell about TLS in a comment
	Auth     bool         // tell who was authenticated in a comment
}

// Append appends the Received field, with its line ends.
func (t *Trace) Append(b []byte) []byte {
	b = append(b, "Received: "...)
	switch t.Origin {
	case mail.FromLocal:
		b = t.appendBy(b)
		b = append(b, ", from userid "...)
		b = strconv.AppendInt(b, int64(t.Client.UID), 10)
		return t.appendID(append(b, ')'))
	case mail.FromBounce:
		return t.appendID(append(t.appendBy(b), ')'))
	}
	c := t.Client
	b = append(b, "from "...)
	b = append(b, either(c.Helo, c.Name)...)
	b = append(b, " ("...)
	b = append(b, c.Name...)
	b = append(b, " ["...)
	if strings.IndexByte(c.Addr, ':') >= 0 {
		b = append(b, "IPv6:"...) // RFC 5321 §4.1.3
	}
	b = append(b, c.Addr...)
	b = append(b, "])\r\n\t"...)
	if t.TLS && c.TLS != "" {
		b = append(b, "(using "...)
		b = append(b, c.TLS...)
		b = append(b, ")\r\n\t"...)
	}
	if t.Auth && c.SASLUser != "" {
		b = append(b, "(Authenticated sender: "...)
		b = append(b, c.SASLUser...)
		b = append(b, ")\r\n\t"...)
	}
	b = t.appendBy(b)
	b = append(b, ") with "...)
	b = t.appendProtocol(b)
	b = append(b, " id "...)
	b = append(b, t.ID...)
	if t.For != "" {
		b = append(b, "\r\n\tfor <"...)
		b = append(b, t.For...)
		b = append(b, ">; "...)
	} else {
		b = append(b, ";\r\n\t"...)
	}
	return append(AppendDate(b, t.Date), '\r', '\n')
}

func (t *Trace) appendBy(b []byte) []byte {
	b = append(b, "by "...)
	b = append(b, t.Host...)
	b = append(b, " ("...)
	return append(b, t.MailName...)
}

func (t *Trace) appendID(b []byte) []byte {
	b = append(b, "\r\n\tid "...)
	b = append(b, t.ID...)
	b = append(b, "; "...)
	return append(AppendDate(b, t.Date), '\r', '\n')
}

// appendProtocol appends the protocol with its suffixes: S for TLS and A for
// AUTH (RFC 3848), and the UTF8SMTP family (RFC 6531 §4.3).
func (t *Trace) appendProtocol(b []byte) []byte {
	p := t.Client.Protocol
	if t.SMTPUTF8 {
		p = "UTF8" + strings.TrimPrefix(p, "E")
	}
	b = append(b, either(p, "SMTP")...)
	if t.Client.TLS != "" {
		b = append(b, 'S')
	}
	if t.Client.SASLUser != "" {
		b = append(b, 'A')
	}
	return b
}

func either(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// AppendMessageID appends the message identifier that a message without one
// is given: the queue ID makes it unique, and a short one, which alone might
// come again, is helped by the date.
func AppendMessageID(b []byte, form mail.IDForm, id mail.QueueID, host string, now time.Time) []byte {
	b = append(b, '<')
	if form == mail.ShortIDs {
		b = now.UTC().AppendFormat(b, "20060102150405.")
	}
	b = append(b, form.Format(id)...)
	b = append(b, '@')
	b = append(b, host...)
	return append(b, '>')
}

// AppendFrom appends the value of a From field made of an envelope sender and
// a full name, which may be "".
func AppendFrom(b []byte, sender mail.Address, fullName string) []byte {
	if sender == mail.NullSender {
		return append(b, "MAILER-DAEMON"...)
	}
	name := strings.TrimSpace(fullName)
	if name == "" {
		return append(b, sender...)
	}
	b = appendPhrase(b, name)
	b = append(b, " <"...)
	b = append(b, sender...)
	return append(b, '>')
}

// appendPhrase writes a display name as words where it can be, as a quoted
// string otherwise (RFC 5322 §3.2.5). Control characters, which could end
// the line, become '?'.
func appendPhrase(b []byte, s string) []byte {
	plain := true
	for i := range len(s) {
		if c := s[i]; c != ' ' && !atext(c) {
			plain = false
			break
		}
	}
	if plain {
		return append(b, s...)
	}
	b = append(b, '"')
	for i := range len(s) {
		c := s[i]
		switch {
		case c < ' ' || c == 127:
			c = '?'
		case c == '"' || c == '\\':
			b = append(b, '\\')
		}
		b = append(b, c)
	}
	return append(b, '"')
}
