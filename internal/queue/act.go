package queue

import (
	"context"
	"fmt"
	"slices"

	"posthouse/internal/mail"
	"posthouse/internal/postfix/maillog"
	"posthouse/internal/queue/row"
)

const (
	// actedPerLock bounds how many messages an action changes in one go; they
	// share one batch of the spool.
	actedPerLock = 256
	// actedAhead is how many of these may be on their way to the spool, so
	// that an action on a million messages does not wait for each sync.
	actedAhead = 8
)

// waiter is an operator who waits for what happens to a message.
type waiter struct {
	resubmit bool          // for the new ID; otherwise for deliveries past the final dot
	done     chan struct{} // closed when it happened
	ended    bool          // nothing was left to act on
	gone     bool          // the message is no more
	newID    mail.QueueID
	err      error
}

// await is a waiter and the outcome that it completes.
type await struct {
	w  *waiter
	at int // index into Report.Outcomes
}

// Act applies a verb to the selected messages. What it reports is durable.
// The error is about the action as a whole (the spool failed, or ctx ended);
// the Report then holds what was done before it, of
// which the last few hundred may not be durable.
func (q *Queue) Act(ctx context.Context, verb Verb, sel Selection, who Actor) (Report, error) {
	a := &action{q: q, verb: verb, who: who, queues: allowed(verb, sel.Queues), wantNewID: !sel.All}
	ids := sel.IDs
	if sel.All {
		ids = q.ids(a.queues)
	}
	if verb == VerbRetry && sel.All {
		q.mu.Lock()
		q.sched.ReviveAll()
		q.unlock()
	}
	var marks []<-chan error
	for chunk := range slices.Chunk(ids, actedPerLock) {
		if err := ctx.Err(); err != nil {
			return a.report, err
		}
		if err := q.Err(); err != nil {
			return a.report, err
		}
		a.chunk(chunk)
		if marks = append(marks, q.mark(ctx)); len(marks) > actedAhead {
			if err := settled(ctx, marks[0]); err != nil {
				return a.report, err
			}
			marks = marks[1:]
		}
	}
	for _, m := range marks {
		if err := settled(ctx, m); err != nil {
			return a.report, err
		}
	}
	if sel.All {
		a.report.Missed = 0 // what went away since the list was made was not asked for by name
	}
	return a.report, a.wait(ctx)
}

// action is one call of Act.
type action struct {
	q         *Queue
	verb      Verb
	who       Actor
	queues    []mail.QueueName
	wantNewID bool
	report    Report
	awaited   []await
}

// allowed are the queues that a verb acts on, of those that were named.
func allowed(verb Verb, named []mail.QueueName) []mail.QueueName {
	var all []mail.QueueName
	switch verb {
	case VerbDelete:
		all = []mail.QueueName{mail.Maildrop, mail.Incoming, mail.Active, mail.Deferred, mail.Hold}
	case VerbRelease:
		all = []mail.QueueName{mail.Hold}
	case VerbRequeue, VerbExpire:
		all = []mail.QueueName{mail.Incoming, mail.Active, mail.Deferred, mail.Hold}
	default:
		all = []mail.QueueName{mail.Incoming, mail.Active, mail.Deferred}
	}
	if len(named) == 0 {
		return all
	}
	return slices.DeleteFunc(all, func(n mail.QueueName) bool { return !slices.Contains(named, n) })
}

func (a *action) chunk(ids []mail.QueueID) {
	q := a.q
	q.mu.Lock()
	for _, id := range ids {
		ri, ok := q.byID[id]
		if !ok || q.rows.At(ri).Is(row.Removing) || !slices.Contains(a.queues, q.rows.At(ri).Place.Name()) {
			a.report.Missed++
			continue
		}
		a.one(ri, q.rows.At(ri))
	}
	q.pump(q.deps.Now())
	q.unlock()
}

// one applies the verb to one message.
func (a *action) one(ri uint32, r *row.Row) {
	q, now := a.q, a.q.deps.Now()
	out := Outcome{ID: r.ID, From: r.Place.Name()}
	switch a.verb {
	case VerbDelete:
		out.Delivery = q.trash(ri, r, a.who.describe(), now)
	case VerbHold:
		out.Delivery = q.hold(ri, r, a.who.describe(), now)
	case VerbRelease:
		q.release(ri, r, now)
	case VerbRequeue:
		out.Delivery = q.requeue(ri, r, now)
	case VerbExpire:
		out.Delivery = q.expire(ri, r, now)
	case VerbRetry:
		q.retry(r, now)
	}
	if out.Delivery == DeliveryAwaited {
		a.await(ri, &waiter{done: make(chan struct{})})
	}
	if a.verb == VerbRequeue && a.wantNewID && q.open {
		a.await(ri, &waiter{done: make(chan struct{}), resubmit: true})
	}
	a.report.Outcomes = append(a.report.Outcomes, out)
}

// await notes that the outcome about to be appended is not complete yet.
func (a *action) await(ri uint32, w *waiter) {
	a.q.waiters[ri] = append(a.q.waiters[ri], w)
	a.awaited = append(a.awaited, await{w, len(a.report.Outcomes)})
}

// wait completes the outcomes.
func (a *action) wait(ctx context.Context) error {
	for _, x := range a.awaited {
		select {
		case <-x.w.done:
		case <-ctx.Done():
			return ctx.Err()
		}
		if x.w.err != nil {
			return x.w.err
		}
		out := &a.report.Outcomes[x.at]
		if x.w.resubmit {
			out.NewID = x.w.newID
		} else {
			out.Delivered = x.w.ended
		}
	}
	if len(a.awaited) == 0 {
		return nil
	}
	return settled(ctx, a.q.mark(ctx))
}

// describe is the actor in the words of State.HoldReason and DeletedBy.
func (a Actor) describe() string {
	switch {
	case a.User != "" && a.Via != "":
		return fmt.Sprintf("%s via %s", a.User, a.Via)
	case a.User != "":
		return a.User
	default:
		return a.Via
	}
}

// interfere stops the running deliveries of a message, and tells what came of
// it: with several, whether any has to be waited for.
func (q *Queue) interfere(r *row.Row) Interference {
	what := NotRunning
	for g := r.Groups; g != 0; g = q.groups.At(g).next {
		switch d := q.groups.At(g).run; {
		case d == nil:
		case !d.cancel():
			what = DeliveryAwaited
		case what == NotRunning:
			what = DeliveryCanceled
		}
	}
	// The Report tells the caller; the log tells whoever asks later. Postfix's
	// tools, whose output must stay theirs, have only the log.
	switch what {
	case DeliveryCanceled:
		q.journal.Add("qmgr", maillog.Info, &maillog.Queued{ID: r.ID, What: "canceled", Text: "delivery in progress canceled before the final dot"})
	case DeliveryAwaited:
		q.journal.Add("qmgr", maillog.Info, &maillog.Queued{ID: r.ID, What: "awaited", Text: "delivery in progress is past the final dot, waiting for its result"})
	}
	return what
}

// answerWaiters tells those who wait for the deliveries of a message that none
// is past the final dot any more.
func (q *Queue) answerWaiters(ri uint32, r *row.Row) {
	if len(q.waiters[ri]) == 0 {
		return
	}
	for g := r.Groups; g != 0; g = q.groups.At(g).next {
		if d := q.groups.At(g).run; d != nil && !d.Canceled() {
			return
		}
	}
	q.answer(ri, func(w *waiter) bool {
		w.ended = r.Pending() == 0
		return !w.resubmit
	})
	if r.Is(row.Removing) {
		// Nothing is left to resubmit.
		q.answer(ri, func(*waiter) bool { return true })
	}
}

func (q *Queue) answerResubmit(ri uint32, id mail.QueueID) {
	q.answer(ri, func(w *waiter) bool {
		w.newID = id
		return w.resubmit
	})
}

// answer ends the wait of those whom it concerns.
func (q *Queue) answer(ri uint32, concerns func(*waiter) bool) {
	left := slices.DeleteFunc(q.waiters[ri], func(w *waiter) bool {
		if !concerns(w) {
			return false
		}
		close(w.done)
		return true
	})
	if len(left) == 0 {
		delete(q.waiters, ri)
		return
	}
	q.waiters[ri] = left
}

// dismissWaiters ends all waits: nothing more is going to happen.
func (q *Queue) dismissWaiters(err error) {
	for ri := range q.waiters {
		q.answer(ri, func(w *waiter) bool {
			w.err = err
			return true
		})
	}
}
