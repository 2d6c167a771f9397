package bounce

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"posthouse/internal/intake"
	"posthouse/internal/mail"
	"posthouse/internal/postfix/maillog"
	"posthouse/internal/queue"
	"posthouse/internal/spool"
)

// recorder is a Submitter, a Logger and the spool of one message.
type recorder struct {
	mu      sync.Mutex
	content []byte
	closed  int
	fail    map[mail.Address]error // by recipient of the notice
	sent    []sent
	lines   []string
}

type sent struct {
	intake.Submission
	text string
}

func (r *recorder) Submit(_ context.Context, s *intake.Submission, content io.Reader) (mail.QueueID, error) {
	text, err := io.ReadAll(content)
	if err != nil {
		return 0, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.fail[s.Recipients[0].Address]; err != nil {
		return 0, err
	}
	r.sent = append(r.sent, sent{*s, string(text)})
	return newID + mail.QueueID(len(r.sent)-1), nil
}

func (r *recorder) Log(service string, sev maillog.Severity, ev maillog.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, service+": "+sev.Word()+string(ev.AppendText(nil, mail.ShortIDs)))
}

func (r *recorder) open(mail.QueueID) (spool.Content, error) {
	return &stored{Reader: bytes.NewReader(r.content), r: r}, nil
}

type stored struct {
	*bytes.Reader
	r *recorder
}

func (s *stored) Bytes() []byte { return s.r.content }
func (s *stored) Close() error  { s.r.closed++; return nil }

const (
	origID = mail.QueueID(0x0A1B2C3D4E5F)
	newID  = mail.QueueID(0x0B0000000000)
)

// said is a status as the SMTP agent leaves it.
func said(code, reply, command string) mail.Status {
	st := plain(code, "host 127.0.0.1[127.0.0.1] said: "+reply+" (in reply to "+command+")")
	st.RemoteMTA, st.DiagType, st.DiagText = "127.0.0.1", "smtp", reply
	return st
}

func plain(code, text string) mail.Status { return mail.NewStatus(code, "%s", text) }

func delivered(text string) mail.Status {
	st := plain("2.0.0", text)
	st.RemoteMTA = "127.0.0.1"
	return st
}

// asked is a recipient whose success is to be reported.
func asked(r recipient) []recipient {
	r.Notify = mail.NotifySuccess
	return []recipient{r}
}

type recipient struct {
	mail.Recipient
	last mail.Status
}

func to(a mail.Address, last mail.Status) recipient {
	return recipient{mail.Recipient{Address: a}, last}
}

const (
	unknownUser = "Recipient address rejected: User unknown in virtual mailbox table"
	rcptTo      = "RCPT TO command"
	refused     = "connect to 127.0.0.1[127.0.0.1]:3599: Connection refused"
)

func many() []recipient {
	orig := to("r550@sink.example", said("5.1.1", "550 5.1.1 <r550@sink.example>: "+unknownUser, rcptTo))
	orig.DSNOriginal = "rfc822;Orig+x@foo.example"
	return []recipient{
		to(`"a b"@err.example`, plain("5.1.2", "bad domain here")),
		to("x@err.example", plain("5.1.2", "bad domain here")),
		orig,
		to("rconf@sink.example", said("5.0.0", "550 4.2.2 conflicting <rconf@sink.example>", rcptTo)),
		to("rlong@sink.example", said("5.1.1", "550 5.1.1 "+strings.Repeat("x", 200)+" tail", rcptTo)),
		to("rmulti@sink.example", said("5.7.26", "550-5.7.26 This mail has been blocked because the sender is unauthenticated. 550-5.7.26 Gmail requires all senders to authenticate with either SPF or DKIM. 550 5.7.26 https://support.google.com/mail/answer/81126#authentication rmulti@sink.example - gsmtp", rcptTo)),
		to("rnoenh@sink.example", said("5.0.0", "550 no such user here", rcptTo)),
	}
}

// golden are reports of the real Postfix, its queue ID replaced.
var golden = []struct {
	name    string
	kind    queue.Notice
	rcpts   []recipient
	change  func(*mail.Message, *Config)
	fix     func(string) string // a difference that is meant
	message int                 // which of the notices sent
}{
	{name: "failure-many", rcpts: many(), change: func(m *mail.Message, _ *Config) {
		m.EnvelopeID, m.Ret, m.Sender = "QQ+314", mail.RetFull, "alice@mx.test.local"
	}},
	{name: "failure-headers", rcpts: many()[2:3], change: func(m *mail.Message, _ *Config) { m.Ret = mail.RetHeaders; m.Recipients[0].DSNOriginal = "" }},
	{name: "failure-8bit", rcpts: many()[1:2]},
	{name: "failure-quoted", rcpts: []recipient{to(`"a b"@err.example`, plain("5.1.2", "bad domain here"))}, change: func(m *mail.Message, _ *Config) {
		m.Sender = `"al ice"@keep.example`
		m.Recipients[0].DSNOriginal = "rfc822;a b@err.example"
	}},
	{name: "failure-utf8", rcpts: many()[1:2], change: func(m *mail.Message, _ *Config) { m.SMTPUTF8, m.Ret = true, mail.RetHeaders }},
	{name: "failure-no-body", rcpts: many()[1:2]},
	{name: "failure-no-separator", rcpts: many()[1:2], change: func(m *mail.Message, _ *Config) { m.Ret = mail.RetHeaders }},
	{name: "failure-postmaster", rcpts: many()[1:2], change: func(_ *mail.Message, c *Config) { c.CopyFailures, c.FailureRecipient = true, "pmb@keep.example" }, message: 1},
	{name: "double-bounce", rcpts: many()[1:2], change: func(m *mail.Message, c *Config) {
		m.Sender = ""
		c.CopyDoubleBounces, c.DoubleRecipient = true, "pm2@keep.example"
	}},
	{name: "delay", kind: queue.NoticeDelay, rcpts: late(), change: lateCopy},
	{name: "delay-postmaster", kind: queue.NoticeDelay, rcpts: late(), change: lateCopy, message: 1},
	{name: "success-relayed", kind: queue.NoticeSuccess, rcpts: asked(to("ok@sink.example", delivered("250 2.0.0 Ok: sunk as 12345"))), change: func(m *mail.Message, _ *Config) { m.EnvelopeID, m.Sender = "QQ+314", "alice@mx.test.local" }, fix: shortRelay},
	{name: "success-utf8", kind: queue.NoticeSuccess, rcpts: asked(to("ok@sink.example", delivered("250 2.0.0 Ok: sunk as 12345"))), change: func(m *mail.Message, _ *Config) { m.SMTPUTF8 = true }, fix: shortRelay},
	{name: "success-delivered", kind: queue.NoticeSuccess, rcpts: asked(to("disc@disc.example", plain("2.0.0", "silently")))},
}

func late() []recipient {
	nd := to("nd@down.example", plain("4.4.1", refused))
	nd.Notify = mail.NotifyFailure
	return []recipient{nd, to("z@retry.example", plain("4.3.2", "come back later")), to("x@down.example", plain("4.4.1", refused))}
}

func lateCopy(m *mail.Message, c *Config) {
	m.EnvelopeID = "e1"
	c.CopyDelays, c.DelayRecipient = true, "pmd@keep.example"
}

// shortRelay: a status knows the host that took a message, not its address.
func shortRelay(s string) string {
	return strings.Replace(s, "delivery via 127.0.0.1[127.0.0.1]:3526: 250 2.0.0 Ok: sunk\n    as 12345", "delivery via 127.0.0.1: 250 2.0.0 Ok: sunk as 12345", 1)
}

var (
	arrivalLine  = regexp.MustCompile(`(?m)^Arrival-Date: (.*)$`)
	boundaryTime = regexp.MustCompile(`QUEUEID\.(\d+)/`)
	original     = regexp.MustCompile(`(?s)Return-Path: <[^\n]*>\n(.*)\n--QUEUEID[^\n]*--\n$`)
)

// scene prepares a message and clock so that Postfix's report should come out.
func scene(t *testing.T, want string, rcpts []recipient) (*mail.Message, time.Time, []byte) {
	t.Helper()
	arrival, err := time.Parse("Mon, _2 Jan 2006 15:04:05 -0700 (MST)", arrivalLine.FindStringSubmatch(want)[1])
	if err != nil {
		t.Fatal(err)
	}
	epoch, err := strconv.ParseInt(boundaryTime.FindStringSubmatch(want)[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	content := original.FindStringSubmatch(want)[1]
	if strings.Contains(want, "-headers\n") {
		content += "\nbody that must not show\n"
	}
	content = strings.ReplaceAll(content, "\n", "\r\n")
	env := mail.Envelope{ID: origID, Arrival: arrival, Sender: "alice@keep.example", Size: int64(len(content))}
	for _, r := range rcpts {
		env.Recipients = append(env.Recipients, r.Recipient)
	}
	m := mail.NewMessage(env)
	for i, r := range rcpts {
		m.RcptState[i].Last = r.last
	}
	return m, time.Unix(epoch, 0).UTC(), []byte(content)
}

func all(m *mail.Message) (out []int) {
	for i := range m.Recipients {
		out = append(out, i)
	}
	return out
}

func TestReportsAsPostfix(t *testing.T) {
	for _, g := range golden {
		t.Run(g.name, func(t *testing.T) {
			raw, err := os.ReadFile(filepath.Join("testdata", g.name+".txt"))
			if err != nil {
				t.Fatal(err)
			}
			want := string(raw)
			m, now, content := scene(t, want, g.rcpts)
			cfg := Config{Hostname: "mx.test.local", DelayWarning: 2 * time.Second}
			if g.change != nil {
				g.change(m, &cfg)
			}
			r := &recorder{content: content}
			b := New(cfg, r, Deps{Log: r, Now: func() time.Time { return now }, Open: r.open})
			if err := b.Notify(t.Context(), g.kind, m, all(m)); err != nil {
				t.Fatal(err)
			}
			if len(r.sent) <= g.message {
				t.Fatalf("%d notices sent", len(r.sent))
			}
			if r.closed != len(r.sent) {
				t.Errorf("content closed %d times after %d notices", r.closed, len(r.sent))
			}
			if g.fix != nil {
				want = g.fix(want)
			}
			got := strings.ReplaceAll(r.sent[g.message].text, m.ID.Short(), "QUEUEID")
			if d := cmp.Diff(want, strings.ReplaceAll(got, "\r\n", "\n")); d != "" {
				t.Errorf("differs from Postfix (-) :\n%s", d)
			}
		})
	}
}

// newScene is a message to x@ and y@, for the rules of who is told.
func newScene(t *testing.T, sender mail.Address, notify mail.Notify) (*mail.Message, *recorder, func(Config) *Bouncer) {
	t.Helper()
	arrival := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	content := "Subject: x\r\n\r\nbody\r\n"
	m := mail.NewMessage(mail.Envelope{
		ID: origID, Arrival: arrival, Sender: sender, Size: int64(len(content)),
		Recipients: []mail.Recipient{{Address: "x@a.example", Notify: notify}, {Address: "y@b.example", Notify: notify}},
	})
	for i := range m.RcptState {
		m.RcptState[i].Last = plain("5.1.1", "unknown user")
	}
	r := &recorder{content: []byte(content)}
	return m, r, func(c Config) *Bouncer {
		c.Hostname = "mx.test.local"
		return New(c, r, Deps{Log: r, Now: func() time.Time { return arrival.Add(time.Hour) }, Open: r.open})
	}
}

func TestWhoIsTold(t *testing.T) {
	old, fresh, second := origID.Short(), newID.Short(), (newID + 1).Short()
	copies := Config{CopyFailures: true, CopyDoubleBounces: true, CopyDelays: true}
	for _, c := range []struct {
		name   string
		sender mail.Address
		notify mail.Notify
		kind   queue.Notice
		cfg    Config
		to     []mail.Address
		from   []mail.Address
		lines  []string
	}{
		{name: "failure", sender: "s@c.example", to: []mail.Address{"s@c.example"}, from: []mail.Address{""}, lines: []string{"bounce: " + old + ": sender non-delivery notification: " + fresh}},
		{name: "delay", sender: "s@c.example", kind: queue.NoticeDelay, to: []mail.Address{"s@c.example"}, from: []mail.Address{""}, lines: []string{"bounce: " + old + ": sender delay notification: " + fresh}},
		{name: "success", sender: "s@c.example", notify: mail.NotifySuccess, kind: queue.NoticeSuccess, to: []mail.Address{"s@c.example"}, from: []mail.Address{""}, lines: []string{"bounce: " + old + ": sender delivery status notification: " + fresh}},
		{name: "success not asked for", sender: "s@c.example", kind: queue.NoticeSuccess},
		{name: "success of a notice", notify: mail.NotifySuccess, kind: queue.NoticeSuccess},
		{name: "never", sender: "s@c.example", notify: mail.NotifyNever},
		{name: "never, but the postmaster", sender: "s@c.example", notify: mail.NotifyNever, cfg: copies, to: []mail.Address{"postmaster@mx.test.local"}, from: []mail.Address{"double-bounce@mx.test.local"}, lines: []string{"bounce: " + old + ": postmaster non-delivery notification: " + fresh}},
		{name: "delay not wanted", sender: "s@c.example", notify: mail.NotifyFailure, kind: queue.NoticeDelay},
		{name: "failure not wanted", sender: "s@c.example", notify: mail.NotifyDelay},
		{name: "null sender"},
		{name: "null sender late", kind: queue.NoticeDelay},
		{name: "null sender, double bounce", cfg: copies, to: []mail.Address{"postmaster@mx.test.local"}, from: []mail.Address{"double-bounce@mx.test.local"}, lines: []string{"bounce: " + old + ": postmaster non-delivery notification: " + fresh}},
		{name: "double bounce fails", sender: "Double-Bounce@MX.test.local", cfg: copies, lines: []string{"bounce: warning: " + old + ": undeliverable postmaster notification discarded"}},
		{name: "double bounce late", sender: "double-bounce@mx.test.local", kind: queue.NoticeDelay, cfg: copies},
		{name: "failure with copy", sender: "s@c.example", cfg: copies, to: []mail.Address{"s@c.example", "postmaster@mx.test.local"}, from: []mail.Address{"", "double-bounce@mx.test.local"}, lines: []string{"bounce: " + old + ": sender non-delivery notification: " + fresh, "bounce: " + old + ": postmaster non-delivery notification: " + second}},
		{name: "delay with copy", sender: "s@c.example", kind: queue.NoticeDelay, cfg: copies, to: []mail.Address{"s@c.example", "postmaster@mx.test.local"}, from: []mail.Address{"", "double-bounce@mx.test.local"}, lines: []string{"bounce: " + old + ": sender delay notification: " + fresh, "bounce: " + old + ": postmaster delay notification: " + second}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, r, bouncer := newScene(t, c.sender, c.notify)
			if err := bouncer(c.cfg).Notify(t.Context(), c.kind, m, all(m)); err != nil {
				t.Fatal(err)
			}
			var rcpts, senders []mail.Address
			for _, s := range r.sent {
				rcpts, senders = append(rcpts, s.Recipients[0].Address), append(senders, s.Sender)
				if s.Origin != mail.FromBounce {
					t.Errorf("origin %d", s.Origin)
				}
			}
			if d := cmp.Diff(c.to, rcpts); d != "" {
				t.Errorf("recipients: %s", d)
			}
			if d := cmp.Diff(c.from, senders); d != "" {
				t.Errorf("senders: %s", d)
			}
			if d := cmp.Diff(c.lines, r.lines); d != "" {
				t.Errorf("log: %s", d)
			}
		})
	}
}

func TestFailedSubmission(t *testing.T) {
	broken := errors.New("spool is full")
	m, r, bouncer := newScene(t, "s@c.example", 0)
	r.fail = map[mail.Address]error{"s@c.example": broken}
	if err := bouncer(Config{CopyFailures: true}).Notify(t.Context(), queue.NoticeFailure, m, all(m)); !errors.Is(err, broken) {
		t.Errorf("the notice failed, and Notify says %v", err)
	}
	if len(r.sent) != 0 || r.closed != 1 {
		t.Errorf("sent %d, closed %d", len(r.sent), r.closed)
	}
	// Only the copy fails: asking again would tell the sender twice.
	m, r, bouncer = newScene(t, "s@c.example", 0)
	r.fail = map[mail.Address]error{"postmaster@mx.test.local": broken}
	if err := bouncer(Config{CopyFailures: true}).Notify(t.Context(), queue.NoticeFailure, m, all(m)); err != nil {
		t.Error(err)
	}
	if len(r.sent) != 1 || !strings.Contains(r.lines[1], "warning: ") {
		t.Errorf("sent %d, log %q", len(r.sent), r.lines)
	}
}

func TestBigOriginalReturnsHeadersOnly(t *testing.T) {
	m, r, bouncer := newScene(t, "s@c.example", 0)
	r.content = []byte("Subject: big\r\n\r\n" + strings.Repeat("a line of the body\r\n", 3000))
	m.Size, m.Ret = int64(len(r.content)), mail.RetFull
	if err := bouncer(Config{}).Notify(t.Context(), queue.NoticeFailure, m, all(m)); err != nil {
		t.Fatal(err)
	}
	if text := r.sent[0].text; strings.Contains(text, "a line of the body") || !strings.Contains(text, "text/rfc822-headers") || !strings.Contains(text, "Subject: big") {
		t.Errorf("report of %d bytes:\n%s", len(text), text[:2000])
	}
	m.Size = 49999
	if err := bouncer(Config{}).Notify(t.Context(), queue.NoticeFailure, m, all(m)); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(r.sent[1].text, "a line of the body") {
		t.Error("a small original came without its body")
	}
}

// TestNoForgedLines: words of strangers must not begin a field or a boundary.
func TestNoForgedLines(t *testing.T) {
	m, r, bouncer := newScene(t, "s@c.example", 0)
	m.EnvelopeID = "id\r\nX-Forged: 1"
	m.Recipients[0].DSNOriginal = "rfc822;a\nX-Forged: 2"
	m.RcptState[0].Last = said("5.0.0", "550 no\r\nX-Forged: 3\n\n--boundary", rcptTo)
	if err := bouncer(Config{}).Notify(t.Context(), queue.NoticeFailure, m, all(m)); err != nil {
		t.Fatal(err)
	}
	if regexp.MustCompile(`(?m)^(X-Forged|--boundary)`).MatchString(r.sent[0].text) {
		t.Errorf("forged:\n%s", r.sent[0].text)
	}
}

func TestDiscards(t *testing.T) {
	_, _, bouncer := newScene(t, "s@c.example", 0)
	b := bouncer(Config{})
	if !b.Discards("double-bounce@MX.test.local") || b.Discards("postmaster@mx.test.local") || b.Discards("") {
		t.Error("wrong mail is dropped")
	}
	b.Reconfigure(Config{Hostname: "mx.test.local", DoubleBounce: "db", Origin: "o.example"})
	if b.Discards("double-bounce@mx.test.local") || !b.Discards("db@o.example") {
		t.Error("Reconfigure had no effect")
	}
}
