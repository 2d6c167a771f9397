package intake

import (
	"errors"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"posthouse/internal/mail"
	"posthouse/internal/spool"
)

func rcpts(list ...mail.Address) (out []mail.Recipient) {
	for _, a := range list {
		out = append(out, mail.Recipient{Address: a})
	}
	return out
}

const localReceived = "Received: by mx.test.local (Postfix, from userid 0)\n\tid QUEUEID; Sun, 22 Nov 2026 12:00:00 +0000 (UTC)\n"

// TestSubmit: what the real Postfix made of the same input to sendmail.
func TestSubmit(t *testing.T) {
	const (
		id   = "Message-Id: <20261122120000.QUEUEID@mx.test.local>\n"
		date = "Date: Sun, 22 Nov 2026 12:00:00 +0000 (UTC)\n"
	)
	for _, c := range []struct {
		name, in, want string
		s              Submission
		to             []mail.Address
		log            []string
	}{
		{
			name: "plain", in: "Subject: x\n\nb\n", s: Submission{Sender: "alice", FullName: "root", Recipients: rcpts("one@keep.example")},
			want: "Subject: x\n" + id + date + "From: root <alice@mx.test.local>\n\nb\n",
			to:   []mail.Address{"one@keep.example"},
			log:  []string{"pickup: QUEUEID: uid=0 from=<alice>", "cleanup: QUEUEID: message-id=<20261122120000.QUEUEID@mx.test.local>"},
		},
		{
			name: "mailbox lines", in: "From alice Mon\n>From z\nSubject: x\n\nb\n", s: Submission{Sender: "root", FullName: "root", Recipients: rcpts("one@keep.example")},
			want: "Subject: x\n" + id + date + "From: root <root@mx.test.local>\n\nb\n", to: []mail.Address{"one@keep.example"},
		},
		{
			name: "leading blank", in: " lead\nSubject: x\n\nb\n", s: Submission{Sender: "root", FullName: "root", Recipients: rcpts("one@keep.example")},
			want: id + date + "From: root <root@mx.test.local>\n\n lead\nSubject: x\n\nb\n", to: []mail.Address{"one@keep.example"},
		},
		{
			name: "line ends", in: "Subject: x\r\nTo: z@y\r\n\r\nb\rc\r\nd", s: Submission{Sender: "root", FullName: "root", Recipients: rcpts("one@keep.example")},
			want: "Subject: x\nTo: z@y\n" + id + date + "From: root <root@mx.test.local>\n\nb c\nd\n", to: []mail.Address{"one@keep.example"},
		},
		{
			name: "empty", s: Submission{Sender: "root", FullName: "root", Recipients: rcpts("one@keep.example")},
			want: id + date + "From: root <root@mx.test.local>\n", to: []mail.Address{"one@keep.example"},
		},
		{
			name: "null sender", in: "Subject: x\n\nb\n", s: Submission{FullName: "root", Recipients: rcpts("one@keep.example")},
			want: "Subject: x\n" + id + date + "From: MAILER-DAEMON\n\nb\n", to: []mail.Address{"one@keep.example"},
			log: []string{"pickup: QUEUEID: uid=0 from=<>", "cleanup: QUEUEID: message-id=<20261122120000.QUEUEID@mx.test.local>"},
		},
		{
			name: "recipients of the header", in: "To: \"Last, First\" <a1@keep.example>, a2@keep.example (com, ment), grp: g1@keep.example, g2@keep.example;, <@route.example:r1@keep.example>\nCc: bare,, \"q uoted\"@keep.example\nBcc: b1@keep.example, b2@keep.example,\n A1@keep.example\n" + full,
			s:    Submission{Sender: "root", Extract: true, Recipients: rcpts("extra@keep.example")},
			want: "To: \"Last, First\" <a1@keep.example>, a2@keep.example (com, ment), grp: g1@keep.example, g2@keep.example;, <@route.example:r1@keep.example>\nCc: bare,, \"q uoted\"@keep.example\n" + full,
			to:   []mail.Address{"extra@keep.example", "a1@keep.example", "a2@keep.example", "g1@keep.example", "g2@keep.example", "r1@keep.example", "bare@mx.test.local", `"q uoted"@keep.example`, "b1@keep.example", "b2@keep.example"},
		},
		{
			name: "resent recipients", in: "To: a1@keep.example\nResent-To: rs@keep.example\nResent-Bcc: rb@keep.example\nSubject: x\n\nb\n", s: Submission{Sender: "root", FullName: "root", Extract: true},
			want: "To: a1@keep.example\nResent-To: rs@keep.example\nSubject: x\nResent-" + id + "Resent-" + date + "Resent-From: root <root@mx.test.local>\n\nb\n",
			to:   []mail.Address{"rs@keep.example", "rb@keep.example"},
			log:  []string{"pickup: QUEUEID: uid=0 from=<root>", "cleanup: QUEUEID: resent-message-id=<20261122120000.QUEUEID@mx.test.local>", "cleanup: QUEUEID: message-id=<>"},
		},
		{
			name: "odd recipients", in: "To: good@keep.example, bad@exa mple, \"no\\\tgood\"@x..y\n" + full, s: Submission{Sender: "root", Extract: true},
			want: "To: good@keep.example, bad@exa mple, \"no\\\tgood\"@x..y\n" + full,
			to:   []mail.Address{"good@keep.example", "bad@exa", "mple@mx.test.local"},
		},
		{
			name: "brought back", in: full, s: Submission{Sender: "a@b", OrigID: 0x0A1B2C3D4E5F, Recipients: rcpts("c@d")},
			want: full, to: []mail.Address{"c@d"},
			log: []string{"pickup: QUEUEID: uid=0 from=<a@b> orig_id=0A1B2C3D4E5F", "cleanup: QUEUEID: message-id=<m@y>"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld()
			c.s.Origin = mail.FromLocal
			got, err := w.Submit(t.Context(), &c.s, iotest.OneByteReader(strings.NewReader(c.in)))
			if err != nil {
				t.Fatal(err)
			}
			m, text := w.last(t)
			if m.ID != got || m.Client.UID != 0 || m.Origin != mail.FromLocal || m.OrigID != c.s.OrigID {
				t.Errorf("ID %v, envelope %+v", got, m.Envelope)
			}
			if d := cmp.Diff(localReceived+c.want, text); d != "" {
				t.Error(d)
			}
			var to []mail.Address
			for _, r := range m.Recipients {
				to = append(to, r.Address)
			}
			if d := cmp.Diff(c.to, to); d != "" {
				t.Error(d)
			}
			if c.log != nil {
				if d := cmp.Diff(c.log, w.log()); d != "" {
					t.Error(d)
				}
			}
			if w.store.open != 0 {
				t.Errorf("%d contents left staged", w.store.open)
			}
		})
	}
}

func TestSubmitNotice(t *testing.T) {
	w := newWorld()
	if _, err := w.Submit(t.Context(), &Submission{Origin: mail.FromBounce, Body8Bit: true, Recipients: rcpts("a@b")}, strings.NewReader("Date: x\nFrom: Mail Delivery System <MAILER-DAEMON@mx.test.local>\n\nb\n")); err != nil {
		t.Fatal(err)
	}
	m, text := w.last(t)
	want := "Received: by mx.test.local (Postfix)\n\tid QUEUEID; Sun, 22 Nov 2026 12:00:00 +0000 (UTC)\nDate: x\nFrom: Mail Delivery System <MAILER-DAEMON@mx.test.local>\nMessage-Id: <20261122120000.QUEUEID@mx.test.local>\n\nb\n"
	if d := cmp.Diff(want, text); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"cleanup: QUEUEID: message-id=<20261122120000.QUEUEID@mx.test.local>"}, w.log()); d != "" {
		t.Error(d)
	}
	if m.Client.UID != -1 || m.Sender != mail.NullSender || !m.Body8Bit {
		t.Errorf("%+v", m.Envelope)
	}
}

func TestSubmitOptions(t *testing.T) {
	w := newWorld()
	early := noon.Add(-time.Hour)
	_, err := w.Submit(t.Context(), &Submission{Origin: mail.FromLocal, Sender: "a@b", Extract: true, Notify: mail.NotifyNever, Ret: mail.RetFull, EnvelopeID: "e", Arrival: early}, strings.NewReader("To: c@d\n\n"))
	if err != nil {
		t.Fatal(err)
	}
	m, _ := w.last(t)
	if m.Recipients[0].Notify != mail.NotifyNever || m.Ret != mail.RetFull || m.EnvelopeID != "e" || !m.Arrival.Equal(early) {
		t.Errorf("%+v", m.Envelope)
	}
}

func TestSubmitRefusals(t *testing.T) {
	broken := errors.New("pipe is broken")
	for _, c := range []struct {
		name    string
		s       Submission
		in      string
		readErr error
		break_  func(*fakeStore)
		want    error
		atFault bool
	}{
		{name: "no recipients", in: "Subject: x\n\n", s: Submission{Extract: true}, want: ErrNoRecipients, atFault: true},
		{name: "none given", in: full, want: ErrNoRecipients, atFault: true},
		{name: "too big", in: strings.Repeat("0123456789\n", 1000), s: Submission{Recipients: rcpts("a@b")}, want: ErrTooBig, atFault: true},
		{name: "too many hops", in: strings.Repeat("Received: x\n", 60), s: Submission{Recipients: rcpts("a@b")}, want: ErrTooManyHops, atFault: true},
		{name: "recipient with a line end", in: full, s: Submission{Recipients: rcpts("a@b>\r\nRCPT TO:<x@y")}, want: ErrAddress, atFault: true},
		{name: "empty recipient", in: full, s: Submission{Recipients: rcpts("")}, want: ErrAddress, atFault: true},
		{name: "bad sender", in: full, s: Submission{Sender: "a\nb@c", Recipients: rcpts("a@b")}, want: ErrAddress, atFault: true},
		{name: "reader fails", in: full, readErr: broken, s: Submission{Recipients: rcpts("a@b")}, want: broken},
		{name: "stage fails", in: full, s: Submission{Recipients: rcpts("a@b")}, break_: func(s *fakeStore) { s.stageErr = spool.ErrNoSpace }, want: spool.ErrNoSpace},
		{name: "write fails", in: full, s: Submission{Recipients: rcpts("a@b")}, break_: func(s *fakeStore) { s.writeErr = spool.ErrFailed }, want: spool.ErrFailed},
		{name: "commit fails", in: full, s: Submission{Recipients: rcpts("a@b")}, break_: func(s *fakeStore) { s.commitErr = spool.ErrFailed }, want: spool.ErrFailed},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(func(c *Config) { c.MaxMessageSize = 5000 })
			if c.break_ != nil {
				c.break_(w.store)
			}
			c.s.Origin = mail.FromLocal
			r := iotest.OneByteReader(strings.NewReader(c.in))
			if c.readErr != nil {
				r = iotest.ErrReader(c.readErr)
			}
			if _, err := w.Submit(t.Context(), &c.s, r); !errors.Is(err, c.want) || AtFault(err) != c.atFault {
				t.Errorf("error %v, at fault %v", err, AtFault(err))
			}
			if len(w.queued) != 0 || w.store.open != 0 {
				t.Errorf("queued %d, staged %d", len(w.queued), w.store.open)
			}
		})
	}
}

type content struct{ *strings.Reader }

func (content) Bytes() []byte { return nil }
func (content) Close() error  { return nil }

func TestResubmit(t *testing.T) {
	old := mail.NewMessage(mail.Envelope{
		ID: 0x0A1B2C3D4E5F, Arrival: noon.Add(-time.Hour), Sender: "alice@mx.test.local", Size: 100, MessageID: "<m@y>",
		Client: mail.Client{Name: "localhost", UID: 0}, Origin: mail.FromLocal, Recipients: rcpts("a@b", "c@d", "e@f"),
	})
	old.RcptState[0].Phase, old.RcptState[2].Attempts = mail.Sent, 3
	old.State.Requeue = true
	stored := content{strings.NewReader("Received: first\r\nBcc: kept as it was\r\n\r\nb\r\n")}
	w := newWorld(func(c *Config) { c.UID = 102; c.HopLimit = 1 })
	id, err := w.Resubmit(t.Context(), old, stored)
	if err != nil {
		t.Fatal(err)
	}
	m, text := w.last(t)
	want := "Received: by mx.test.local (Postfix, from userid 102)\n\tid QUEUEID; Sun, 22 Nov 2026 12:00:00 +0000 (UTC)\nReceived: first\nBcc: kept as it was\n\nb\n"
	if d := cmp.Diff(want, text); d != "" {
		t.Error(d)
	}
	if m.ID != id || m.OrigID != old.ID || !m.Arrival.Equal(old.Arrival) || m.Client.UID != 0 {
		t.Errorf("%+v", m.Envelope)
	}
	if d := cmp.Diff(rcpts("c@d", "e@f"), m.Recipients); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(mail.State{Created: noon}, m.State); d != "" {
		t.Error(d)
	}
	if !w.store.states[id].Created.Equal(noon) {
		t.Error("the retry clock was not recorded")
	}
	if d := cmp.Diff([]string{"pickup: QUEUEID: uid=102 from=<alice@mx.test.local> orig_id=0A1B2C3D4E5F", "cleanup: QUEUEID: message-id=<m@y>"}, w.log()); d != "" {
		t.Error(d)
	}
	if len(old.Recipients) != 3 {
		t.Error("the old message was changed")
	}
}

func TestResubmitFailures(t *testing.T) {
	old := mail.NewMessage(mail.Envelope{ID: 5, Sender: "a@b", Recipients: rcpts("c@d")})
	for name, change := range map[string]func(*fakeStore){
		"stage":  func(s *fakeStore) { s.stageErr = spool.ErrFailed },
		"write":  func(s *fakeStore) { s.writeErr = spool.ErrFailed },
		"commit": func(s *fakeStore) { s.commitErr = spool.ErrFailed },
	} {
		w := newWorld()
		change(w.store)
		if _, err := w.Resubmit(t.Context(), old, content{strings.NewReader("x")}); !errors.Is(err, spool.ErrFailed) || w.store.open != 0 || len(w.queued) != 0 {
			t.Errorf("%s: %v, staged %d, queued %d", name, err, w.store.open, len(w.queued))
		}
	}
	w := newWorld()
	w.store.applyErr = spool.ErrFailed
	if _, err := w.Resubmit(t.Context(), old, content{strings.NewReader("x")}); err != nil || len(w.queued) != 1 {
		t.Errorf("committed, yet: %v, queued %d", err, len(w.queued))
	}
	old.RcptState[0].Phase = mail.Sent
	if _, err := w.Resubmit(t.Context(), old, content{strings.NewReader("x")}); !errors.Is(err, ErrNoRecipients) {
		t.Errorf("nothing pending: %v", err)
	}
}

// A notice about a message near the size limit is larger than that.
func TestNoticeBeyondTheSizeLimit(t *testing.T) {
	w := newWorld()
	c := *w.cfg.Load()
	c.MaxMessageSize = 1000
	w.Reconfigure(c)
	if _, err := w.Submit(t.Context(), &Submission{Origin: mail.FromBounce, Recipients: rcpts("a@b")}, strings.NewReader("Subject: x\n\n"+strings.Repeat("0123456789\n", 200))); err != nil {
		t.Error(err)
	}
}
