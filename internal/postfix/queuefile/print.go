package queuefile

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// Printer prints queue files as postcat does. The zero value prints nothing
// but is otherwise valid; postcat without -b, -e and -h sets all three.
type Printer struct {
	Envelope bool           // -e: envelope records and the three markers
	Header   bool           // -h: the header
	Body     bool           // -b: the body, from its blank line on
	Offsets  bool           // -o: the offset of each record before it
	Decimal  bool           // -d: the type of each record as a number before it
	Raw      bool           // -r: go on after the end marker, and through pointers
	Verbose  bool           // -v: labels on text, padding and pointers shown
	Start    int64          // -s: begin at this offset
	Location *time.Location // for times; nil is local time
}

// ErrNotQueueFile: the input does not begin as a queue file.
var ErrNotQueueFile = errors.New("input is not a valid queue file")

// firstTypes are the types that a queue file may begin with; the zero byte is
// among them, as in Postfix.
const firstTypes = "\x00/<>ACDFIKLMORSTVWcino"

const (
	inEnvelope = iota // of the file, or extracted from the header
	inHeader
	inBody
)

// printing is one run of a Printer.
type printing struct {
	*Printer
	in     *Reader
	out    *bufio.Writer
	path   string
	warn   func(string)
	state  int
	show   bool // whether records of this state are printed
	prev   Type // type of the record printed last, 0 after a completed piece
	dataAt int64
	data   int64 // size of the content; dataAt and data are -1 while unknown
}

// Print prints one file. path is what the markers call it; warn receives
// complaints that do not end the printing. ErrNotQueueFile, or an error that
// wraps ErrMalformed, ends it; what was printed before stays.
func (p *Printer) Print(w io.Writer, file io.ReadSeeker, path string, warn func(string)) (err error) {
	g := &printing{Printer: p, in: NewReader(file), out: bufio.NewWriterSize(w, 32<<10), path: path, warn: warn, dataAt: -1, data: -1}
	defer func() {
		// What came before a damaged record is worth seeing.
		if ferr := g.out.Flush(); err == nil {
			err = ferr
		}
	}()
	if err := g.in.SeekTo(p.Start); err != nil {
		return err
	}
	if p.Start == 0 {
		if first, err := g.in.buf.Peek(1); err == nil && strings.IndexByte(firstTypes, first[0]) < 0 {
			return ErrNotQueueFile
		}
	}
	g.show = p.Envelope
	for first := true; ; first = false {
		rec, err := g.next()
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if first && p.Start == 0 && p.Envelope {
			fmt.Fprintf(g.out, "*** ENVELOPE RECORDS %s ***\n", path)
		}
		if done, err := g.record(rec); done || err != nil {
			return err
		}
	}
}

// next reads a record; without -v pointers are followed and padding is
// skipped unseen, and the record keeps the offset where reading began.
func (g *printing) next() (Record, error) {
	start := g.in.Offset()
	for {
		rec, err := g.in.Next()
		if err != nil || g.Verbose {
			return rec, err
		}
		switch rec.Type {
		case TypePointer:
			if err := g.in.Follow(rec.Data); err != nil {
				return rec, err
			}
		case TypePadding:
		default:
			rec.Offset = start
			return rec, nil
		}
	}
}

// record handles one record and tells whether the printing is over.
func (g *printing) record(rec Record) (done bool, err error) {
	switch rec.Type {
	case TypeNormal, TypeCont:
		if done, err := g.text(rec); done || err != nil {
			return done, err
		}
	case TypeMessage:
		return false, g.message(rec)
	case TypeExtracted:
		return g.extracted(rec), nil
	case TypeEnd:
		return g.end(rec), nil
	case TypePointer:
		if g.show {
			g.labeled(rec)
		}
		if !g.Raw {
			return false, g.in.Follow(rec.Data)
		}
		return false, nil
	case TypeSize:
		return false, g.size(rec)
	}
	if g.show {
		g.print(rec)
	}
	return false, nil
}

// text moves from the header to the body at the first line that is neither
// header-shaped nor a continuation.
func (g *printing) text(rec Record) (done bool, err error) {
	if g.state != inHeader || (!g.Header && !g.Body) || g.prev == TypeCont || headerShaped(rec.Data) || blank(rec.Data) {
		return false, nil
	}
	g.state, g.show = inBody, g.Body
	if g.show {
		return false, nil
	}
	if !g.Envelope {
		return true, nil
	}
	return false, g.skipContent()
}

func (g *printing) message(rec Record) error {
	if g.state != inEnvelope {
		g.warn(g.path + ": out-of-order message content marker")
	}
	g.marker(rec, "MESSAGE CONTENTS")
	g.state, g.show = inHeader, g.Header
	if !g.Header && !g.Body {
		return g.skipContent()
	}
	return nil
}

func (g *printing) extracted(rec Record) (done bool) {
	if g.state == inEnvelope {
		g.warn(g.path + ": out-of-order extracted segment marker")
	}
	// The end of an unfinished line matters only if something follows:
	// postcat leaves it out otherwise.
	if g.show && g.prev == TypeCont && g.Envelope {
		g.out.WriteByte('\n')
	}
	g.marker(rec, "HEADER EXTRACTED")
	g.state, g.show = inEnvelope, g.Envelope
	return !g.show
}

func (g *printing) end(rec Record) (done bool) {
	if g.state != inEnvelope {
		g.warn(g.path + ": out-of-order message end marker")
	}
	g.marker(rec, "MESSAGE FILE END")
	if g.Raw && !g.Verbose {
		// Postfix's reader leaves for the end of the file at this marker.
		return true
	}
	return !g.Raw
}

// size prints the C record and remembers where the content is.
func (g *printing) size(rec Record) error {
	if g.show {
		g.labeled(rec)
	}
	if g.data >= 0 || g.dataAt >= 0 {
		g.warn("file contains multiple size records")
		return nil
	}
	if n, _ := fmt.Sscan(string(rec.Data), &g.data, &g.dataAt); n != 2 || g.dataAt <= 0 || g.data <= 0 {
		g.warn(fmt.Sprintf("invalid size record: %.100s", cString(rec.Data)))
		if g.dataAt < 0 && !g.Envelope {
			return fmt.Errorf("%w: seek error: Invalid argument", ErrMalformed)
		}
	}
	if g.Envelope {
		return nil
	}
	g.state, g.show = inHeader, g.Header
	return g.in.SeekTo(g.dataAt)
}

func (g *printing) skipContent() error {
	if g.dataAt > 0 && g.data >= 0 {
		return g.in.SeekTo(g.dataAt + g.data)
	}
	return nil
}

func (g *printing) prefix(rec Record) {
	if g.Offsets {
		fmt.Fprintf(g.out, "%9d ", rec.Offset)
	}
	if g.Decimal {
		fmt.Fprintf(g.out, "%3d ", rec.Type)
	}
}

func (g *printing) marker(rec Record, text string) {
	if g.Envelope {
		g.prefix(rec)
		fmt.Fprintf(g.out, "*** %s %s ***\n", text, g.path)
	}
}

func (g *printing) labeled(rec Record) {
	g.prefix(rec)
	fmt.Fprintf(g.out, "%s: %s\n", rec.Type, cString(rec.Data))
}

// print writes a record that has no effect of its own.
func (g *printing) print(rec Record) {
	g.prefix(rec)
	g.prev = rec.Type
	switch rec.Type {
	case TypeTime, TypeWarn:
		fmt.Fprintf(g.out, "%s: %s", rec.Type, g.ctime(rec.Data))
	case TypeCont:
		g.cont(rec)
	case TypeNormal:
		if g.Verbose {
			g.out.WriteString("regular_text: ")
		}
		g.out.Write(rec.Data)
		g.out.WriteByte('\n')
	case TypePadding:
		fmt.Fprintf(g.out, "%s: %s\n", rec.Type, rec.Data)
	case TypeAttr:
		g.attribute(rec)
	default:
		fmt.Fprintf(g.out, "%s: %s\n", rec.Type, cString(rec.Data))
	}
}

// cont prints a record of type L: a piece of a line in the content, a content
// filter in the envelope.
func (g *printing) cont(rec Record) {
	if g.state == inEnvelope {
		g.out.WriteString("content_filter: ")
	} else if g.Verbose {
		g.out.WriteString("unterminated_text: ")
	}
	g.out.Write(rec.Data)
	if g.state == inEnvelope || g.Verbose || g.Offsets {
		g.prev = 0
		g.out.WriteByte('\n')
	}
}

func (g *printing) attribute(rec Record) {
	text := string(cString(rec.Data))
	name, value, found := strings.Cut(text, "=")
	name = strings.TrimRight(strings.TrimLeft(name, " \t"), " \t")
	value = strings.Trim(value, " \t\r\n")
	switch {
	case name == "":
		g.warn(fmt.Sprintf("%s: malformed attribute: missing attribute name: %.100s", g.path, text))
	case !found:
		g.warn(fmt.Sprintf("%s: malformed attribute: missing '=' after attribute name: %.100s", g.path, text))
	case name == "create_time":
		fmt.Fprintf(g.out, "create_time: %s", g.ctime([]byte(value)))
	default:
		fmt.Fprintf(g.out, "%s: %s=%s\n", rec.Type, name, value)
	}
}

// ctime is C's asctime of the seconds that data begins with, newline included.
func (g *printing) ctime(data []byte) string {
	loc := g.Location
	if loc == nil {
		loc = time.Local
	}
	return time.Unix(leadingInt(data), 0).In(loc).Format("Mon Jan _2 15:04:05 2006\n")
}

// leadingInt reads a number as C's atol does: what follows it is ignored, and
// no number is 0.
func leadingInt(data []byte) int64 {
	s := strings.TrimLeft(string(data), " \t")
	i := 0
	if i < len(s) && s[i] == '-' {
		i++
	}
	for i < len(s) && s[i] >= '0' && s[i] <= '9' {
		i++
	}
	n, _ := strconv.ParseInt(s[:i], 10, 64)
	return n
}

// cString cuts data at its first zero byte, where Postfix's strings end.
func cString(data []byte) []byte {
	if i := bytes.IndexByte(data, 0); i >= 0 {
		return data[:i]
	}
	return data
}

func blank(line []byte) bool {
	return len(line) > 0 && (line[0] == ' ' || line[0] == '\t')
}

// headerShaped tells whether a line begins as a header does: a name of
// printable characters (RFC 5322 §2.2), optional blanks, a colon.
func headerShaped(line []byte) bool {
	i := 0
	for i < len(line) && line[i] > ' ' && line[i] < 0x7f && line[i] != ':' {
		i++
	}
	if i == 0 {
		return false
	}
	for i < len(line) && (line[i] == ' ' || line[i] == '\t') {
		i++
	}
	return i < len(line) && line[i] == ':'
}

// String is the label that postcat prints.
func (t Type) String() string {
	switch t {
	case TypeSize:
		return "message_size"
	case TypeTime:
		return "message_arrival_time"
	case TypeCreated:
		return "queue_file_create_time"
	case TypeAttr:
		return "named_attribute"
	case TypeFullName:
		return "sender_fullname"
	case TypeInspector:
		return "content_inspector"
	case TypeFilter:
		return "content_filter"
	case TypeSender:
		return "sender"
	case TypeWarn:
		return "warning_message_time"
	case TypeVerp:
		return "verp_delimiters"
	case TypeRedirect:
		return "redirect_to"
	case TypeFlags:
		return "flags"
	case TypeNormal:
		return "regular_text"
	case TypePadding:
		return "padding"
	case TypePointer:
		return "pointer_record"
	case TypeKilled:
		return "killed_record"
	}
	return t.recipientLabel()
}

func (t Type) recipientLabel() string {
	switch t {
	case TypeOrigRcpt:
		return "original_recipient"
	case TypeRcpt:
		return "recipient"
	case TypeDone:
		return "done_recipient"
	case TypeCanceled:
		return "canceled_recipient"
	case TypeDSNOrig:
		return "dsn_original_recipient"
	case TypeDSNNotify:
		return "dsn_notify_flags"
	case TypeDSNRet:
		return "dsn_return_flags"
	case TypeDSNEnvID:
		return "dsn_envelope_id"
	case 'r':
		return "return_receipt"
	case 'e':
		return "errors_to"
	case 'P':
		return "priority"
	default:
		return "unknown_record_type"
	}
}
