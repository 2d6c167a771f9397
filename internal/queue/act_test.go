package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"posthouse/internal/mail"
)

// stepAgent is an agent that a test leads by the hand: it waits before the
// final dot, and again after it.
type stepAgent struct {
	dot    chan struct{}
	result chan Result
}

func newStepAgent() *stepAgent { return &stepAgent{make(chan struct{}), make(chan Result)} }

func (a *stepAgent) Deliver(ctx context.Context, d *Delivery) []Result {
	select {
	case <-a.dot:
	case <-ctx.Done():
		return []Result{later("")}
	}
	if !d.Commit() {
		return []Result{later("")}
	}
	select {
	case res := <-a.result:
		return []Result{res}
	case <-ctx.Done():
		return []Result{later("")}
	}
}

// TestActDuringDelivery holds, deletes, requeues and expires a message at
// each point of its delivery.
func TestActDuringDelivery(t *testing.T) {
	accepted, deferred, bounced := accept(""), later(""), refuse("")
	for _, c := range []struct {
		name      string
		verb      Verb
		result    *Result // nil: before the dot
		delivery  Interference
		delivered bool
		where     mail.QueueName
		notices   int
	}{
		{"hold before the dot", VerbHold, nil, DeliveryCanceled, false, mail.Hold, 0},
		{"delete before the dot", VerbDelete, nil, DeliveryCanceled, false, mail.Trash, 0},
		{"requeue before the dot", VerbRequeue, nil, DeliveryCanceled, false, "", 0},
		{"expire before the dot", VerbExpire, nil, DeliveryCanceled, false, "", 1},
		{"hold, accepted", VerbHold, &accepted, DeliveryAwaited, true, "", 0},
		{"delete, accepted", VerbDelete, &accepted, DeliveryAwaited, true, "", 0},
		{"requeue, accepted", VerbRequeue, &accepted, DeliveryAwaited, true, "", 0},
		{"expire, accepted", VerbExpire, &accepted, DeliveryAwaited, true, "", 0},
		{"hold, deferred", VerbHold, &deferred, DeliveryAwaited, false, mail.Hold, 0},
		{"delete, deferred", VerbDelete, &deferred, DeliveryAwaited, false, mail.Trash, 0},
		{"requeue, deferred", VerbRequeue, &deferred, DeliveryAwaited, false, "", 0},
		{"expire, deferred", VerbExpire, &deferred, DeliveryAwaited, true, "", 1},
		{"hold, refused", VerbHold, &bounced, DeliveryAwaited, true, "", 1},
		{"delete, refused", VerbDelete, &bounced, DeliveryAwaited, false, mail.Trash, 0},
		{"requeue, refused", VerbRequeue, &bounced, DeliveryAwaited, true, "", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				r.store.delay = time.Millisecond
				a := newStepAgent()
				r.agent = a
				resubmits := 0
				r.resub = func(m *mail.Message) (mail.QueueID, error) { resubmits++; return m.ID + 1000, nil }
				r.start()
				id := r.send("a@x", "b@y")
				sleep(time.Second)
				if c.result != nil {
					a.dot <- struct{}{}
					sleep(time.Second)
				}
				var rep Report
				acted := make(chan struct{})
				go func() { rep = r.act(c.verb, id); close(acted) }()
				sleep(time.Second)
				if c.result != nil {
					select {
					case <-acted:
						t.Fatal("did not wait for the result")
					default:
					}
					a.result <- *c.result
				}
				<-acted
				o := rep.Outcomes[0]
				if o.From != mail.Active || o.Delivery != c.delivery || o.Delivered != c.delivered {
					t.Errorf("outcome %+v", o)
				}
				sleep(time.Second)
				r.wantWhere(id, c.where)
				if n := len(r.bounce.notices()); n != c.notices {
					t.Errorf("%d notices, want %d", n, c.notices)
				}
				if want := c.verb == VerbRequeue && !c.delivered; (resubmits == 1) != want || (o.NewID == id+1000) != want {
					t.Errorf("resubmitted %d times, new ID %v", resubmits, o.NewID)
				}
				sleep(2 * time.Hour)
				r.wantWhere(id, c.where)
				_ = r.end()
				if m, _ := r.store.Message(id); m != nil && c.result == nil && m.RcptState[0].Attempts != 0 {
					t.Error("a canceled delivery counts as an attempt")
				}
			})
		})
	}
}

// TestReleaseWhileCanceling: the canceled agent takes its time; the message
// must neither be lost nor be delivered twice at once.
func TestReleaseWhileCanceling(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		running, most := 0, 0
		r.agent = agentFunc(func(ctx context.Context, d *Delivery) []Result {
			running++
			most = max(most, running)
			defer func() { running-- }()
			time.Sleep(10 * time.Second)
			return r.by(d, accept)
		})
		r.start()
		id := r.send("a@x", "b@y")
		sleep(time.Second)
		r.act(VerbHold, id)
		r.wantWhere(id, mail.Hold)
		r.act(VerbRelease, id)
		sleep(30 * time.Second)
		r.wantWhere(id, "")
		if most != 1 || len(r.tried()) != 1 {
			t.Errorf("%d at a time, %d past the dot", most, len(r.tried()))
		}
		_ = r.end()
	})
}

func TestHoldAndRelease(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.always(later)
		r.start()
		t0 := time.Now()
		id := r.send("a@x", "b@y")
		sleep(700 * time.Second) // attempts at 0, 300 and 600; next at 1200
		r.act(VerbHold, id)
		if m, q, _ := r.q.Message(id); q != mail.Hold || m.State.HoldReason != "root via test" {
			t.Errorf("%s, %+v", q, m.State)
		}
		sleep(100 * time.Second)
		r.act(VerbRelease, id)
		r.wantWhere(id, mail.Deferred) // its back-off has not passed
		sleep(500 * time.Second)
		tried := r.tried()
		if n := len(tried); n != 4 || tried[3].at.Sub(t0) != 1200*time.Second {
			t.Fatalf("attempts %v", tried)
		}
		r.act(VerbHold, id)
		sleep(10 * 24 * time.Hour)
		r.wantWhere(id, mail.Hold) // no attempts, no expiry
		if len(r.tried()) != 4 {
			t.Error("attempted while on hold")
		}
		r.act(VerbRelease, id)
		sleep(time.Second)
		r.wantWhere(id, "") // one more attempt, then too old
		if len(r.tried()) != 5 || len(r.bounce.notices()) != 1 {
			t.Errorf("%d attempts, %d notices", len(r.tried()), len(r.bounce.notices()))
		}
		_ = r.end()
	})
}

func TestExpire(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.always(later)
		r.start()
		tried := r.send("a@x", "b@y")
		sleep(time.Second)
		held := r.message("a@x", "b@y")
		held.State.Hold = true
		r.store.put(held)
		r.q.Enqueue(held)
		r.act(VerbExpire, tried, held.ID)
		sleep(time.Second)
		r.wantWhere(tried, "")
		r.wantWhere(held.ID, mail.Hold)
		r.act(VerbRelease, held.ID)
		sleep(time.Second)
		r.wantWhere(held.ID, "")
		n := r.bounce.notices()
		if len(n) != 2 || n[0].rcpts[0] != "b@y: come back later" || n[1].rcpts[0] != "b@y: message is administratively expired" {
			t.Errorf("notices %v", n)
		}
		if w := r.log.matching("status=force-expired, returned to sender"); len(w) != 2 {
			t.Errorf("log %v", w)
		}
		// Once for the attempt, and once for the end of each of the two.
		if w := r.log.matching("(queue active)"); len(w) != 3 {
			t.Errorf("log %v", w)
		}
		if len(r.tried()) != 1 {
			t.Error("attempted after expiry")
		}
		_ = r.end()
	})
}

func TestRetry(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.always(later)
		r.start()
		for range 600 {
			r.send("a@x", "b@y")
		}
		sleep(time.Second)
		rep, err := r.q.Act(t.Context(), VerbRetry, Selection{All: true}, Actor{})
		if err != nil || len(rep.Outcomes) != 600 {
			t.Fatal(err, len(rep.Outcomes))
		}
		sleep(time.Second)
		if n := len(r.tried()); n != 1200 {
			t.Errorf("%d attempts", n)
		}
		_ = r.end()
		// A retry may come before Run has got to the message.
		r.open()
		if _, err := r.q.Act(t.Context(), VerbRetry, Selection{All: true}, Actor{}); err != nil {
			t.Fatal(err)
		}
		r.start()
		sleep(time.Second)
		if n := len(r.tried()); n != 1800 {
			t.Errorf("%d attempts", n)
		}
		_ = r.end()
	})
}

func TestRequeue(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.always(later)
		fails := true
		r.resub = func(m *mail.Message) (mail.QueueID, error) {
			if fails {
				return 0, errors.New("no space")
			}
			n := r.message(m.Sender, m.Recipients[0].Address)
			r.store.put(n)
			r.q.Enqueue(n)
			return n.ID, nil
		}
		r.start()
		id := r.send("a@x", "b@y")
		sleep(time.Second)
		if o := r.act(VerbRequeue, id).Outcomes[0]; o.NewID != 0 || o.From != mail.Deferred {
			t.Errorf("outcome %+v", o)
		}
		r.wantWhere(id, mail.Maildrop)
		_ = r.end()
		fails = false
		r.start()
		sleep(time.Second)
		r.wantWhere(id, "")
		var left mail.QueueID
		r.q.List(func(v *View) bool { left = v.ID; return true })
		if left == 0 || left == id {
			t.Fatalf("left: %v", left)
		}
		o := r.act(VerbRequeue, left).Outcomes[0]
		if o.NewID == 0 || r.store.len() != 1 {
			t.Errorf("outcome %+v, %d messages", o, r.store.len())
		}
		_ = r.end()
	})
}

// TestOffline: without Run the queue lists and acts, as postsuper does with
// the mail system down; the next start finds it so.
func TestOffline(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		var ids []mail.QueueID
		for range 600 {
			m := r.message("a@x", "b@y")
			r.store.put(m)
			ids = append(ids, m.ID)
		}
		r.open()
		rep, err := r.q.Act(t.Context(), VerbHold, Selection{All: true}, Actor{User: "root"})
		if err != nil || len(rep.Outcomes) != 600 || rep.Missed != 0 {
			t.Fatal(err, len(rep.Outcomes), rep.Missed)
		}
		if c := r.q.Counts(); c.Messages[mail.Hold] != 600 || c.Bytes[mail.Hold] != 600_000 || c.Messages[mail.Incoming] != 0 {
			t.Errorf("counts %v", c)
		}
		r.act(VerbRelease, ids[0], ids[1], ids[2], ids[3])
		r.wantWhere(ids[0], mail.Incoming)
		r.act(VerbDelete, ids[1])
		r.act(VerbRequeue, ids[2])
		r.act(VerbExpire, ids[3])
		if rep := r.act(VerbHold, ids[1], ids[4], 12345); rep.Missed != 3 || len(rep.Outcomes) != 0 {
			t.Errorf("trash, hold and unknown: %+v", rep)
		}
		sel := Selection{All: true, Queues: []mail.QueueName{mail.Hold}}
		if rep, _ := r.q.Act(t.Context(), VerbHold, sel, Actor{}); len(rep.Outcomes) != 0 {
			t.Error("hold acted on hold")
		}
		r.resub = func(m *mail.Message) (mail.QueueID, error) { return m.ID + 5000, nil }
		r.start()
		sleep(time.Second)
		for i, want := range []mail.QueueName{"", mail.Trash, "", "", mail.Hold} {
			r.wantWhere(ids[i], want)
		}
		if len(r.tried()) != 1 || len(r.bounce.notices()) != 1 {
			t.Errorf("%d attempts, %d notices", len(r.tried()), len(r.bounce.notices()))
		}
		_ = r.end()
	})
}

func TestTrash(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.always(later)
		r.start()
		id := r.send("a@x", "b@y")
		sleep(time.Second)
		r.act(VerbDelete, id)
		r.q.List(func(*View) bool { t.Error("trash is listed"); return true })
		if m, q, err := r.q.Message(id); err != nil || q != mail.Trash || m.State.DeletedBy != "root via test" || !m.State.Trashed() {
			t.Errorf("%v %v %+v", err, q, m.State)
		}
		sleep(23 * time.Hour)
		cfg := r.cfg
		cfg.TrashRetention = 48 * time.Hour
		r.q.Reconfigure(cfg, r.route)
		sleep(24 * time.Hour)
		r.wantWhere(id, mail.Trash)
		sleep(2 * time.Hour)
		r.wantWhere(id, "")
		if r.store.len() != 0 || len(r.tried()) != 1 || len(r.log.matching("removed")) != 0 {
			t.Errorf("%d left, %d attempts, log %v", r.store.len(), len(r.tried()), r.log.all)
		}
		_ = r.end()
	})
}

func TestListOrder(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		a := newStepAgent()
		r.agent = agentFunc(func(ctx context.Context, d *Delivery) []Result {
			if d.Destination.NextHop == "slow" {
				return a.Deliver(ctx, d)
			}
			return []Result{later("")}
		})
		r.resub = func(*mail.Message) (mail.QueueID, error) { return 0, errors.New("not now") }
		r.start()
		held, active1 := r.send("", "b@y"), r.send("u@x", "b@slow")
		deferred2, active2 := r.send("u@x", "b@y"), r.send("u@x", "b@slow")
		deferred1, drop := r.send("u@x", "b@y"), r.send("u@x", "b@y")
		sleep(time.Second)
		r.act(VerbHold, held)
		r.act(VerbRequeue, drop)
		var got []string
		r.q.List(func(v *View) bool { got = append(got, fmt.Sprintf("%s %s", v.Queue, v.ID.Short())); return true })
		want := []string{
			"maildrop " + drop.Short(), "active " + active1.Short(), "active " + active2.Short(),
			"deferred " + deferred2.Short(), "deferred " + deferred1.Short(), "hold " + held.Short(),
		}
		if !slices.Equal(got, want) {
			t.Errorf("listed %v\nwant %v", got, want)
		}
		seen := 0
		r.q.List(func(*View) bool { seen++; return seen < 3 })
		if seen != 3 {
			t.Errorf("listing went on after false: %d", seen)
		}
		if err := r.end(); err != nil {
			t.Error(err)
		}
	})
}

// TestActEndsWithItsContext: an operator who gives up does not hang.
func TestActEndsWithItsContext(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		a := newStepAgent()
		r.agent = a
		r.start()
		id := r.send("a@x", "b@y")
		sleep(time.Second)
		a.dot <- struct{}{}
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		rep, err := r.q.Act(ctx, VerbHold, Selection{IDs: []mail.QueueID{id}}, Actor{})
		if !errors.Is(err, context.DeadlineExceeded) || len(rep.Outcomes) != 1 {
			t.Errorf("%+v, %v", rep, err)
		}
		a.result <- later("")
		_ = r.end()
	})
}
