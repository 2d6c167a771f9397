package smtp

import (
	"bufio"
	"bytes"
	"errors"
	"io"
)

// ChunkReader reads the chunks of one message that comes by BDAT (RFC 3030).
// The content is declared to be made of CRLF lines; what is not is treated as
// in ReadData, also when a chunk ends between CR and LF. The zero value with
// W set is ready for the first chunk.
type ChunkReader struct {
	W     io.Writer // takes the content; its first error is kept and returned by the last chunk
	Limit int64     // bytes; 0 is none; see DataStats.TooBig

	stats DataStats
	err   error
	cr    bool // the last byte seen was a CR that has not been written
	open  bool // the last line written has no end yet
}

// Stats is what was seen so far.
func (c *ChunkReader) Stats() DataStats { return c.stats }

// Read reads a chunk of size bytes. With last, the content is given a final
// CRLF if it needs one: a message is made of lines, and one without end would
// run into whatever a relay writes after it. An empty message stays empty.
//
// The error is that of reading from r, io.ErrUnexpectedEOF when it ends
// early; then the session is over. With last, it may also be the first error
// of W, and r is in the right place.
func (c *ChunkReader) Read(r *bufio.Reader, size int64, last bool) error {
	out := sink{w: c.W, limit: c.Limit, stats: &c.stats, err: c.err}
	for size > 0 {
		b, err := peek(r, 1)
		if err != nil {
			return err
		}
		b = b[:min(int64(len(b)), size)]
		c.normalise(&out, b)
		discard(r, len(b))
		size -= int64(len(b))
	}
	if last {
		if c.cr {
			c.bareCR(&out)
		}
		if c.open {
			out.write(crlf)
			c.open = false
		}
	}
	c.err = out.err
	if last {
		return c.err
	}
	return nil
}

// normalise writes b with every line end a CRLF. As in ReadData, stretches of
// lines that need no change are written at once.
func (c *ChunkReader) normalise(out *sink, b []byte) {
	if c.cr && b[0] == '\n' {
		c.cr, c.open = false, false
		out.write(crlf)
		b = b[1:]
	} else if c.cr {
		c.bareCR(out)
	}
	for len(b) > 0 {
		n := cleanRun(b)
		if n > 0 {
			out.write(b[:n])
			c.open = b[n-1] != '\n'
			b = b[n:]
			continue
		}
		switch {
		case b[0] == '\n':
			c.stats.BareLF = true
			out.write(crlf)
			c.open = false
		case len(b) == 1:
			c.cr = true
		default:
			c.bareCR(out)
		}
		b = b[1:]
	}
}

func (c *ChunkReader) bareCR(out *sink) {
	c.cr, c.open = false, false
	c.stats.BareCR = true
	out.write(crlf)
}

// cleanRun returns the length of the longest prefix of b in which every CR is
// followed by LF and every LF preceded by CR, and which does not end in CR.
func cleanRun(b []byte) int {
	n := 0
	for n < len(b) {
		lf := bytes.IndexByte(b[n:], '\n')
		if lf < 0 {
			if cr := bytes.IndexByte(b[n:], '\r'); cr >= 0 {
				return n + cr
			}
			return len(b)
		}
		cr := bytes.IndexByte(b[n:n+lf], '\r')
		switch {
		case cr < 0:
			return n + lf
		case cr != lf-1:
			return n + cr
		}
		n += lf + 1
	}
	return n
}

// SkipChunk reads past a chunk whose content nobody wants.
func SkipChunk(r *bufio.Reader, size int64) error {
	_, err := io.CopyN(io.Discard, r, size)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}
