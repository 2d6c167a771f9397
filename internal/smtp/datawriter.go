package smtp

import (
	"bufio"
	"bytes"
)

// MaxTextLine is how long a line of content may be without its CRLF
// (RFC 5321 §4.5.3.1.6), and Postfix's smtp_line_length_limit.
const MaxTextLine = 998

// DataWriter writes the content of a message as DATA wants it (RFC 5321
// §4.5.2). Whatever the content is, what comes out is lines that end in CRLF,
// dots stuffed, no lone CR or LF anywhere, and one CRLF.CRLF at the very end:
// no content can make the server see an end of data that we did not mean.
//
// A lone CR or LF in the content becomes CRLF. A last line without end is
// given one.
//
// Errors are those of the bufio.Writer, which remembers them; Close reports
// the first and leaves flushing to the caller.
type DataWriter struct {
	w    *bufio.Writer
	fold int // longest line; longer ones are broken; 0 is never

	col int  // bytes of the present line already written; 0 at its beginning
	cr  bool // a CR was seen and not yet written
}

// NewDataWriter returns a writer to w. Lines longer than fold bytes are
// broken with CRLF SPACE, as Postfix does at smtp_line_length_limit; below 2,
// where a line would never end, lines are left as they are.
func NewDataWriter(w *bufio.Writer, fold int) *DataWriter {
	if fold < 2 {
		fold = 0
	}
	return &DataWriter{w: w, fold: fold}
}

// Write takes the next part of the content.
func (d *DataWriter) Write(p []byte) (int, error) {
	b := p
	if d.cr && len(b) > 0 {
		d.endLine()
		if b[0] == '\n' {
			b = b[1:]
		}
	}
	for len(b) > 0 {
		if d.col == 0 {
			if n := cleanLines(b); n > 0 && (d.fold == 0 || n <= d.fold || !longLine(b[:n], d.fold)) {
				if _, err := d.w.Write(b[:n]); err != nil {
					return 0, err
				}
				b = b[n:]
				continue
			}
		}
		n, end := oddLine(b)
		if err := d.text(b[:n]); err != nil {
			return 0, err
		}
		switch {
		case end == endCRLF:
			n += 2
			d.endLine()
		case end != midLine:
			n++
			d.endLine()
		case n < len(b): // a CR at the end of p
			n++
			d.cr = true
		}
		b = b[n:]
	}
	return len(p), nil
}

// text writes a part of a line, stuffing and folding.
func (d *DataWriter) text(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	if d.col == 0 && b[0] == '.' {
		if err := d.w.WriteByte('.'); err != nil {
			return err
		}
	}
	for d.fold > 0 && d.col+len(b) > d.fold {
		n := max(d.fold-d.col, 0)
		_, _ = d.w.Write(b[:n])
		if _, err := d.w.WriteString("\r\n "); err != nil {
			return err
		}
		b = b[n:]
		d.col = 1
	}
	d.col += len(b)
	_, err := d.w.Write(b)
	return err
}

func (d *DataWriter) endLine() {
	d.cr, d.col = false, 0
	_, _ = d.w.Write(crlf) // the error stays in w
}

// longLine tells whether one of the CRLF lines of b is longer than limit.
func longLine(b []byte, limit int) bool {
	for len(b) > limit {
		lf := bytes.IndexByte(b, '\n')
		if lf < 0 || lf-1 > limit {
			return true
		}
		b = b[lf+1:]
	}
	return false
}

// Close ends the content with CRLF.CRLF. It does not flush the writer.
func (d *DataWriter) Close() error {
	if d.cr || d.col > 0 {
		d.endLine()
	}
	_, err := d.w.WriteString(".\r\n")
	return err
}
