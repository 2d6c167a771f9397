package queue

import (
	"strings"
	"time"
	"unique"

	"posthouse/internal/mail"
	"posthouse/internal/queue/schedule"
)

// row is a message in memory: what scheduling and listing need, and all of
// its state. The envelope is a cache of what the spool has.
type row struct {
	id      mail.QueueID
	arrival int64 // Unix nanoseconds
	created int64 // start of the retry and lifetime clocks
	size    int64
	sender  unique.Handle[mail.Address]
	user    unique.Handle[string] // SASL user
	env     *mail.Envelope        // nil when it has to be read from the spool
	rcpts   []rcpt
	extra   *extra // nil when all of it is zero
	groups  uint32 // first delivery group, linked by group.next
	job     uint32 // the notice, resubmission or purge that waits or runs; 0: none
	live    int32  // groups that are due or running, the job included
	flags   flag
	origin  mail.Origin
	place   queueIndex // the queue it is counted in
}

// extra is state that few messages have.
type extra struct {
	holdReason string
	deletedAt  int64
	deletedBy  string
	corrupt    string
}

// flag is a set of facts about a message.
type flag uint16

const (
	held        flag = 1 << iota // State.Hold
	forceExpire                  // State.ForceExpire
	requeued                     // State.Requeue
	warned                       // State.Warned
	trashed                      // State.DeletedAt is set
	corrupt                      // State.Corrupt is set
	activated                    // "queue active" was logged in this round
	tried                        // a recipient was deferred in this round
	expiredNow                   // a recipient expired in this round: to be logged at its end
	warnNow                      // the delay notice is due
	removing                     // its removal is in the outbox: nothing may touch it any more
	silent                       // its removal is not logged
	ownStrings                   // the recipients' strings are not parts of larger ones
)

// parked is the set that keeps deliveries from being scheduled.
const parked = held | requeued | trashed | corrupt | removing

func (r *row) is(f flag) bool { return r.flags&f != 0 }

func (r *row) set(f flag, on bool) {
	if on {
		r.flags |= f
	} else {
		r.flags &^= f
	}
}

// rcpt is a recipient in memory.
type rcpt struct {
	addr        mail.Address
	orig        mail.Address
	last        unique.Handle[mail.Status] // zero before the first attempt
	lastAttempt int64                      // Unix nanoseconds; 0: never
	nextAttempt int64                      // Unix nanoseconds; 0: at once
	attempts    uint32
	group       uint32 // while pending
	next        int32  // index of the next recipient in the same group, -1 at the end
	phase       mail.Phase
	notified    bool
}

// group is a delivery, or one of the queue's own jobs, in any state: the thing
// that the scheduler knows as an Item.
type group struct {
	row   uint32
	next  uint32 // next group of the message
	first int32  // first recipient, -1: none
	count int32
	dest  schedule.DestID
	gen   uint32 // router generation it was routed with; 0: route before the attempt
	due   int64  // when the attempt became due
	run   *Delivery
	kind  kind
	state groupState
}

// kind is what a group is for.
type kind uint8

const (
	forDelivery kind = iota
	forNotice
	forResubmit
	forPurge
)

// groupState is where a group is.
//
//	idle ──► waiting ──► due ──► running ──► recording ──► waiting …
//	 ▲          │         │         │            │
//	 └──────────┴─────────┴─────────┴────────────┘  parked
type groupState uint8

const (
	idle      groupState = iota // not scheduled: parked, or before Run
	waiting                     // in the scheduler, for a later time
	due                         // in the scheduler, for a slot
	running                     // an agent or job goroutine has it
	recording                   // its outcome is on the way to the spool
)

// The destinations behind which the queue's own jobs wait, and the one of
// recipients that the router could not place. No table can name them.
func internalDest(name string) mail.Destination { return mail.Destination{Transport: "\x00" + name} }

var (
	noticeJobs   = internalDest("notice")
	resubmitJobs = internalDest("resubmit")
	purgeJobs    = internalDest("purge")
	unrouted     = internalDest("unrouted")
)

func isInternal(d mail.Destination) bool { return strings.HasPrefix(d.Transport, "\x00") }

// table is a slice that never moves its elements and reuses their places.
// Index 0 is no element.
type table[T any] struct {
	chunks []*[chunkLen]T
	free   []uint32
	n      uint32 // places handed out so far, the free ones included
}

const chunkLen = 1024

func (t *table[T]) at(i uint32) *T { return &t.chunks[i/chunkLen][i%chunkLen] }

func (t *table[T]) alloc() (uint32, *T) {
	if k := len(t.free); k > 0 {
		i := t.free[k-1]
		t.free = t.free[:k-1]
		return i, t.at(i)
	}
	t.n++
	if int(t.n/chunkLen) >= len(t.chunks) {
		t.chunks = append(t.chunks, new([chunkLen]T))
	}
	return t.n, t.at(t.n)
}

func (t *table[T]) release(i uint32) {
	var zero T
	*t.at(i) = zero
	t.free = append(t.free, i)
}

func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func fromNanos(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n)
}

// newRow is a row for a message. share tells that the message's strings may
// be kept as they are; otherwise they are copied, since a decoder's strings
// hold on to the whole record.
func newRow(m *mail.Message, share bool) row {
	keep := func(a mail.Address) mail.Address {
		if share {
			return a
		}
		return mail.Address(strings.Clone(string(a)))
	}
	r := row{
		id: m.ID, arrival: nanos(m.Arrival), created: nanos(m.State.Created), size: m.Size, origin: m.Origin,
		sender: unique.Make(m.Sender), user: unique.Make(m.Client.SASLUser), rcpts: make([]rcpt, len(m.Recipients)),
	}
	for i := range m.Recipients {
		x := &r.rcpts[i]
		x.addr, x.orig, x.next = keep(m.Recipients[i].Address), keep(m.Recipients[i].OrigAddress), -1
		if i < len(m.RcptState) {
			x.load(&m.RcptState[i])
		}
	}
	r.load(&m.State)
	r.set(ownStrings, !share)
	if len(r.rcpts) == 0 && !r.is(corrupt) {
		r.more().corrupt = "no recipients"
		r.flags |= corrupt
	}
	return r
}

func (r *row) more() *extra {
	if r.extra == nil {
		r.extra = new(extra)
	}
	return r.extra
}

func (r *row) load(s *mail.State) {
	r.set(held, s.Hold)
	r.set(forceExpire, s.ForceExpire)
	r.set(requeued, s.Requeue)
	r.set(warned, s.Warned)
	r.set(trashed, s.Trashed())
	r.set(corrupt, s.Corrupt != "")
	if s.HoldReason != "" || s.Trashed() || s.Corrupt != "" {
		r.extra = &extra{holdReason: s.HoldReason, deletedAt: nanos(s.DeletedAt), deletedBy: s.DeletedBy, corrupt: s.Corrupt}
	}
}

// state is the message's state as the spool keeps it.
func (r *row) state() mail.State {
	s := mail.State{
		Created: fromNanos(r.created), Hold: r.is(held), ForceExpire: r.is(forceExpire),
		Requeue: r.is(requeued), Warned: r.is(warned),
	}
	if x := r.extra; x != nil {
		s.HoldReason, s.DeletedAt, s.DeletedBy, s.Corrupt = x.holdReason, fromNanos(x.deletedAt), x.deletedBy, x.corrupt
	}
	return s
}

func (x *rcpt) load(s *mail.RecipientState) {
	x.phase, x.notified, x.attempts = s.Phase, s.Notified, s.Attempts
	x.lastAttempt, x.nextAttempt = nanos(s.LastAttempt), nanos(s.NextAttempt)
	x.setLast(s.Last)
}

func (x *rcpt) state() mail.RecipientState {
	return mail.RecipientState{
		Phase: x.phase, Notified: x.notified, Attempts: x.attempts,
		LastAttempt: fromNanos(x.lastAttempt), NextAttempt: fromNanos(x.nextAttempt), Last: x.status(),
	}
}

// setLast keeps a status. Statuses repeat across thousands of messages to the
// same destination, so each is kept once.
func (x *rcpt) setLast(s mail.Status) {
	if s == (mail.Status{}) {
		x.last = unique.Handle[mail.Status]{}
		return
	}
	x.last = unique.Make(s)
}

func (x *rcpt) status() mail.Status {
	if x.last == (unique.Handle[mail.Status]{}) {
		return mail.Status{}
	}
	return x.last.Value()
}

// owed tells whether a notice is still to be made for a recipient. One who
// was sent to and about whom nobody asked counts as notified.
func (x *rcpt) owed() bool { return x.phase.Final() && x.phase != mail.Canceled && !x.notified }

func (r *row) pending() (n int) {
	for i := range r.rcpts {
		if r.rcpts[i].phase == mail.Pending {
			n++
		}
	}
	return n
}

func (r *row) anyOwed() bool {
	for i := range r.rcpts {
		if r.rcpts[i].owed() {
			return true
		}
	}
	return false
}

func (r *row) attempts() (n uint32) {
	for i := range r.rcpts {
		n = max(n, r.rcpts[i].attempts)
	}
	return n
}

// message puts a message together from its envelope and its row.
func (r *row) message(env *mail.Envelope) *mail.Message {
	m := &mail.Message{Envelope: *env, State: r.state(), RcptState: make([]mail.RecipientState, len(r.rcpts))}
	for i := range r.rcpts {
		m.RcptState[i] = r.rcpts[i].state()
	}
	return m
}
