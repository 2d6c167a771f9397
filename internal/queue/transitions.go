package queue

import (
	"fmt"
	"time"

	"posthouse/internal/mail"
	"posthouse/internal/postfix/maillog"
	"posthouse/internal/queue/row"
	"posthouse/internal/queue/schedule"
	"posthouse/internal/spool"
)

// Every change of a message's state happens in this file, with the lock held.
// The legal transitions:
//
//	a recipient   Pending → Sent       a result of class 2, also of a canceled delivery
//	              Pending → Bounced    a result of class 5; not in the trash
//	              Pending → Expired    deferred when too old, or forced; not held, not in the trash
//	              Pending → Pending    deferred: a next attempt is set
//	              final   → final      only Notified may still be set
//
//	a message     Hold         set by hold, cleared by release and requeue
//	              DeletedAt    set by trash; ends in removal when the retention is over
//	              Requeue      set by requeue; ends in removal under a new ID
//	              ForceExpire  set by expire; never cleared
//	              Warned       set when the delay notice has been committed
//	              Corrupt      set when the spool cannot give the message back; never cleared
//	              removal      when all recipients are final and no notice is owed,
//	                           or by purge, or after resubmission
//
// Deliveries exist (are scheduled, or run) only while none of Hold, DeletedAt,
// Requeue, Corrupt is set; one that is past the final dot when such a flag is
// set runs to its end, and its result counts.

// bringUp begins the work on a message: at the start, and when it comes in.
func (q *Queue) bringUp(ri uint32, r *row.Row, now time.Time) {
	var changed []int
	if r.Is(row.ForceExpire) && !r.Is(row.Parked) {
		changed = q.expirePending(r, now)
	}
	q.scheduleGroups(r, now)
	q.settle(ri, r, changed, now)
}

// scheduleGroups schedules the groups that are not, unless the message is parked.
func (q *Queue) scheduleGroups(r *row.Row, now time.Time) {
	if r.Is(row.Parked) || !q.open {
		return
	}
	for g := r.Groups; g != 0; g = q.groups.At(g).next {
		if grp := q.groups.At(g); grp.state == idle {
			// No wait is longer: one that is was planned by a clock that was ahead.
			at := min(r.Rcpts[grp.first].NextAttempt, now.Add(q.cfg.Longest()).UnixNano())
			q.schedule(g, grp, r, row.Time(at), now)
		}
	}
}

// schedule hands a group to the scheduler, to start at a time or later. What
// was never tried lines up behind what is due already.
func (q *Queue) schedule(g uint32, grp *group, r *row.Row, at, now time.Time) {
	if at.IsZero() {
		at = now
	}
	grp.state = waiting
	grp.due = max(at.UnixNano(), now.UnixNano())
	if q.sched.Add(schedule.Item(g), grp.dest, at, now) {
		q.becomeDue(grp, r)
	}
}

// becomeDue notes that a group waits for a slot only. With the first delivery
// a round of the message begins.
func (q *Queue) becomeDue(grp *group, r *row.Row) {
	grp.state = due
	r.Live++
	if grp.kind == forDelivery {
		q.activated(r)
	}
	q.replace(r)
}

// activated logs, once in a round, that the queue has taken up a message.
func (q *Queue) activated(r *row.Row) {
	if r.Is(row.Activated) {
		return
	}
	r.Flags |= row.Activated
	q.journal.Add("qmgr", maillog.Info, &maillog.Queued{
		ID: r.ID, What: "active",
		Text: fmt.Sprintf("from=<%s>, size=%d, nrcpt=%d (queue active)", r.Sender.Value(), r.Size, len(r.Rcpts)),
	})
}

// park takes the groups that wait out of the scheduler.
func (q *Queue) park(r *row.Row, now time.Time) {
	for g := r.Groups; g != 0; g = q.groups.At(g).next {
		q.unschedule(g, q.groups.At(g), r, now)
	}
}

func (q *Queue) unschedule(g uint32, grp *group, r *row.Row, now time.Time) {
	switch grp.state {
	case due:
		r.Live--
	case waiting:
	default:
		return
	}
	q.sched.Remove(schedule.Item(g), now)
	grp.state = idle
}

// concluded applies what a delivery came to. idx and results go together.
func (q *Queue) concluded(g uint32, d *Delivery, idx []int, results []Result) {
	now := q.deps.Now()
	grp := q.groups.At(g)
	ri := grp.row
	r := q.rows.At(ri)
	out, reason := verdict(d, results)
	q.sched.Finished(schedule.Item(g), out, reason, now)
	grp.run, grp.state = nil, idle
	r.Live--

	canceled := d.Canceled()
	last := endsWell(r, results)
	next := now.Add(q.cfg.Backoff(row.Time(r.Created), now, q.deps.Random())).UnixNano()
	changed := idx[:0]
	for k, i := range idx {
		if q.attempted(r, &r.Rcpts[i], &results[k], canceled, last, now, next) {
			changed = append(changed, i)
		}
	}
	q.leaveGroup(ri, r, g, changed, now)
	q.answerWaiters(ri, r)
}

// attempted applies one result to one recipient, and tells whether anything
// changed. last: the message ends with this, nobody will read the status.
func (q *Queue) attempted(r *row.Row, x *row.Rcpt, res *Result, canceled, last bool, now time.Time, next int64) bool {
	if x.Phase.Final() || canceled && !res.Status.OK() {
		return false
	}
	x.Attempts++
	x.LastAttempt = now.UnixNano()
	if !last {
		x.SetLast(res.Status)
	}
	switch {
	case res.Status.OK():
		x.Phase, x.Notified = mail.Sent, res.Action == ""
	case res.Status.Permanent() && !r.Is(row.Trashed):
		x.Phase = mail.Bounced
	default:
		q.deferred(r, x, now, next)
	}
	return true
}

// deferred sets a recipient's next attempt, or ends it when it is too old.
// The age counts after an attempt only, so that an old message that comes
// back from hold or from a long stop has one more.
func (q *Queue) deferred(r *row.Row, x *row.Rcpt, now time.Time, next int64) {
	x.NextAttempt = next
	r.Flags |= row.Tried
	old := !now.Before(q.cfg.Expires(row.Time(r.Created), r.Sender.Value()))
	if (old || r.Is(row.ForceExpire)) && !r.Is(row.Parked) {
		x.Phase = mail.Expired
		r.Flags |= row.ExpiredNow
	}
}

// suspended defers a group whose destination is dead, without an attempt.
func (q *Queue) suspended(g uint32, now time.Time) {
	grp := q.groups.At(g)
	r := q.rows.At(grp.row)
	grp.state = idle
	r.Live--
	_, reason := q.sched.Dead(grp.dest)
	status := mail.Status{Code: reason.Code, Text: "delivery temporarily suspended: " + reason.Text}
	status.Code[0] = 4
	next := now.Add(q.cfg.Backoff(row.Time(r.Created), now, q.deps.Random())).UnixNano()
	changed := q.members(r, grp)
	for _, i := range changed {
		r.Rcpts[i].SetLast(status)
		q.logDelivery(r.ID, &r.Rcpts[i], r.Arrival, grp.due, "deferred", status, now)
		q.deferred(r, &r.Rcpts[i], now, next)
	}
	q.leaveGroup(grp.row, r, g, changed, now)
}

// leaveGroup follows an attempt: final recipients leave the group; if any
// stay, they wait until what changed is durable, and then for their time.
func (q *Queue) leaveGroup(ri uint32, r *row.Row, g uint32, changed []int, now time.Time) {
	grp := q.groups.At(g)
	if r.Is(row.ForceExpire) && !r.Is(row.Parked) {
		changed = append(changed, q.expireGroup(r, grp, now)...)
	}
	q.relink(r, grp)
	again := false
	switch {
	case grp.count == 0:
		q.dropGroup(g, r, now)
	case len(changed) > 0:
		grp.state, grp.gen, again = recording, 0, true
	case !r.Is(row.Parked) && q.open:
		q.schedule(g, grp, r, row.Time(r.Rcpts[grp.first].NextAttempt), now)
	}
	q.settle(ri, r, changed, now)
	if again {
		q.out.When(note{kind: noteAgain, g: g})
	}
}

// relink drops the final recipients out of a group.
func (q *Queue) relink(r *row.Row, grp *group) {
	at := &grp.first
	grp.count = 0
	for *at >= 0 {
		x := &r.Rcpts[*at]
		if x.Phase.Final() {
			*at = x.Next
			x.Group, x.Next = 0, -1
			continue
		}
		grp.count++
		at = &x.Next
	}
}

// recorded follows the durability of a group's last outcome: its next attempt
// may be scheduled now.
func (q *Queue) recorded(g uint32, now time.Time) {
	grp := q.groups.At(g)
	r := q.rows.At(grp.row)
	grp.state = idle
	switch {
	case grp.kind != forDelivery && (r.Is(row.Trashed) || !q.open):
		ri := grp.row
		q.dropGroup(g, r, now)
		q.settle(ri, r, nil, now)
	case grp.kind != forDelivery:
		q.schedule(g, grp, r, now, now)
	case grp.count == 0:
		q.dropGroup(g, r, now)
	case !r.Is(row.Parked) && q.open:
		q.schedule(g, grp, r, row.Time(r.Rcpts[grp.first].NextAttempt), now)
	}
	q.replace(r)
}

// settle records changed recipients and does what the new state of a message
// calls for: it ends, or its round does.
func (q *Queue) settle(ri uint32, r *row.Row, changed []int, now time.Time) {
	switch {
	case r.Is(row.Removing):
		return
	case r.Live == 0 && q.over(r):
		// The removal says all that the recipients' states would.
		q.end(ri, r)
		return
	}
	q.recordRecipients(r, changed)
	if r.Live == 0 {
		q.endRound(ri, r, now)
	}
	q.replace(r)
}

// over tells whether nothing is left to be done about a message.
func (q *Queue) over(r *row.Row) bool {
	if r.Is(row.Corrupt) || r.Job != 0 && q.groups.At(r.Job).kind != forPurge {
		return false
	}
	for i := range r.Rcpts {
		if r.Rcpts[i].Phase == mail.Pending || r.Rcpts[i].Owed() && !r.Is(row.Trashed) {
			return false
		}
	}
	return true
}

// end removes a message.
func (q *Queue) end(ri uint32, r *row.Row) {
	q.out.Add(spool.Remove{ID: r.ID})
	r.Flags |= row.Removing
	q.out.When(note{kind: noteGone, row: ri})
	q.replace(r)
}

// endRound is called when no delivery of a message is due or running.
func (q *Queue) endRound(ri uint32, r *row.Row, now time.Time) {
	if r.Is(row.ExpiredNow) {
		word := "expired"
		if r.Is(row.ForceExpire) {
			word = "force-expired"
		}
		// Postfix has to take a message up before it can end it; log readers
		// count on the pair of lines.
		q.activated(r)
		q.journal.Add("qmgr", maillog.Info, &maillog.Queued{
			ID: r.ID, What: word, Text: fmt.Sprintf("from=<%s>, status=%s, returned to sender", r.Sender.Value(), word),
		})
	}
	if r.Is(row.Tried) && !r.Is(row.Warned|row.Parked) && q.cfg.DelayWarning > 0 && r.Pending() > 0 &&
		!now.Before(row.Time(r.Created).Add(q.cfg.DelayWarning)) {
		r.Flags |= row.WarnNow
	}
	r.Flags &^= row.Activated | row.Tried | row.ExpiredNow
	if r.Job != 0 || !q.open {
		return
	}
	switch {
	case r.Is(row.Corrupt):
		q.deflate(r)
	case r.Is(row.Trashed):
		q.newJob(ri, r, forPurge, now)
		q.deflate(r)
	case r.Is(row.WarnNow) || r.AnyOwed():
		q.newJob(ri, r, forNotice, now)
	case r.Is(row.Requeued):
		q.newJob(ri, r, forResubmit, now)
	default:
		q.deflate(r)
	}
}

// newJob makes a message wait for one of the queue's own jobs. A notice or
// resubmission begins when all that it speaks of is durable.
func (q *Queue) newJob(ri uint32, r *row.Row, k kind, now time.Time) {
	dest := noticeJobs
	switch k {
	case forResubmit:
		dest = resubmitJobs
	case forPurge:
		dest = purgeJobs
	}
	g, grp := q.groups.Alloc()
	*grp = group{row: ri, first: -1, dest: q.sched.Acquire(dest), kind: k}
	r.Job = g
	if k == forPurge {
		q.schedule(g, grp, r, row.Time(r.Extra.DeletedAt).Add(q.cfg.TrashRetention), now)
		return
	}
	grp.state = recording
	q.out.When(note{kind: noteAgain, g: g})
}

// jobDone ends a job that ran; it is repeated after wait when that is not zero.
func (q *Queue) jobDone(g uint32, r *row.Row, wait time.Duration, now time.Time) {
	grp := q.groups.At(g)
	q.sched.Finished(schedule.Item(g), schedule.Neutral, mail.Status{}, now)
	grp.state = idle
	r.Live--
	if wait > 0 && q.open && !r.Is(row.Trashed) {
		q.schedule(g, grp, r, now.Add(wait), now)
		return
	}
	q.dropGroup(g, r, now)
}

// noticed applies what a notice job came to: the recipients reported on, and
// whether the delay notice was made. again is the wait before what failed is
// tried again, 0 when nothing failed.
func (q *Queue) noticed(g uint32, reported []int, delay bool, again time.Duration) {
	now := q.deps.Now()
	ri := q.groups.At(g).row
	r := q.rows.At(ri)
	for _, i := range reported {
		r.Rcpts[i].Notified = true
	}
	if delay {
		r.Flags = r.Flags&^row.WarnNow | row.Warned
		q.recordState(r)
	}
	q.jobDone(g, r, again, now)
	if again > 0 {
		q.answerResubmit(ri, 0) // it comes after the notice, which may take long
	}
	q.settle(ri, r, reported, now)
}

// resubmitted applies what a resubmission came to; id is 0 when it failed.
func (q *Queue) resubmitted(g uint32, id mail.QueueID, again time.Duration) {
	now := q.deps.Now()
	ri := q.groups.At(g).row
	r := q.rows.At(ri)
	q.jobDone(g, r, again, now)
	q.answerResubmit(ri, id)
	if id == 0 {
		q.settle(ri, r, nil, now)
		return
	}
	r.Flags |= row.Silent
	q.end(ri, r)
}

// purged ends a message whose time in the trash is over.
func (q *Queue) purged(g uint32, now time.Time) {
	ri := q.groups.At(g).row
	r := q.rows.At(ri)
	left := row.Time(r.Extra.DeletedAt).Add(q.cfg.TrashRetention).Sub(now)
	q.jobDone(g, r, 0, now)
	if left > 0 {
		q.settle(ri, r, nil, now) // the retention has become longer meanwhile
		return
	}
	r.Flags |= row.Silent
	q.end(ri, r)
}

// corrupted sets a message aside that the spool cannot give back.
func (q *Queue) corrupted(ri uint32, r *row.Row, why string, now time.Time) {
	if r.Is(row.Corrupt | row.Removing) {
		return
	}
	q.journal.Add("qmgr", maillog.Warning, &setAside{ID: r.ID, From: r.Place.Name()})
	r.More().Corrupt = why
	r.Flags |= row.Corrupt
	q.recordState(r)
	q.park(r, now)
	q.settle(ri, r, nil, now)
}

// hold parks a message.
func (q *Queue) hold(ri uint32, r *row.Row, reason string, now time.Time) Interference {
	r.Flags |= row.Held
	r.More().HoldReason = reason
	return q.changed(ri, r, nil, now)
}

// trash deletes a message, with a way back. Nobody is told, so a notice that
// waits is dropped; the retention begins.
func (q *Queue) trash(ri uint32, r *row.Row, by string, now time.Time) Interference {
	r.Flags |= row.Trashed
	r.More().DeletedAt, r.Extra.DeletedBy = now.UnixNano(), by
	q.answerResubmit(ri, 0)
	if r.Job != 0 {
		q.unschedule(r.Job, q.groups.At(r.Job), r, now)
		if q.groups.At(r.Job).state == idle {
			q.dropGroup(r.Job, r, now)
		}
	}
	return q.changed(ri, r, nil, now)
}

// requeue makes a message wait for intake.
func (q *Queue) requeue(ri uint32, r *row.Row, now time.Time) Interference {
	r.Flags = r.Flags&^row.Held | row.Requeued
	if r.Extra != nil {
		r.Extra.HoldReason = ""
	}
	return q.changed(ri, r, nil, now)
}

// changed records the state of a message that was parked for one reason or
// another, and stops its deliveries.
func (q *Queue) changed(ri uint32, r *row.Row, recipients []int, now time.Time) Interference {
	q.recordState(r)
	q.park(r, now)
	what := q.interfere(r)
	q.settle(ri, r, recipients, now)
	return what
}

// release lets a held message go on: when its next attempt is due, not before.
func (q *Queue) release(ri uint32, r *row.Row, now time.Time) {
	r.Flags &^= row.Held
	if r.Extra != nil {
		r.Extra.HoldReason = ""
	}
	q.recordState(r)
	if q.open {
		q.bringUp(ri, r, now)
		return
	}
	q.replace(r)
}

// expire returns a message to its sender: at once, or when it is released.
func (q *Queue) expire(ri uint32, r *row.Row, now time.Time) Interference {
	r.Flags |= row.ForceExpire
	q.recordState(r)
	if r.Is(row.Held) || !q.open {
		return NotRunning
	}
	what := q.interfere(r)
	q.settle(ri, r, q.expirePending(r, now), now)
	return what
}

// expirePending expires all recipients that no agent has in hand.
func (q *Queue) expirePending(r *row.Row, now time.Time) (changed []int) {
	for g := r.Groups; g != 0; {
		grp := q.groups.At(g)
		next := grp.next
		q.unschedule(g, grp, r, now)
		if grp.state == idle || grp.state == recording {
			changed = append(changed, q.expireGroup(r, grp, now)...)
			q.relink(r, grp)
		}
		if grp.state == idle {
			q.dropGroup(g, r, now)
		}
		g = next
	}
	return changed
}

// expireGroup expires the pending recipients of a group by force. One that was
// never tried gets the reason that Postfix's retry transport gives.
func (q *Queue) expireGroup(r *row.Row, grp *group, now time.Time) (changed []int) {
	for i := grp.first; i >= 0; i = r.Rcpts[i].Next {
		x := &r.Rcpts[i]
		if x.Phase.Final() {
			continue
		}
		if s := x.Last(); s == (mail.Status{}) {
			s = mail.NewStatus("4.7.0", "message is administratively expired")
			x.SetLast(s)
			q.logDelivery(r.ID, x, r.Arrival, max(grp.due, r.Arrival), "deferred", s, now)
		}
		x.Phase = mail.Expired
		r.Flags |= row.ExpiredNow
		changed = append(changed, int(i))
	}
	return changed
}

// retry makes all waiting deliveries of a message due now, and forgets that
// their destinations are dead.
func (q *Queue) retry(r *row.Row, now time.Time) {
	for g := r.Groups; g != 0; g = q.groups.At(g).next {
		grp := q.groups.At(g)
		q.sched.Revive(grp.dest)
		if grp.state == due || grp.state == running {
			continue
		}
		for i := grp.first; i >= 0; i = r.Rcpts[i].Next {
			r.Rcpts[i].NextAttempt = 0
		}
		q.retryGroup(g, grp, r, now)
	}
	if r.Job != 0 && q.groups.At(r.Job).kind != forPurge {
		q.retryGroup(r.Job, q.groups.At(r.Job), r, now)
	}
}

func (q *Queue) retryGroup(g uint32, grp *group, r *row.Row, now time.Time) {
	if grp.state == waiting && q.sched.RetryNow(schedule.Item(g), now) {
		grp.due = now.UnixNano()
		q.becomeDue(grp, r)
	}
}

// moved takes recipients out of a running group because the router, of
// generation gen, sends them elsewhere now, and schedules them there.
func (q *Queue) moved(g uint32, to map[mail.Destination][]int, gen uint32) {
	now := q.deps.Now()
	ri := q.groups.At(g).row
	r := q.rows.At(ri)
	leaving := make(map[int32]bool)
	for _, idx := range to {
		for _, i := range idx {
			leaving[int32(i)] = true
		}
	}
	at := &q.groups.At(g).first
	for *at >= 0 {
		if leaving[*at] {
			*at = r.Rcpts[*at].Next
			q.groups.At(g).count--
			continue
		}
		at = &r.Rcpts[*at].Next
	}
	for dest, idx := range to {
		var n uint32
		for _, i := range idx {
			if n == 0 || q.full(n, dest) {
				n = q.newGroup(ri, r, dest, gen)
			}
			q.link(n, r, i)
		}
	}
	q.scheduleGroups(r, now)
}
