// Package record writes down what a state owner did, in order and in batches.
//
// The owner changes its memory under its lock, and in the same critical
// section hands over what the spool is to know (Add) and what is to happen
// once that is durable (When). A Recorder turns everything that has gathered
// into one batch, keeps a few batches on their way, and gives the notes back
// in order, each when all that was added before it is durable.
//
// It promises that the spool sees changes in the order of Add, and that notes
// come back in the order of When, each exactly once, with the error of their
// batch. After the first error nothing more is written, and every note comes
// back with that error: memory and disk no longer agree.
//
// A full disk (spool.ErrNoSpace) is no such error: nothing comes back, the
// batch is tried again until there is room, and Stalled tells so meanwhile.
// Only when draining does one more try decide.
//
// A Journal does the like for log lines: they are decided under the lock and
// written outside of it, in order.
//
// It assumes that Add, When, Open, Drain and Running are called with the
// owner's lock held, and Run and Flush without.
package record

import (
	"context"
	"errors"
	"sync"
	"time"

	"posthouse/internal/spool"
)

// maxInFlight is how many batches may be on their way to the spool. While
// they are, changes gather and the next batch is larger: group commit begins
// here already.
const maxInFlight = 4

// Recorder is the way from memory to the spool. N is a note of the owner's.
type Recorder[N any] struct {
	mu    *sync.Mutex // the owner's
	store spool.Store
	// heed gets the notes of a batch that is durable, or failed. It is called
	// with the lock held.
	heed func(notes []N, err error)
	// after is called once after some heeds, with the lock held; it may let
	// go of it for a while.
	after func()

	ops      []spool.Op
	notes    []N
	flight   []*batch[N] // handed to the spool, oldest first
	failed   error
	changed  *sync.Cond
	draining bool
	stalled  error // why the spool does not take what is in flight, while there is no room
	running  bool
	flushing bool       // a Flush is writing
	flushed  *sync.Cond // it is not any more
}

// batch is one write on its way.
type batch[N any] struct {
	ops   spool.Batch
	notes []N
	done  bool
	err   error
	last  bool // it is not tried again
}

// New returns a Recorder for an owner whose lock is mu. The functions are
// explained at Recorder's fields: heed gets the notes, with the lock held;
// after follows, with the lock held, and may release it meanwhile.
func New[N any](mu *sync.Mutex, store spool.Store, heed func([]N, error), after func()) *Recorder[N] {
	return &Recorder[N]{mu: mu, store: store, heed: heed, after: after, changed: sync.NewCond(mu), flushed: sync.NewCond(mu)}
}

// Add hands over a change.
func (r *Recorder[N]) Add(op spool.Op) {
	r.ops = append(r.ops, op)
	r.changed.Signal()
}

// When asks for a note back when everything added so far is durable.
func (r *Recorder[N]) When(n N) {
	r.notes = append(r.notes, n)
	r.changed.Signal()
}

// Open makes Running true: Run is about to be called.
func (r *Recorder[N]) Open() { r.running, r.draining = true, false }

// Running tells whether a Run will take care of what is added now.
func (r *Recorder[N]) Running() bool { return r.running }

// Stalled is why nothing becomes durable now, though it will once the disk has
// room; nil while all is well.
func (r *Recorder[N]) Stalled() error { return r.stalled }

// Drain lets Run return once everything is recorded, or cannot be.
func (r *Recorder[N]) Drain() {
	r.draining = true
	r.changed.Signal()
}

// Run records until it is drained.
func (r *Recorder[N]) Run() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		r.followUp()
		switch {
		case r.refused():
			r.tryAgain()
		case len(r.flight) > 0 && r.flight[0].done:
			// More became durable while the lock was released.
		case r.pending() && len(r.flight) < maxInFlight:
			r.send(r.cut())
		case r.draining && !r.pending() && len(r.flight) == 0:
			r.running = false
			return
		default:
			r.changed.Wait()
		}
	}
}

// Flush records what has gathered, for an owner without a Run. The context's
// end does not break a write off.
func (r *Recorder[N]) Flush(ctx context.Context) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.flushing {
		r.flushed.Wait()
	}
	if r.running || !r.pending() {
		return
	}
	b, err := r.cut(), r.failed
	if err == nil && len(b.ops.Ops) > 0 {
		r.flushing = true
		r.mu.Unlock()
		err = r.store.Apply(context.WithoutCancel(ctx), &b.ops)
		r.mu.Lock()
		r.flushing = false
		r.flushed.Broadcast()
	}
	b.done, b.err, b.last = true, err, true
	r.followUp()
	r.changed.Signal() // a Run may have begun meanwhile
}

func (r *Recorder[N]) pending() bool { return len(r.ops)+len(r.notes) > 0 }

// cut makes a batch of what has gathered.
func (r *Recorder[N]) cut() *batch[N] {
	b := &batch[N]{ops: spool.Batch{Ops: r.ops}, notes: r.notes}
	r.ops, r.notes = nil, nil
	r.flight = append(r.flight, b)
	return b
}

// send hands a batch to the spool. A batch of notes only keeps its place in
// the order and needs no writing.
func (r *Recorder[N]) send(b *batch[N]) {
	if r.failed != nil || len(b.ops.Ops) == 0 {
		b.done, b.err = true, r.failed
		return
	}
	r.mu.Unlock()
	defer r.mu.Lock()
	r.store.ApplyAsync(&b.ops, func(err error) {
		r.mu.Lock()
		b.done, b.err = true, err
		r.changed.Signal()
		r.mu.Unlock()
	})
}

// followUp gives back the notes of the batches that are done, oldest first.
func (r *Recorder[N]) followUp() {
	acted := false
	for len(r.flight) > 0 && r.flight[0].done && !r.refused() {
		b := r.flight[0]
		r.flight = r.flight[1:]
		r.stalled = nil
		if r.failed == nil {
			r.failed = b.err
		}
		r.heed(b.notes, r.failed)
		acted = true
	}
	if acted {
		r.after()
	}
}

// restFor is the pause before what did not fit the disk is tried again.
const restFor = time.Second

// refused tells whether the oldest batch did not fit the disk.
func (r *Recorder[N]) refused() bool {
	if len(r.flight) == 0 || r.failed != nil {
		return false
	}
	b := r.flight[0]
	return b.done && !b.last && errors.Is(b.err, spool.ErrNoSpace)
}

// tryAgain writes what is in flight once more, after a pause. Batches that were
// sent behind the refused one may have been written all the same; as changes
// only set things to what they are, all of them together, in their order and as
// one batch, come to the same whether some were written before or not.
func (r *Recorder[N]) tryAgain() {
	r.stalled = r.flight[0].err
	for _, b := range r.flight {
		if !b.done {
			r.changed.Wait()
			return
		}
	}
	all := &batch[N]{}
	for _, b := range r.flight {
		all.ops.Ops = append(all.ops.Ops, b.ops.Ops...)
		all.notes = append(all.notes, b.notes...)
	}
	r.flight = []*batch[N]{all}
	r.after() // it can say so now
	rested := false
	pause := time.AfterFunc(restFor, func() {
		r.mu.Lock()
		rested = true
		r.changed.Signal()
		r.mu.Unlock()
	})
	defer pause.Stop()
	for !rested && !r.draining {
		r.changed.Wait()
	}
	all.last = r.draining
	r.send(all)
}
