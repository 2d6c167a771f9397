package queue

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"posthouse/internal/mail"
	"posthouse/internal/postfix/maillog"
	"posthouse/internal/queue/record"
	"posthouse/internal/queue/row"
	"posthouse/internal/queue/schedule"
	"posthouse/internal/spool"
)

// Deps are what a Queue works with.
type Deps struct {
	// Store keeps the messages.
	Store spool.Store
	// Router places recipients. It may be nil for a queue that is only
	// listed and acted upon, never run.
	Router Router
	// Agents finds the agent of a transport. May be nil as Router.
	Agents func(transport string) (Agent, bool)
	// Bouncer composes notices. May be nil as Router.
	Bouncer Bouncer
	// Resubmitter takes requeued messages through intake. May be nil as Router.
	Resubmitter Resubmitter
	// Log takes the events of the queue manager. Required.
	Log maillog.Logger
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Random gives numbers between 0 and 1 for jitter; nil means math/rand.
	Random func() float64
}

// Queue is the queue manager; see the package comment. All methods are safe
// for concurrent use.
type Queue struct {
	deps Deps

	mu     sync.Mutex // guards everything below
	cfg    Config
	router Router
	gen    uint32 // of the router; a group routed with another is routed anew
	rows   row.Table[row.Row]
	groups row.Table[group]
	byID   map[mail.QueueID]uint32
	sched  *schedule.State
	counts [row.Places]tally

	open      bool            // Run is between start and stop: deliveries may start
	base      context.Context // of deliveries, while open or stopping
	jobs      context.Context // of notices and resubmissions; ends when a stop begins
	workers   sync.WaitGroup
	kick      chan struct{} // wakes the clock
	armed     int64         // when the clock wakes by itself; 0: never
	envelopes int           // rows that have theirs in memory
	failed    error
	stalled   bool // that nothing can be recorded for lack of space has been told

	out     *record.Recorder[note]
	starts  []*start
	journal *record.Journal
	waiters map[uint32][]*waiter // by row
}

type tally struct {
	messages int
	bytes    int64
}

// New returns an empty queue. Recover fills it, Run makes it deliver.
func New(cfg Config, deps Deps) *Queue {
	if deps.Now == nil {
		deps.Now = time.Now
	}
	if deps.Random == nil {
		deps.Random = rand.Float64
	}
	q := &Queue{
		deps: deps, cfg: cfg, router: deps.Router, gen: 1, byID: make(map[mail.QueueID]uint32),
		kick: make(chan struct{}, 1), waiters: make(map[uint32][]*waiter),
	}
	q.sched = schedule.New(q.limits)
	q.out = record.New(&q.mu, deps.Store, q.heed, q.heeded)
	q.journal = record.NewJournal(&q.mu, deps.Log)
	return q
}

// Reconfigure swaps in new settings and a new router. Deliveries under way
// are not disturbed; what waits is routed anew before its attempt.
func (q *Queue) Reconfigure(cfg Config, router Router) {
	q.mu.Lock()
	q.cfg, q.router = cfg, router
	q.gen++
	q.sched.SetLimits(q.limits)
	if q.open {
		q.rescheduleTrash()
	}
	q.pump(q.deps.Now())
	q.unlock()
}

// Err is nil while changes can be recorded, else the reason why not.
func (q *Queue) Err() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.failed
}

// Recover reads the spool into memory. It is called once, before anything
// else. Nothing is delivered before Run.
func (q *Queue) Recover(ctx context.Context) (spool.Recovered, error) {
	rec, err := q.deps.Store.Recover(ctx, func(m *mail.Message) error {
		at := q.ask(m)
		q.mu.Lock()
		q.admit(m, at, false)
		if m.OrigID != 0 {
			q.endOriginal(m.OrigID)
		}
		q.unlock()
		return ctx.Err()
	})
	if err != nil {
		return rec, fmt.Errorf("reading the queue: %w", err)
	}
	return rec, nil
}

// Enqueue takes over a message that has just been committed. m must not be
// changed afterwards.
func (q *Queue) Enqueue(m *mail.Message) {
	at := q.ask(m)
	q.mu.Lock()
	now := q.deps.Now()
	ri, r := q.admit(m, at, true)
	if q.open {
		q.bringUp(ri, r, now)
		q.pump(now)
	}
	q.unlock()
}

// placement is where the router sends a recipient, and the router's generation.
type placement struct {
	dest mail.Destination
	gen  uint32
}

// ask routes the pending recipients of a message, without the lock. One that
// cannot be placed waits for a slot like any other: its "attempt" will be to
// ask again, and to record the answer.
func (q *Queue) ask(m *mail.Message) []placement {
	q.mu.Lock()
	router, gen := q.router, q.gen
	q.mu.Unlock()
	at := make([]placement, len(m.Recipients))
	for i := range at {
		at[i].dest = unrouted
		if router == nil || i < len(m.RcptState) && m.RcptState[i].Phase.Final() {
			continue
		}
		if dest, status := router.Route(m.Recipients[i].Address, &m.Envelope); status == nil {
			at[i] = placement{dest, gen}
		}
	}
	return at
}

// admit gives a message a row and its groups. It does not schedule.
func (q *Queue) admit(m *mail.Message, at []placement, fresh bool) (uint32, *row.Row) {
	ri, r := q.rows.Alloc()
	*r = row.New(m, fresh)
	if fresh && q.envelopes < q.cfg.ActiveLimit {
		r.Env = &m.Envelope
		q.envelopes++
	}
	q.byID[r.ID] = ri
	q.assemble(ri, r, at)
	if r.Is(row.Corrupt) {
		q.journal.Add("qmgr", maillog.Warning, &setAside{ID: r.ID, From: mail.Incoming})
	}
	r.Place = row.Nowhere
	q.replace(r)
	return ri, r
}

// assemble puts the pending recipients of a new row into groups: by
// destination and, for a recovered message, by next attempt.
func (q *Queue) assemble(ri uint32, r *row.Row, at []placement) {
	if len(at) == 1 {
		if r.Rcpts[0].Phase == mail.Pending {
			q.link(q.newGroup(ri, r, at[0].dest, at[0].gen), r, 0)
		}
		return
	}
	type line struct {
		dest mail.Destination
		next int64
	}
	open := make(map[line]uint32)
	for i := range at {
		if r.Rcpts[i].Phase != mail.Pending {
			continue
		}
		k := line{at[i].dest, r.Rcpts[i].NextAttempt}
		g := open[k]
		if g == 0 || q.full(g, k.dest) {
			g = q.newGroup(ri, r, at[i].dest, at[i].gen)
			open[k] = g
		}
		q.link(g, r, i)
	}
}

// full tells whether a group has as many recipients as its transport takes.
func (q *Queue) full(g uint32, dest mail.Destination) bool {
	limit := q.cfg.Transport(dest.Transport).Recipients
	return limit > 0 && int(q.groups.At(g).count) >= limit
}

func (q *Queue) newGroup(ri uint32, r *row.Row, dest mail.Destination, gen uint32) uint32 {
	g, grp := q.groups.Alloc()
	*grp = group{row: ri, next: r.Groups, first: -1, dest: q.sched.Acquire(dest), gen: gen}
	r.Groups = g
	return g
}

// link puts recipient i at the front of a group. The order of recipients in a
// group is restored when a delivery is made of it.
func (q *Queue) link(g uint32, r *row.Row, i int) {
	grp := q.groups.At(g)
	r.Rcpts[i].Group, r.Rcpts[i].Next = g, grp.first
	grp.first = int32(i)
	grp.count++
}

// members are the recipients of a group, in the order of the envelope.
func (q *Queue) members(r *row.Row, grp *group) []int {
	idx := make([]int, grp.count)
	at := len(idx)
	sorted := true
	for i := grp.first; i >= 0; i = r.Rcpts[i].Next {
		at--
		idx[at] = int(i)
		sorted = sorted && (at+1 == len(idx) || idx[at] < idx[at+1])
	}
	if !sorted {
		slices.Sort(idx)
	}
	return idx
}

// dropGroup forgets a group that is not scheduled and has no recipients left.
func (q *Queue) dropGroup(g uint32, r *row.Row, now time.Time) {
	grp := q.groups.At(g)
	for at := &r.Groups; *at != 0; at = &q.groups.At(*at).next {
		if *at == g {
			*at = grp.next
			break
		}
	}
	if r.Job == g {
		r.Job = 0
	}
	q.sched.Release(grp.dest, now)
	q.groups.Release(g)
}

// forget ends the memory of a message.
func (q *Queue) forget(ri uint32, r *row.Row, now time.Time) {
	for r.Groups != 0 {
		q.sched.Remove(schedule.Item(r.Groups), now)
		q.dropGroup(r.Groups, r, now)
	}
	if r.Job != 0 {
		q.sched.Remove(schedule.Item(r.Job), now)
		q.dropGroup(r.Job, r, now)
	}
	q.uncount(r)
	q.deflate(r)
	delete(q.byID, r.ID)
	for _, w := range q.waiters[ri] {
		w.gone = true
		close(w.done)
	}
	delete(q.waiters, ri)
	q.rows.Release(ri)
}

// deflate gives up the envelope of a message that waits.
func (q *Queue) deflate(r *row.Row) {
	if r.Env == nil {
		return
	}
	r.Env = nil
	q.envelopes--
	r.Own() // only the envelope still needed the larger ones
}

// unlock releases the lock and does what was decided under it: log lines
// first, in the order in which they were decided, then deliveries. A delivery
// therefore never logs before the line that says its message is active.
func (q *Queue) unlock() {
	q.setClock()
	if q.journal.Empty() && len(q.starts) == 0 {
		q.mu.Unlock()
		return
	}
	starts := q.starts
	q.starts = nil
	q.mu.Unlock()
	q.journal.Write()
	for i := range starts {
		go q.work(starts[i])
	}
}

// setClock wakes the clock when something is to happen earlier than it knows.
func (q *Queue) setClock() {
	if wake := q.sched.Wake(); q.open && !q.halted() && !wake.IsZero() && (q.armed == 0 || wake.UnixNano() < q.armed) {
		q.wakeClock()
	}
}

func (q *Queue) wakeClock() {
	select {
	case q.kick <- struct{}{}:
	default:
	}
}
