package queue

import (
	"context"
	"fmt"

	"posthouse/internal/mail"
	"posthouse/internal/postfix/maillog"
	"posthouse/internal/queue/row"
	"posthouse/internal/spool"
)

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

func (q *Queue) recordState(r *row.Row) { q.out.Add(spool.SetState{ID: r.ID, State: r.State()}) }

func (q *Queue) recordRecipients(r *row.Row, changed []int) {
	if len(changed) == 0 {
		return
	}
	changes := make([]spool.RecipientChange, len(changed))
	for k, i := range changed {
		changes[k] = spool.RecipientChange{Index: i, State: r.Rcpts[i].State()}
	}
	q.out.Add(spool.SetRecipients{ID: r.ID, Changes: changes})
}

// heed acts upon notes. With an error, those who wait are told and nothing
// else happens: memory stays ahead of the spool.
func (q *Queue) heed(notes []note, err error) {
	if err != nil {
		q.fail(err)
	}
	now := q.deps.Now()
	for i := range notes {
		switch n := &notes[i]; {
		case n.kind == noteWait:
			n.wait <- err
		case err != nil:
		case n.kind == noteAgain:
			q.recorded(n.g, now)
		case n.kind == noteGone:
			r := q.rows.At(n.row)
			if !r.Is(row.Silent) {
				q.journal.Add("qmgr", maillog.Info, &maillog.Queued{ID: r.ID, What: "removed", Text: "removed"})
			}
			q.forget(n.row, r, now)
		}
	}
}

// heeded does what the notes led to, with the lock held at both ends.
func (q *Queue) heeded() {
	if err := q.out.Stalled(); (err != nil) != q.stalled {
		q.stalled = err != nil
		if q.stalled {
			q.journal.Add("qmgr", maillog.Warning, maillog.Text(fmt.Sprintf("results of deliveries cannot be recorded, deliveries wait: %v", err)))
		} else {
			q.journal.Add("qmgr", maillog.Info, maillog.Text("results of deliveries can be recorded again, deliveries go on"))
		}
	}
	q.pump(q.deps.Now())
	q.unlock()
	q.mu.Lock()
}

// fail notes that the spool can record nothing more.
func (q *Queue) fail(err error) {
	if q.failed != nil {
		return
	}
	q.failed = fmt.Errorf("recording queue changes: %w", err)
	q.journal.Add("qmgr", maillog.Fatal, maillog.Text(q.failed.Error()))
	q.dismissWaiters(q.failed)
}

// mark returns a channel that answers when everything decided so far is
// durable. Without a Run it sees to that by itself.
func (q *Queue) mark(ctx context.Context) <-chan error {
	wait := make(chan error, 1)
	q.mu.Lock()
	q.out.When(note{kind: noteWait, wait: wait})
	online := q.out.Running()
	q.mu.Unlock()
	if !online {
		q.out.Flush(ctx)
	}
	return wait
}

// settled waits for a mark.
func settled(ctx context.Context, mark <-chan error) error {
	select {
	case err := <-mark:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
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
