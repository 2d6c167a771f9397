package dialogue

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

// ErrMismatch is wrapped when the other side said something else.
var ErrMismatch = errors.New("the other side did not follow the script")

// Options are how a script is played.
type Options struct {
	Side    Side              // ours; 0 means Client
	Timeout time.Duration     // for each line expected; 0 means 10 s
	TLS     *tls.Config       // for starttls; nil makes a client that believes any certificate
	Vars    map[string]string // known from the start
}

// player is a script being played on one connection.
type player struct {
	script *Script
	opt    Options
	conn   net.Conn
	in     *bufio.Reader
	vars   map[string]string
	said   []string // the conversation so far, for messages
}

// Play plays a script on conn and closes it. It returns what was remembered.
func (s *Script) Play(conn net.Conn, opt Options) (map[string]string, error) {
	if opt.Side == 0 {
		opt.Side = Client
	}
	if opt.Timeout == 0 {
		opt.Timeout = 10 * time.Second
	}
	p := &player{script: s, opt: opt, conn: conn, in: bufio.NewReader(conn), vars: map[string]string{}}
	for k, v := range opt.Vars {
		p.vars[k] = v
	}
	defer func() { p.conn.Close() }()
	for i := 0; i < len(s.steps); {
		n, err := p.play(i)
		if err != nil {
			return p.vars, err
		}
		i += n
	}
	return p.vars, nil
}

// play does the step at i, and returns how many steps that took.
func (p *player) play(i int) (int, error) {
	st := p.script.steps[i]
	switch {
	case st.kind == starttls:
		return 1, p.failed(st, p.handshake())
	case st.side == p.opt.Side:
		return p.speak(i)
	case st.kind == closes:
		return 1, p.expectClose(st)
	case st.kind == sayRaw:
		return 1, p.expectRaw(st)
	case st.kind == anyLines:
		return p.skipTo(i)
	}
	line, err := p.readLine(st)
	if err != nil {
		return 0, err
	}
	ok, err := p.match(st, line)
	if err == nil && !ok {
		err = p.mismatch(st, line)
	}
	return 1, err
}

// speak writes this and the following steps of our side in one go.
func (p *player) speak(i int) (n int, err error) {
	var out strings.Builder
	first := p.script.steps[i]
	for _, st := range p.script.steps[i:] {
		if st.side != p.opt.Side || st.kind == starttls {
			break
		}
		if st.kind == closes {
			if out.Len() == 0 {
				n++
				p.conn.Close()
			}
			break
		}
		text := expand(st.text, p.vars)
		if st.kind != sayRaw {
			text += "\r\n"
		}
		out.WriteString(text)
		p.note(st.side, text)
		n++
	}
	if out.Len() == 0 {
		return n, nil
	}
	p.conn.SetWriteDeadline(time.Now().Add(p.opt.Timeout))
	_, err = io.WriteString(p.conn, out.String())
	return n, p.failed(first, err)
}

func (p *player) readLine(st step) (string, error) {
	p.conn.SetReadDeadline(time.Now().Add(p.opt.Timeout))
	line, err := p.in.ReadString('\n')
	if line != "" {
		p.note(st.side, line)
	}
	if err != nil {
		return "", p.failed(st, err)
	}
	if !strings.HasSuffix(line, "\r\n") {
		return "", p.mismatch(st, strings.TrimSuffix(line, "\n")+"  (bare LF)")
	}
	return strings.TrimSuffix(line, "\r\n"), nil
}

// match compares and remembers.
func (p *player) match(st step, line string) (bool, error) {
	re, err := pattern(st.text, p.vars)
	if err != nil {
		return false, p.failed(st, err)
	}
	return p.remember(re, line), nil
}

func (p *player) remember(re *regexp.Regexp, line string) bool {
	m := re.FindStringSubmatch(line)
	for i, name := range re.SubexpNames() {
		if m != nil && name != "" {
			p.vars[name] = m[i]
		}
	}
	return m != nil
}

// skipTo reads lines until the next step's line, or the end of a reply.
func (p *player) skipTo(i int) (int, error) {
	st := p.script.steps[i]
	var next *step
	if i+1 < len(p.script.steps) {
		if n := p.script.steps[i+1]; n.side == st.side && n.kind == sayLine {
			next = &n
		}
	}
	for {
		line, err := p.readLine(st)
		if err != nil {
			return 0, err
		}
		if next == nil {
			if len(line) < 4 || line[3] != '-' {
				return 1, nil
			}
			continue
		}
		if ok, err := p.match(*next, line); ok || err != nil {
			return 2, err
		}
	}
}

func (p *player) expectRaw(st step) error {
	b := make([]byte, len(st.text))
	p.conn.SetReadDeadline(time.Now().Add(p.opt.Timeout))
	n, err := io.ReadFull(p.in, b)
	p.note(st.side, string(b[:n]))
	if err != nil {
		return p.failed(st, err)
	}
	if string(b) != st.text {
		return p.mismatch(st, fmt.Sprintf("%q", b))
	}
	return nil
}

func (p *player) expectClose(st step) error {
	p.conn.SetReadDeadline(time.Now().Add(p.opt.Timeout))
	line, err := p.in.ReadString('\n')
	switch {
	case line != "":
		return p.mismatch(st, strings.TrimRight(line, "\r\n"))
	case errors.Is(err, os.ErrDeadlineExceeded):
		return p.failed(st, fmt.Errorf("still open: %w", err))
	}
	return nil
}

func (p *player) handshake() error {
	p.conn.SetDeadline(time.Now().Add(p.opt.Timeout))
	if p.in.Buffered() > 0 {
		return fmt.Errorf("%w: clear text behind the go-ahead for TLS", ErrMismatch)
	}
	var c *tls.Conn
	if p.opt.Side == Server {
		c = tls.Server(p.conn, p.opt.TLS)
	} else {
		cfg := p.opt.TLS
		if cfg == nil {
			cfg = &tls.Config{InsecureSkipVerify: true} //nolint:gosec // a test client
		}
		c = tls.Client(p.conn, cfg)
	}
	if err := c.Handshake(); err != nil {
		return err
	}
	p.conn, p.in = c, bufio.NewReader(c)
	return nil
}

func (p *player) note(side Side, text string) {
	for l := range strings.SplitSeq(strings.TrimRight(text, "\r\n"), "\n") {
		p.said = append(p.said, fmt.Sprintf("  %c: %s", side, strings.TrimRight(l, "\r")))
	}
}

func (p *player) failed(st step, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s:%d: %c: %s: %w\nso far:\n%s", p.script.name, st.line, st.side, st.text, err, p.history())
}

func (p *player) mismatch(st step, got string) error {
	return fmt.Errorf("%s:%d: %w\nwant %c: %s\n got %c: %s\nso far:\n%s",
		p.script.name, st.line, ErrMismatch, st.side, st.text, st.side, got, p.history())
}

// history is the last lines said.
func (p *player) history() string {
	return strings.Join(p.said[max(0, len(p.said)-30):], "\n")
}

// Run plays text as the client against a TCP address and fails the test when
// the server does not follow.
func Run(tb testing.TB, address, text string) map[string]string {
	tb.Helper()
	return run(tb, address, tb.Name(), text)
}

// RunFile is Run with a script from a file.
func RunFile(tb testing.TB, address, path string) map[string]string {
	tb.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	return run(tb, address, path, string(b))
}

func run(tb testing.TB, address, name, text string) map[string]string {
	tb.Helper()
	s, err := Parse(name, text)
	if err != nil {
		tb.Fatal(err)
	}
	conn, err := net.DialTimeout("tcp", address, 10*time.Second)
	if err != nil {
		tb.Fatal(err)
	}
	vars, err := s.Play(conn, Options{})
	if err != nil {
		tb.Fatal(err)
	}
	return vars
}
