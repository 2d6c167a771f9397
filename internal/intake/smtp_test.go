package intake

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"posthouse/internal/mail"
	"posthouse/internal/smtp"
	"posthouse/internal/smtp/server"
	"posthouse/internal/spool"
)

const full = "Subject: a\nFrom: x@y\nDate: today\nMessage-Id: <m@y>\n\nb\n"

func TestTransaction(t *testing.T) {
	w := newWorld()
	reply := w.send(t, peer(), "alice@mx.test.local", []mail.Address{"one@keep.example"}, full)
	m, text := w.last(t)
	if want := "250 2.0.0 Ok: queued as " + m.ID.Short(); reply.String() != want {
		t.Errorf("reply %q, want %q", reply, want)
	}
	want := "Received: from client.test (localhost [127.0.0.1])\n\tby mx.test.local (Postfix) with ESMTP id QUEUEID\n\tfor <one@keep.example>; Sun, 22 Nov 2026 12:00:00 +0000 (UTC)\n" + full
	if d := cmp.Diff(want, text); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"smtpd: QUEUEID: client=localhost[127.0.0.1]", "cleanup: QUEUEID: message-id=<m@y>"}, w.log()); d != "" {
		t.Error(d)
	}
	if !m.Arrival.Equal(noon) || m.MessageID != "<m@y>" || m.Origin != mail.FromSMTP || m.Client.Helo != "client.test" || m.PendingCount() != 1 || !m.State.Created.Equal(noon) {
		t.Errorf("envelope %+v", m.Envelope)
	}
	if w.store.open != 0 {
		t.Errorf("%d contents left staged", w.store.open)
	}
}

// TestAddedFields: what the real Postfix added for a client on its own
// address, and leaves alone for others.
func TestAddedFields(t *testing.T) {
	const received = "Received: from client.test (localhost [127.0.0.1])\n\tby mx.test.local (Postfix) with ESMTP id QUEUEID\n\tfor <one@keep.example>; Sun, 22 Nov 2026 12:00:00 +0000 (UTC)\n"
	const (
		id   = "Message-Id: <20261122120000.QUEUEID@mx.test.local>\n"
		date = "Date: Sun, 22 Nov 2026 12:00:00 +0000 (UTC)\n"
		from = "From: alice@mx.test.local\n"
	)
	for _, c := range []struct {
		name, in, want string
		sender         mail.Address
		log            []string
	}{
		{"all", "Subject: x\n\nb\n", "Subject: x\n" + id + date + from + "\nb\n", "alice@mx.test.local", []string{"message-id=<20261122120000.QUEUEID@mx.test.local>"}},
		{"null sender", "Subject: x\n\nb\n", "Subject: x\n" + id + date + "From: MAILER-DAEMON\n\nb\n", "", []string{"message-id=<20261122120000.QUEUEID@mx.test.local>"}},
		{"bare sender", "\n", id + date + "From: bare@mx.test.local\n\n", "bare", []string{"message-id=<20261122120000.QUEUEID@mx.test.local>"}},
		{"empty ones count", "From:\nDate:\nMessage-ID:\n\nb\n", "From:\nDate:\nMessage-ID:\n\nb\n", "a@b", []string{"message-id="}},
		{"second identifier", "Message-Id: (comment) <a@b>   \nMessage-ID: <second@b>\nDate: x\nFrom: a@b\n\nb\n", "Message-Id: (comment) <a@b>   \nMessage-ID: <second@b>\nDate: x\nFrom: a@b\n\nb\n", "a@b", []string{"message-id=(comment) <a@b>   ", "message-id=<second@b>"}},
		{"folded identifier", "message-id: foo bar <a\n b@c> extra\nDate: x\nFrom: a@b\n\nb\n", "message-id: foo bar <a\n b@c> extra\nDate: x\nFrom: a@b\n\nb\n", "a@b", []string{"message-id=foo bar <a? b@c> extra"}},
		{"identifier on the next line", "Message-Id:\n\t<folded@c>\nDate: x\nFrom: a@b\n\nb\n", "Message-Id:\n\t<folded@c>\nDate: x\nFrom: a@b\n\nb\n", "a@b", []string{"message-id=<folded@c>"}},
		{"sent on", "Resent-From: me@x\nFrom: a@b\nDate: x\nMessage-Id: <a@b>\nTo: x@y\n\nb\n", "Resent-From: me@x\nFrom: a@b\nDate: x\nMessage-Id: <a@b>\nTo: x@y\nResent-" + id + "Resent-" + date + "\nb\n", "a@b", []string{"message-id=<a@b>", "resent-message-id=<20261122120000.QUEUEID@mx.test.local>"}},
		{"sent on, nothing else", "Bcc: secret@x\nSubject: x\nResent-Bcc: z@x\nReturn-Path: <a@b>\nContent-Length: 20\nTo: x@y\n\nb\n", "Subject: x\nTo: x@y\nResent-" + id + "Resent-" + date + "Resent-" + from + "\nb\n", "alice@mx.test.local", []string{"resent-message-id=<20261122120000.QUEUEID@mx.test.local>", "message-id=<>"}},
		{"sent on with identifier", "Resent-Message-Id: <re@x>\nFrom: a@b\nDate: x\nMessage-Id: <a@b>\n\nb\n", "Resent-Message-Id: <re@x>\nFrom: a@b\nDate: x\nMessage-Id: <a@b>\nResent-" + date + "Resent-From: a@b\n\nb\n", "a@b", []string{"resent-message-id=<re@x>", "message-id=<a@b>"}},
		{"mailbox line", "From alice Mon Jan\n" + full, "X-Mailbox-Line: From alice Mon Jan\n" + full, "a@b", []string{"message-id=<m@y>"}},
		{"only fields", "Subject: x\n", "Subject: x\n" + id + date + from, "alice@mx.test.local", []string{"message-id=<20261122120000.QUEUEID@mx.test.local>"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(func(c *Config) { c.LocalClients = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")} })
			w.send(t, peer(), c.sender, []mail.Address{"one@keep.example"}, c.in)
			_, text := w.last(t)
			if d := cmp.Diff(received+c.want, text); d != "" {
				t.Error(d)
			}
			var log []string
			for _, l := range w.log()[1:] {
				log = append(log, strings.TrimPrefix(l, "cleanup: QUEUEID: "))
			}
			if d := cmp.Diff(c.log, log); d != "" {
				t.Error(d)
			}
		})
	}
	w := newWorld(func(c *Config) { c.LocalClients = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")} })
	w.send(t, peer(func(p *server.Peer) { p.Addr = "192.0.2.7" }), "a@b", []mail.Address{"one@keep.example"}, "Subject: x\n\nb\n")
	m, text := w.last(t)
	if !strings.HasSuffix(text, "(UTC)\nSubject: x\n\nb\n") || w.log()[1] != "cleanup: QUEUEID: message-id=<>" || m.MessageID != "" {
		t.Errorf("a stranger's message was completed: %s\n%q", text, w.log())
	}
}

func TestRecipients(t *testing.T) {
	w := newWorld(func(c *Config) { c.MaxRecipients = 6; c.IDs = mail.LongIDs })
	tx, reply := w.Mail(t.Context(), peer(func(p *server.Peer) { p.SASLMethod, p.SASLUser = "PLAIN", "joe" }), &smtp.MailArgs{From: "alice", Ret: mail.RetHeaders, EnvelopeID: "e1", Body8Bit: true, Auth: "joe@x"})
	if reply != nil {
		t.Fatal(reply)
	}
	if tx.ID() != 0 {
		t.Error("an ID before the first recipient")
	}
	w.deny = func(to mail.Address) *smtp.Reply {
		if to == "bad@other.example" {
			return smtp.NewReply(554, "5.7.1", "<bad@other.example>: Relay access denied")
		}
		return nil
	}
	var replies []string
	for _, args := range []smtp.RcptArgs{
		{To: "bad@other.example"},
		{To: "one@keep.example"},
		{To: "ONE@keep.example"},
		{To: "one@KEEP.example"},
		{To: "one@keep.example", Notify: mail.NotifyNever},
		{To: "bad@other.example"},
		{To: "bare", DSNOriginal: "rfc822;o@p"},
		{To: `"q q"@keep.example`},
		{To: "seventh@keep.example"},
	} {
		text := "ok"
		if r := tx.Rcpt(t.Context(), &args); r != nil {
			text = r.String()
		}
		replies = append(replies, text)
	}
	denied := "554 5.7.1 <bad@other.example>: Relay access denied"
	if d := cmp.Diff([]string{denied, "ok", "ok", "ok", "ok", denied, "ok", "ok", "452 4.5.3 Error: too many recipients"}, replies); d != "" {
		t.Error(d)
	}
	out, reply := tx.Data(t.Context())
	if reply != nil {
		t.Fatal(reply)
	}
	if _, err := io.WriteString(out, "\r\n"); err != nil {
		t.Fatal(err)
	}
	if r := tx.Commit(t.Context()); r.Code != 250 {
		t.Fatal(r)
	}
	m, text := w.last(t)
	if strings.Contains(text, "for <") || !strings.Contains(text, "with ESMTPA id QUEUEID;\n\tSun,") {
		t.Errorf("Received: %s", text)
	}
	want := []mail.Recipient{
		{Address: "one@keep.example"},
		{Address: "one@keep.example", Notify: mail.NotifyNever},
		{Address: "bare@mx.test.local", OrigAddress: "bare", DSNOriginal: "rfc822;o@p"},
		{Address: `"q q"@keep.example`},
	}
	if d := cmp.Diff(want, m.Recipients); d != "" {
		t.Error(d)
	}
	if m.Sender != "alice@mx.test.local" || m.EnvelopeID != "e1" || m.Ret != mail.RetHeaders || !m.Body8Bit || m.Client.SASLSender != "joe@x" {
		t.Errorf("envelope %+v", m.Envelope)
	}
	tail := ": reject: RCPT from localhost[127.0.0.1]: " + denied + "; from=<alice> to=<bad@other.example> proto=ESMTP helo=<client.test>"
	if d := cmp.Diff([]string{
		"smtpd: NOQUEUE" + tail,
		"smtpd: QUEUEID: client=localhost[127.0.0.1], sasl_method=PLAIN, sasl_username=joe, sasl_sender=joe@x",
		"smtpd: QUEUEID" + tail,
		"cleanup: QUEUEID: message-id=<>",
	}, w.log()); d != "" {
		t.Error(d)
	}
}

func TestDuplicateFilterIsBounded(t *testing.T) {
	w := newWorld(func(c *Config) { c.DuplicateFilterLimit = 3 })
	w.send(t, peer(), "a@b", []mail.Address{"1@x", "2@x", "3@x", "4@x", "4@x", "1@x", "2@x", "3@x"}, "\n")
	if m, _ := w.last(t); len(m.Recipients) != 5 {
		t.Errorf("%d recipients: %v", len(m.Recipients), m.Recipients)
	}
}

func TestSMTPUTF8OnlyWhenNeeded(t *testing.T) {
	for _, c := range []struct {
		from, to mail.Address
		content  string
		want     bool
	}{
		{"a@b", "c@d", "Subject: x\r\n\r\nü\r\n", false},
		{"a@b", "c@d", "Subject: ü\r\n\r\n", true},
		{"ä@b", "c@d", "\r\n", true},
		{"a@b", "c@dü.example", "\r\n", true},
	} {
		w := newWorld()
		tx, _ := w.Mail(t.Context(), peer(), &smtp.MailArgs{From: c.from, SMTPUTF8: true})
		tx.Rcpt(t.Context(), &smtp.RcptArgs{To: c.to})
		out, _ := tx.Data(t.Context())
		if _, err := io.WriteString(out, c.content); err != nil {
			t.Fatal(err)
		}
		tx.Commit(t.Context())
		m, text := w.last(t)
		if m.SMTPUTF8 != c.want || !strings.Contains(text, "with UTF8SMTP id") {
			t.Errorf("%s %s %q: %v\n%s", c.from, c.to, c.content, m.SMTPUTF8, text)
		}
	}
}

// TestRefusals: nothing is queued, nothing stays staged, and the peer hears
// what Postfix says.
func TestRefusals(t *testing.T) {
	hops := func(n int) string { return strings.Repeat("Received: foo\n", n) + "\nb\n" }
	failed := fmt.Errorf("%w: sync: input/output error", spool.ErrFailed)
	for _, c := range []struct {
		name    string
		change  func(*Config)
		break_  func(*fakeStore)
		content string
		reply   string
		line    string // the last one in the log
	}{
		{name: "too many hops", content: hops(49), reply: "554 5.4.0 Error: too many hops", line: "message rejected: hopcount exceeded"},
		{name: "own hop limit", change: func(c *Config) { c.HopLimit = 3 }, content: hops(2), reply: "554 5.4.0 Error: too many hops"},
		{name: "too big", change: func(c *Config) { c.MaxMessageSize = 1000 }, content: "#: x\n\n" + strings.Repeat("0123456789\n", 100), reply: "552 5.3.4 Error: message file too big", line: "queue file size limit exceeded"},
		{name: "no space at DATA", break_: func(s *fakeStore) { s.stageErr = spool.ErrNoSpace }, content: full, reply: "452 4.3.1 Insufficient system storage"},
		{name: "failed at DATA", break_: func(s *fakeStore) { s.stageErr = failed }, content: full, reply: "451 4.3.0 Error: queue file write error", line: "sync: input/output error"},
		{name: "no space while writing", break_: func(s *fakeStore) { s.writeErr = spool.ErrNoSpace }, content: full, reply: "452 4.3.1 Insufficient system storage"},
		{name: "write fails", break_: func(s *fakeStore) { s.writeErr = errors.New("disk on fire") }, content: full, reply: "451 4.3.0 Error: queue file write error"},
		{name: "commit fails", break_: func(s *fakeStore) { s.commitErr = failed }, content: full, reply: "451 4.3.0 Error: queue file write error"},
		{name: "no space at commit", break_: func(s *fakeStore) { s.commitErr = spool.ErrNoSpace }, content: full, reply: "452 4.3.1 Insufficient system storage"},
		{name: "disk nearly full", break_: func(s *fakeStore) { s.space.Free = 1000 }, content: full, reply: "452 4.3.1 Insufficient system storage", line: "smtpd: NOQUEUE: reject: MAIL from localhost[127.0.0.1]: 452 4.3.1 Insufficient system storage; proto=ESMTP helo=<client.test>"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(func(cfg *Config) {
				if c.change != nil {
					c.change(cfg)
				}
			})
			if c.break_ != nil {
				c.break_(w.store)
			}
			if reply := w.send(t, peer(), "a@b", []mail.Address{"c@d"}, c.content); reply.String() != c.reply {
				t.Errorf("reply %q, want %q", reply, c.reply)
			}
			if len(w.queued) != 0 || len(w.store.committed) != 0 || w.store.open != 0 {
				t.Errorf("queued %d, committed %d, staged %d", len(w.queued), len(w.store.committed), w.store.open)
			}
			if last := w.lines[len(w.lines)-1]; !strings.HasSuffix(last, c.line) {
				t.Errorf("log ends in %q, want %q", last, c.line)
			}
		})
	}
	w := newWorld()
	if reply := w.send(t, peer(), "a@b", []mail.Address{"c@d"}, hops(48)); reply.Code != 250 {
		t.Errorf("49 hops with ours: %s", reply)
	}
}

func TestAnnouncedSize(t *testing.T) {
	w := newWorld()
	_, reply := w.Mail(t.Context(), peer(), &smtp.MailArgs{From: "a@b", Size: 10240001})
	if reply == nil || reply.String() != "552 5.3.4 Message size exceeds fixed limit" {
		t.Errorf("%v", reply)
	}
	if w.lines[0] != "smtpd: NOQUEUE: reject: MAIL from localhost[127.0.0.1]: 552 5.3.4 Message size exceeds fixed limit; from=<a@b> proto=ESMTP helo=<client.test>" {
		t.Error(w.lines[0])
	}
}

// TestSpaceIsAskedNowAndThen: neither for each message, nor is the log filled.
func TestSpaceIsAskedNowAndThen(t *testing.T) {
	w := newWorld()
	w.store.space.Free = 1000
	try := func() bool {
		_, reply := w.Mail(t.Context(), peer(), &smtp.MailArgs{From: "a@b"})
		return reply == nil
	}
	warnings := func() (n int) {
		for _, l := range w.lines {
			if l == "smtpd: warning: not enough free space in mail queue: 1000 bytes < 1.5*message size limit" {
				n++
			}
		}
		return n
	}
	for range 100 {
		if try() {
			t.Fatal("accepted on a full disk")
		}
	}
	if w.store.asked != 1 || warnings() != 1 {
		t.Errorf("asked %d times, warned %d times", w.store.asked, warnings())
	}
	w.now = w.now.Add(59 * time.Second)
	try()
	if warnings() != 1 {
		t.Error("warned again within a minute")
	}
	w.now = w.now.Add(2 * time.Second)
	try()
	if warnings() != 2 {
		t.Error("not warned again after a minute")
	}
	w.store.space.Free = 1 << 40
	w.now = w.now.Add(time.Second)
	if !try() {
		t.Error("refused although there is room again")
	}
}

// TestImpatientClient: once the commit has begun, the message reaches the
// queue even if the session is gone.
func TestImpatientClient(t *testing.T) {
	w := newWorld()
	w.store.committing = make(chan struct{})
	tx, _ := w.Mail(t.Context(), peer(), &smtp.MailArgs{From: "a@b"})
	tx.Rcpt(t.Context(), &smtp.RcptArgs{To: "c@d"})
	out, _ := tx.Data(t.Context())
	if _, err := io.WriteString(out, "\r\n"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	done := make(chan *smtp.Reply)
	go func() { done <- tx.Commit(ctx) }()
	close(w.store.committing)
	if r := <-done; r.Code != 250 || len(w.queued) != 1 {
		t.Errorf("%s, %d queued", r, len(w.queued))
	}
	tx.Abort()
	if r := tx.Commit(t.Context()); r.Code != 451 || len(w.queued) != 1 {
		t.Errorf("a second Commit: %s, %d queued", r, len(w.queued))
	}
}

// TestMessageIDWithoutMeasure: an identifier of 100 KB was kept in memory for
// as long as its message.
func TestMessageIDWithoutMeasure(t *testing.T) {
	w := newWorld()
	tx, _ := w.Mail(t.Context(), peer(), &smtp.MailArgs{From: "a@b"})
	tx.Rcpt(t.Context(), &smtp.RcptArgs{To: "c@d"})
	out, _ := tx.Data(t.Context())
	if _, err := io.WriteString(out, "Message-Id: <"+strings.Repeat("x", 200<<10)+"@y>\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if r := tx.Commit(t.Context()); r.Code != 250 {
		t.Fatal(r)
	}
	if n := len(w.queued[0].MessageID); n != maxID {
		t.Errorf("%d bytes are kept", n)
	}
}

func TestAbort(t *testing.T) {
	w := newWorld()
	tx, _ := w.Mail(t.Context(), peer(), &smtp.MailArgs{From: "a@b"})
	tx.Rcpt(t.Context(), &smtp.RcptArgs{To: "c@d"})
	if _, reply := tx.Data(t.Context()); reply != nil {
		t.Fatal(reply)
	}
	tx.Abort()
	tx.Abort()
	if w.store.open != 0 || len(w.queued) != 0 {
		t.Errorf("staged %d, queued %d", w.store.open, len(w.queued))
	}
}

// TestBigMessageStreams passes 50 MB through: no write and no memory of ours
// grows with it.
func TestBigMessageStreams(t *testing.T) {
	w := newWorld(func(c *Config) { c.MaxMessageSize = 1 << 30 })
	w.store.drop = true
	tx, _ := w.Mail(t.Context(), peer(), &smtp.MailArgs{From: "a@b"})
	tx.Rcpt(t.Context(), &smtp.RcptArgs{To: "c@d"})
	out, _ := tx.Data(t.Context())
	chunk := []byte(strings.Repeat("sixty-four bytes a line, with its end, make a kilobyte by 16..\r\n", 512))
	const total = 50 << 20
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for n := 0; n < total; n += len(chunk) {
		if _, err := out.Write(chunk); err != nil {
			t.Fatal(err)
		}
	}
	runtime.ReadMemStats(&after)
	if r := tx.Commit(t.Context()); r.Code != 250 {
		t.Fatal(r)
	}
	if got := w.queued[0].Size; got < total {
		t.Errorf("size %d", got)
	}
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 4<<20 {
		t.Errorf("%d bytes allocated for it", grown)
	}
	if w.store.biggest > 128<<10 {
		t.Errorf("a write of %d bytes", w.store.biggest)
	}
}

func TestConcurrentTransactions(t *testing.T) {
	w := newWorld()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				if r := w.send(t, peer(), "a@b", []mail.Address{"c@d", "e@f"}, full); r.Code != 250 {
					t.Error(r)
				}
			}
		})
	}
	for i := range 20 {
		w.Reconfigure(Config{Hostname: "mx.test.local", MaxMessageSize: 10240000 + int64(i)})
	}
	wg.Wait()
	seen := make(map[mail.QueueID]bool)
	for _, m := range w.queued {
		seen[m.ID] = true
	}
	if len(seen) != 400 || len(w.store.committed) != 400 || w.store.open != 0 {
		t.Errorf("%d IDs, %d committed, %d staged", len(seen), len(w.store.committed), w.store.open)
	}
}
