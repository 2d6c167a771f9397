package queue

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"posthouse/internal/mail"
	"posthouse/internal/spool"
)

// world is the outside of a queue, with a ledger of what the outside saw. All
// of the queue's promises are checked here, from what crosses its borders.
type world struct {
	t      *testing.T
	rng    *rand.Rand
	store  *memStore
	q      *Queue
	cfg    Config
	cancel context.CancelFunc
	ended  chan error
	nextID mail.QueueID
	calm   bool // everything succeeds from now on

	mu       sync.Mutex
	epoch    int // crashes so far; what began in an earlier one does not count
	broken   []string
	ids      []mail.QueueID
	rcpts    map[mail.QueueID]int
	accepted map[string]int // by recipient: how often the next hop took it
	allowed  map[string]int // how often it may have: 1, and 1 more for each crash before it was recorded
	running  map[string]bool
	reported map[string]bool
	parked   map[mail.QueueID]Verb // held, deleted or requeued by an action that has returned
	deleted  map[mail.QueueID]bool
	reborn   map[mail.QueueID]bool
	retried  map[mail.QueueID]bool // by an operator, so that it may be early
}

func newWorld(t *testing.T, seed uint64) *world {
	w := &world{
		t: t, rng: rand.New(rand.NewPCG(seed, 1)), store: newStore(), cfg: DefaultConfig(), nextID: 1 << 40,
		rcpts: map[mail.QueueID]int{}, accepted: map[string]int{}, allowed: map[string]int{}, running: map[string]bool{},
		reported: map[string]bool{}, parked: map[mail.QueueID]Verb{}, deleted: map[mail.QueueID]bool{},
		reborn: map[mail.QueueID]bool{}, retried: map[mail.QueueID]bool{},
	}
	w.store.delay = 5 * time.Millisecond
	w.cfg.Grace, w.cfg.MaxLifetime, w.cfg.DelayWarning = 0, 3*time.Hour, time.Hour
	w.cfg.Default.Recipients = 2
	return w
}

func (w *world) wrong(format string, args ...any) {
	w.broken = append(w.broken, fmt.Sprintf(format, args...))
}

func key(id mail.QueueID, i int) string { return fmt.Sprintf("%s/%d", id.Short(), i) }

// Deliver is the agent: it takes a while on both sides of the final dot.
func (w *world) Deliver(ctx context.Context, d *Delivery) []Result {
	w.mu.Lock()
	epoch := w.epoch
	before, after := time.Duration(w.rng.IntN(20_000))*time.Millisecond, time.Duration(w.rng.IntN(20_000))*time.Millisecond
	w.checkStart(d)
	w.mu.Unlock()
	results := w.carryOut(ctx, d, epoch, before, after)
	w.mu.Lock()
	defer w.mu.Unlock()
	if epoch == w.epoch {
		for _, i := range d.Recipients {
			delete(w.running, key(d.Envelope.ID, i))
		}
	}
	return results
}

func (w *world) checkStart(d *Delivery) {
	id := d.Envelope.ID
	m, err := w.store.Message(id)
	if err != nil {
		w.wrong("%s: attempted after its removal", id.Short())
		return
	}
	for _, i := range d.Recipients {
		k, s := key(id, i), m.RcptState[i]
		if s.Phase.Final() {
			w.wrong("%s: attempted although %v", k, s.Phase)
		}
		if s.NextAttempt.After(time.Now()) && !w.retried[id] {
			w.wrong("%s: attempted %v early", k, time.Until(s.NextAttempt))
		}
		if w.running[k] {
			w.wrong("%s: two deliveries at a time", k)
		}
		if v, ok := w.parked[id]; ok {
			w.wrong("%s: attempted after verb %d", k, v)
		}
		w.running[k] = true
	}
}

func (w *world) carryOut(ctx context.Context, d *Delivery, epoch int, before, after time.Duration) []Result {
	out := make([]Result, len(d.Recipients))
	for i := range out {
		out[i] = later("")
	}
	select {
	case <-time.After(before):
	case <-ctx.Done():
		return out
	}
	if !d.Commit() {
		return out
	}
	select {
	case <-time.After(after):
	case <-ctx.Done():
		return out
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if epoch != w.epoch {
		return out
	}
	for n, i := range d.Recipients {
		out[n] = []func(mail.Address) Result{accept, later, refuse, noAnswer}[w.outcome()]("")
		if k := key(d.Envelope.ID, i); out[n].Status.OK() {
			if w.accepted[k]++; w.accepted[k] > w.allowed[k] {
				w.wrong("%s: accepted %d times, allowed %d", k, w.accepted[k], w.allowed[k])
			}
			if w.parked[d.Envelope.ID] == VerbDelete && w.deleted[d.Envelope.ID] {
				w.wrong("%s: accepted after delete had returned", k)
			}
		}
	}
	return out
}

func (w *world) outcome() int {
	if w.calm {
		return 0
	}
	return w.rng.IntN(4)
}

// Notify is the bouncer.
func (w *world) Notify(_ context.Context, kind Notice, m *mail.Message, rcpts []int) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.calm && w.rng.IntN(4) == 0 {
		return errors.New("intake is full")
	}
	for _, i := range rcpts {
		if s := m.RcptState[i]; kind == NoticeFailure {
			if s.Phase != mail.Bounced && s.Phase != mail.Expired {
				w.wrong("%s: reported as failed in phase %v", key(m.ID, i), s.Phase)
			}
			w.reported[key(m.ID, i)] = true
		}
	}
	return nil
}

// Resubmit is intake.
func (w *world) Resubmit(_ context.Context, m *mail.Message, _ spool.Content) (mail.QueueID, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.calm && w.rng.IntN(4) == 0 {
		return 0, errors.New("intake is full")
	}
	w.reborn[m.ID] = true
	return m.ID + 1<<30, nil
}

func (w *world) start() {
	w.q = New(w.cfg, Deps{
		Store: w.store, Router: routeFunc(domainRouter), Bouncer: w, Resubmitter: w, Log: &lines{},
		Agents: func(string) (Agent, bool) { return w, true }, Random: func() float64 { return 0.5 },
	})
	if _, err := w.q.Recover(context.Background()); err != nil {
		w.wrong("recover: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	w.cancel, w.ended = cancel, make(chan error, 1)
	go func() { w.ended <- w.q.Run(ctx) }()
	synctest.Wait()
}

// crash takes what is durable and lets the rest go on as a ghost, whose
// changes reach nothing.
func (w *world) crash(clean bool) {
	if clean {
		w.cancel()
		if err := <-w.ended; err != nil {
			w.wrong("Run: %v", err)
		}
	}
	w.mu.Lock()
	w.epoch++
	old := w.store
	w.store = old.crash()
	w.running = map[string]bool{}
	for k := range w.accepted {
		if clean {
			break
		}
		var id string
		var i int
		_, _ = fmt.Sscanf(strings.Replace(k, "/", " ", 1), "%s %d", &id, &i)
		qid, _ := mail.ParseQueueID(id)
		if m, err := w.store.Message(qid); err == nil && m.RcptState[i].Phase == mail.Pending {
			w.allowed[k] = w.accepted[k] + 1
		}
	}
	w.retried = map[mail.QueueID]bool{}
	w.mu.Unlock()
	if !clean {
		old.fail(spool.ErrClosed)
		w.cancel()
		<-w.ended
	}
	w.start()
}

func (w *world) send(n int) {
	w.nextID++
	env := mail.Envelope{ID: w.nextID, Arrival: time.Now(), Sender: "a@x", Size: 10}
	w.mu.Lock()
	for i := range n {
		env.Recipients = append(env.Recipients, mail.Recipient{Address: mail.Address(fmt.Sprintf("u%d@d%d", i, w.rng.IntN(3)))})
		w.allowed[key(env.ID, i)] = 1
	}
	w.ids, w.rcpts[env.ID] = append(w.ids, env.ID), n
	w.mu.Unlock()
	m := mail.NewMessage(env)
	w.store.put(m)
	w.q.Enqueue(m)
}

func (w *world) act(v Verb, at int) {
	if len(w.ids) == 0 {
		return
	}
	id := w.ids[at%len(w.ids)]
	w.mu.Lock()
	if v == VerbRetry {
		w.retried[id] = true
	}
	was, wasParked := w.parked[id]
	delete(w.parked, id) // while the action runs, either is right
	w.mu.Unlock()
	rep, err := w.q.Act(context.Background(), v, Selection{IDs: []mail.QueueID{id}}, Actor{User: "op"})
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case err != nil:
		w.wrong("act %d: %v", v, err)
	case len(rep.Outcomes) == 0:
		if wasParked {
			w.parked[id] = was
		}
	case v == VerbDelete:
		w.parked[id], w.deleted[id] = v, true
	case v == VerbHold, v == VerbRequeue:
		w.parked[id] = v
	case v == VerbExpire && wasParked:
		w.parked[id] = was
	}
}

// settle lets everything go well for long enough, and then takes stock.
func (w *world) settle() {
	w.mu.Lock()
	w.calm = true
	w.mu.Unlock()
	for _, id := range w.ids {
		w.act(VerbRelease, int(id-w.ids[0]))
	}
	time.Sleep(48 * time.Hour)
	synctest.Wait()
	w.cancel()
	if err := <-w.ended; err != nil {
		w.wrong("Run: %v", err)
	}
	for _, id := range w.ids {
		for i := range w.rcpts[id] {
			if k := key(id, i); w.accepted[k] == 0 && !w.reported[k] && !w.deleted[id] && !w.reborn[id] {
				w.wrong("%s: lost", k)
			}
		}
	}
	if n := w.store.len(); n != 0 {
		w.wrong("%d messages never end", n)
	}
	if w.store.err != nil {
		w.wrong("store: %v", w.store.err)
	}
}

type step struct{ what, at, wait int }

// TestAgainstLedger: whatever happens, in whatever order, with crashes in
// between: nothing is lost, nothing is delivered twice but through the window
// of a crash, nothing is attempted early, on hold, after deletion, or twice
// at a time.
func TestAgainstLedger(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		seed := rapid.Uint64().Draw(rt, "seed")
		steps := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step {
			return step{rapid.IntRange(0, 13).Draw(t, "what"), rapid.IntRange(0, 20).Draw(t, "at"), rapid.IntRange(0, 7).Draw(t, "wait")}
		}), 1, 60).Draw(rt, "steps")
		var broken []string
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, seed)
			w.start()
			for _, s := range steps {
				w.do(s)
			}
			w.settle()
			broken = w.broken
		})
		if len(broken) > 0 {
			rt.Fatalf("%s", strings.Join(broken, "\n"))
		}
	})
}

func (w *world) do(s step) {
	switch s.what {
	case 0, 1, 2, 3:
		w.send(1 + s.at%5)
	case 4:
		w.act(VerbHold, s.at)
	case 5:
		w.act(VerbRelease, s.at)
	case 6:
		w.act(VerbDelete, s.at)
	case 7:
		w.act(VerbRequeue, s.at)
	case 8:
		w.act(VerbExpire, s.at)
	case 9:
		w.act(VerbRetry, s.at)
	case 10:
		w.crash(false)
	case 11:
		w.crash(true)
	case 12:
		w.q.Reconfigure(w.cfg, routeFunc(domainRouter))
	}
	// From within one sync to past the longest back-off.
	time.Sleep([]time.Duration{
		0, time.Millisecond, 6 * time.Millisecond, time.Second, 15 * time.Second, 5 * time.Minute, time.Hour, 4 * time.Hour,
	}[s.wait])
}
