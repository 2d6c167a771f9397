// Package maillog writes what happened to mail in the lines that Postfix
// writes, byte for byte, so that every parser of Postfix logs reads ours; and
// the same events as JSON where that is asked for.
//
// An Event is a value with typed fields. Its text is the part of the log line
// after "postfix/service[pid]: ". Who constructs an event decides nothing
// about format; who formats it knows nothing about mail.
//
// # Loggers
//
// NewFile, NewStream and NewSyslog make a Writer; Multi, Discard and Recorder
// (for tests) are Loggers too. Lines from one goroutine keep their order. What
// is logged is visible as soon as the one write(2) that carries it returns; it
// is not synced: a log is no journal. Close writes what is waiting.
//
// # Hostile text
//
// A peer chooses addresses, HELO names and replies. Control characters,
// newlines among them, and malformed UTF-8 become '?' when a line is written,
// so no one can forge a line or steer a terminal. JSON escapes them instead.
//
// # Errors
//
// Log never fails: lines that could not be written are counted by Dropped.
// NewFile and Reopen return the operating system's error when a file cannot
// be opened; after a failed Reopen the old file stays in use.
package maillog

import (
	"strconv"
	"time"

	"posthouse/internal/mail"
)

// Severity is the word before a line's text and its syslog level.
type Severity uint8

// Severities. Info has no word.
const (
	Info Severity = iota
	Warning
	Error
	Fatal
)

// Word is what a line of this severity begins with: "", "warning: ", ...
func (s Severity) Word() string {
	switch s {
	case Warning:
		return "warning: "
	case Error:
		return "error: "
	case Fatal:
		return "fatal: "
	default:
		return ""
	}
}

// Event is something that happened, as one log line.
type Event interface {
	// Kind names the event in JSON: "delivery", "connect", ...
	Kind() string
	// AppendText writes the line's text, without severity word or newline.
	AppendText(b []byte, ids mail.IDForm) []byte
	// Fields lists the event as name and value for JSON, in order.
	Fields(ids mail.IDForm, add func(name string, value any))
}

// Logger takes events. Implementations are safe for concurrent use, never
// block on a slow reader for longer than one write, and never fail: an event
// that cannot be written is counted and dropped.
type Logger interface {
	// Log records ev for a service: "smtpd", "submission/smtpd", "qmgr", ...
	Log(service string, sev Severity, ev Event)
}

// Text is an event that is just words.
type Text string

// Kind is "text".
func (Text) Kind() string { return "text" }

// AppendText writes the words.
func (t Text) AppendText(b []byte, _ mail.IDForm) []byte { return append(b, t...) }

// Fields adds "message".
func (t Text) Fields(_ mail.IDForm, add func(string, any)) { add("message", string(t)) }

// Delays are the four parts of a delivery's delay, in Postfix's meaning.
type Delays struct {
	BeforeQueue time.Duration // from arrival until the queue manager took this attempt up (all earlier waits included)
	InQueue     time.Duration // waiting for a slot
	Setup       time.Duration // DNS, connect, greeting, TLS
	Transfer    time.Duration // from MAIL to the last reply
}

// Delivery is the record of one attempt for one recipient; pflogsumm and all
// its kin live on it.
type Delivery struct {
	ID      mail.QueueID
	To      mail.Address
	OrigTo  mail.Address // "" or equal to To: not shown
	Relay   string       // "host[addr]:port", "none", "local", ...
	ConnUse int          // shown from 2 on
	Delay   time.Duration
	Delays  Delays
	DSN     mail.EnhancedCode
	Status  string // sent, deferred, bounced, ...
	Text    string // goes into the parentheses
}

// Kind is "delivery".
func (*Delivery) Kind() string { return "delivery" }

// AppendText writes "QID: to=<…>, …".
func (d *Delivery) AppendText(b []byte, ids mail.IDForm) []byte {
	b = appendID(b, ids, d.ID)
	b = append(b, ": to=<"...)
	b = append(b, d.To...)
	if d.OrigTo != "" && d.OrigTo != d.To {
		b = append(b, ">, orig_to=<"...)
		b = append(b, d.OrigTo...)
	}
	b = append(b, ">, relay="...)
	b = append(b, d.Relay...)
	if d.ConnUse > 1 {
		b = append(b, ", conn_use="...)
		b = strconv.AppendInt(b, int64(d.ConnUse), 10)
	}
	b = append(b, ", delay="...)
	b = AppendDelay(b, d.Delay)
	b = append(b, ", delays="...)
	b = AppendDelay(b, d.Delays.BeforeQueue)
	b = append(b, '/')
	b = AppendDelay(b, d.Delays.InQueue)
	b = append(b, '/')
	b = AppendDelay(b, d.Delays.Setup)
	b = append(b, '/')
	b = AppendDelay(b, d.Delays.Transfer)
	b = append(b, ", dsn="...)
	b = d.DSN.Append(b)
	b = append(b, ", status="...)
	b = append(b, d.Status...)
	b = append(b, " ("...)
	b = append(b, d.Text...)
	return append(b, ')')
}

// Fields lists the record.
func (d *Delivery) Fields(ids mail.IDForm, add func(string, any)) {
	add("queue_id", ids.Format(d.ID))
	add("to", string(d.To))
	if d.OrigTo != "" && d.OrigTo != d.To {
		add("orig_to", string(d.OrigTo))
	}
	add("relay", d.Relay)
	if d.ConnUse > 1 {
		add("conn_use", d.ConnUse)
	}
	add("delay", d.Delay.Seconds())
	add("delays", []float64{d.Delays.BeforeQueue.Seconds(), d.Delays.InQueue.Seconds(), d.Delays.Setup.Seconds(), d.Delays.Transfer.Seconds()})
	add("dsn", d.DSN.String())
	add("status", d.Status)
	add("text", d.Text)
}

// appendID calls Short and Long directly, so that they are inlined here and
// their strings need not be allocated.
func appendID(b []byte, ids mail.IDForm, id mail.QueueID) []byte {
	if ids == mail.LongIDs {
		return append(b, id.Long()...)
	}
	return append(b, id.Short()...)
}

// AppendDelay writes a duration in seconds as Postfix does: two significant
// digits, at most two decimals, trailing zeros dropped, whole numbers from 10 on.
func AppendDelay(b []byte, d time.Duration) []byte {
	if d < 0 {
		d = 0
	}
	switch {
	case d >= 10*time.Second:
		return strconv.AppendInt(b, int64(d.Round(time.Second)/time.Second), 10)
	case d >= time.Second:
		return appendTrimmed(b, int64(d.Round(100*time.Millisecond)/(10*time.Millisecond)))
	default:
		return appendTrimmed(b, int64(d.Round(10*time.Millisecond)/(10*time.Millisecond)))
	}
}

// appendTrimmed writes hundredths as a decimal without trailing zeros.
func appendTrimmed(b []byte, hundredths int64) []byte {
	b = strconv.AppendInt(b, hundredths/100, 10)
	frac := hundredths % 100
	if frac == 0 {
		return b
	}
	b = append(b, '.', byte('0'+frac/10))
	if frac%10 != 0 {
		b = append(b, byte('0'+frac%10))
	}
	return b
}

// Queued is a message about a queue ID in words: "QID: removed", "QID:
// message-id=<…>", "QID: client=…".
type Queued struct {
	ID   mail.QueueID
	What string // the event's kind in JSON: removed, message-id, client, active, expired, ...
	Text string // what follows "QID: "
}

// Kind is What.
func (q *Queued) Kind() string { return q.What }

// AppendText writes "QID: text".
func (q *Queued) AppendText(b []byte, ids mail.IDForm) []byte {
	b = appendID(b, ids, q.ID)
	b = append(b, ": "...)
	return append(b, q.Text...)
}

// Fields lists the event.
func (q *Queued) Fields(ids mail.IDForm, add func(string, any)) {
	add("queue_id", ids.Format(q.ID))
	add("message", q.Text)
}
