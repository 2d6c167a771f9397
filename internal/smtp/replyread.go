package smtp

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	"posthouse/internal/mail"
)

// ErrReply is wrapped by the errors of ReadReply when what came is not a
// reply. After it the connection is of no use.
var ErrReply = errors.New("malformed SMTP reply")

// Bounds on what a server may make us keep: RFC 5321 §4.5.3.1.5 allows 512
// octets a line; Postfix takes 2048 and so do we, and cut the rest off.
const (
	maxReplyLine  = 2048
	maxReplyLines = 500
	maxReplySize  = 64 << 10
)

// ReadReply reads one reply, of one line or several (RFC 5321 §4.2.1). Lines
// may end in CRLF or LF. What is longer than the bounds allow is cut off, not
// an error, as long as it ends; a reply without end is ErrReply.
//
// The enhanced code is that of the last line, when its class agrees with the
// reply code (RFC 2034 §4); it is removed from the text of every line that
// repeats it. Control characters become '?'. String gives the reply back as
// it came.
//
// io.EOF means that the connection ended before the reply began,
// io.ErrUnexpectedEOF that it ended in the middle.
func ReadReply(r *bufio.Reader) (*Reply, error) {
	var all []byte
	ends := make([]int, 0, 8)
	code, lines := 0, 0
	for {
		start := len(all)
		var err error
		if all, err = appendLine(all, r); err != nil {
			if errors.Is(err, io.EOF) && (lines > 0 || len(all) > start) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		c, more, ok := replyPrefix(all[start:])
		if !ok {
			return nil, fmt.Errorf("%w: %q", ErrReply, clip(all[start:], 100))
		}
		if lines > 0 && c != code {
			// Postfix believes the last line; a server that changes its mind
			// halfway cannot be believed about either.
			return nil, fmt.Errorf("%w: code %d continued as %d", ErrReply, code, c)
		}
		code = c
		if lines++; lines > maxReplyLines*4 {
			return nil, fmt.Errorf("%w: too many lines", ErrReply)
		}
		if more && (len(ends) >= maxReplyLines || len(all) > maxReplySize) {
			all = all[:start]
			continue
		}
		ends = append(ends, len(all))
		if !more {
			break
		}
		all = append(all, ' ')
	}
	return newReadReply(code, string(all), ends), nil
}

// newReadReply cuts quoted, the lines of a reply joined by blanks, up again
// into lines that share its memory. ends has the end of each line.
func newReadReply(code int, quoted string, ends []int) *Reply {
	rep := &Reply{Code: code, Lines: make([]string, len(ends)), Quoted: quoted}
	start := 0
	for i, end := range ends {
		line := quoted[start:end]
		if len(line) > 4 {
			rep.Lines[i] = line[4:]
		}
		start = end + 1
	}
	last := rep.Lines[len(rep.Lines)-1]
	enh, n := mail.ParseEnhancedCode(last)
	if n == 0 || int(enh[0]) != code/100 {
		return rep
	}
	rep.Enhanced = enh
	prefix := last[:n]
	for i, line := range rep.Lines {
		if after, ok := strings.CutPrefix(line, prefix); ok && (after == "" || after[0] == ' ') {
			rep.Lines[i] = strings.TrimPrefix(after, " ")
		}
	}
	return rep
}

// appendLine reads a line and appends it to b without line end, made
// printable and cut to maxReplyLine.
func appendLine(b []byte, r *bufio.Reader) ([]byte, error) {
	start, skipped := len(b), 0
	for {
		frag, err := r.ReadSlice('\n')
		if room := maxReplyLine - (len(b) - start); len(frag) > room {
			skipped += len(frag) - room
			b = append(b, frag[:room]...)
		} else {
			b = append(b, frag...)
		}
		if err == nil {
			break
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return b, err
		}
		if skipped > 1<<20 {
			return b, fmt.Errorf("%w: endless line", ErrReply)
		}
	}
	if n := len(b); n > start && b[n-1] == '\n' {
		b = b[:n-1]
	}
	if n := len(b); n > start && b[n-1] == '\r' {
		b = b[:n-1]
	}
	for i := start; i < len(b); i++ {
		if control(b[i]) {
			b[i] = '?'
		}
	}
	return b, nil
}

// replyPrefix reads "250-" or "250 " or "250".
func replyPrefix(line []byte) (code int, more, ok bool) {
	if len(line) < 3 || line[0] < '2' || line[0] > '5' {
		return 0, false, false
	}
	for _, c := range line[:3] {
		if c < '0' || c > '9' {
			return 0, false, false
		}
		code = code*10 + int(c-'0')
	}
	if len(line) == 3 {
		return code, false, true
	}
	return code, line[3] == '-', line[3] == '-' || line[3] == ' '
}

func clip(b []byte, n int) []byte { return b[:min(len(b), n)] }
