package queue

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"posthouse/internal/mail"
	"posthouse/internal/postfix/maillog"
	"posthouse/internal/spool"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memStore is a spool in memory. What was applied is durable after delay, all
// at once for what gathered meanwhile.
type memStore struct {
	delay time.Duration

	mu      sync.Mutex
	rows    map[mail.QueueID]*mail.Message // durable
	waiting []asyncBatch
	syncing bool
	err     error
	last    mail.QueueID
	batches int
	log     []spool.Op
	badRow  bool  // Message fails its checksum
	unread  error // Message fails with it
	badText bool  // Content does
}

type asyncBatch struct {
	b    *spool.Batch
	done func(error)
}

func newStore() *memStore { return &memStore{rows: map[mail.QueueID]*mail.Message{}} }

func clone(m *mail.Message) *mail.Message {
	c := *m
	c.Recipients, c.RcptState = slices.Clone(m.Recipients), slices.Clone(m.RcptState)
	return &c
}

func (s *memStore) put(m *mail.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rows[m.ID] = clone(m)
	s.last = max(s.last, m.ID)
}

func (s *memStore) ApplyAsync(b *spool.Batch, done func(error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting = append(s.waiting, asyncBatch{b, done})
	if !s.syncing {
		s.syncing = true
		go s.sync()
	}
}

func (s *memStore) sync() {
	for more := true; more; {
		time.Sleep(s.delay)
		s.mu.Lock()
		now := s.waiting
		s.waiting = nil
		for _, w := range now {
			s.apply(w.b)
		}
		err := s.err
		s.mu.Unlock()
		for _, w := range now {
			if w.done != nil {
				w.done(err)
			}
		}
		s.mu.Lock()
		more = len(s.waiting) > 0
		s.syncing = more
		s.mu.Unlock()
	}
}

func (s *memStore) apply(b *spool.Batch) {
	if s.err != nil {
		return
	}
	s.batches++
	for _, op := range b.Ops {
		s.log = append(s.log, op)
		switch op := op.(type) {
		case spool.SetState:
			s.rows[op.ID].State = op.State
		case spool.SetRecipients:
			for _, c := range op.Changes {
				s.rows[op.ID].RcptState[c.Index] = c.State
			}
		case spool.Remove:
			if s.rows[op.ID] == nil {
				s.err = errors.New("removed twice")
			}
			delete(s.rows, op.ID)
		}
	}
}

func (s *memStore) Apply(ctx context.Context, b *spool.Batch) error {
	done := make(chan error, 1)
	s.ApplyAsync(b, func(err error) { done <- err })
	return <-done
}

func (s *memStore) Recover(_ context.Context, each func(*mail.Message) error) (spool.Recovered, error) {
	s.mu.Lock()
	ids := slices.Sorted(maps.Keys(s.rows))
	s.mu.Unlock()
	for _, id := range ids {
		m, _ := s.Message(id)
		if err := each(m); err != nil {
			return spool.Recovered{}, err
		}
	}
	return spool.Recovered{LastID: s.last, Messages: len(ids)}, nil
}

func (s *memStore) Message(id mail.QueueID) (*mail.Message, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m := s.rows[id]; m != nil {
		if s.badRow {
			return nil, spool.ErrCorrupt
		}
		if s.unread != nil {
			return nil, s.unread
		}
		return clone(m), nil
	}
	return nil, spool.ErrNotFound
}

// crash is the store as a restart after a crash finds it.
func (s *memStore) crash() *memStore {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := newStore()
	n.delay, n.last = s.delay, s.last
	for id, m := range s.rows {
		n.rows[id] = clone(m)
	}
	return n
}

func (s *memStore) fail(err error) {
	s.mu.Lock()
	s.err = err
	s.mu.Unlock()
}

// unreadable makes reading fail with err, until it is nil.
func (s *memStore) unreadable(err error) {
	s.mu.Lock()
	s.unread = err
	s.mu.Unlock()
}

func (s *memStore) corrupt(row, text bool) {
	s.mu.Lock()
	s.badRow, s.badText = row, text
	s.mu.Unlock()
}

func (s *memStore) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.rows)
}

func (s *memStore) Content(id mail.QueueID) (spool.Content, error) {
	if _, err := s.Message(id); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.badText {
		return nil, spool.ErrCorrupt
	}
	return memContent{bytes.NewReader([]byte("Subject: x\r\n\r\nx\r\n"))}, nil
}

func (*memStore) Stage(int64) (spool.Staged, error) { return nil, io.ErrClosedPipe }

func (*memStore) Commit(context.Context, *mail.Envelope, spool.Staged) error { return io.ErrClosedPipe }

func (*memStore) Get([]byte) ([]byte, error)                       { return nil, spool.ErrNotFound }
func (*memStore) Scan(_, _ []byte, _ func(_, _ []byte) bool) error { return nil }
func (*memStore) Space() (spool.Space, error)                      { return spool.Space{}, nil }
func (s *memStore) Err() error                                     { return s.err }
func (*memStore) Close() error                                     { return nil }

type memContent struct{ *bytes.Reader }

func (memContent) Close() error  { return nil }
func (c memContent) Size() int64 { return c.Reader.Size() }
func (memContent) Bytes() []byte { return nil }

// lines is a logger that keeps what it is told.
type lines struct {
	mu  sync.Mutex
	all []string
}

func (l *lines) Log(service string, sev maillog.Severity, ev maillog.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, service+": "+sev.Word()+string(ev.AppendText(nil, mail.ShortIDs)))
}

func (l *lines) matching(part string) (out []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.all {
		if strings.Contains(s, part) {
			out = append(out, s)
		}
	}
	return out
}

// routeFunc is a Router; domainRouter sends each domain to itself over smtp.
type routeFunc func(mail.Address, *mail.Envelope) (mail.Destination, *mail.Status)

func (f routeFunc) Route(r mail.Address, e *mail.Envelope) (mail.Destination, *mail.Status) {
	return f(r, e)
}

func domainRouter(r mail.Address, _ *mail.Envelope) (mail.Destination, *mail.Status) {
	return mail.Destination{Transport: "smtp", NextHop: r.Domain()}, nil
}

// agentFunc decides about one recipient; commit says when the delivery passes
// the final dot: before the first recipient that is not refused.
type agentFunc func(ctx context.Context, d *Delivery) []Result

func (f agentFunc) Deliver(ctx context.Context, d *Delivery) []Result { return f(ctx, d) }

type notice struct {
	kind  Notice
	id    mail.QueueID
	rcpts []string // "addr: reason"
	at    time.Time
}

type bouncer struct {
	mu   sync.Mutex
	got  []notice
	fail error
}

func (b *bouncer) Notify(_ context.Context, k Notice, m *mail.Message, rcpts []int) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fail != nil {
		return b.fail
	}
	n := notice{kind: k, id: m.ID, at: time.Now()}
	for _, i := range rcpts {
		n.rcpts = append(n.rcpts, fmt.Sprintf("%s: %s", m.Recipients[i].Address, m.RcptState[i].Last.Text))
	}
	b.got = append(b.got, n)
	return nil
}

func (b *bouncer) setFail(err error) {
	b.mu.Lock()
	b.fail = err
	b.mu.Unlock()
}

func (b *bouncer) notices() []notice {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.got)
}

// bench is a queue with everything around it.
type rig struct {
	t      *testing.T
	cfg    Config
	store  *memStore
	log    *lines
	bounce *bouncer
	route  Router
	agent  Agent
	resub  func(*mail.Message) (mail.QueueID, error)
	q      *Queue
	stop   context.CancelFunc
	ended  chan error
	ahead  time.Duration // of the queue's clock before the right time

	mu       sync.Mutex
	attempts []attempt
	nextID   mail.QueueID
}

type attempt struct {
	id    mail.QueueID
	rcpts []string
	at    time.Time
	n     uint32
}

func newRig(t *testing.T) *rig {
	r := &rig{t: t, cfg: DefaultConfig(), store: newStore(), log: &lines{}, bounce: &bouncer{}, route: routeFunc(domainRouter), nextID: 0x100000000000}
	r.cfg.Jitter = 0
	r.agent = agentFunc(func(_ context.Context, d *Delivery) []Result { return r.by(d, accept) })
	return r
}

// Statuses that fake agents give.
func accept(mail.Address) Result { return Result{Status: mail.NewStatus("2.0.0", "ok")} }
func refuse(mail.Address) Result { return Result{Status: mail.NewStatus("5.1.1", "no such user")} }
func later(mail.Address) Result  { return Result{Status: mail.NewStatus("4.2.0", "come back later")} }

func noAnswer(mail.Address) Result {
	return Result{Status: mail.NewStatus("4.4.1", "connect to host: Connection refused"), DestinationDown: true}
}

// by notes the attempt and decides each recipient by f.
func (r *rig) by(d *Delivery, f func(mail.Address) Result) []Result {
	a := attempt{id: d.Envelope.ID, at: time.Now(), n: d.Attempt}
	var out []Result
	if !d.Commit() {
		return make([]Result, len(d.Recipients))
	}
	for _, i := range d.Recipients {
		a.rcpts = append(a.rcpts, string(d.Envelope.Recipients[i].Address))
		out = append(out, f(d.Envelope.Recipients[i].Address))
	}
	r.mu.Lock()
	r.attempts = append(r.attempts, a)
	r.mu.Unlock()
	return out
}

func (r *rig) always(f func(mail.Address) Result) {
	r.agent = agentFunc(func(_ context.Context, d *Delivery) []Result { return r.by(d, f) })
}

func (r *rig) tried() []attempt {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.attempts)
}

func (r *rig) Resubmit(_ context.Context, m *mail.Message, _ spool.Content) (mail.QueueID, error) {
	return r.resub(m)
}

// now is the queue's clock.
func (r *rig) now() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Now().Add(r.ahead)
}

func (r *rig) setClock(ahead time.Duration) {
	r.mu.Lock()
	r.ahead = ahead
	r.mu.Unlock()
}

// open makes the queue of what the store has; start runs it.
func (r *rig) open() {
	r.t.Helper()
	r.q = New(r.cfg, Deps{
		Store: r.store, Router: r.route, Bouncer: r.bounce, Resubmitter: r, Log: r.log, Now: r.now,
		Agents: func(name string) (Agent, bool) { return r.agent, name == "smtp" },
	})
	if _, err := r.q.Recover(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) start() {
	r.t.Helper()
	if r.q == nil {
		r.open()
	}
	ctx, stop := context.WithCancel(context.Background())
	r.stop, r.ended = stop, make(chan error, 1)
	go func() { r.ended <- r.q.Run(ctx) }()
	synctest.Wait()
}

func (r *rig) end() error {
	r.stop()
	err := <-r.ended
	r.q = nil
	return err
}

func (r *rig) message(from mail.Address, to ...mail.Address) *mail.Message {
	r.nextID++
	env := mail.Envelope{ID: r.nextID, Arrival: r.now(), Sender: from, Size: 1000, Origin: mail.FromSMTP}
	for _, a := range to {
		env.Recipients = append(env.Recipients, mail.Recipient{Address: a})
	}
	return mail.NewMessage(env)
}

// send commits a message and hands it to the queue.
func (r *rig) send(from mail.Address, to ...mail.Address) mail.QueueID {
	m := r.message(from, to...)
	r.store.put(m)
	r.q.Enqueue(m)
	return m.ID
}

func (r *rig) act(v Verb, ids ...mail.QueueID) Report {
	r.t.Helper()
	rep, err := r.q.Act(r.t.Context(), v, Selection{IDs: ids}, Actor{User: "root", UID: 0, Via: "test"})
	if err != nil {
		r.t.Fatalf("act: %v", err)
	}
	return rep
}

func (r *rig) where(id mail.QueueID) mail.QueueName {
	for _, name := range []mail.QueueName{mail.Maildrop, mail.Active, mail.Incoming, mail.Deferred, mail.Hold, mail.Corrupt, mail.Trash} {
		found := false
		r.q.ListQueues([]mail.QueueName{name}, func(v *View) bool { found = found || v.ID == id; return true })
		if found {
			return name
		}
	}
	return ""
}

func (r *rig) wantWhere(id mail.QueueID, want mail.QueueName) {
	r.t.Helper()
	if got := r.where(id); got != want {
		r.t.Fatalf("%s is in queue %q, want %q", id.Short(), got, want)
	}
}

func (r *rig) wantLog(want ...string) {
	r.t.Helper()
	r.log.mu.Lock()
	defer r.log.mu.Unlock()
	if !slices.Equal(r.log.all, want) {
		r.t.Errorf("log:\n  %s\nwant:\n  %s", strings.Join(r.log.all, "\n  "), strings.Join(want, "\n  "))
	}
}

// inBubble runs f with fake time.
func inBubble(t *testing.T, f func(t *testing.T, r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, newRig(t)) })
}

func sleep(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}
