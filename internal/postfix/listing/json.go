package listing

import (
	"io"
	"strconv"
	"unicode/utf8"
)

// JSON writes one object for each message, each on a line of its own, members
// in Postfix's order with a blank after every colon and comma.
type JSON struct {
	w   io.Writer
	buf []byte
	err error
}

// NewJSON returns a JSON writer.
func NewJSON(w io.Writer) *JSON {
	return &JSON{w: w, buf: make([]byte, 0, flushAt+4096)}
}

// Add writes one message.
func (j *JSON) Add(e *Entry) error {
	if j.err != nil {
		return j.err
	}
	j.buf = AppendJSON(j.buf, e)
	if len(j.buf) >= flushAt {
		j.flush()
	}
	return j.err
}

// Close writes what is left. An empty queue writes nothing.
func (j *JSON) Close() error {
	j.flush()
	return j.err
}

func (j *JSON) flush() {
	if j.err == nil && len(j.buf) > 0 {
		_, j.err = j.w.Write(j.buf)
	}
	j.buf = j.buf[:0]
}

// AppendJSON appends the line of one message, newline included.
func AppendJSON(b []byte, e *Entry) []byte {
	b = append(b, `{"queue_name": `...)
	b = appendString(b, string(e.Queue))
	b = append(b, `, "queue_id": `...)
	b = appendString(b, e.ID)
	b = append(b, `, "arrival_time": `...)
	b = strconv.AppendInt(b, e.Arrival.Unix(), 10)
	b = append(b, `, "message_size": `...)
	b = strconv.AppendInt(b, e.Size, 10)
	b = append(b, `, "forced_expire": `...)
	b = strconv.AppendBool(b, e.ForcedExpire)
	b = append(b, `, "sender": `...)
	if e.Sender == "" {
		b = append(b, `"`+nullSender+`"`...)
	} else {
		b = appendString(b, string(e.Sender))
	}
	b = append(b, `, "recipients": [`...)
	first := true
	inOrder(e.Recipients, func(r *Recipient) {
		if !first {
			b = append(b, ", "...)
		}
		first = false
		b = append(b, `{"address": `...)
		if r.Address == "" {
			b = append(b, `"`+nullSender+`"`...)
		} else {
			b = appendString(b, string(r.Address))
		}
		// A missing member, not an empty one, says that there is no reason.
		if r.Reason != "" {
			b = append(b, `, "delay_reason": `...)
			b = appendString(b, r.Reason)
		}
		b = append(b, '}')
	})
	return append(b, "]}\n"...)
}

// appendString quotes as Postfix does: short escapes where JSON has them,
// other control characters and DEL as \u00XX in upper case, a slash bare,
// UTF-8 as it is and broken UTF-8 as "?" for each byte.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			b = appendASCII(b, c)
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
	return append(b, '"')
}

func appendASCII(b []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(b, '\\', c)
	case '\b':
		return append(b, '\\', 'b')
	case '\f':
		return append(b, '\\', 'f')
	case '\n':
		return append(b, '\\', 'n')
	case '\r':
		return append(b, '\\', 'r')
	case '\t':
		return append(b, '\\', 't')
	}
	if c < ' ' || c == 0x7f {
		const hex = "0123456789ABCDEF"
		return append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
	}
	return append(b, c)
}
