package pickup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"posthouse/internal/intake"
	"posthouse/internal/mail"
	"posthouse/internal/postfix/maillog"
	"posthouse/internal/postfix/queuefile"
	"posthouse/internal/testkit/oracle"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// taker is a Submitter that keeps what it gets.
type taker struct {
	mu   sync.Mutex
	got  []string
	subs []intake.Submission
	err  error
	fail map[string]error // by sender
}

func (s *taker) Submit(_ context.Context, sub *intake.Submission, r io.Reader) (mail.QueueID, error) {
	b, err := io.ReadAll(r)
	if err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := errors.Join(s.err, s.fail[string(sub.Sender)]); err != nil {
		return 0, err
	}
	s.got = append(s.got, string(b))
	s.subs = append(s.subs, *sub)
	return mail.QueueID(len(s.got)), nil
}

func (s *taker) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.got)
}

type logger struct {
	mu    sync.Mutex
	lines []string
}

func (l *logger) Log(service string, sev maillog.Severity, ev maillog.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, service+": "+sev.Word()+string(ev.AppendText(nil, mail.ShortIDs)))
}

func newMaildrop(t *testing.T) (*Maildrop, string) {
	t.Helper()
	dir := t.TempDir()
	m := NewMaildrop(dir)
	if err := m.Prepare(-1, -1); err != nil {
		t.Fatal(err)
	}
	return m, dir
}

func leave(t *testing.T, m *Maildrop, sender string, rcpts ...string) string {
	t.Helper()
	w, err := m.Create()
	if err != nil {
		t.Fatal(err)
	}
	b := AppendHead(nil, time.Unix(1000, 2000))
	b = queuefile.AppendString(b, queuefile.TypeFullName, "A Name")
	b = queuefile.AppendString(b, queuefile.TypeSender, sender)
	for _, r := range rcpts {
		b = queuefile.AppendString(b, queuefile.TypeRcpt, r)
	}
	b = queuefile.AppendRecord(b, queuefile.TypeMessage, nil)
	b = queuefile.AppendString(b, queuefile.TypeNormal, "Subject: x")
	b = queuefile.AppendRecord(b, queuefile.TypeExtracted, nil)
	b = queuefile.AppendRecord(b, queuefile.TypeEnd, nil)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	name, err := w.Commit()
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func files(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestTakesMessages(t *testing.T) {
	m, dir := newMaildrop(t)
	for i := range 50 {
		leave(t, m, fmt.Sprintf("s%d@x", i), "r@y", "quoted local@y")
	}
	to := &taker{}
	p := New(m, to, &logger{}, Config{})
	if n := p.scan(t.Context()); n != 50 || to.count() != 50 {
		t.Fatalf("%d left, %d submitted", n, to.count())
	}
	if left := files(t, filepath.Join(dir, "maildrop")); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	sub := to.subs[0]
	want := intake.Submission{
		Origin: mail.FromLocal, UID: os.Getuid(), FullName: "A Name", Sender: sub.Sender, Arrival: time.Unix(1000, 2000).UTC(),
		Recipients: []mail.Recipient{{Address: "r@y"}, {Address: `"quoted local"@y`}},
	}
	if diff := cmp.Diff(want, sub); diff != "" || to.got[0] != "Subject: x\r\n" {
		t.Errorf("%s content %q", diff, to.got[0])
	}
}

func TestLeavesWhatIsNotReady(t *testing.T) {
	m, dir := newMaildrop(t)
	drop := filepath.Join(dir, "maildrop")
	w, err := m.Create()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Discard()
	if _, err := io.WriteString(w, "S\x00"); err != nil {
		t.Fatal(err)
	}
	name := leave(t, m, "s@x", "r@y")
	for _, err := range []error{
		os.WriteFile(filepath.Join(drop, "ABCDEF000001"), []byte("S"), 0o644), // named, not complete
		os.Symlink("/etc/passwd", filepath.Join(drop, "ABCDEF000002")),
		os.Mkdir(filepath.Join(drop, "ABCDEF000003"), 0o700),
		os.Link(filepath.Join(drop, name), filepath.Join(drop, "ABCDEF000004")),
		os.Link(filepath.Join(drop, name), filepath.Join(dir, "elsewhere")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	to := &taker{}
	if n := New(m, to, &logger{}, Config{}).scan(t.Context()); n != 0 || to.count() != 0 {
		t.Errorf("%d taken", n)
	}
	if left := files(t, drop); len(left) != 6 {
		t.Errorf("left: %v", left)
	}
}

func TestSetsAsideWhatIsNoMessage(t *testing.T) {
	m, dir := newMaildrop(t)
	drop := filepath.Join(dir, "maildrop")
	noRcpt := leave(t, m, "s@x")
	tooBig := leave(t, m, "big@x", "r@y")
	for name, data := range map[string]string{"ABCDEF000001": "garbage", "ABCDEF000002": ""} {
		if err := os.WriteFile(filepath.Join(drop, name), []byte(data), 0o744); err != nil {
			t.Fatal(err)
		}
	}
	log := &logger{}
	p := New(m, &taker{fail: map[string]error{"big@x": intake.ErrTooBig}}, log, Config{})
	if n := p.scan(t.Context()); n != 4 {
		t.Errorf("%d left the maildrop", n)
	}
	want := []string{noRcpt, tooBig, "ABCDEF000001", "ABCDEF000002"}
	got := files(t, filepath.Join(dir, "corrupt"))
	if len(got) != len(want) {
		t.Errorf("set aside: %v, want %v", got, want)
	}
	if all := strings.Join(log.lines, "\n"); strings.Count(all, "pickup: warning: saving corrupt file") != 4 {
		t.Errorf("log: %s", all)
	}
}

func TestKeepsWhatCannotBeTakenNow(t *testing.T) {
	m, dir := newMaildrop(t)
	leave(t, m, "s@x", "r@y")
	to := &taker{err: errors.New("no space")}
	p := New(m, to, &logger{}, Config{})
	if n := p.scan(t.Context()); n != 0 {
		t.Error("taken")
	}
	to.err = nil
	if n := p.scan(t.Context()); n != 1 || len(files(t, filepath.Join(dir, "maildrop"))) != 0 {
		t.Error("not taken when it could be")
	}
}

// TestRun: it looks at once, when poked, and every minute.
func TestRun(t *testing.T) {
	m, _ := newMaildrop(t)
	synctest.Test(t, func(t *testing.T) {
		leave(t, m, "first@x", "r@y")
		to := &taker{}
		p := New(m, to, &logger{}, Config{})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { p.Run(ctx); close(done) }()
		synctest.Wait()
		if to.count() != 1 {
			t.Error("not at the start")
		}
		leave(t, m, "second@x", "r@y")
		p.Poke()
		p.Poke()
		synctest.Wait()
		if to.count() != 2 {
			t.Error("not when poked")
		}
		leave(t, m, "third@x", "r@y")
		time.Sleep(59 * time.Second)
		synctest.Wait()
		if to.count() != 2 {
			t.Error("too early")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if to.count() != 3 {
			t.Error("not after a minute")
		}
		cancel()
		<-done
	})
}

func TestListDeletePurge(t *testing.T) {
	m, dir := newMaildrop(t)
	name := leave(t, m, "s@x", "r@y")
	foreign := filepath.Join(dir, "maildrop", "B1247C00B0")
	if err := os.WriteFile(foreign, []byte("garbage"), 0o744); err != nil {
		t.Fatal(err)
	}
	var got []mail.Envelope
	if err := m.List(func(e *mail.Envelope) bool { got = append(got, *e); return true }); err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got[0].ID.Short() != name || got[0].Sender != "s@x" || got[1].ID.Short() != "00B1247C00B0" {
		t.Errorf("list: %+v", got)
	}
	if f, err := m.Open(got[0].ID); err != nil {
		t.Error(err)
	} else if err := f.Close(); err != nil {
		t.Error(err)
	}
	for _, e := range got {
		if ok, err := m.Delete(e.ID); !ok || err != nil {
			t.Errorf("delete %s: %v, %v", e.ID.Short(), ok, err)
		}
		if ok, err := m.Delete(e.ID); ok || err != nil {
			t.Errorf("delete %s again: %v, %v", e.ID.Short(), ok, err)
		}
	}
	saved := filepath.Join(dir, "saved")
	if n := len(files(t, saved)); n != 2 {
		t.Errorf("%d saved", n)
	}
	if err := m.purge(time.Now().Add(-time.Hour)); err != nil || len(files(t, saved)) != 2 {
		t.Error("purged too early")
	}
	if err := m.purge(time.Now().Add(time.Hour)); err != nil || len(files(t, saved)) != 0 {
		t.Error("not purged")
	}
}

// TestManyWriters: names never collide, whoever writes.
func TestManyWriters(t *testing.T) {
	m, dir := newMaildrop(t)
	m.now = func() time.Time { return time.Unix(1, 0) }
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() { leave(t, m, "s@x", "r@y") })
	}
	wg.Wait()
	if n := len(files(t, filepath.Join(dir, "maildrop"))); n != 20 {
		t.Errorf("%d files", n)
	}
}

// TestPostdropFiles takes what the real postdrop leaves, and the other way round.
func TestPostdropFiles(t *testing.T) {
	pf := oracle.New(t)
	out := pf.Run("Subject: one\nTo: q@w.example\n\nbody\n", "sendmail", "-t", "-f", "", "-N", "success,delay", "-V", "envid", "-R", "hdrs", "extra@w.example")
	if out.Status != 0 {
		t.Fatalf("%+v", out)
	}
	m := NewMaildrop(pf.Spool)
	name := leave(t, m, "ours@x.example", "r@y.example")
	list := pf.Run("", "postqueue", "-p").Stdout
	if !strings.Contains(list, name+" ") || !strings.Contains(list, "ours@x.example") {
		t.Errorf("Postfix does not list our file %s: %s", name, list)
	}
	to := &taker{}
	if n := New(m, to, &logger{}, Config{Parallel: 1}).scan(t.Context()); n != 2 {
		t.Fatalf("%d taken", n)
	}
	for i, s := range to.subs {
		if s.Sender != "" {
			continue
		}
		notify := mail.NotifySuccess | mail.NotifyDelay
		want := intake.Submission{
			Origin: mail.FromLocal, UID: os.Getuid(), FullName: s.FullName, Arrival: s.Arrival, EnvelopeID: "envid", Ret: mail.RetHeaders,
			Recipients: []mail.Recipient{{Address: "extra@w.example", Notify: notify}, {Address: "q@w.example", Notify: notify}},
		}
		if diff := cmp.Diff(want, s); diff != "" || to.got[i] != "Subject: one\r\nTo: q@w.example\r\n\r\nbody\r\n" {
			t.Errorf("%s %q", diff, to.got[i])
		}
		return
	}
	t.Error("the message of postdrop is missing")
}

// A file that can neither be removed nor set aside is sent once all the same.
func TestFileThatStaysIsSentOnce(t *testing.T) {
	m, dir := newMaildrop(t)
	name := leave(t, m, "a@b", "c@d")
	to := &taker{}
	p := New(m, to, &logger{}, Config{})
	p.remove = func(string) error { return errors.New("read-only file system") }
	corrupt := filepath.Join(dir, "corrupt")
	if err := os.Remove(corrupt); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		p.scan(t.Context())
	}
	if n := to.count(); n != 1 {
		t.Errorf("sent %d times", n)
	}
	p.remove = os.Remove
	p.scan(t.Context())
	if _, err := os.Stat(filepath.Join(dir, "maildrop", name)); !os.IsNotExist(err) || to.count() != 1 || len(p.stuck) != 0 {
		t.Errorf("removal at last: %v; sent %d times; stuck %v", err, to.count(), p.stuck)
	}
}
