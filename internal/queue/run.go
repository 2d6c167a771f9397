package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"posthouse/internal/mail"
	"posthouse/internal/postfix/maillog"
	"posthouse/internal/queue/row"
	"posthouse/internal/queue/schedule"
	"posthouse/internal/spool"
)

// decisionsPerLock bounds how much is decided in one go, so that a million
// messages that become due together do not stop everything else.
const decisionsPerLock = 256

// start is a delivery or job that was decided and is about to begin.
type start struct {
	g       uint32
	kind    kind
	id      mail.QueueID
	d       *Delivery // nil for a job
	env     *mail.Envelope
	router  Router
	gen     uint32 // of router
	reroute bool
	ctx     context.Context
}

// Run schedules and delivers until ctx ends; then it starts nothing more,
// cancels the deliveries that have not reached the final dot, waits for the
// others (for Config.Grace), records all results and returns. The error is
// that of Err.
func (q *Queue) Run(ctx context.Context) error {
	base, abort := context.WithCancel(context.WithoutCancel(ctx))
	defer abort()
	jobs, endJobs := context.WithCancel(base)
	defer endJobs()

	q.mu.Lock()
	q.base, q.jobs, q.open = base, jobs, true
	q.out.Open()
	q.mu.Unlock()
	recorded := make(chan struct{})
	go func() {
		defer close(recorded)
		q.out.Run()
	}()

	q.bringAllUp(ctx)
	q.clock(ctx)

	q.closeDown()
	endJobs()
	q.await(abort)
	q.mu.Lock()
	q.out.Drain()
	q.mu.Unlock()
	<-recorded
	q.mu.Lock()
	q.dismissWaiters(nil)
	q.mu.Unlock()
	return q.Err()
}

// bringAllUp begins the work on what was recovered, in order of ID.
func (q *Queue) bringAllUp(ctx context.Context) {
	for ids := range slices.Chunk(q.ids(nil), decisionsPerLock) {
		if ctx.Err() != nil {
			return
		}
		q.mu.Lock()
		now := q.deps.Now()
		for _, id := range ids {
			// A message that came in since Run began is under way already.
			if ri, ok := q.byID[id]; ok && q.rows.At(ri).Live == 0 {
				q.bringUp(ri, q.rows.At(ri), now)
			}
		}
		q.pump(now)
		q.unlock()
	}
}

// clockStep is by how much the clock must have been set back to count, and how
// long it may take to be noticed.
const clockStep = time.Minute

// clock wakes the scheduler when something becomes due.
func (q *Queue) clock(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	began, last := time.Now(), q.deps.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-q.kick:
		}
		q.mu.Lock()
		now, passed := q.deps.Now(), time.Since(began)
		if step := now.Round(0).Sub(last.Round(0)) - passed; step < -clockStep {
			q.setBack(step)
		}
		began, last = began.Add(passed), now
		q.armed = 0
		q.pump(now)
		if wake := q.sched.Wake(); !wake.IsZero() && !q.halted() {
			q.armed = wake.UnixNano()
			timer.Reset(min(max(wake.Sub(now), 0), clockStep))
		} else {
			timer.Stop()
		}
		q.unlock()
	}
}

// setBack moves all that is planned along with a clock that was set back:
// otherwise it would wait for as long as the clock was wrong.
func (q *Queue) setBack(step time.Duration) {
	q.sched.Shift(step)
	for g := uint32(1); g <= q.groups.Len(); g++ {
		grp := q.groups.At(g)
		if grp.row == 0 || grp.kind != forDelivery {
			continue
		}
		grp.due += int64(step)
		r := q.rows.At(grp.row)
		for i := grp.first; i >= 0; i = r.Rcpts[i].Next {
			if r.Rcpts[i].NextAttempt != 0 {
				r.Rcpts[i].NextAttempt += int64(step)
			}
		}
	}
	q.journal.Add("qmgr", maillog.Warning, maillog.Text(fmt.Sprintf("the clock was set back by %v: planned attempts move along", -step)))
}

// halted tells that nothing may begin, since what it came to could not be
// recorded: a message would be delivered, and after a crash once more.
func (q *Queue) halted() bool { return q.failed != nil || q.out.Stalled() != nil }

// pump carries out what the scheduler decides.
func (q *Queue) pump(now time.Time) {
	if !q.open || q.halted() {
		return
	}
	for range decisionsPerLock {
		it, what := q.sched.Next(now)
		g := uint32(it)
		switch what {
		case schedule.Nothing:
			return
		case schedule.Due:
			q.becomeDue(q.groups.At(g), q.rows.At(q.groups.At(g).row))
		case schedule.Refuse:
			q.suspended(g, now)
		case schedule.Start:
			q.begin(g, now)
		}
	}
	q.wakeClock()
}

// begin prepares a delivery or job for its goroutine.
func (q *Queue) begin(g uint32, now time.Time) {
	grp := q.groups.At(g)
	r := q.rows.At(grp.row)
	grp.state = running
	if grp.kind == forPurge {
		q.purged(g, now)
		return
	}
	s := &start{g: g, kind: grp.kind, id: r.ID, env: r.Env, ctx: q.jobs}
	if grp.kind == forDelivery {
		d := &Delivery{
			Destination: q.sched.Destination(grp.dest), Recipients: q.members(r, grp), Attempt: 1,
			Due: row.Time(grp.due), Started: now, Backlog: q.sched.Waiting(grp.dest),
		}
		for _, i := range d.Recipients {
			d.Attempt = max(d.Attempt, r.Rcpts[i].Attempts+1)
		}
		id := r.ID
		d.Open = func() (spool.Content, error) { return q.deps.Store.Content(id) }
		s.ctx, d.abort = context.WithCancel(q.base)
		grp.run, s.d = d, d
		s.router, s.gen, s.reroute = q.router, q.gen, grp.gen != q.gen
	}
	q.workers.Add(1)
	q.starts = append(q.starts, s)
}

// work is the life of a delivery's or job's goroutine.
func (q *Queue) work(s *start) {
	defer q.workers.Done()
	env, err := s.env, error(nil)
	if env == nil {
		env, err = q.envelope(s.id)
	}
	switch s.kind {
	case forNotice:
		q.notify(s, env, err)
	case forResubmit:
		q.resubmit(s, env, err)
	default:
		q.deliver(s, env, err)
	}
}

// envelope reads a message's envelope back, and keeps it for the deliveries of
// the same round.
func (q *Queue) envelope(id mail.QueueID) (*mail.Envelope, error) {
	m, err := q.deps.Store.Message(id)
	if err == nil && m.State.Corrupt != "" {
		err = spool.ErrCorrupt
	}
	q.mu.Lock()
	defer q.unlock()
	ri, ok := q.byID[id]
	if !ok {
		return nil, spool.ErrNotFound
	}
	r := q.rows.At(ri)
	switch {
	case errors.Is(err, spool.ErrCorrupt):
		q.corrupted(ri, r, err.Error(), q.deps.Now())
	case err == nil && len(m.Recipients) != len(r.Rcpts):
		err = spool.ErrCorrupt
		q.corrupted(ri, r, "the recipients have changed", q.deps.Now())
	case err == nil && r.Env == nil && q.envelopes < q.cfg.ActiveLimit:
		r.Env = &m.Envelope
		q.envelopes++
	}
	if err != nil {
		return nil, err
	}
	return &m.Envelope, nil
}

// deliver carries out one delivery and hands in its results.
func (q *Queue) deliver(s *start, env *mail.Envelope, err error) {
	d := s.d
	defer d.abort()
	idx := d.Recipients
	var results []Result
	if err != nil {
		results = q.instead(s, idx, mail.NewStatus("4.3.0", "queue file read error"))
		q.conclude(s.g, d, idx, results)
		return
	}
	d.Envelope = env
	if s.reroute {
		var refused []int
		d.Recipients, refused, results = q.reroute(s, env)
		idx = append(slices.Clone(d.Recipients), refused...)
	}
	if len(d.Recipients) > 0 && !d.Canceled() {
		results = append(q.attempt(s, env), results...)
	} else {
		results = append(make([]Result, len(d.Recipients)), results...)
	}
	q.conclude(s.g, d, idx, results)
}

// attempt lets the transport's agent do its work.
func (q *Queue) attempt(s *start, env *mail.Envelope) []Result {
	d := s.d
	agent, ok := q.deps.Agents(d.Destination.Transport)
	if !ok {
		return q.instead(s, d.Recipients, mail.NewStatus("4.3.0", "mail transport unavailable"))
	}
	var bad error
	open := d.Open
	d.Open = func() (spool.Content, error) {
		c, err := open()
		if errors.Is(err, spool.ErrCorrupt) {
			bad = err
		}
		return c, err
	}
	results := agent.Deliver(s.ctx, d)
	if bad != nil {
		q.mu.Lock()
		ri := q.groups.At(s.g).row
		q.corrupted(ri, q.rows.At(ri), bad.Error(), q.deps.Now())
		q.unlock()
	}
	// An agent that answers for fewer recipients than it got has gone wrong in
	// the middle; what it says nothing about is not done.
	for len(results) < len(d.Recipients) {
		results = append(results, Result{Status: mail.NewStatus("4.3.0", "unknown mail transport error")})
	}
	return results[:len(d.Recipients)]
}

func (q *Queue) conclude(g uint32, d *Delivery, idx []int, results []Result) {
	q.mu.Lock()
	q.concluded(g, d, idx, results)
	q.pump(q.deps.Now())
	q.unlock()
}

// reroute asks the router again before an attempt. It returns the recipients
// that still belong to this destination, and those that are refused with
// their results; those that belong elsewhere have been moved there.
func (q *Queue) reroute(s *start, env *mail.Envelope) (stay, refused []int, results []Result) {
	moved := make(map[mail.Destination][]int)
	for _, i := range s.d.Recipients {
		dest, status := s.router.Route(env.Recipients[i].Address, env)
		switch {
		case status != nil:
			refused = append(refused, i)
			results = append(results, q.instead(s, []int{i}, *status)...)
		case dest == s.d.Destination:
			stay = append(stay, i)
		default:
			moved[dest] = append(moved[dest], i)
		}
	}
	if len(moved) > 0 {
		q.mu.Lock()
		q.moved(s.g, moved, s.gen)
		q.unlock()
	}
	return stay, refused, results
}

// instead makes and logs results without an agent, as Postfix's error and
// retry transports do.
func (q *Queue) instead(s *start, idx []int, status mail.Status) []Result {
	results := make([]Result, len(idx))
	word := "deferred"
	if status.Permanent() {
		word = "bounced"
	}
	q.mu.Lock()
	r := q.rows.At(q.groups.At(s.g).row)
	for k, i := range idx {
		results[k].Status = status
		q.logDelivery(r.ID, &r.Rcpts[i], r.Arrival, s.d.Due.UnixNano(), word, status, q.deps.Now())
	}
	q.unlock()
	return results
}

// logDelivery records a delivery that no agent made.
func (q *Queue) logDelivery(id mail.QueueID, x *row.Rcpt, arrival, due int64, word string, status mail.Status, now time.Time) {
	q.journal.Add("error", maillog.Info, &maillog.Delivery{
		ID: id, To: x.Addr, OrigTo: x.Orig, Relay: "none", Delay: now.Sub(row.Time(arrival)),
		Delays: maillog.Delays{BeforeQueue: time.Duration(due - arrival), InQueue: now.Sub(row.Time(due))},
		DSN:    status.Code, Status: word, Text: status.Text,
	})
}

// verdict is what a delivery says about its destination.
func verdict(d *Delivery, results []Result) (schedule.Outcome, mail.Status) {
	if d.Canceled() || len(d.Recipients) == 0 || isInternal(d.Destination) || d.Envelope == nil {
		return schedule.Neutral, mail.Status{}
	}
	for i := range results {
		if results[i].DestinationDown {
			return schedule.Negative, results[i].Status
		}
	}
	return schedule.Positive, mail.Status{}
}

// endsWell tells whether these results end the message with nothing to report.
func endsWell(r *row.Row, results []Result) bool {
	for i := range results {
		if !results[i].Status.OK() || results[i].Action != "" {
			return false
		}
	}
	return r.Pending() == len(results) && !r.AnyOwed()
}

// closeDown starts nothing more, and cancels what can be.
func (q *Queue) closeDown() {
	q.mu.Lock()
	q.open = false
	for g := uint32(1); g <= q.groups.Len(); g++ {
		if d := q.groups.At(g).run; d != nil {
			d.cancel()
		}
	}
	q.unlock()
}

// await waits for the deliveries and jobs under way; after the grace it aborts
// those too that are past the final dot.
func (q *Queue) await(abort context.CancelFunc) {
	done := make(chan struct{})
	go func() {
		q.workers.Wait()
		close(done)
	}()
	q.mu.Lock()
	grace := q.cfg.Grace
	q.mu.Unlock()
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-done:
		return
	case <-timer.C:
	}
	abort()
	<-done
}
