package e2e_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"posthouse/internal/testkit/dialogue"
	"posthouse/internal/testkit/program"
	"posthouse/internal/traffic/sink"
)

// TestClientsWithoutManners are conversations that no good client has. Each is
// answered or cut off, and the relay works as before.
func TestClientsWithoutManners(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.host(sink.Config{}, "dest.example")
	p := w.relay("smtpd_hard_error_limit = 5\nsmtpd_error_sleep_time = 0s\nmessage_size_limit = 200000\n")
	for name, script := range map[string]string{
		"endless line": "S: 220 ...\nC: NOOP " + strings.Repeat("x", 9000) + "\nS: 500 5.5.2 Error: line too long\nC: QUIT\nS: 221 2.0.0 Bye\nS# closes",
		"line without an end": "S: 220 ...\nC> " + strings.Repeat("x", 1<<20) + "\nC> " + strings.Repeat("y", 1<<20) +
			"\nS: {500 5\\.5\\.2|421|554} ...\nS# closes",
		"garbage": `S: 220 ...` + "\n" + `C> \x00\x01\xff\xfe\x16\x03\x01\x02\x00\r\n` + "\nS: 500 5.5.2 ...\nC: QUIT\nS: 221 2.0.0 Bye\nS# closes",
		"HTTP":    "S: 220 ...\nC: GET / HTTP/1.1\nC: Host: mx.test.example\nC:\nS: {221|421} ...\nS# closes",
		"errors":  "S: 220 ...\nC: X1\nS: 500 ...\nC: X2\nS: 500 ...\nC: X3\nS: 500 ...\nC: X4\nS: 500 ...\nC: X5\nS: 500 ...\nS: 421 4.7.0 mx.test.example Error: too many errors\nS# closes",
		"no MAIL": "S: 220 ...\nC: RCPT TO:<x@dest.example>\nS: 503 5.5.1 Error: need MAIL command\nC: DATA\nS: 503 5.5.1 Error: need RCPT command\nC: QUIT\nS: 221 2.0.0 Bye",
		"addresses": "S: 220 ...\nC: EHLO c\nS: ...\nC: MAIL FROM:<a@sender.example\nS: 501 5.1.7 ...\nC: MAIL FROM:<a@sender.example>\nS: 250 2.1.0 Ok\n" +
			"C: RCPT TO:<x@dest.example>, <y@dest.example>\nS: {501|555} ...\nC: RCPT TO:<>\nS: {501|550|554} ...\nC: QUIT\nS: 221 2.0.0 Bye",
		"early content": "S: 220 ...\nC: EHLO c\nS: ...\nC: MAIL FROM:<a@sender.example>\nC: RCPT TO:<x@dest.example>\nC: DATA\nC: Subject: early\nC: .\n" +
			"S: 250 2.1.0 Ok\nS: 250 2.1.5 Ok\nS: 554 5.5.0 Error: SMTP protocol synchronization\nS# closes",
		"HELO repeated": "S: 220 ...\nC: EHLO c\nS: ...\nC: MAIL FROM:<a@sender.example>\nS: 250 2.1.0 Ok\nC: EHLO c\nS: ...\nC: RCPT TO:<x@dest.example>\nS: 503 5.5.1 Error: need MAIL command\nC: QUIT\nS: 221 2.0.0 Bye",
		"too big":       "S: 220 ...\nC: EHLO c\nS: ...\nC: MAIL FROM:<a@sender.example>\nS: 250 ...\nC: RCPT TO:<x@dest.example>\nS: 250 ...\nC: DATA\nS: 354 ...\nC: " + strings.Repeat("x", 900) + strings.Repeat("\nC: "+strings.Repeat("x", 900), 250) + "\nC: .\nS: 552 5.3.4 Error: message file too big\nC: QUIT\nS: 221 2.0.0 Bye",
		"BDAT garbage":  "S: 220 ...\nC: EHLO c\nS: ...\nC: BDAT -1\nS: 521 5.5.4 Syntax: BDAT count [LAST]\nS# closes",
	} {
		t.Run(name, func(t *testing.T) { dialogue.Run(t, p.Addr(), script) })
	}
	t.Run("before the greeting", func(t *testing.T) {
		c, err := net.DialTimeout("tcp", p.Addr(), patience)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, "EHLO c\r\nMAIL FROM:<early@sender.example>\r\nRCPT TO:<x@dest.example>\r\nDATA\r\nSubject: early\r\n\r\n.\r\n"); err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(c) // it ends either way: there may be a reset
		if n := bytes.Count(b, []byte("queued as")); n > 0 {
			t.Errorf("%d messages taken: %q, %v", n, b, err)
		}
	})
	if n := len(h.deliveries()); n != 0 {
		t.Errorf("%d messages came through", n)
	}
	send(t, p, "a@sender.example", "x@dest.example")
	h.wait(t, 1)
	p.WaitLog(t, `improper command pipelining after DATA from localhost\[127\.0\.0\.1\]: Subject: early`)
	p.WaitLog(t, `too many errors after UNKNOWN from localhost\[127\.0\.0\.1\]|too many errors after \w+ from localhost\[127\.0\.0\.1\]`)
}

// TestDisconnectAtEachStage: a client that goes away leaves nothing behind,
// before the final dot or anywhere in it.
func TestDisconnectAtEachStage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.host(sink.Config{}, "dest.example")
	p := w.relay("")
	steps := []struct{ say, want string }{
		{"", ""},
		{"EHLO client.example\r\n", "250"},
		{"MAIL FROM:<gone@sender.example>\r\n", "250"},
		{"RCPT TO:<x@dest.example>\r\n", "250"},
		{"DATA\r\n", "354"},
		{"Subject: gone\r\n", ""},
		{"\r\n", ""},
		{"half a li", ""},
		{"ne\r\n", ""},
		{".", ""},
		{"\r", ""},
	}
	for n := range steps {
		for _, reset := range []bool{false, true} {
			c := dial(t, p.Addr())
			for _, s := range steps[:n+1] {
				c.say(s.say, s.want)
			}
			if reset {
				if err := c.Conn.(*net.TCPConn).SetLinger(0); err != nil {
					t.Fatal(err)
				}
			}
			c.Close()
		}
	}
	// BDAT: a chunk cut short, and a message without its LAST.
	for _, chunk := range []string{"BDAT 100 LAST\r\nSubject: gone\r\n", "BDAT 15\r\nSubject: gone\r\n"} {
		c := dial(t, p.Addr())
		c.say("EHLO client.example\r\n", "250")
		c.say("MAIL FROM:<gone@sender.example>\r\n", "250")
		c.say("RCPT TO:<x@dest.example>\r\n", "250")
		c.say(chunk, "")
		c.Close()
	}
	for _, stage := range []string{"CONNECT", "EHLO", "MAIL", "RCPT", `DATA \(\d+ bytes\)`, "BDAT"} {
		p.WaitLog(t, `lost connection after `+stage+` from localhost\[127\.0\.0\.1\]|lost connection after `+strings.TrimSuffix(stage, ` \(\d+ bytes\)`)+`.* from localhost`)
	}
	send(t, p, "a@sender.example", "x@dest.example")
	h.wait(t, 1)
	waitEmpty(t, p)
	if n := len(h.deliveries()); n != 1 {
		t.Errorf("%d messages came", n)
	}
	if strings.Contains(p.Log.Text(), "gone@sender.example>, size") {
		t.Error("an unfinished message was queued")
	}
}

// recorder is a next hop that keeps every byte it is sent, and answers.
type recorder struct {
	addr  string
	bytes chan []byte // what each connection sent
}

// newRecorder listens at address.
func newRecorder(t *testing.T, address string) *recorder {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	r := &recorder{addr: l.Addr().String(), bytes: make(chan []byte, 100)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			r.bytes <- converse(c)
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return r
}

// converse plays an SMTP server that only trusts CRLF, dot, CRLF, on one
// connection, and returns all that was sent.
func converse(c net.Conn) []byte {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience)) // reads then fail, which ends this
	fmt.Fprint(c, "220 recorder.example ESMTP\r\n")
	var all, line []byte
	inData := false
	b := make([]byte, 1)
	for {
		if _, err := c.Read(b); err != nil {
			return all
		}
		all = append(all, b[0])
		line = append(line, b[0])
		if !bytes.HasSuffix(line, []byte("\r\n")) {
			continue
		}
		switch cmd := string(line); {
		case inData && cmd == ".\r\n":
			inData = false
			fmt.Fprint(c, "250 2.0.0 Ok\r\n")
		case inData:
		case strings.HasPrefix(cmd, "EHLO"):
			fmt.Fprint(c, "250-recorder.example\r\n250 8BITMIME\r\n")
		case strings.HasPrefix(cmd, "DATA"):
			inData = true
			fmt.Fprint(c, "354 go\r\n")
		case strings.HasPrefix(cmd, "QUIT"):
			fmt.Fprint(c, "221 bye\r\n")
			return all
		default:
			fmt.Fprint(c, "250 2.0.0 Ok\r\n")
		}
		line = line[:0]
	}
}

// falseEnds are what servers somewhere take for the end of a message: a dot
// alone on a line, whatever the line ends are.
var falseEnds = regexp.MustCompile(`(^|[\r\n])\.[ \x00]*(\r\r\n|\r|\n)`)

// TestSmugglingCorpus sends every file of the corpus through the relay and
// looks at the very bytes it passes on: one message, no bare CR or LF, no line
// that is a lone dot but the last; and what was smuggled is text in it. With
// smtpd_forbid_bare_newline = reject those with bare line ends are refused.
func TestSmugglingCorpus(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../smtp/testdata/smuggling/*.txt")
	if err != nil || len(files) < 20 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	w := newWorld(t)
	rec := newRecorder(t, w.address("dest.example"))
	// Each message on a connection of its own, so that each has its own bytes.
	p := w.relay("smtp_connection_cache_on_demand = no\n")
	strictWorld := newWorld(t)
	strict := strictWorld.relay("smtpd_forbid_bare_newline = reject\n")
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		wire, err := strconv.Unquote(strings.TrimSpace(string(b)))
		if err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			smuggle(t, p, wire, "250 2.0.0 Ok: queued as")
			select {
			case got := <-rec.bytes:
				checkBytes(t, got)
			case <-time.After(patience):
				t.Fatal("nothing came")
			}
			if strings.ContainsAny(strings.ReplaceAll(wire, "\r\n", ""), "\r\n") {
				smuggle(t, strict, wire, "550 5.5.2")
			}
		})
	}
}

// smuggle sends the corpus file as content; there must be one answer.
func smuggle(t *testing.T, p *program.Instance, wire, want string) {
	t.Helper()
	c := dial(t, p.Addr())
	c.say("EHLO client.example\r\n", "250")
	c.say("MAIL FROM:<a@sender.example>\r\n", "250")
	c.say("RCPT TO:<x@dest.example>\r\n", "250")
	c.say("DATA\r\n", "354")
	c.say(wire, want)
	if strings.HasPrefix(want, "250") {
		c.say("QUIT\r\n", "221")
	}
	c.Close()
}

// checkBytes looks at one connection's bytes.
func checkBytes(t *testing.T, got []byte) {
	t.Helper()
	_, content, ok := bytes.Cut(got, []byte("DATA\r\n"))
	if !ok {
		t.Fatalf("no DATA in %q", got)
	}
	content, rest, ok := bytes.Cut(content, []byte("\r\n.\r\n"))
	if !ok || (len(rest) > 0 && string(rest) != "QUIT\r\n") {
		t.Errorf("behind the end: %q", rest)
	}
	bare := bytes.ReplaceAll(content, []byte("\r\n"), nil)
	if bytes.ContainsAny(bare, "\r\n") {
		t.Errorf("bare CR or LF in %q", content)
	}
	if m := falseEnds.Find(content); m != nil {
		t.Errorf("a false end %q in %q", m, content)
	}
	if n := bytes.Count(bytes.ToUpper(got), []byte("MAIL FROM:<EVIL")); n > 0 && !bytes.Contains(content, []byte("MAIL FROM:<evil")) {
		t.Error("a smuggled command got out")
	}
}

// TestNextHopsWithoutManners: whatever a next hop says or does not say, the
// message stays and its reason is told.
func TestNextHopsWithoutManners(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	answers := map[string]string{
		"garbage.example": "\x00\xff\x00garbage\r\n",
		"silent.example":  "",
		"endless.example": "220-" + strings.Repeat("x", 200000),
		"forever.example": strings.Repeat("220-more\r\n", 5000),
		"number.example":  "999 what\r\n",
		"bare.example":    "220 x\n250-y\nnonsense\n",
		"tls.example":     "\x16\x03\x01\x00\x05hello",
	}
	for domain, text := range answers {
		l, err := net.Listen("tcp", w.address(domain))
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = io.WriteString(c, text) // it may have gone
				c.Close()
			}
		}()
		t.Cleanup(func() { l.Close(); <-done })
	}
	drops := map[string]sink.Stage{
		"helo.example": sink.Helo, "mail.example": sink.Mail, "rcpt.example": sink.Rcpt, "data.example": sink.Data, "end.example": sink.End,
	}
	for domain, stage := range drops {
		w.host(sink.Config{Default: sink.Personality{}.With(stage, sink.Action{Kind: sink.Drop})}, domain)
	}
	good := w.host(sink.Config{}, "good.example")
	p := w.relay("minimal_backoff_time = 1h\nmaximal_backoff_time = 1h\n")
	ids := map[string]string{}
	for domain := range answers {
		ids[domain] = send(t, p, "a@sender.example", "x@"+domain)
	}
	for domain := range drops {
		ids[domain] = send(t, p, "a@sender.example", "x@"+domain)
	}
	send(t, p, "a@sender.example", "x@good.example")
	good.wait(t, 1)
	for domain, id := range ids {
		m := p.WaitLog(t, id+`: to=<x@`+regexp.QuoteMeta(domain)+`>, .*dsn=4\.\d\.\d+, status=deferred \((.*)\)$`)
		if m[1] == "" {
			t.Errorf("%s: no reason", domain)
		}
	}
	p.WaitLog(t, `status=deferred \(lost connection with mx\d+\.example\[127\.0\.0\.\d+\] while performing the EHLO handshake\)`)
	p.WaitLog(t, `status=deferred \(lost connection with mx\d+\.example\[127\.0\.0\.\d+\] while sending end of data -- message may be sent more than once\)`)
}
