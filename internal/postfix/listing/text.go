package listing

import (
	"io"
	"strconv"
	"time"
	"unicode/utf8"

	"posthouse/internal/mail"
)

const (
	shortHeader = "-Queue ID-  --Size-- ----Arrival Time---- -Sender/Recipient-------\n"
	longHeader  = "----Queue ID----- --Size-- ---Arrival Time---- --Sender/Recipient------\n"

	shortRecipientColumn = 41
	longRecipientColumn  = 47
	// reasonEnd is the number of columns before the closing parenthesis of a
	// reason that fits, less the two parentheses themselves.
	reasonWidth = 76

	// ctime's "Sun Nov 22 07:33:40 2026" cut after 20 bytes keeps the blank
	// before the year, and after 19 does not.
	shortTime = "Mon Jan _2 15:04:05 "
	longTime  = "Mon Jan _2 15:04:05"

	flushAt = 64 << 10
)

// spaces is wide enough for every padding of the table.
const spaces = "                                                                                "

// Text writes the table of mailq.
type Text struct {
	w     io.Writer
	form  mail.IDForm
	loc   *time.Location
	buf   []byte
	count int64
	bytes int64
	err   error

	lastSecond int64  // the second that lastTime shows
	lastTime   string // messages arrive in bursts: most share the second before
}

// NewText returns a table writer. The form of IDs chooses the widths, as in
// Postfix, whatever IDs are shown. Times are shown in loc.
func NewText(w io.Writer, form mail.IDForm, loc *time.Location) *Text {
	return &Text{w: w, form: form, loc: loc, buf: make([]byte, 0, flushAt+4096), lastSecond: -1}
}

// Add writes one message.
func (t *Text) Add(e *Entry) error {
	if t.err != nil {
		return t.err
	}
	if t.count == 0 {
		t.buf = append(t.buf, t.header()...)
	} else {
		t.buf = append(t.buf, '\n')
	}
	t.count++
	t.bytes += e.Size
	t.message(e)
	reason := ""
	inOrder(e.Recipients, func(r *Recipient) {
		if r.Reason != reason {
			reason = r.Reason
			t.reason(reason)
		}
		t.recipient(r.Address)
	})
	if len(t.buf) >= flushAt {
		t.flush()
	}
	return t.err
}

// Close writes the footer, or "Mail queue is empty".
func (t *Text) Close() error {
	if t.count == 0 {
		t.buf = append(t.buf, "Mail queue is empty\n"...)
	} else {
		t.buf = append(t.buf, "\n-- "...)
		t.buf = strconv.AppendInt(t.buf, t.bytes/1024, 10)
		t.buf = append(t.buf, " Kbytes in "...)
		t.buf = strconv.AppendInt(t.buf, t.count, 10)
		if t.count == 1 {
			t.buf = append(t.buf, " Request.\n"...)
		} else {
			t.buf = append(t.buf, " Requests.\n"...)
		}
	}
	t.flush()
	return t.err
}

func (t *Text) header() string {
	if t.form == mail.LongIDs {
		return longHeader
	}
	return shortHeader
}

// message writes "%-11s %7ld %20.20s %s", in the long form "%-17s %8ld %19.19s %s".
func (t *Text) message(e *Entry) {
	idWidth, sizeWidth := 11, 7
	if t.form == mail.LongIDs {
		idWidth, sizeWidth = 17, 8
	}
	b := t.buf
	start := len(b)
	b = append(b, e.ID...)
	switch e.Queue {
	case mail.Active:
		b = append(b, '*')
	case mail.Hold:
		b = append(b, '!')
	}
	if e.ForcedExpire {
		b = append(b, '#')
	}
	b = pad(b, idWidth-(len(b)-start))
	b = append(b, ' ')
	var digits [20]byte
	size := strconv.AppendInt(digits[:0], e.Size, 10)
	b = pad(b, sizeWidth-len(size))
	b = append(b, size...)
	b = append(b, ' ')
	b = append(b, t.time(e.Arrival)...)
	b = append(b, ' ')
	if e.Sender == "" {
		b = append(b, nullSender...)
	} else {
		b = appendPrintable(b, string(e.Sender))
	}
	t.buf = append(b, '\n')
}

func (t *Text) time(at time.Time) string {
	if sec := at.Unix(); sec != t.lastSecond {
		layout := shortTime
		if t.form == mail.LongIDs {
			layout = longTime
		}
		t.lastSecond, t.lastTime = sec, at.In(t.loc).Format(layout)
	}
	return t.lastTime
}

// reason writes a reason so that its ")" ends in column 78 when it fits.
func (t *Text) reason(text string) {
	if text == "" {
		text = "reason unavailable"
	}
	t.buf = pad(t.buf, reasonWidth-len(text))
	t.buf = append(t.buf, '(')
	t.buf = appendPrintable(t.buf, text)
	t.buf = append(t.buf, ")\n"...)
}

func (t *Text) recipient(a mail.Address) {
	column := shortRecipientColumn
	if t.form == mail.LongIDs {
		column = longRecipientColumn
	}
	t.buf = pad(t.buf, column)
	if a == "" {
		t.buf = append(t.buf, nullSender...)
	} else {
		t.buf = appendPrintable(t.buf, string(a))
	}
	t.buf = append(t.buf, '\n')
}

func (t *Text) flush() {
	if t.err == nil && len(t.buf) > 0 {
		_, t.err = t.w.Write(t.buf)
	}
	t.buf = t.buf[:0]
}

func pad(b []byte, n int) []byte {
	if n <= 0 {
		return b
	}
	return append(b, spaces[:n]...)
}

// appendPrintable writes s with control characters and broken UTF-8 as "?",
// one for each byte: a listing must not move the cursor of the terminal that
// shows it.
func appendPrintable(b []byte, s string) []byte {
	plain := 0
	for plain < len(s) && s[plain] >= ' ' && s[plain] < 0x7f {
		plain++
	}
	b = append(b, s[:plain]...)
	for i := plain; i < len(s); {
		if c := s[i]; c < utf8.RuneSelf {
			if c < ' ' || c == 0x7f {
				c = '?'
			}
			b = append(b, c)
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && n == 1 {
			b = append(b, '?')
		} else {
			b = append(b, s[i:i+n]...)
		}
		i += n
	}
	return b
}
