package server

import (
	"strconv"
	"strings"

	"posthouse/internal/mail"
	"posthouse/internal/smtp"
)

// Connected is the event "connect from NAME[ADDR]".
type Connected struct {
	Name string // the client's host name, or "unknown"
	Addr string // its address
	Port uint16 // JSON only
}

// Kind is "connect".
func (*Connected) Kind() string { return "connect" }

// AppendText writes the line.
func (e *Connected) AppendText(b []byte, _ mail.IDForm) []byte {
	return appendClient(append(b, "connect from "...), e.Name, e.Addr)
}

// Fields lists the event.
func (e *Connected) Fields(_ mail.IDForm, add func(string, any)) {
	add("client_name", e.Name)
	add("client_addr", e.Addr)
	add("client_port", e.Port)
}

// Count is how often a command was given, and how often with success.
type Count struct{ OK, Total int }

func (c Count) append(b []byte) []byte {
	b = strconv.AppendInt(b, int64(c.OK), 10)
	if c.OK != c.Total || c.Total == 0 {
		b = strconv.AppendInt(append(b, '/'), int64(c.Total), 10)
	}
	return b
}

// Disconnected is the event "disconnect from NAME[ADDR] ehlo=1 … commands=5".
type Disconnected struct {
	Name     string
	Addr     string
	Commands [smtp.NumVerbs]Count
}

// Kind is "disconnect".
func (*Disconnected) Kind() string { return "disconnect" }

// AppendText writes the line.
func (e *Disconnected) AppendText(b []byte, _ mail.IDForm) []byte {
	b = appendClient(append(b, "disconnect from "...), e.Name, e.Addr)
	var sum Count
	for v, c := range e.Commands {
		if c.Total == 0 {
			continue
		}
		sum.OK, sum.Total = sum.OK+c.OK, sum.Total+c.Total
		b = append(b, ' ')
		b = append(b, strings.ToLower(smtp.Verb(v).String())...)
		b = c.append(append(b, '='))
	}
	return sum.append(append(b, " commands="...))
}

// Fields lists the event; commands that were not given are left out.
func (e *Disconnected) Fields(_ mail.IDForm, add func(string, any)) {
	add("client_name", e.Name)
	add("client_addr", e.Addr)
	for v, c := range e.Commands {
		if c.Total > 0 {
			name := strings.ToLower(smtp.Verb(v).String())
			add(name, c.OK)
			if c.OK != c.Total {
				add(name+"_failed", c.Total-c.OK)
			}
		}
	}
}

// Broken is the end of a session before its time: "lost connection after DATA
// (12 bytes) from NAME[ADDR]".
type Broken struct {
	Reason string // "lost connection", "timeout", "too many errors"
	After  string // the last command, "CONNECT", "UNKNOWN", "END-OF-MESSAGE"
	Bytes  int64  // of content received; -1 when none was being received
	Name   string
	Addr   string
}

// Kind is "session_broken".
func (*Broken) Kind() string { return "session_broken" }

// AppendText writes the line.
func (e *Broken) AppendText(b []byte, _ mail.IDForm) []byte {
	b = append(append(append(b, e.Reason...), " after "...), e.After...)
	if e.Bytes >= 0 {
		b = append(b, " ("...)
		b = append(strconv.AppendInt(b, e.Bytes, 10), " bytes)"...)
	}
	return appendClient(append(b, " from "...), e.Name, e.Addr)
}

// Fields lists the event.
func (e *Broken) Fields(_ mail.IDForm, add func(string, any)) {
	add("reason", e.Reason)
	add("after", e.After)
	if e.Bytes >= 0 {
		add("bytes", e.Bytes)
	}
	add("client_name", e.Name)
	add("client_addr", e.Addr)
}

// Refused is a refusal that the session itself made, in the shape of all
// smtpd reject lines.
type Refused struct {
	ID    mail.QueueID // 0: NOQUEUE
	Stage string       // CONNECT, MAIL, END-OF-MESSAGE, "BDAT content"
	Name  string
	Addr  string
	Text  string // the reply, or why
	Mail  bool   // there is a transaction, with:
	From  mail.Address
	To    mail.Address // the last recipient; "" when there is none
	Proto string
	Helo  string
}

// Kind is "reject".
func (*Refused) Kind() string { return "reject" }

// AppendText writes the line.
func (e *Refused) AppendText(b []byte, ids mail.IDForm) []byte {
	if e.ID == 0 {
		b = append(b, "NOQUEUE"...)
	} else {
		b = append(b, ids.Format(e.ID)...)
	}
	b = append(append(append(b, ": reject: "...), e.Stage...), " from "...)
	b = append(append(appendClient(b, e.Name, e.Addr), ": "...), e.Text...)
	b = append(b, ';')
	if e.Mail {
		b = append(append(append(b, " from=<"...), e.From...), '>')
		if e.To != "" {
			b = append(append(append(b, " to=<"...), e.To...), '>')
		}
	}
	b = append(append(b, " proto="...), e.Proto...)
	if e.Helo != "" {
		b = append(append(append(b, " helo=<"...), e.Helo...), '>')
	}
	return b
}

// Fields lists the event.
func (e *Refused) Fields(ids mail.IDForm, add func(string, any)) {
	if e.ID != 0 {
		add("queue_id", ids.Format(e.ID))
	}
	add("stage", e.Stage)
	add("client_name", e.Name)
	add("client_addr", e.Addr)
	add("text", e.Text)
	if e.Mail {
		add("from", string(e.From))
		if e.To != "" {
			add("to", string(e.To))
		}
	}
	add("proto", e.Proto)
	add("helo", e.Helo)
}

func appendClient(b []byte, name, addr string) []byte {
	b = append(append(b, name...), '[')
	return append(append(b, addr...), ']')
}

// printable makes what a client sent fit for a log line, and at most limit
// bytes of it: control characters and what is not UTF-8 become '?'.
func printable(b []byte, limit int) string {
	s := strings.ToValidUTF8(string(b[:min(len(b), limit)]), "?")
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 127 {
			return '?'
		}
		return r
	}, s)
}

// escaped shows bytes as they came, as C writes them.
func escaped(b []byte, limit int) string {
	var out []byte
	for _, c := range b[:min(len(b), limit)] {
		switch {
		case c == '\r':
			out = append(out, `\r`...)
		case c == '\n':
			out = append(out, `\n`...)
		case c == '\t':
			out = append(out, `\t`...)
		case c == '\\':
			out = append(out, `\\`...)
		case c < ' ' || c >= 127:
			out = append(out, '\\', '0'+c>>6, '0'+c>>3&7, '0'+c&7)
		default:
			out = append(out, c)
		}
	}
	return string(out)
}
