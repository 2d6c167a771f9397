package server

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"posthouse/internal/mail"
)

// peer is the client's end of a session in tests.
type testPeer struct {
	t    *testing.T
	conn net.Conn
	r    *bufio.Reader
	done chan struct{} // the session is over
}

// connect starts a session. from is "" for a client without address.
func connect(t *testing.T, srv *Server, from string) *testPeer {
	t.Helper()
	client, conn := net.Pipe()
	if from != "" {
		conn = addrConn{conn, from}
	}
	p := &testPeer{t: t, conn: client, r: bufio.NewReader(client), done: make(chan struct{})}
	go func() { srv.ServeConn(t.Context(), conn, listener); close(p.done) }()
	return p
}

func (p *testPeer) send(s string) {
	p.t.Helper()
	if _, err := io.WriteString(p.conn, s); err != nil {
		p.t.Fatalf("send %q: %v", s, err)
	}
}

// expect reads a whole reply and compares the last line's beginning.
func (p *testPeer) expect(want string) {
	p.t.Helper()
	for {
		line, err := p.r.ReadString('\n')
		if err != nil {
			p.t.Fatalf("waiting for %q: %q, %v", want, line, err)
		}
		if len(line) > 3 && line[3] == '-' {
			continue
		}
		if !strings.HasPrefix(line, want) {
			p.t.Fatalf("got %q, want %q", line, want)
		}
		return
	}
}

func (p *testPeer) talk(pairs ...string) {
	p.t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i] != "" {
			p.send(pairs[i] + "\r\n")
		}
		p.expect(pairs[i+1])
	}
}

func (p *testPeer) eof() {
	p.t.Helper()
	if b, err := p.r.ReadByte(); !errors.Is(err, io.EOF) {
		p.t.Fatalf("%q, %v instead of the end", b, err)
	}
	<-p.done
}

func (p *testPeer) close() {
	_ = p.conn.Close()
	<-p.done
}

var toContent = []string{"", "220", "EHLO x", "250 ", "MAIL FROM:<a@b.c>", "250 ", "RCPT TO:<x@y.z>", "250 ", "DATA", "354"}

// A client that stalls, at each stage.
func TestTimeouts(t *testing.T) {
	for _, c := range []struct {
		name  string
		talk  []string
		stall string // sent without end
		log   string
	}{
		{"greeting", []string{"", "220"}, "", "timeout after CONNECT from localhost[127.0.0.1]"},
		{"line", []string{"", "220"}, "EHL", "timeout after CONNECT from localhost[127.0.0.1]"},
		{"helo", toContent[:4], "", "timeout after EHLO from localhost[127.0.0.1]"},
		{"mail", toContent[:6], "", "timeout after MAIL from localhost[127.0.0.1]"},
		{"rcpt", toContent[:8], "", "timeout after RCPT from localhost[127.0.0.1]"},
		{"data", toContent, "", "timeout after DATA (0 bytes) from localhost[127.0.0.1]"},
		{"content", toContent, "abc\r\n.", "timeout after DATA (6 bytes) from localhost[127.0.0.1]"},
		{"bdat", toContent[:8], "BDAT 10\r\nabc", "timeout after BDAT (3 bytes) from localhost[127.0.0.1]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log, acc := &recorder{}, &memory{}
				p := connect(t, New(DefaultConfig("h"), acc, Deps{Log: log}), "")
				p.talk(c.talk...)
				start := time.Now()
				p.send(c.stall)
				p.expect("421 4.4.2 h Error: timeout exceeded")
				if d := time.Since(start); d != 300*time.Second {
					t.Errorf("after %v", d)
				}
				p.eof()
				if lines := log.all(); len(lines) != 3 || lines[1] != "smtpd: "+c.log {
					t.Errorf("%q", lines)
				}
				acc.check(t)
			})
		})
	}
}

// A client that sends a byte now and then must not stay for ever.
func TestSlowLoris(t *testing.T) {
	for _, c := range []struct {
		name  string
		talk  []string
		limit time.Duration
	}{
		{"command", []string{"", "220"}, 300 * time.Second},
		// 0.01 bytes a second buy 1/50000 of themselves in time.
		{"content", toContent, 301 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := connect(t, New(DefaultConfig("h"), &memory{}, Deps{Log: silent{}}), "")
				p.talk(c.talk...)
				start, gone := time.Now(), make(chan struct{})
				go func() {
					defer close(gone)
					for {
						if _, err := io.WriteString(p.conn, "x"); err != nil {
							return
						}
						time.Sleep(100 * time.Second)
					}
				}()
				p.expect("421 4.4.2")
				if d := time.Since(start); d < 300*time.Second || d > c.limit {
					t.Errorf("after %v", d)
				}
				p.close()
				<-gone
			})
		})
	}
}

// A steady client may take as long as it needs.
func TestSteadyContent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		acc := &memory{}
		p := connect(t, New(DefaultConfig("h"), acc, Deps{Log: silent{}}), "")
		p.talk(toContent...)
		block := strings.Repeat(strings.Repeat("x", 998)+"\r\n", 60)
		for range 60 {
			p.send(block)
			time.Sleep(100 * time.Second)
		}
		p.talk(".", "250 2.0.0 Ok: queued", "QUIT", "221")
		p.eof()
		if len(acc.messages) != 1 || acc.messages[0].content.Len() != 60*len(block) {
			t.Error("the message is not whole")
		}
	})
}

// A client that does not read.
func TestStuckReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := connect(t, New(DefaultConfig("h"), &memory{}, Deps{Log: silent{}}), "")
		start := time.Now()
		<-p.done // the greeting is never read
		if d := time.Since(start); d < 300*time.Second || d > 700*time.Second {
			t.Errorf("after %v", d)
		}
		p.close()
	})
}

func TestErrorSleepAndLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &recorder{}
		p := connect(t, New(DefaultConfig("h"), &memory{}, Deps{Log: log}), "")
		p.talk("", "220", "EHLO x", "250 ")
		start := time.Now()
		for range 20 {
			p.talk("FOO", "500 5.5.2")
		}
		p.expect("421 4.7.0 h Error: too many errors")
		p.eof()
		if d := time.Since(start); d != 10*time.Second {
			t.Errorf("20 errors took %v, want 10 s", d)
		}
		want := "smtpd: too many errors after UNKNOWN from localhost[127.0.0.1]"
		if lines := log.all(); len(lines) != 3 || lines[1] != want {
			t.Errorf("%q", lines)
		}
	})
}

func TestLongLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &recorder{}
		p := connect(t, New(DefaultConfig("h"), &memory{}, Deps{Log: log}), "")
		p.talk("", "220", "EHLO x", "250 ",
			"NOOP "+strings.Repeat("x", 2041), "250 ",
			"NOOP "+strings.Repeat("x", 3000), "500 5.5.2 Error: line too long",
			"NOOP "+strings.Repeat("x", 30000), "500 5.5.2 Error: line too long",
			"NOOP", "250 ")
		gone := make(chan struct{})
		go func() {
			defer close(gone)
			for {
				if _, err := io.WriteString(p.conn, strings.Repeat("x", 1000)); err != nil {
					return
				}
			}
		}()
		p.expect("421 4.7.0 h Error: line too long")
		p.close()
		<-gone
		lines := log.all()
		if len(lines) != 5 || lines[1] != "smtpd: warning: localhost[127.0.0.1]: request longer than 2048: NOOP xxxxxxxxxxxxxxxxxxxxxxxxx..." {
			t.Errorf("%q", lines)
		}
	})
}

func TestClientLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := DefaultConfig("h")
		cfg.MaxPerClient = 2
		cfg.ExemptNets = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}
		log := &recorder{}
		srv := New(cfg, &memory{}, Deps{Log: log})
		var open []*testPeer
		for _, from := range []string{"192.0.2.1", "192.0.2.1", "192.0.2.2", "198.51.100.1", "198.51.100.1", "198.51.100.1"} {
			p := connect(t, srv, from)
			p.expect("220")
			open = append(open, p)
		}
		p := connect(t, srv, "192.0.2.1")
		p.expect("421 4.7.0 h Error: too many connections from 192.0.2.1")
		p.eof()
		lines := log.all()
		want := "smtpd: warning: Connection concurrency limit exceeded: 3 from unknown[192.0.2.1] for service smtp"
		if got := lines[len(lines)-2]; got != want {
			t.Errorf("%q", lines)
		}
		open[0].close()
		p = connect(t, srv, "192.0.2.1")
		p.expect("220")
		for _, p := range append(open[1:], p) {
			p.close()
		}
		if len(srv.clients.n) != 0 {
			t.Errorf("counts left: %v", srv.clients.n)
		}
	})
}

// TestHeloThatForgesFacts: what a client calls itself stands in log lines and
// in the Received field, and must not end its place there.
func TestHeloThatForgesFacts(t *testing.T) {
	acc := &memory{}
	p := connect(t, New(DefaultConfig("h"), acc, Deps{Log: &recorder{}}), "")
	p.talk("", "220", `EHLO x (bank.example [192.0.2.1]) by h> to=<"a"@b;\`, "250 ")
	p.talk(append(toContent[4:], "hello\r\n.", "250", "QUIT", "221")...)
	p.eof()
	if want := "x??bank.example?[192.0.2.1]??by?h??to=??a??b??"; len(acc.messages) != 1 || acc.messages[0].peer.Helo != want {
		t.Errorf("%+v", acc.messages)
	}
}

// TestClientLimitBeforeNames: a client whose name takes long to find does not
// get more sessions by it than others.
func TestClientLimitBeforeNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := DefaultConfig("h")
		cfg.MaxPerClient = 1
		srv := New(cfg, &memory{}, Deps{Log: &recorder{}, Resolver: fakeDNS{slow: nameTimeout}})
		begin := time.Now()
		first, second := connect(t, srv, "192.0.2.1"), connect(t, srv, "192.0.2.1")
		reply := make(chan *testPeer, 2)
		for _, p := range []*testPeer{first, second} {
			go func() {
				p.r.Peek(1)
				reply <- p
			}()
		}
		refused := <-reply // whichever came second
		if waited := time.Since(begin); waited != 0 {
			t.Errorf("refused after %v", waited)
		}
		refused.expect("421 4.7.0 h Error: too many connections from 192.0.2.1")
		greeted := <-reply
		greeted.expect("220")
		refused.close()
		greeted.close()
	})
}

// fakeDNS is a Resolver: PTR names and address records.
type fakeDNS struct {
	ptr  map[string]string
	addr map[string]string
	slow time.Duration
}

func (f fakeDNS) LookupAddr(ctx context.Context, a string) ([]string, error) {
	select {
	case <-time.After(f.slow):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if n, ok := f.ptr[a]; ok {
		return []string{n}, nil
	}
	return nil, errors.New("no such name")
}

func (f fakeDNS) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	if a, ok := f.addr[host]; ok {
		return []netip.Addr{netip.MustParseAddr(a)}, nil
	}
	return nil, errors.New("no such host")
}

func TestClientNames(t *testing.T) {
	dns := fakeDNS{
		ptr:  map[string]string{"192.0.2.1": "good.example.", "192.0.2.2": "liar.example.", "192.0.2.3": "gone.example.", "192.0.2.4": "evil]\r\nx.example.", "2001:db8::1": "six.example."},
		addr: map[string]string{"good.example": "::ffff:192.0.2.1", "liar.example": "192.0.2.99", "six.example": "2001:db8::1"},
	}
	for _, c := range []struct{ from, name, reverse, warning string }{
		{"192.0.2.1", "good.example", "good.example", ""},
		{"2001:db8::1", "six.example", "six.example", ""},
		{"192.0.2.2", "unknown", "liar.example", "smtpd: warning: hostname liar.example does not resolve to address 192.0.2.2"},
		{"192.0.2.3", "unknown", "gone.example", "smtpd: warning: hostname gone.example does not resolve to address 192.0.2.3: no such host"},
		{"192.0.2.4", "unknown", "unknown", ""},
		{"192.0.2.5", "unknown", "unknown", ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			log, acc := &recorder{}, &memory{}
			p := connect(t, New(DefaultConfig("h"), acc, Deps{Log: log, Resolver: dns}), c.from)
			p.talk(append(toContent, ".", "250", "QUIT", "221")...)
			p.eof()
			want := mail.Client{Name: c.name, ReverseName: c.reverse, Addr: c.from, Port: 40000, Helo: "x", Protocol: "ESMTP", ServerAddr: "192.0.2.25", ServerPort: 25, UID: -1}
			if got := acc.messages[0].peer; got != want {
				t.Errorf("%+v", got)
			}
			lines := log.all()
			if c.warning != "" && (len(lines) != 3 || lines[0] != c.warning) {
				t.Errorf("%q", lines)
			}
			if got := lines[len(lines)-2]; got != fmt.Sprintf("smtpd: connect from %s[%s]", c.name, c.from) {
				t.Errorf("%q", lines)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		dns.slow = time.Hour
		p := connect(t, New(DefaultConfig("h"), &memory{}, Deps{Log: silent{}, Resolver: dns}), "192.0.2.1")
		start := time.Now()
		p.expect("220")
		if d := time.Since(start); d != nameTimeout {
			t.Errorf("greeting after %v", d)
		}
		p.close()
	})
}

func TestSmugglingCorpus(t *testing.T) {
	files, err := filepath.Glob("../testdata/smuggling/*.txt")
	if err != nil || len(files) < 20 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		wire, err := strconv.Unquote(strings.TrimSpace(string(b)))
		if err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		for _, mode := range []BareNewlines{NormalizeNewlines, RejectNewlines} {
			synctest.Test(t, func(t *testing.T) {
				cfg := DefaultConfig("h")
				cfg.Newlines = mode
				acc := &memory{}
				p := connect(t, New(cfg, acc, Deps{Log: silent{}}), "")
				p.talk(toContent...)
				p.send(wire)
				want := "250 2.0.0 Ok: queued as 000000000001"
				rest := strings.ReplaceAll(wire, "\r\n", "")
				if mode == RejectNewlines && strings.ContainsAny(rest, "\r\n") {
					want = "550 5.5.2"
				}
				p.expect(want)
				p.talk("QUIT", "221") // any second message would be answered first
				p.eof()
				if len(acc.messages) > 1 || acc.last != 1 {
					t.Errorf("%s: %d messages", f, acc.last)
				}
			})
		}
	}
}
