package smtp

import (
	"bufio"
	"bytes"
	"errors"
	"io"
)

// DataStats is what ReadData and ChunkReader saw.
type DataStats struct {
	Bytes  int64 // content after normalisation, also what was not passed on
	BareLF bool  // there was an LF without CR before it
	BareCR bool  // there was a CR without LF after it
	TooBig bool  // Bytes exceeds the limit; nothing was passed on beyond it
}

// sink passes content on until something says no, and counts all of it: the
// rest of the data must still be read, or the client would be taken for a
// sender of commands.
type sink struct {
	w     io.Writer
	limit int64 // 0 is none
	stats *DataStats
	err   error // the first of w
}

func (s *sink) write(p []byte) {
	if len(p) == 0 {
		return
	}
	s.stats.Bytes += int64(len(p))
	if s.limit > 0 && s.stats.Bytes > s.limit {
		s.stats.TooBig = true
	}
	if s.err != nil || s.stats.TooBig {
		return
	}
	_, s.err = s.w.Write(p)
}

// How the line before the present one ended.
type lineEnd uint8

const (
	endCRLF   lineEnd = iota // also: the beginning of the data
	endBareLF                // a line begins, but never with the end of the data
	endBareCR
	midLine // no line begins here
)

// ReadData reads the content that follows a 354 reply up to and including
// the final CRLF.CRLF (RFC 5321 §4.1.1.4), and writes it to w with dots
// unstuffed (§4.5.2) and every line end a CRLF. When limit is not 0, nothing
// is written beyond limit bytes.
//
// The data ends at CRLF.CRLF and nowhere else: not at LF.LF, LF.CRLF, CR.CR,
// or any other mixture (§2.3.8, §4.1.1.4). A bare LF or CR is written as CRLF
// and reported, and it is for the caller to refuse the message.
//
// The error is that of reading, io.ErrUnexpectedEOF for an end before the end
// of the data; then the session is over. An error of w comes last and leaves
// r in the right place.
//
// The work is done in runs: cleanLines finds the longest stretch of buffered
// lines that go out as they came, and one Write takes it. The rest of the
// code sees only what remains, a few bytes per buffer in sane mail.
func ReadData(w io.Writer, r *bufio.Reader, limit int64) (DataStats, error) {
	var st DataStats
	out := sink{w: w, limit: limit, stats: &st}
	prev := endCRLF
	need := 1
	for {
		b, err := peek(r, need)
		if err != nil {
			return st, err
		}
		need = 1
		if prev != midLine {
			if n := cleanLines(b); n > 0 {
				out.write(b[:n])
				discard(r, n)
				prev = endCRLF
				continue
			}
			if b[0] == '.' {
				switch end := endOfData(b, prev); end {
				case dotEnds:
					discard(r, 3)
					return st, out.err
				case dotUnclear:
					need = len(b) + 1
					continue
				}
				// Whoever ends lines with a bare LF also stuffs dots after
				// it; nobody who sends CR as a character does.
				if prev != endBareCR {
					discard(r, 1)
					prev = midLine
					continue
				}
			}
		}
		n, end := oddLine(b)
		if end == midLine && n == 0 { // a CR whose LF may still come
			need = len(b) + 1
			continue
		}
		out.write(b[:n])
		prev = end
		switch end {
		case endCRLF:
			n += 2
		case endBareLF:
			n, st.BareLF = n+1, true
		case endBareCR:
			n, st.BareCR = n+1, true
		}
		if end != midLine {
			out.write(crlf)
		}
		discard(r, n)
	}
}

var crlf = []byte("\r\n")

// cleanLines returns the length of the longest prefix of b that consists of
// whole lines which end in CRLF, hold no other CR or LF, and do not begin
// with a dot.
func cleanLines(b []byte) int {
	n := 0
	for n < len(b) && b[n] != '.' {
		lf := bytes.IndexByte(b[n:], '\n')
		if lf < 1 || b[n+lf-1] != '\r' {
			break
		}
		if bytes.IndexByte(b[n:n+lf-1], '\r') >= 0 {
			break
		}
		n += lf + 1
	}
	return n
}

// oddLine looks at the rest of a line: n bytes of text and then the given
// end, or n bytes of text of which the end is not in b.
func oddLine(b []byte) (n int, end lineEnd) {
	lf := bytes.IndexByte(b, '\n')
	text := b
	if lf >= 0 {
		text = b[:lf]
	}
	cr := bytes.IndexByte(text, '\r')
	switch {
	case cr < 0 && lf < 0:
		return len(b), midLine
	case cr < 0:
		return lf, endBareLF
	case cr+1 == lf:
		return cr, endCRLF
	case cr+1 < len(b):
		return cr, endBareCR
	default:
		return cr, midLine // the CR is b's last byte
	}
}

type dotKind uint8

const (
	dotText dotKind = iota
	dotEnds
	dotUnclear
)

// endOfData looks at a line that begins with a dot.
func endOfData(b []byte, prev lineEnd) dotKind {
	switch {
	case prev != endCRLF:
		return dotText
	case len(b) >= 3:
		if b[1] == '\r' && b[2] == '\n' {
			return dotEnds
		}
		return dotText
	case len(b) == 2 && b[1] != '\r':
		return dotText
	default:
		return dotUnclear
	}
}

// peek returns what is buffered, at least n bytes of it. n is never more than
// three, so that the buffer is always large enough.
func peek(r *bufio.Reader, n int) ([]byte, error) {
	if r.Buffered() < n {
		if _, err := r.Peek(n); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
	return r.Peek(r.Buffered())
}

// discard drops bytes that peek has shown, and so cannot fail.
func discard(r *bufio.Reader, n int) { _, _ = r.Discard(n) }
