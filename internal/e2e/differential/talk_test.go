package differential

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// talk is an SMTP conversation that is written down, not judged.
type talk struct {
	p    *play
	conn net.Conn
	in   *bufio.Reader
	held strings.Builder // to be sent with the next line that wants a reply
	out  strings.Builder
	end  bool
}

// smtp plays a block, and returns what was said by both sides.
func (p *play) smtp(st step) (string, error) {
	d := net.Dialer{Timeout: limit}
	local := "127.0.0.1"
	if len(st.args) == 2 && st.args[0] == "from" {
		local = st.args[1]
	}
	d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(local)}
	before := p.now()
	conn, err := d.Dial("tcp", p.srv.Addr())
	if err != nil {
		return "", err
	}
	defer conn.Close()
	t := &talk{p: p, conn: conn, in: bufio.NewReader(conn)}
	if err := t.read(); err != nil {
		return "", err
	}
	for _, line := range st.block {
		if err := t.say(strings.TrimLeft(line, " \t")); err != nil {
			return t.out.String(), err
		}
	}
	if err := t.flush(); err != nil {
		return t.out.String(), err
	}
	conn.Close()
	// The session ends in the log a moment later; without this its last
	// lines would be taken for the next step's.
	return t.out.String(), p.waitLog(before, 1, `disconnect from`)
}

func (t *talk) say(line string) error {
	verb, rest, _ := strings.Cut(line, " ")
	switch verb {
	case ">":
		t.hold("C: "+rest, t.p.expand(rest)+"\r\n")
		return nil
	case "raw":
		text, err := strconv.Unquote(rest)
		if err != nil {
			return fmt.Errorf("%w: %s", errScript, rest)
		}
		t.hold("C> "+rest, text)
		return nil
	case "fill":
		n, err := strconv.Atoi(rest)
		if err != nil {
			return err
		}
		t.hold("C> "+line, strings.Repeat(strings.Repeat("x", 78)+"\r\n", n/80))
		return nil
	case "read":
		if err := t.flush(); err != nil {
			return err
		}
		return t.read()
	}
	t.hold("C: "+line, t.p.expand(line)+"\r\n")
	if err := t.flush(); err != nil {
		return err
	}
	return t.read()
}

func (t *talk) hold(shown, sent string) {
	t.out.WriteString(shown + "\n")
	t.held.WriteString(sent)
}

// flush sends. A server that has hung up is seen by the next read.
func (t *talk) flush() error {
	t.conn.SetWriteDeadline(time.Now().Add(limit))
	_, err := io.WriteString(t.conn, t.held.String())
	t.held.Reset()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return nil
}

var queuedAs = regexp.MustCompile(`queued as (\w+)`)

// read writes down one reply.
func (t *talk) read() error {
	for !t.end {
		t.conn.SetReadDeadline(time.Now().Add(limit))
		line, err := t.in.ReadString('\n')
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("no reply to:\n%s%w", t.out.String(), err)
		}
		if err != nil {
			t.end = true
			t.out.WriteString("S: " + line + "(closed)\n")
			break
		}
		if m := queuedAs.FindStringSubmatch(line); m != nil {
			t.p.ids[m[1]] = true
		}
		body, ok := strings.CutSuffix(line, "\r\n")
		if !ok {
			body = strconv.Quote(line)
		}
		t.out.WriteString("S: " + body + "\n")
		if len(body) < 4 || body[3] != '-' {
			break
		}
	}
	return nil
}
