package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"posthouse/internal/testkit/program"
	"posthouse/internal/traffic/sink"
)

// input runs a command with text on its standard input.
func input(t *testing.T, p *program.Instance, text, name string, args ...string) string {
	t.Helper()
	out, err := p.RunInput(t.Context(), text, name, args...)
	if err != nil || out.Code != 0 {
		t.Fatalf("%s %q: %v, status %d\n%s%s", name, args, err, out.Code, out.Stdout, out.Stderr)
	}
	return out.Stdout
}

// installed makes what a first start makes, and does not run.
func (w *world) installed(extra string) *program.Instance {
	w.t.Helper()
	p := w.relay(extra)
	if err := p.Stop(); err != nil {
		w.t.Fatal(err)
	}
	return p
}

// TestSendmailWithoutServer: mail handed in while no relay runs waits in the
// maildrop and goes out when one starts.
func TestSendmailWithoutServer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.host(sink.Config{}, "dest.example")
	p := w.installed("")
	input(t, p, "Subject: one\n\nbefore\n.\nnot read\n", "sendmail", "-f", "a@sender.example", "x@dest.example")
	input(t, p, "To: y@dest.example\nBcc: z@dest.example\nSubject: two\n\nbefore\n.\nand after\n", "sendmail", "-t", "-i", "-f", "a@sender.example")
	p.MustStart(t)
	got := h.wait(t, 2)
	for _, d := range got {
		text := string(d.Content)
		contains(t, text, "Received: by mx.test.example (Postfix, from userid ", "Message-Id: <", "Date: ", "before\r\n")
		switch {
		case strings.Contains(text, "Subject: one"):
			if fmt.Sprint(d.Recipients) != "[x@dest.example]" || strings.Contains(text, "not read") {
				t.Errorf("%v\n%s", d.Recipients, text)
			}
		case fmt.Sprint(d.Recipients) != "[y@dest.example z@dest.example]" || !strings.HasSuffix(text, "before\r\n.\r\nand after\r\n") || strings.Contains(text, "Bcc"):
			t.Errorf("%v\n%s", d.Recipients, text)
		}
	}
	input(t, p, "Subject: three\n\nnow\n", "sendmail", "-f", "a@sender.example", "x@dest.example")
	h.wait(t, 3)
	waitEmpty(t, p)
	files, err := filepath.Glob(filepath.Join(p.QueueDir(), "maildrop", "*"))
	if err != nil || len(files) > 0 {
		t.Errorf("left in the maildrop: %v, %v", files, err)
	}
}

// TestSendmailSMTP: sendmail -bs, with and without a relay.
func TestSendmailSMTP(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.host(sink.Config{}, "dest.example")
	p := w.installed("")
	session := "EHLO me\r\nMAIL FROM:<a@sender.example>\r\nRCPT TO:<x@dest.example>\r\nDATA\r\nSubject: bs\r\n\r\n..dot\r\nline\r\n.\r\nQUIT\r\n"
	out := input(t, p, session, "sendmail", "-bs")
	contains(t, out, "220 mx.test.example ESMTP Postfix\r\n", "250 2.0.0 Ok: queued as ", "221 2.0.0 Bye\r\n")
	p.MustStart(t)
	contains(t, string(h.wait(t, 1)[0].Content), "\r\n\r\n.dot\r\nline\r\n")
	input(t, p, session, "sendmail", "-bs")
	h.wait(t, 2)
}

// TestSendmailRefuses: what cannot be taken is said at once, and leaves nothing.
func TestSendmailRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.installed("message_size_limit = 2000\n")
	out, err := p.RunInput(t.Context(), "Subject: big\n\n"+strings.Repeat("0123456789\n", 1000), "sendmail", "-f", "a@sender.example", "x@dest.example")
	if err != nil || out.Code == 0 || out.Stderr == "" {
		t.Errorf("too big: %v, %+v", err, out)
	}
	out, err = p.RunInput(t.Context(), "Subject: nobody\n\n", "sendmail", "-f", "a@sender.example")
	if err != nil || out.Code == 0 || out.Stderr == "" {
		t.Errorf("no recipient: %v, %+v", err, out)
	}
	files, err := filepath.Glob(filepath.Join(p.QueueDir(), "maildrop", "*"))
	if err != nil || len(files) > 0 {
		t.Errorf("left in the maildrop: %v, %v", files, err)
	}
}

// TestSendmailWithoutMaildrop: where no relay ever ran the message stays with
// its sender.
func TestSendmailWithoutMaildrop(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := program.New(t, w.options(""))
	out, err := p.RunInput(t.Context(), "Subject: one\n\n", "sendmail", "-f", "a@sender.example", "x@dest.example")
	if err != nil || out.Code != 75 {
		t.Errorf("%v, %+v", err, out)
	}
	contains(t, out.Stderr, "sendmail: fatal: ", "/maildrop/", "No such file or directory")
}

// TestBadMaildropFile: a file that no sendmail wrote is set aside, and the
// rest is taken.
func TestBadMaildropFile(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.host(sink.Config{}, "dest.example")
	p := w.installed("")
	input(t, p, "Subject: good\n\n", "sendmail", "-f", "a@sender.example", "x@dest.example")
	bad := filepath.Join(p.QueueDir(), "maildrop", "0BADBADBADB")
	if err := os.WriteFile(bad, []byte("\x00\xff not a queue file \n\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	p.MustStart(t)
	h.wait(t, 1)
	p.WaitLog(t, `(warning|error): .*0BADBADBADB`)
}

// TestLMTP delivers over a unix socket and over TCP; each recipient has an
// answer of its own.
func TestLMTP(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dir, err := os.MkdirTemp("", "lmtp") // the path of a socket has to be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	full := sink.Personality{}.With(sink.End, sink.Action{Kind: sink.Refuse, Reply: "552 5.2.2 Mailbox full"})
	unix := listen(t, "unix:"+filepath.Join(dir, "s"), sink.Config{LMTP: true, Domains: map[string]sink.Personality{"full.example": full}})
	tcp := listen(t, "127.0.0.1:0", sink.Config{LMTP: true})
	back := w.host(sink.Config{}, "sender.example")
	p := w.relay(fmt.Sprintf("transport_maps = inline:{ {unix.example = lmtp:unix:%s}, {full.example = lmtp:unix:%s}, {tcp.example = lmtp:inet:%s} }\n", unix.addr, unix.addr, tcp.addr))
	id := send(t, p, "a@sender.example", "x@unix.example", "y@full.example", "z@tcp.example")
	if d := unix.wait(t, 1)[0]; fmt.Sprint(d.Recipients) != "[x@unix.example]" {
		t.Errorf("%v", d.Recipients)
	}
	tcp.wait(t, 1)
	p.WaitLog(t, `postfix/lmtp\[\d+\]: `+id+`: to=<x@unix\.example>, relay=.*\[.*/s\], .*status=sent \(250 2\.0\.0 Ok\)$`)
	p.WaitLog(t, `postfix/lmtp\[\d+\]: `+id+`: to=<y@full\.example>, .*dsn=5\.2\.2, status=bounced \(host .* said: 552 5\.2\.2 Mailbox full \(in reply to end of DATA command\)\)$`)
	p.WaitLog(t, `postfix/lmtp\[\d+\]: `+id+`: to=<z@tcp\.example>, .*status=sent`)
	contains(t, string(back.wait(t, 1)[0].Content), "Final-Recipient: rfc822; y@full.example\r\n", "Status: 5.2.2\r\n")
}
