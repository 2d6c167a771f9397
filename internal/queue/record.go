package queue

import (
	"context"
	"fmt"
	"sync"
	"time"

	"posthouse/internal/mail"
	"posthouse/internal/postfix/maillog"
	"posthouse/internal/spool"
)

// maxInFlight is how many batches may be on their way to the spool. While
// they are, changes gather and the next batch is larger: group commit happens
// here already.
const maxInFlight = 4

// outbox is what waits to be recorded, in the order in which it happened.
type outbox struct {
	ops      []spool.Op
	notes    []note
	flight   []*batch // handed to the spool, oldest first
	cond     sync.Cond
	draining bool // the recorder is to end when all is recorded
	running  bool // the recorder runs
}

// batch is one write on its way.
type batch struct {
	ops   spool.Batch
	notes []note
	done  bool
	err   error
}

// note says what to do when everything recorded before it is durable.
type note struct {
	kind noteKind
	row  uint32
	g    uint32
	wait chan error // noteWait
}

type noteKind uint8

const (
	noteAgain noteKind = iota // schedule the group's next attempt
	noteGone                  // the message has been removed
	noteWait                  // tell an operator
)

func (q *Queue) record(op spool.Op) {
	q.out.ops = append(q.out.ops, op)
	q.out.cond.Signal()
}

func (q *Queue) recordState(r *row) { q.record(spool.SetState{ID: r.id, State: r.state()}) }

func (q *Queue) recordRecipients(r *row, changed []int) {
	if len(changed) == 0 {
		return
	}
	changes := make([]spool.RecipientChange, len(changed))
	for k, i := range changed {
		changes[k] = spool.RecipientChange{Index: i, State: r.rcpts[i].state()}
	}
	q.record(spool.SetRecipients{ID: r.id, Changes: changes})
}

func (q *Queue) whenDurable(n note) {
	q.out.notes = append(q.out.notes, n)
	q.out.cond.Signal()
}

// recorder hands changes to the spool and follows up on them until it is told
// to drain and everything has been recorded.
func (q *Queue) recorder() {
	q.mu.Lock()
	for {
		q.followUp()
		if q.out.draining && q.out.empty() {
			q.out.running = false
			q.mu.Unlock()
			return
		}
		if !q.out.pending() || len(q.out.flight) >= maxInFlight {
			if len(q.out.flight) > 0 && q.out.flight[0].done {
				continue
			}
			q.out.cond.Wait()
			continue
		}
		b := q.out.cut()
		if len(b.ops.Ops) == 0 || q.failed != nil {
			b.done, b.err = true, q.failed
			continue
		}
		q.mu.Unlock()
		q.deps.Store.ApplyAsync(&b.ops, func(err error) {
			q.mu.Lock()
			b.done, b.err = true, err
			q.out.cond.Signal()
			q.mu.Unlock()
		})
		q.mu.Lock()
	}
}

func (o *outbox) pending() bool { return len(o.ops)+len(o.notes) > 0 }
func (o *outbox) empty() bool   { return !o.pending() && len(o.flight) == 0 }

// cut makes a batch of what has gathered.
func (o *outbox) cut() *batch {
	b := &batch{ops: spool.Batch{Ops: o.ops}, notes: o.notes}
	o.ops, o.notes = nil, nil
	o.flight = append(o.flight, b)
	return b
}

// followUp acts upon the notes of batches that are durable, oldest first. It
// is called with the lock held, releases it to do what was decided, and
// returns with it held.
func (q *Queue) followUp() {
	acted := false
	for len(q.out.flight) > 0 && q.out.flight[0].done {
		b := q.out.flight[0]
		q.out.flight = q.out.flight[1:]
		if b.err != nil {
			q.fail(b.err)
		}
		now := q.deps.Now()
		for i := range b.notes {
			q.heed(&b.notes[i], b.err, now)
		}
		acted = acted || len(b.notes) > 0
	}
	if acted {
		q.pump(q.deps.Now())
		q.setClock()
	}
	if len(q.logq) > 0 || len(q.starts) > 0 {
		q.unlock()
		q.mu.Lock()
	}
}

// heed acts upon one note.
func (q *Queue) heed(n *note, err error, now time.Time) {
	switch n.kind {
	case noteWait:
		n.wait <- err
	case noteAgain:
		if err == nil {
			q.recorded(n.g, now)
		}
	case noteGone:
		if err == nil {
			r := q.rows.at(n.row)
			if !r.is(silent) {
				q.log("qmgr", maillog.Info, &maillog.Queued{ID: r.id, What: "removed", Text: "removed"})
			}
			q.forget(n.row, r, now)
		}
	}
}

// fail notes that the spool can record nothing more.
func (q *Queue) fail(err error) {
	if q.failed != nil {
		return
	}
	q.failed = fmt.Errorf("recording queue changes: %w", err)
	q.log("qmgr", maillog.Fatal, maillog.Text(q.failed.Error()))
	q.dismissWaiters(q.failed)
}

// settled returns when everything decided so far is durable. Without a
// recorder it records by itself.
func (q *Queue) settled(ctx context.Context) error {
	wait := make(chan error, 1)
	q.mu.Lock()
	q.whenDurable(note{kind: noteWait, wait: wait})
	online := q.out.running
	q.mu.Unlock()
	if !online {
		q.recordOffline(ctx)
	}
	select {
	case err := <-wait:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// recordOffline is the recorder's work for a queue that does not run.
func (q *Queue) recordOffline(ctx context.Context) {
	q.offlineMu.Lock()
	defer q.offlineMu.Unlock()
	q.mu.Lock()
	if q.out.running || !q.out.pending() {
		q.mu.Unlock()
		return
	}
	b := q.out.cut()
	err := q.failed
	q.mu.Unlock()
	if err == nil && len(b.ops.Ops) > 0 {
		err = q.deps.Store.Apply(context.WithoutCancel(ctx), &b.ops)
	}
	q.mu.Lock()
	b.done, b.err = true, err
	q.followUp()
	q.unlock()
}

// setAside is Postfix's line about a corrupt message.
type setAside struct {
	ID   mail.QueueID
	From mail.QueueName
}

// Kind is "corrupt".
func (*setAside) Kind() string { return "corrupt" }

// AppendText writes the line.
func (e *setAside) AppendText(b []byte, ids mail.IDForm) []byte {
	return fmt.Appendf(b, "saving corrupt file %q from queue %q to queue \"corrupt\"", ids.Format(e.ID), e.From)
}

// Fields lists the event.
func (e *setAside) Fields(ids mail.IDForm, add func(string, any)) {
	add("queue_id", ids.Format(e.ID))
	add("queue", string(e.From))
}
