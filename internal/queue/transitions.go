package queue

import (
	"fmt"
	"time"

	"posthouse/internal/mail"
	"posthouse/internal/postfix/maillog"
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
func (q *Queue) bringUp(ri uint32, r *row, now time.Time) {
	var changed []int
	if r.is(forceExpire) && !r.is(parked) {
		changed = q.expirePending(r, now)
	}
	q.scheduleGroups(r, now)
	q.settle(ri, r, changed, now)
}

// scheduleGroups schedules the groups that are not, unless the message is parked.
func (q *Queue) scheduleGroups(r *row, now time.Time) {
	if r.is(parked) || !q.open {
		return
	}
	for g := r.groups; g != 0; g = q.groups.at(g).next {
		if grp := q.groups.at(g); grp.state == idle {
			q.schedule(g, grp, r, fromNanos(r.rcpts[grp.first].nextAttempt), now)
		}
	}
}

// schedule hands a group to the scheduler, to start at a time or later. What
// was never tried lines up behind what is due already.
func (q *Queue) schedule(g uint32, grp *group, r *row, at, now time.Time) {
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
func (q *Queue) becomeDue(grp *group, r *row) {
	grp.state = due
	r.live++
	if grp.kind == forDelivery && !r.is(activated) {
		r.flags |= activated
		q.log("qmgr", maillog.Info, &maillog.Queued{
			ID: r.id, What: "active",
			Text: fmt.Sprintf("from=<%s>, size=%d, nrcpt=%d (queue active)", r.sender.Value(), r.size, len(r.rcpts)),
		})
	}
	q.replace(r)
}

// park takes the groups that wait out of the scheduler.
func (q *Queue) park(r *row, now time.Time) {
	for g := r.groups; g != 0; g = q.groups.at(g).next {
		q.unschedule(g, q.groups.at(g), r, now)
	}
}

func (q *Queue) unschedule(g uint32, grp *group, r *row, now time.Time) {
	switch grp.state {
	case due:
		r.live--
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
	grp := q.groups.at(g)
	ri := grp.row
	r := q.rows.at(ri)
	out, reason := verdict(d, results)
	q.sched.Finished(schedule.Item(g), out, reason, now)
	grp.run, grp.state = nil, idle
	r.live--

	canceled := d.Canceled()
	last := endsWell(r, results)
	next := now.Add(q.cfg.backoff(fromNanos(r.created), now, q.deps.Random())).UnixNano()
	changed := idx[:0]
	for k, i := range idx {
		if q.attempted(r, &r.rcpts[i], &results[k], canceled, last, now, next) {
			changed = append(changed, i)
		}
	}
	q.leaveGroup(ri, r, g, changed, now)
	q.answerWaiters(ri, r)
}

// attempted applies one result to one recipient, and tells whether anything
// changed. last: the message ends with this, nobody will read the status.
func (q *Queue) attempted(r *row, x *rcpt, res *Result, canceled, last bool, now time.Time, next int64) bool {
	if x.phase.Final() || canceled && !res.Status.OK() {
		return false
	}
	x.attempts++
	x.lastAttempt = now.UnixNano()
	if !last {
		x.setLast(res.Status)
	}
	switch {
	case res.Status.OK():
		x.phase, x.notified = mail.Sent, res.Action == ""
	case res.Status.Permanent() && !r.is(trashed):
		x.phase = mail.Bounced
	default:
		q.deferred(r, x, now, next)
	}
	return true
}

// deferred sets a recipient's next attempt, or ends it when it is too old.
// The age counts after an attempt only, so that an old message that comes
// back from hold or from a long stop has one more.
func (q *Queue) deferred(r *row, x *rcpt, now time.Time, next int64) {
	x.nextAttempt = next
	r.flags |= tried
	old := !now.Before(q.cfg.expires(fromNanos(r.created), r.sender.Value()))
	if (old || r.is(forceExpire)) && !r.is(parked) {
		x.phase = mail.Expired
		r.flags |= expiredNow
	}
}

// suspended defers a group whose destination is dead, without an attempt.
func (q *Queue) suspended(g uint32, now time.Time) {
	grp := q.groups.at(g)
	r := q.rows.at(grp.row)
	grp.state = idle
	r.live--
	_, reason := q.sched.Dead(grp.dest)
	status := mail.Status{Code: reason.Code, Text: "delivery temporarily suspended: " + reason.Text}
	status.Code[0] = 4
	next := now.Add(q.cfg.backoff(fromNanos(r.created), now, q.deps.Random())).UnixNano()
	changed := q.members(r, grp)
	for _, i := range changed {
		r.rcpts[i].setLast(status)
		q.logDelivery(r.id, &r.rcpts[i], r.arrival, grp.due, "deferred", status, now)
		q.deferred(r, &r.rcpts[i], now, next)
	}
	q.leaveGroup(grp.row, r, g, changed, now)
}

// leaveGroup follows an attempt: final recipients leave the group; if any
// stay, they wait until what changed is durable, and then for their time.
func (q *Queue) leaveGroup(ri uint32, r *row, g uint32, changed []int, now time.Time) {
	grp := q.groups.at(g)
	if r.is(forceExpire) && !r.is(parked) {
		changed = append(changed, q.expireGroup(r, grp, now)...)
	}
	q.relink(r, grp)
	again := false
	switch {
	case grp.count == 0:
		q.dropGroup(g, r, now)
	case len(changed) > 0:
		grp.state, grp.gen, again = recording, 0, true
	case !r.is(parked) && q.open:
		q.schedule(g, grp, r, fromNanos(r.rcpts[grp.first].nextAttempt), now)
	}
	q.settle(ri, r, changed, now)
	if again {
		q.whenDurable(note{kind: noteAgain, g: g})
	}
}

// relink drops the final recipients out of a group.
func (q *Queue) relink(r *row, grp *group) {
	at := &grp.first
	grp.count = 0
	for *at >= 0 {
		x := &r.rcpts[*at]
		if x.phase.Final() {
			*at = x.next
			x.group, x.next = 0, -1
			continue
		}
		grp.count++
		at = &x.next
	}
}

// recorded follows the durability of a group's last outcome: its next attempt
// may be scheduled now.
func (q *Queue) recorded(g uint32, now time.Time) {
	grp := q.groups.at(g)
	r := q.rows.at(grp.row)
	grp.state = idle
	switch {
	case grp.kind != forDelivery && (r.is(trashed) || !q.open):
		ri := grp.row
		q.dropGroup(g, r, now)
		q.settle(ri, r, nil, now)
	case grp.kind != forDelivery:
		q.schedule(g, grp, r, now, now)
	case grp.count == 0:
		q.dropGroup(g, r, now)
	case !r.is(parked) && q.open:
		q.schedule(g, grp, r, fromNanos(r.rcpts[grp.first].nextAttempt), now)
	}
	q.replace(r)
}

// settle records changed recipients and does what the new state of a message
// calls for: it ends, or its round does.
func (q *Queue) settle(ri uint32, r *row, changed []int, now time.Time) {
	switch {
	case r.is(removing):
		return
	case r.live == 0 && q.over(r):
		// The removal says all that the recipients' states would.
		q.end(ri, r)
		return
	}
	q.recordRecipients(r, changed)
	if r.live == 0 {
		q.endRound(ri, r, now)
	}
	q.replace(r)
}

// over tells whether nothing is left to be done about a message.
func (q *Queue) over(r *row) bool {
	if r.is(corrupt) || r.job != 0 && q.groups.at(r.job).kind != forPurge {
		return false
	}
	for i := range r.rcpts {
		if r.rcpts[i].phase == mail.Pending || r.rcpts[i].owed() && !r.is(trashed) {
			return false
		}
	}
	return true
}

// end removes a message.
func (q *Queue) end(ri uint32, r *row) {
	q.record(spool.Remove{ID: r.id})
	r.flags |= removing
	q.whenDurable(note{kind: noteGone, row: ri})
	q.replace(r)
}

// endRound is called when no delivery of a message is due or running.
func (q *Queue) endRound(ri uint32, r *row, now time.Time) {
	if r.is(expiredNow) {
		word := "expired"
		if r.is(forceExpire) {
			word = "force-expired"
		}
		q.log("qmgr", maillog.Info, &maillog.Queued{
			ID: r.id, What: word, Text: fmt.Sprintf("from=<%s>, status=%s, returned to sender", r.sender.Value(), word),
		})
	}
	if r.is(tried) && !r.is(warned|parked) && q.cfg.DelayWarning > 0 && r.pending() > 0 &&
		!now.Before(fromNanos(r.created).Add(q.cfg.DelayWarning)) {
		r.flags |= warnNow
	}
	r.flags &^= activated | tried | expiredNow
	if r.job != 0 || !q.open {
		return
	}
	switch {
	case r.is(corrupt):
		q.deflate(r)
	case r.is(trashed):
		q.newJob(ri, r, forPurge, now)
		q.deflate(r)
	case r.is(warnNow) || r.anyOwed():
		q.newJob(ri, r, forNotice, now)
	case r.is(requeued):
		q.newJob(ri, r, forResubmit, now)
	default:
		q.deflate(r)
	}
}

// newJob makes a message wait for one of the queue's own jobs. A notice or
// resubmission begins when all that it speaks of is durable.
func (q *Queue) newJob(ri uint32, r *row, k kind, now time.Time) {
	dest := noticeJobs
	switch k {
	case forResubmit:
		dest = resubmitJobs
	case forPurge:
		dest = purgeJobs
	}
	g, grp := q.groups.alloc()
	*grp = group{row: ri, first: -1, dest: q.sched.Acquire(dest), kind: k}
	r.job = g
	if k == forPurge {
		q.schedule(g, grp, r, fromNanos(r.extra.deletedAt).Add(q.cfg.TrashRetention), now)
		return
	}
	grp.state = recording
	q.whenDurable(note{kind: noteAgain, g: g})
}

// jobDone ends a job that ran; it is repeated after wait when that is not zero.
func (q *Queue) jobDone(g uint32, r *row, wait time.Duration, now time.Time) {
	grp := q.groups.at(g)
	q.sched.Finished(schedule.Item(g), schedule.Neutral, mail.Status{}, now)
	grp.state = idle
	r.live--
	if wait > 0 && q.open && !r.is(trashed) {
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
	ri := q.groups.at(g).row
	r := q.rows.at(ri)
	for _, i := range reported {
		r.rcpts[i].notified = true
	}
	if delay {
		r.flags = r.flags&^warnNow | warned
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
	ri := q.groups.at(g).row
	r := q.rows.at(ri)
	q.jobDone(g, r, again, now)
	q.answerResubmit(ri, id)
	if id == 0 {
		q.settle(ri, r, nil, now)
		return
	}
	r.flags |= silent
	q.end(ri, r)
}

// purged ends a message whose time in the trash is over.
func (q *Queue) purged(g uint32, now time.Time) {
	ri := q.groups.at(g).row
	r := q.rows.at(ri)
	left := fromNanos(r.extra.deletedAt).Add(q.cfg.TrashRetention).Sub(now)
	q.jobDone(g, r, 0, now)
	if left > 0 {
		q.settle(ri, r, nil, now) // the retention has become longer meanwhile
		return
	}
	r.flags |= silent
	q.end(ri, r)
}

// corrupted sets a message aside that the spool cannot give back.
func (q *Queue) corrupted(ri uint32, r *row, why string, now time.Time) {
	if r.is(corrupt | removing) {
		return
	}
	q.log("qmgr", maillog.Warning, &setAside{ID: r.id, From: r.place.name()})
	r.more().corrupt = why
	r.flags |= corrupt
	q.recordState(r)
	q.park(r, now)
	q.settle(ri, r, nil, now)
}

// hold parks a message.
func (q *Queue) hold(ri uint32, r *row, reason string, now time.Time) Interference {
	r.flags |= held
	r.more().holdReason = reason
	return q.changed(ri, r, nil, now)
}

// trash deletes a message, with a way back. Nobody is told, so a notice that
// waits is dropped; the retention begins.
func (q *Queue) trash(ri uint32, r *row, by string, now time.Time) Interference {
	r.flags |= trashed
	r.more().deletedAt, r.extra.deletedBy = now.UnixNano(), by
	q.answerResubmit(ri, 0)
	if r.job != 0 {
		q.unschedule(r.job, q.groups.at(r.job), r, now)
		if q.groups.at(r.job).state == idle {
			q.dropGroup(r.job, r, now)
		}
	}
	return q.changed(ri, r, nil, now)
}

// requeue makes a message wait for intake.
func (q *Queue) requeue(ri uint32, r *row, now time.Time) Interference {
	r.flags = r.flags&^held | requeued
	if r.extra != nil {
		r.extra.holdReason = ""
	}
	return q.changed(ri, r, nil, now)
}

// changed records the state of a message that was parked for one reason or
// another, and stops its deliveries.
func (q *Queue) changed(ri uint32, r *row, recipients []int, now time.Time) Interference {
	q.recordState(r)
	q.park(r, now)
	what := q.interfere(r)
	q.settle(ri, r, recipients, now)
	return what
}

// release lets a held message go on: when its next attempt is due, not before.
func (q *Queue) release(ri uint32, r *row, now time.Time) {
	r.flags &^= held
	if r.extra != nil {
		r.extra.holdReason = ""
	}
	q.recordState(r)
	if q.open {
		q.bringUp(ri, r, now)
		return
	}
	q.replace(r)
}

// expire returns a message to its sender: at once, or when it is released.
func (q *Queue) expire(ri uint32, r *row, now time.Time) Interference {
	r.flags |= forceExpire
	q.recordState(r)
	if r.is(held) || !q.open {
		return NotRunning
	}
	what := q.interfere(r)
	q.settle(ri, r, q.expirePending(r, now), now)
	return what
}

// expirePending expires all recipients that no agent has in hand.
func (q *Queue) expirePending(r *row, now time.Time) (changed []int) {
	for g := r.groups; g != 0; {
		grp := q.groups.at(g)
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
func (q *Queue) expireGroup(r *row, grp *group, now time.Time) (changed []int) {
	for i := grp.first; i >= 0; i = r.rcpts[i].next {
		x := &r.rcpts[i]
		if x.phase.Final() {
			continue
		}
		if s := x.status(); s == (mail.Status{}) {
			s = mail.NewStatus("4.7.0", "message is administratively expired")
			x.setLast(s)
			q.logDelivery(r.id, x, r.arrival, max(grp.due, r.arrival), "deferred", s, now)
		}
		x.phase = mail.Expired
		r.flags |= expiredNow
		changed = append(changed, int(i))
	}
	return changed
}

// retry makes all waiting deliveries of a message due now, and forgets that
// their destinations are dead.
func (q *Queue) retry(r *row, now time.Time) {
	for g := r.groups; g != 0; g = q.groups.at(g).next {
		grp := q.groups.at(g)
		q.sched.Revive(grp.dest)
		if grp.state != waiting && grp.state != recording {
			continue
		}
		for i := grp.first; i >= 0; i = r.rcpts[i].next {
			r.rcpts[i].nextAttempt = 0
		}
		q.retryGroup(g, grp, r, now)
	}
	if r.job != 0 && q.groups.at(r.job).kind != forPurge {
		q.retryGroup(r.job, q.groups.at(r.job), r, now)
	}
}

func (q *Queue) retryGroup(g uint32, grp *group, r *row, now time.Time) {
	if grp.state == waiting && q.sched.RetryNow(schedule.Item(g), now) {
		grp.due = now.UnixNano()
		q.becomeDue(grp, r)
	}
}

// moved takes recipients out of a running group because the router sends them
// elsewhere now, and schedules them there.
func (q *Queue) moved(g uint32, to map[mail.Destination][]int) {
	now := q.deps.Now()
	ri := q.groups.at(g).row
	r := q.rows.at(ri)
	leaving := make(map[int32]bool)
	for _, idx := range to {
		for _, i := range idx {
			leaving[int32(i)] = true
		}
	}
	at := &q.groups.at(g).first
	for *at >= 0 {
		if leaving[*at] {
			*at = r.rcpts[*at].next
			q.groups.at(g).count--
			continue
		}
		at = &r.rcpts[*at].next
	}
	for dest, idx := range to {
		var n uint32
		for _, i := range idx {
			if limit := q.cfg.transport(dest.Transport).Recipients; n == 0 || limit > 0 && int(q.groups.at(n).count) >= limit {
				n = q.newGroup(ri, r, dest, q.gen)
			}
			q.link(n, r, i)
		}
	}
	q.scheduleGroups(r, now)
}
