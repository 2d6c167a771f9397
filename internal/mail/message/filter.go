package message

import (
	"bytes"
	"io"
)

// Options say how a Filter treats a message.
type Options struct {
	// DropMailboxLines leaves leading "From " lines out, as local programs
	// write them before a message; otherwise they become X-Mailbox-Line.
	DropMailboxLines bool
	// Collect names the fields whose value is wanted.
	Collect FieldSet
	// Value is called with the value of each field in Collect once it is
	// complete: what follows the colon, folds and all, without the last line
	// end and cut at 100 KiB. The slice is only valid during the call.
	Value func(f Field, value []byte)
	// EndOfHeader is called once, after the last field, and returns whole
	// lines to add there. nil adds nothing.
	EndOfHeader func() []byte
}

// Header is what a Filter saw of the header.
type Header struct {
	Seen     FieldSet // fields that occurred
	Received int      // how often Received did
	NonASCII bool     // the header has bytes beyond ASCII
}

// Resent tells whether the message was sent on by a reader.
func (h *Header) Resent() bool { return h.Seen&ResentFields != 0 }

// Bounds of a Filter's memory.
const (
	// maxLine is how much of a header line is looked at before deciding what
	// it is; a longer one passes in pieces.
	maxLine = 8 << 10
	// maxValue is Postfix's header_size_limit.
	maxValue = 100 << 10
	// flushAt keeps a long header from gathering in memory.
	flushAt = 32 << 10
	// worthWriting is from where on a piece of the body is written by itself
	// rather than copied behind what waits to be written.
	worthWriting = 1 << 10
)

// Filter passes a message's content on to a writer and looks at its header on
// the way. Its errors are those of the writer; after one, nothing more is
// passed on.
type Filter struct {
	w   io.Writer
	opt Options
	err error

	body    bool // the header is over
	started bool // a line that counts has been seen
	partial bool // the rest of an over-long header line is to come
	keep    bool // the field being passed is not dropped
	cr      bool // the last byte was a CR, held back until its LF is seen
	midline bool // the last byte passed on was no line end

	field Field  // the field being passed
	value []byte // its value, when collected
	carry []byte // the beginning of a line whose end has not come yet
	out   []byte // to be written

	header Header
}

// NewFilter returns a Filter that passes content on to w.
func NewFilter(w io.Writer, opt Options) *Filter {
	f := &Filter{}
	f.Reset(w, opt)
	return f
}

// Reset makes f as new, but for its buffers.
func (f *Filter) Reset(w io.Writer, opt Options) {
	*f = Filter{w: w, opt: opt, keep: true, value: f.value[:0], carry: f.carry[:0], out: f.out[:0]}
}

// Header is what was seen so far; complete once EndOfHeader was called.
func (f *Filter) Header() *Header { return &f.header }

// Write takes the next bytes of the content.
func (f *Filter) Write(p []byte) (int, error) {
	n := len(p)
	if f.err != nil {
		return 0, f.err
	}
	for !f.body && len(p) > 0 {
		p = f.headerBytes(p)
	}
	if len(p) > 0 {
		f.bodyBytes(p)
	}
	if f.err != nil {
		return 0, f.err
	}
	return n, nil
}

// Close ends the content: a header that is still open, and the last line.
func (f *Filter) Close() error {
	if !f.body {
		if len(f.carry) > 0 || f.partial {
			f.headerLine(f.carry, true)
		}
		if !f.body {
			f.endHeader()
		}
	}
	if f.midline || f.cr {
		f.out = append(f.out, '\r', '\n')
		f.midline, f.cr = false, false
	}
	f.flush()
	return f.err
}

// headerBytes takes one line, or what there is of it, and returns the rest.
func (f *Filter) headerBytes(p []byte) []byte {
	i := bytes.IndexByte(p, '\n')
	complete := i >= 0
	line, rest := p, p[len(p):]
	if complete {
		line, rest = p[:i+1], p[i+1:]
	}
	if len(f.carry) > 0 || !complete {
		f.carry = append(f.carry, line...)
		if !complete && len(f.carry) < maxLine {
			return nil
		}
		line = f.carry
		if n := len(line) - 1; !complete && line[n] == '\r' {
			// Whether this CR is half a line end, only the next byte tells.
			f.headerLine(line[:n], false)
			f.carry = f.carry[:0]
			if f.body { // the line was no field
				f.bodyBytes([]byte{'\r'})
			} else {
				f.carry = append(f.carry, '\r')
			}
			return nil
		}
	}
	f.headerLine(line, complete)
	f.carry = f.carry[:0]
	return rest
}

// headerLine decides about a line of the header. Without complete it is the
// first part of one that is too long to wait for.
func (f *Filter) headerLine(line []byte, complete bool) {
	if f.partial { // more of a line already decided about
		f.fieldText(line, complete)
		return
	}
	text := trimLineEnd(line)
	view := text[:min(len(text), maxLine-1)] // the same, however the line came in pieces
	switch {
	case len(text) == 0 && complete:
		f.endHeader()
		f.out = append(f.out, '\r', '\n')
	case !f.started && mailboxLine(view):
		f.keep = !f.opt.DropMailboxLines
		f.field = Other
		if f.keep {
			f.out = append(f.out, "X-Mailbox-Line: "...)
		}
		f.fieldText(line, complete)
	case f.started && len(text) > 0 && (text[0] == ' ' || text[0] == '\t'):
		f.fieldText(line, complete)
	default:
		f.fieldLine(line, complete)
	}
}

// fieldLine begins a field, or the body when the line is not shaped like one.
func (f *Filter) fieldLine(line []byte, complete bool) {
	end, colon := nameEnd(line[:min(len(line), maxLine-1)])
	if colon < 0 {
		f.endHeader()
		f.out = append(f.out, '\r', '\n')
		f.bodyBytes(line)
		return
	}
	f.endField()
	f.started = true
	f.field = lookup(line[:end])
	f.header.Seen |= 1 << f.field
	if f.field == Received {
		f.header.Received++
	}
	f.keep = !DroppedFields.Has(f.field)
	if f.keep {
		f.out = append(f.out, line[:end]...)
	}
	f.fieldText(line[colon:], complete)
}

// fieldText passes a piece of a field on, with its line end made CRLF.
func (f *Filter) fieldText(b []byte, complete bool) {
	f.partial = !complete
	if f.opt.Collect.Has(f.field) && len(f.value) < maxValue {
		f.value = append(f.value, b[:min(len(b), maxValue-len(f.value))]...)
	}
	if !f.keep {
		return
	}
	if !f.header.NonASCII && !ascii(b) {
		f.header.NonASCII = true
	}
	f.out = appendClean(f.out, b, complete)
	if len(f.out) >= flushAt {
		f.flush()
	}
}

// endField hands a collected value over.
func (f *Filter) endField() {
	if !f.opt.Collect.Has(f.field) || len(f.value) == 0 {
		return
	}
	if f.opt.Value != nil {
		f.opt.Value(f.field, bytes.TrimRight(f.value[1:], "\r\n")) // from behind the colon
	}
	f.value = f.value[:0]
}

func (f *Filter) endHeader() {
	f.endField()
	f.body, f.field = true, Other
	if f.opt.EndOfHeader != nil {
		f.out = append(f.out, f.opt.EndOfHeader()...)
	}
}

// bodyBytes passes bytes of the body on. Those that are in order already, as
// nearly all are, go to the writer without being copied.
func (f *Filter) bodyBytes(p []byte) {
	if f.cr {
		f.cr = false
		if p[0] == '\n' {
			f.out, p = append(f.out, '\r', '\n'), p[1:]
			f.midline = false
		} else {
			f.out = append(f.out, ' ')
			f.midline = true
		}
	}
	if n := len(p); n > 0 && p[n-1] == '\r' {
		f.cr, p = true, p[:n-1]
	}
	if len(p) == 0 {
		return
	}
	f.midline = p[len(p)-1] != '\n'
	if len(p) < worthWriting || !clean(p) {
		f.out = appendClean(f.out, p, false)
		if len(f.out) >= flushAt {
			f.flush()
		}
		return
	}
	f.flush()
	if f.err == nil {
		_, f.err = f.w.Write(p)
	}
}

func (f *Filter) flush() {
	if len(f.out) > 0 && f.err == nil {
		_, f.err = f.w.Write(f.out)
	}
	f.out = f.out[:0]
}

// trimLineEnd takes one LF or CRLF off.
func trimLineEnd(line []byte) []byte {
	n := len(line)
	if n > 0 && line[n-1] == '\n' {
		n--
	}
	if n > 0 && line[n-1] == '\r' {
		n--
	}
	return line[:n]
}

// clean tells whether every line end in p is CRLF and no CR or LF is
// elsewhere: each CR is followed by LF, and there are as many of both.
func clean(p []byte) bool {
	n := 0
	for rest := p; ; n++ {
		i := bytes.IndexByte(rest, '\r')
		if i < 0 {
			break
		}
		if i+1 == len(rest) || rest[i+1] != '\n' {
			return false
		}
		rest = rest[i+2:]
	}
	return bytes.Count(p, []byte{'\n'}) == n
}

// appendClean appends p with every line end made CRLF and every other CR a
// blank. With last, p is the end of a line whether it has its LF or not.
func appendClean(b, p []byte, last bool) []byte {
	if clean(p) {
		b = append(b, p...)
		if last && (len(p) == 0 || p[len(p)-1] != '\n') {
			b = append(b, '\r', '\n')
		}
		return b
	}
	for i := 0; i < len(p); i++ {
		switch c := p[i]; {
		case c == '\n':
			b = append(b, '\r', '\n')
		case c == '\r' && i+1 < len(p) && p[i+1] == '\n':
			// its LF writes both
		case c == '\r' && last && i+1 == len(p):
			// the end of the last line, written below
		case c == '\r':
			b = append(b, ' ')
		default:
			b = append(b, c)
		}
	}
	if last && p[len(p)-1] != '\n' {
		b = append(b, '\r', '\n')
	}
	return b
}

// mailboxLine tells whether a line is the "From " line of a mailbox file.
func mailboxLine(line []byte) bool {
	return bytes.HasPrefix(bytes.TrimLeft(line, ">"), []byte("From "))
}

func ascii(b []byte) bool {
	for _, c := range b {
		if c >= 0x80 {
			return false
		}
	}
	return true
}
