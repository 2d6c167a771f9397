package schedule

import (
	"math"
	"time"

	"posthouse/internal/mail"
)

const (
	never = math.MaxInt64

	// warmFor is how long a widened window outlives the last delivery, and
	// how long a destination without items is remembered at all.
	warmFor = time.Minute
)

// dest is one destination: its line and what is known about it.
type dest struct {
	id   DestID
	key  mail.Destination
	tr   *transport
	refs int // how many the owner acquired

	later []Item // heap: not yet due
	ready []Item // heap: due, waiting for a slot

	running   int
	window    int
	success   float64
	failure   float64
	cohorts   float64
	deadUntil int64 // 0 when alive
	reason    mail.Status
	paused    int64 // by the rate delay, until then; 0 when not
	idleSince int64 // when it last had nothing due and nothing running

	alarmAt  int64 // its place in State.timers
	alarmPos int

	turn ring[*dest] // its place in its transport's round of startable destinations
	shut ring[*dest] // its place among the dead destinations with items to refuse
}

// transport is what the destinations of one transport share.
type transport struct {
	name    string
	limits  Limits
	running int
	dests   int
	round   list[*dest] // destinations that may start an item now
	turn    ring[*transport]
}

// ring and list are a doubly linked list through the elements themselves, so
// that leaving a round costs nothing however long it is.
type ring[T any] struct {
	prev, next T
	in         bool
}

type list[T comparable] struct{ head, tail T }

func enter[T comparable](l *list[T], e T, r func(T) *ring[T]) {
	var none T
	x := r(e)
	if x.in {
		return
	}
	*x = ring[T]{prev: l.tail, in: true}
	if l.tail == none {
		l.head = e
	} else {
		r(l.tail).next = e
	}
	l.tail = e
}

func leave[T comparable](l *list[T], e T, r func(T) *ring[T]) {
	var none T
	x := r(e)
	if !x.in {
		return
	}
	if x.prev == none {
		l.head = x.next
	} else {
		r(x.prev).next = x.next
	}
	if x.next == none {
		l.tail = x.prev
	} else {
		r(x.next).prev = x.prev
	}
	*x = ring[T]{}
}

func destTurn(d *dest) *ring[*dest]                { return &d.turn }
func destShut(d *dest) *ring[*dest]                { return &d.shut }
func transportTurn(t *transport) *ring[*transport] { return &t.turn }

// room is how many deliveries the destination may have at once.
func (d *dest) room() int {
	if d.tr.limits.RateDelay > 0 {
		return 1
	}
	return d.window
}

func (d *dest) idle() bool { return d.running == 0 && len(d.ready) == 0 }

// positive is the feedback of a delivery that the destination took part in.
func (d *dest) positive() {
	l := &d.tr.limits
	d.cohorts = 0
	if d.deadUntil != 0 {
		d.revive()
		if d.running > 0 {
			d.window = l.bound(d.running)
		}
		return
	}
	if (l.Window == 0 || d.window < l.Window) && d.window < d.running+l.initial() {
		g := l.Positive.at(d.window)
		d.success += g
		// The half unit forgives rounding: ten tenths make one.
		for d.success+g/2 >= 1 {
			d.window++
			d.success--
			d.failure = 0
		}
		d.window = l.bound(d.window)
	}
}

// negative is the feedback of a delivery that failed on the destination itself.
func (d *dest) negative(reason mail.Status, now int64) {
	if d.deadUntil != 0 {
		return
	}
	l := &d.tr.limits
	d.cohorts += 1 / float64(d.window)
	if l.CohortLimit > 0 && d.cohorts >= l.CohortLimit {
		d.deadUntil = now + int64(l.DeadTime)
		d.reason = reason
		return
	}
	f := l.Negative.at(d.window)
	d.failure -= f
	for d.failure-f/2 < 0 {
		d.window--
		d.success = 0
		d.failure++
	}
	// At a window of one the cycle still runs, so that failures go on
	// cancelling successes.
	d.window = max(d.window, 1)
}

// revive forgets a death and the failures that led to it.
func (d *dest) revive() {
	d.deadUntil, d.reason = 0, mail.Status{}
	d.window = d.tr.limits.initial()
	d.success, d.failure, d.cohorts = 0, 0, 0
}

// rest is called when the destination has nothing due and nothing running.
func (d *dest) rest(now int64) {
	d.idleSince = now
	if d.deadUntil != 0 {
		return
	}
	d.success, d.failure, d.cohorts = 0, 0, 0
	d.window = max(d.window, d.tr.limits.initial())
}

// rouse is called before an item becomes ready.
func (d *dest) rouse(now int64) {
	if d.idle() && d.deadUntil == 0 && now-d.idleSince > int64(warmFor) {
		d.window = d.tr.limits.initial()
	}
}
