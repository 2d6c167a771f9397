package queue

import (
	"fmt"
	"time"

	"posthouse/internal/mail"
	"posthouse/internal/postfix/maillog"
	"posthouse/internal/queue/row"
)

// resubmitAgain is the wait before a failed resubmission is tried again: as
// often as Postfix's pickup looks into the maildrop.
const resubmitAgain = time.Minute

// owed is what a notice job has to report: recipients by kind of notice.
type owed struct {
	message *mail.Message
	failed  []int
	sent    []int
	late    []int
}

// owes collects what is owed for a message now.
func (q *Queue) owes(g uint32, env *mail.Envelope) owed {
	q.mu.Lock()
	defer q.mu.Unlock()
	r := q.rows.At(q.groups.At(g).row)
	o := owed{message: r.Message(env)}
	for i := range r.Rcpts {
		switch x := &r.Rcpts[i]; {
		case x.Phase == mail.Pending && r.Is(row.WarnNow) && x.Last() != (mail.Status{}):
			o.late = append(o.late, i)
		case x.Owed() && x.Phase == mail.Sent:
			o.sent = append(o.sent, i)
		case x.Owed():
			o.failed = append(o.failed, i)
		}
	}
	return o
}

// notify has the notices of a round made, and hands in what came of it.
func (q *Queue) notify(s *start, env *mail.Envelope, err error) {
	var reported []int
	delay := false
	if err == nil {
		o := q.owes(s.g, env)
		tell := func(kind Notice, rcpts []int) bool {
			if len(rcpts) == 0 {
				return false
			}
			bad := q.deps.Bouncer.Notify(s.ctx, kind, o.message, rcpts)
			if bad != nil {
				err = bad
			}
			return bad == nil
		}
		if tell(NoticeFailure, o.failed) {
			reported = append(reported, o.failed...)
		}
		if tell(NoticeSuccess, o.sent) {
			reported = append(reported, o.sent...)
		}
		// One who was late and is not any more needs no notice.
		delay = len(o.late) == 0 || tell(NoticeDelay, o.late)
	}
	q.mu.Lock()
	again := time.Duration(0)
	if err != nil {
		again = q.cfg.MinBackoff
		if s.ctx.Err() == nil {
			q.journal.Add("qmgr", maillog.Warning, &maillog.Queued{
				ID: s.id, What: "notice-failed", Text: fmt.Sprintf("sender notification not made, will try again: %v", err),
			})
		}
	}
	r := q.rows.At(q.groups.At(s.g).row)
	q.noticed(s.g, reported, delay && r.Is(row.WarnNow), again)
	q.pump(q.deps.Now())
	q.unlock()
}

// resubmit takes a requeued message through intake.
func (q *Queue) resubmit(s *start, env *mail.Envelope, err error) {
	var id mail.QueueID
	if err == nil {
		id, err = q.resubmitNow(s, env)
	}
	again := time.Duration(0)
	q.mu.Lock()
	if err != nil {
		again, id = resubmitAgain, 0
		if s.ctx.Err() == nil {
			q.journal.Add("qmgr", maillog.Warning, &maillog.Queued{
				ID: s.id, What: "requeue-failed", Text: fmt.Sprintf("not requeued, will try again: %v", err),
			})
		}
	}
	q.resubmitted(s.g, id, again)
	q.pump(q.deps.Now())
	q.unlock()
}

func (q *Queue) resubmitNow(s *start, env *mail.Envelope) (mail.QueueID, error) {
	content, err := q.deps.Store.Content(s.id)
	if err != nil {
		return 0, fmt.Errorf("reading the content: %w", err)
	}
	defer func() { _ = content.Close() }() // read only: nothing is lost by it
	q.mu.Lock()
	m := q.rows.At(q.groups.At(s.g).row).Message(env)
	q.mu.Unlock()
	return q.deps.Resubmitter.Resubmit(s.ctx, m, content)
}

// endOriginal removes a requeued message whose successor was found in the
// spool: a crash came between the commit of the one and the removal of the
// other. Both in the queue would be two deliveries. A resubmission begins only
// when nothing else is owed for the original.
func (q *Queue) endOriginal(id mail.QueueID) {
	ri, ok := q.byID[id]
	if !ok {
		return
	}
	if r := q.rows.At(ri); r.Is(row.Requeued) && !r.Is(row.Removing|row.Trashed|row.Corrupt) && !r.AnyOwed() {
		r.Flags |= row.Silent
		q.end(ri, r)
	}
}

// rescheduleTrash applies a changed retention to what is in the trash.
func (q *Queue) rescheduleTrash() {
	now := q.deps.Now()
	for i := uint32(1); i <= q.rows.Len(); i++ {
		r := q.rows.At(i)
		if r.Job == 0 || !r.Is(row.Trashed) || r.Is(row.Removing) {
			continue
		}
		if grp := q.groups.At(r.Job); grp.kind == forPurge {
			q.unschedule(r.Job, grp, r, now)
			q.schedule(r.Job, grp, r, row.Time(r.Extra.DeletedAt).Add(q.cfg.TrashRetention), now)
		}
	}
}
