package intake

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"posthouse/internal/mail"
	"posthouse/internal/postfix/maillog"
	"posthouse/internal/smtp"
	"posthouse/internal/smtp/server"
	"posthouse/internal/spool"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeStore is a spool in memory that can be told to fail.
type fakeStore struct {
	mu        sync.Mutex
	open      int // staged contents not yet ended
	committed map[mail.QueueID]*stored
	states    map[mail.QueueID]mail.State
	space     spool.Space
	asked     int // calls of Space

	stageErr, writeErr, commitErr, applyErr error
	drop                                    bool          // keep no content
	committing                              chan struct{} // when set, Commit waits for it
	biggest                                 int           // the largest single write
}

type stored struct {
	env     mail.Envelope
	content []byte
}

func newStore() *fakeStore {
	return &fakeStore{committed: make(map[mail.QueueID]*stored), states: make(map[mail.QueueID]mail.State), space: spool.Space{Free: 1 << 40}}
}

type fakeStaged struct {
	s    *fakeStore
	buf  []byte
	size int64
	done bool
}

func (s *fakeStore) Stage(int64) (spool.Staged, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stageErr != nil {
		return nil, s.stageErr
	}
	s.open++
	return &fakeStaged{s: s}, nil
}

func (f *fakeStaged) Write(p []byte) (int, error) {
	if err := f.s.writeErr; err != nil {
		return 0, err
	}
	f.size += int64(len(p))
	if f.s.drop {
		f.s.mu.Lock()
		f.s.biggest = max(f.s.biggest, len(p))
		f.s.mu.Unlock()
	} else {
		f.buf = append(f.buf, p...)
	}
	return len(p), nil
}

func (f *fakeStaged) Size() int64 { return f.size }
func (f *fakeStaged) Discard()    { f.end() }

func (f *fakeStaged) end() {
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	if !f.done {
		f.done = true
		f.s.open--
	}
}

func (s *fakeStore) Commit(ctx context.Context, env *mail.Envelope, content spool.Staged) error {
	f, ok := content.(*fakeStaged)
	if !ok {
		return errors.New("not mine")
	}
	f.end()
	if s.committing != nil {
		select {
		case <-s.committing:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if s.commitErr != nil {
		return s.commitErr
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.committed[env.ID] = &stored{env: *env, content: f.buf}
	return nil
}

func (s *fakeStore) Apply(_ context.Context, b *spool.Batch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.applyErr != nil {
		return s.applyErr
	}
	for _, op := range b.Ops {
		if set, ok := op.(spool.SetState); ok {
			s.states[set.ID] = set.State
		}
	}
	return nil
}

func (s *fakeStore) Space() (spool.Space, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	return s.space, nil
}

// world is an Intake with everything around it.
type world struct {
	*Intake
	store  *fakeStore
	mu     sync.Mutex
	queued []*mail.Message
	lines  []string
	now    time.Time
	ids    mail.IDForm
	deny   func(to mail.Address) *smtp.Reply
}

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func newWorld(change ...func(*Config)) *world {
	w := &world{store: newStore(), now: noon}
	cfg := Config{Hostname: "mx.test.local", MaxMessageSize: 10240000, MaxRecipients: 1000}
	for _, f := range change {
		f(&cfg)
	}
	w.ids = cfg.IDs
	clock := func() time.Time { w.mu.Lock(); defer w.mu.Unlock(); return w.now }
	w.Intake = New(cfg, Deps{Store: w.store, IDs: mail.NewIDSource(0, clock), Queue: w, Log: w, Now: clock, Access: w})
	return w
}

func (w *world) Enqueue(m *mail.Message) {
	w.store.mu.Lock()
	if w.store.committed[m.ID] == nil {
		panic("enqueued before it was committed")
	}
	w.store.mu.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queued = append(w.queued, m)
}

func (w *world) Log(service string, sev maillog.Severity, ev maillog.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lines = append(w.lines, service+": "+sev.Word()+string(ev.AppendText(nil, w.ids)))
	ev.Fields(w.ids, func(string, any) {})
}

func (w *world) Rcpt(_ context.Context, _ *server.Peer, _, to, _ mail.Address) *smtp.Reply {
	if w.deny == nil {
		return nil
	}
	return w.deny(to)
}

// last is the message committed last, its content with LF lines and its
// queue ID replaced.
func (w *world) last(t *testing.T) (*mail.Message, string) {
	t.Helper()
	if len(w.queued) == 0 {
		t.Fatal("nothing was queued")
	}
	m := w.queued[len(w.queued)-1]
	s := w.store.committed[m.ID]
	if s.env.Size != int64(len(s.content)) {
		t.Errorf("size %d of %d bytes", s.env.Size, len(s.content))
	}
	text := string(s.content)
	if rest := strings.ReplaceAll(text, "\r\n", ""); strings.ContainsAny(rest, "\r\n") {
		t.Errorf("stored lines do not all end in CRLF: %q", text)
	}
	return m, strings.ReplaceAll(strings.ReplaceAll(text, "\r\n", "\n"), w.ids.Format(m.ID), "QUEUEID")
}

// log returns the lines so far, the ID of the message queued last replaced.
func (w *world) log() []string {
	out := append([]string(nil), w.lines...)
	if len(w.queued) > 0 {
		for i := range out {
			out[i] = strings.ReplaceAll(out[i], w.ids.Format(w.queued[len(w.queued)-1].ID), "QUEUEID")
		}
	}
	return out
}

func peer(change ...func(*server.Peer)) *server.Peer {
	p := &server.Peer{Service: "smtpd", Client: mail.Client{Name: "localhost", ReverseName: "localhost", Addr: "127.0.0.1", Port: 4711, Helo: "client.test", Protocol: "ESMTP", UID: -1}}
	for _, f := range change {
		f(p)
	}
	return p
}

// send carries out one transaction and returns the last reply.
func (w *world) send(t testing.TB, p *server.Peer, from mail.Address, rcpts []mail.Address, content string) *smtp.Reply {
	t.Helper()
	tx, reply := w.Mail(t.Context(), p, &smtp.MailArgs{From: from})
	if reply != nil {
		return reply
	}
	defer tx.Abort()
	for _, r := range rcpts {
		reply = tx.Rcpt(t.Context(), &smtp.RcptArgs{To: r})
	}
	if tx.ID() == 0 {
		return reply
	}
	out, reply := tx.Data(t.Context())
	if reply != nil {
		return reply
	}
	if _, err := io.WriteString(out, strings.ReplaceAll(content, "\n", "\r\n")); err != nil && w.store.writeErr == nil && content[0] != '#' {
		t.Logf("content: %v", err)
	}
	return tx.Commit(t.Context())
}
