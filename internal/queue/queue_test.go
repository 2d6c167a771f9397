package queue

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"posthouse/internal/mail"
	"posthouse/internal/spool"
)

func TestBackoff(t *testing.T) {
	cfg := DefaultConfig()
	for _, c := range []struct{ age, random, want float64 }{
		{0, 0.5, 300},
		{299, 0.5, 300},
		{301, 0.5, 301},
		{4000, 0.5, 4000},
		{90000, 0.5, 4000},
		{0, 0, 270},
		{0, 1, 330},
		{90000, 0, 3600},
		{90000, 1, 4400},
	} {
		now := time.Unix(1e9, 0)
		created := now.Add(-time.Duration(c.age) * time.Second)
		if got := cfg.Backoff(created, now, c.random).Seconds(); got != c.want {
			t.Errorf("age %v, random %v: %v, want %v", c.age, c.random, got, c.want)
		}
	}
}

func TestDelivered(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.store.delay = time.Second
		r.start()
		id := r.send("a@x.example", "b@y.example")
		sleep(time.Millisecond)
		r.wantWhere(id, mail.Active) // delivered, but not durably gone
		sleep(time.Second)
		r.wantWhere(id, "")
		qid := id.Short()
		r.wantLog("qmgr: "+qid+": from=<a@x.example>, size=1000, nrcpt=1 (queue active)", "qmgr: "+qid+": removed")
		if ops := r.store.log; len(ops) != 1 || ops[0] != (spool.Remove{ID: id}) {
			t.Errorf("recorded %v, want one removal and nothing else", ops)
		}
		if err := r.end(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestRetriesUntilExpired follows one message through its life at Postfix's
// defaults: the wait is its age, clamped.
func TestRetriesUntilExpired(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.always(later)
		r.start()
		t0 := time.Now()
		id := r.send("a@x.example", "b@y.example")
		sleep(6 * 24 * time.Hour)
		tried := r.tried()
		var ages []float64
		for _, a := range tried[:8] {
			ages = append(ages, a.at.Sub(t0).Seconds())
		}
		if want := []float64{0, 300, 600, 1200, 2400, 4800, 8800, 12800}; !slices.Equal(ages, want) {
			t.Errorf("attempts at %v, want %v", ages, want)
		}
		last := tried[len(tried)-1]
		if age := last.at.Sub(t0); age < 5*24*time.Hour || age > 5*24*time.Hour+4000*time.Second || int(last.n) != len(tried) {
			t.Errorf("last attempt at the age of %v, number %d of %d", age, last.n, len(tried))
		}
		if got := r.bounce.notices(); len(got) != 1 || got[0].rcpts[0] != "b@y.example: come back later" {
			t.Errorf("notices %v", got)
		}
		if n := len(r.log.matching("(queue active)")); n != len(tried) {
			t.Errorf("%d active lines for %d attempts", n, len(tried))
		}
		qid := id.Short()
		end := r.log.all[len(r.log.all)-2:]
		if want := []string{"qmgr: " + qid + ": from=<a@x.example>, status=expired, returned to sender", "qmgr: " + qid + ": removed"}; !slices.Equal(end, want) {
			t.Errorf("ends with %q", end)
		}
		r.wantWhere(id, "")
		_ = r.end()
	})
}

func TestLifetimes(t *testing.T) {
	for _, c := range []struct {
		name     string
		set      func(*Config)
		sender   mail.Address
		attempts int
	}{
		{"zero tries once", func(c *Config) { c.MaxLifetime = 0 }, "a@x.example", 1},
		{"ten minutes", func(c *Config) { c.MaxLifetime = 10 * time.Minute }, "a@x.example", 3},
		{"null sender", func(c *Config) { c.BounceLifetime = 5 * time.Minute }, "", 2},
		{"null sender, capped", func(c *Config) { c.MaxLifetime = 0 }, "", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				c.set(&r.cfg)
				r.always(later)
				r.start()
				id := r.send(c.sender, "b@y.example")
				sleep(24 * time.Hour)
				if n := len(r.tried()); n != c.attempts {
					t.Errorf("%d attempts, want %d", n, c.attempts)
				}
				r.wantWhere(id, "")
				_ = r.end()
			})
		})
	}
}

func TestDelayWarning(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.cfg.DelayWarning = time.Hour
		r.always(later)
		r.start()
		t0 := time.Now()
		id := r.send("a@x.example", "b@y.example")
		sleep(59 * time.Minute)
		if len(r.bounce.notices()) > 0 {
			t.Fatal("warned early")
		}
		sleep(24 * time.Hour)
		got := r.bounce.notices()
		if len(got) != 1 || got[0].kind != NoticeDelay || got[0].at.Sub(t0) != 4800*time.Second {
			t.Fatalf("notices %v", got)
		}
		// A restart must not warn again.
		_ = r.end()
		r.start()
		sleep(24 * time.Hour)
		if n := len(r.bounce.notices()); n != 1 {
			t.Errorf("%d warnings", n)
		}
		r.wantWhere(id, mail.Deferred)
		_ = r.end()
	})
}

// TestOneNoticeForARound: each destination goes its own way, and what failed
// in a round is reported at its end, together.
func TestOneNoticeForARound(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.agent = agentFunc(func(_ context.Context, d *Delivery) []Result {
			switch d.Destination.NextHop {
			case "slow":
				time.Sleep(time.Minute)
				return r.by(d, refuse)
			case "later":
				return r.by(d, later)
			case "no":
				return r.by(d, refuse)
			}
			return r.by(d, accept)
		})
		r.start()
		id := r.send("s@x", "1@no", "2@slow", "3@ok", "4@later", "5@no")
		sleep(30 * time.Second)
		if len(r.bounce.notices()) > 0 {
			t.Fatal("reported before the round was over")
		}
		r.wantWhere(id, mail.Active)
		sleep(31 * time.Second)
		got := r.bounce.notices()
		want := []string{"1@no: no such user", "2@slow: no such user", "5@no: no such user"}
		if len(got) != 1 || !slices.Equal(got[0].rcpts, want) {
			t.Fatalf("notices %v", got)
		}
		r.wantWhere(id, mail.Deferred)
		r.q.List(func(v *View) bool {
			if len(v.Recipients) != 1 || v.Recipients[0].Address != "4@later" || v.Recipients[0].Reason != "come back later" {
				t.Errorf("listed recipients %+v", v.Recipients)
			}
			return true
		})
		m, _, err := r.q.Message(id)
		if err != nil {
			t.Fatal(err)
		}
		for i, want := range []mail.Phase{mail.Bounced, mail.Bounced, mail.Sent, mail.Pending, mail.Bounced} {
			if s := m.RcptState[i]; s.Phase != want || s.Phase.Final() != s.Notified {
				t.Errorf("recipient %d: %+v", i, s)
			}
		}
		stored, _ := r.store.Message(id)
		for i := range m.RcptState {
			a, b := m.RcptState[i], stored.RcptState[i]
			if a.Phase != b.Phase || a.Notified != b.Notified || !a.NextAttempt.Equal(b.NextAttempt) || a.Last != b.Last {
				t.Errorf("recipient %d: memory %+v, spool %+v", i, a, b)
			}
		}
		_ = r.end()
	})
}

func TestRecipientLimit(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.start()
		var to []mail.Address
		for i := range 120 {
			to = append(to, mail.Address(fmt.Sprintf("u%d@y.example", i)))
		}
		r.send("a@x", to...)
		sleep(time.Second)
		var sizes []int
		seen := map[string]int{}
		for _, a := range r.tried() {
			sizes = append(sizes, len(a.rcpts))
			for _, s := range a.rcpts {
				seen[s]++
			}
		}
		slices.Sort(sizes)
		if !slices.Equal(sizes, []int{20, 50, 50}) || len(seen) != 120 {
			t.Errorf("deliveries of %v recipients, %d in all", sizes, len(seen))
		}
		_ = r.end()
	})
}

func TestSuccessNotice(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.always(func(a mail.Address) Result {
			return Result{Status: mail.NewStatus("2.0.0", "ok"), Action: map[string]string{"y": "relayed"}[a.Domain()]}
		})
		r.start()
		r.send("a@x", "b@y", "c@z")
		sleep(time.Second)
		got := r.bounce.notices()
		if len(got) != 1 || got[0].kind != NoticeSuccess || !slices.Equal(got[0].rcpts, []string{"b@y: ok"}) || r.store.len() != 0 {
			t.Errorf("notices %v, %d left", got, r.store.len())
		}
		_ = r.end()
	})
}

// TestBouncerFails: the message stays until its notice is durable.
func TestBouncerFails(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.always(refuse)
		r.bounce.fail = errors.New("no space")
		r.start()
		id := r.send("a@x", "b@y")
		sleep(time.Hour)
		r.wantWhere(id, mail.Deferred)
		_ = r.end()
		r.start() // a restart remembers what is owed
		sleep(time.Second)
		r.wantWhere(id, mail.Deferred)
		r.bounce.setFail(nil)
		sleep(10 * time.Minute)
		r.wantWhere(id, "")
		if n := len(r.bounce.notices()); n != 1 || len(r.tried()) != 1 {
			t.Errorf("%d notices, %d attempts", n, len(r.tried()))
		}
		_ = r.end()
	})
}

func TestDeadDestination(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.agent = agentFunc(func(_ context.Context, d *Delivery) []Result {
			if d.Destination.NextHop == "down" {
				time.Sleep(time.Second)
				return r.by(d, noAnswer)
			}
			return r.by(d, accept)
		})
		r.start()
		var ids []mail.QueueID
		for range 20 {
			ids = append(ids, r.send("a@x", "b@down"))
		}
		sleep(500 * time.Millisecond)
		r.send("a@x", "b@up")
		sleep(2 * time.Second)
		if n := len(r.log.matching("removed")); n != 1 {
			t.Errorf("the other destination was delayed")
		}
		if n := len(r.tried()); n != 6 {
			t.Errorf("%d attempts, want a window of 5 and the one elsewhere", n)
		}
		want := "error: " + ids[19].Short() + ": to=<b@down>, relay=none, delay=1, delays=0/1/0/0, dsn=4.4.1, status=deferred " +
			"(delivery temporarily suspended: connect to host: Connection refused)"
		if got := r.log.matching(ids[19].Short()); len(got) != 2 || got[1] != want {
			t.Errorf("log %q\nwant %q", got, want)
		}
		m, _, _ := r.q.Message(ids[19])
		if m.RcptState[0].Attempts != 0 || !strings.HasPrefix(m.RcptState[0].Last.Text, "delivery temporarily suspended") {
			t.Errorf("suspended counts as %+v", m.RcptState[0])
		}
		v := r.q.Destinations()
		if len(v) != 2 || v[0].Destination.NextHop != "down" || v[0].Deferred != 20 || v[0].DeadUntil.IsZero() || v[0].DeadReason == "" {
			t.Errorf("destinations %+v", v)
		}
		// New mail waits without an attempt; a retry of it forgets the death.
		id := r.send("a@x", "b@down")
		sleep(time.Second)
		r.wantWhere(id, mail.Deferred)
		r.act(VerbRetry, id)
		sleep(time.Second)
		if n := len(r.tried()); n != 7 {
			t.Errorf("%d attempts after a retry", n)
		}
		_ = r.end()
	})
}

func TestRateDelay(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		tc := r.cfg.Default
		tc.RateDelay = 10 * time.Second
		r.cfg.Transports = map[string]TransportConfig{"smtp": tc}
		r.start()
		t0 := time.Now()
		for range 4 {
			r.send("a@x", "b@y")
		}
		sleep(time.Minute)
		for i, a := range r.tried() {
			if got, want := a.at.Sub(t0), time.Duration(i)*10*time.Second; got != want {
				t.Errorf("attempt %d at +%v, want +%v", i, got, want)
			}
		}
		_ = r.end()
	})
}

func TestRouting(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.route = routeFunc(func(a mail.Address, e *mail.Envelope) (mail.Destination, *mail.Status) {
			switch a.Domain() {
			case "temp":
				return mail.Destination{}, &mail.Status{Code: mail.EnhancedCode{4, 3, 0}, Text: "table lookup problem"}
			case "perm":
				return mail.Destination{}, &mail.Status{Code: mail.EnhancedCode{5, 1, 2}, Text: "bad domain"}
			case "alien":
				return mail.Destination{Transport: "uucp", NextHop: "h"}, nil
			}
			return domainRouter(a, e)
		})
		r.start()
		id := r.send("s@x", "a@temp", "b@perm", "c@ok", "d@alien")
		sleep(time.Second)
		for _, want := range []string{
			"to=<a@temp>, relay=none, delay=0, delays=0/0/0/0, dsn=4.3.0, status=deferred (table lookup problem)",
			"to=<b@perm>, relay=none, delay=0, delays=0/0/0/0, dsn=5.1.2, status=bounced (bad domain)",
			"to=<d@alien>, relay=none, delay=0, delays=0/0/0/0, dsn=4.3.0, status=deferred (mail transport unavailable)",
		} {
			if len(r.log.matching("error: "+id.Short()+": "+want)) != 1 {
				t.Errorf("not logged: %s\n%s", want, strings.Join(r.log.all, "\n"))
			}
		}
		if n := r.bounce.notices(); len(n) != 1 || len(n[0].rcpts) != 1 {
			t.Errorf("notices %v", n)
		}
		// New tables apply to what waits.
		r.q.Reconfigure(r.cfg, routeFunc(domainRouter))
		sleep(300 * time.Second)
		r.wantWhere(id, "")
		if n := len(r.tried()); n != 3 {
			t.Errorf("%d attempts, want one for each recipient but the bounced", n)
		}
		_ = r.end()
	})
}

// TestStop: what can be canceled is, what is past the dot is awaited, and both
// are recorded.
func TestStop(t *testing.T) {
	for _, c := range []struct {
		name      string
		committed bool
		takes     time.Duration
		left      int
	}{
		{"canceled", false, time.Hour, 1},
		{"awaited", true, 10 * time.Second, 0},
		{"past the grace", true, time.Hour, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				r.agent = agentFunc(func(ctx context.Context, d *Delivery) []Result {
					if c.committed && !d.Commit() {
						t.Error("canceled at once")
					}
					select {
					case <-ctx.Done():
						return []Result{later("")}
					case <-time.After(c.takes):
						return []Result{accept("")}
					}
				})
				r.start()
				id := r.send("a@x", "b@y")
				sleep(time.Second)
				if err := r.end(); err != nil {
					t.Fatal(err)
				}
				if n := r.store.len(); n != c.left {
					t.Fatalf("%d messages left, want %d", n, c.left)
				}
				if m, _ := r.store.Message(id); m != nil && !c.committed && m.RcptState[0].Attempts != 0 {
					t.Error("a canceled delivery counts as an attempt")
				}
			})
		})
	}
}

func TestSpoolFails(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.start()
		r.store.fail(spool.ErrFailed)
		id := r.send("a@x", "b@y")
		sleep(time.Second)
		r.send("a@x", "b@y")
		sleep(time.Second)
		if n := len(r.tried()); n != 1 {
			t.Errorf("%d attempts, want none after the failure", n)
		}
		if err := r.q.Err(); !errors.Is(err, spool.ErrFailed) {
			t.Errorf("Err() = %v", err)
		}
		if _, err := r.q.Act(t.Context(), VerbHold, Selection{IDs: []mail.QueueID{id}}, Actor{}); !errors.Is(err, spool.ErrFailed) {
			t.Errorf("Act: %v", err)
		}
		if n := len(r.log.matching("fatal: ")); n != 1 {
			t.Errorf("%d fatal lines", n)
		}
		r.wantWhere(id, mail.Active)
		if err := r.end(); !errors.Is(err, spool.ErrFailed) {
			t.Errorf("Run: %v", err)
		}
	})
}

func TestRecover(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		now := time.Now()
		put := func(change func(*mail.Message)) mail.QueueID {
			m := r.message("a@x", "b@y")
			change(m)
			r.store.put(m)
			return m.ID
		}
		fresh := put(func(*mail.Message) {})
		waiting := put(func(m *mail.Message) {
			m.RcptState[0] = mail.RecipientState{Attempts: 1, LastAttempt: now, NextAttempt: now.Add(time.Hour), Last: later("").Status}
		})
		bad := put(func(m *mail.Message) { m.State.Corrupt = "checksum" })
		held := put(func(m *mail.Message) { m.State.Hold = true })
		gone := put(func(m *mail.Message) { m.State.DeletedAt = now })
		done := put(func(m *mail.Message) { m.RcptState[0].Phase, m.RcptState[0].Notified = mail.Sent, true })
		owed := put(func(m *mail.Message) { m.RcptState[0].Phase = mail.Bounced })
		r.open()
		for id, want := range map[mail.QueueID]mail.QueueName{
			fresh: mail.Incoming, waiting: mail.Deferred, bad: mail.Corrupt, held: mail.Hold, gone: mail.Trash,
		} {
			r.wantWhere(id, want)
		}
		r.start()
		sleep(time.Second)
		for id, want := range map[mail.QueueID]mail.QueueName{
			fresh: "", waiting: mail.Deferred, bad: mail.Corrupt, held: mail.Hold, gone: mail.Trash, done: "", owed: "",
		} {
			r.wantWhere(id, want)
		}
		if n := r.bounce.notices(); len(n) != 1 || n[0].id != owed {
			t.Errorf("notices %v", n)
		}
		if w := r.log.matching("warning: saving corrupt file \"" + bad.Short() + "\""); len(w) != 1 {
			t.Errorf("corrupt: %v", w)
		}
		sleep(time.Hour)
		r.wantWhere(waiting, "")
		sleep(24 * time.Hour)
		r.wantWhere(gone, "")
		if _, err := r.store.Message(bad); err != nil {
			t.Error("a corrupt message was removed")
		}
		_ = r.end()
	})
}

// TestCorrupt: what the spool cannot give back is set aside, not retried for
// ever and not dropped.
func TestCorrupt(t *testing.T) {
	for _, part := range []string{"row", "content"} {
		t.Run(part, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				attempts := 0
				r.agent = agentFunc(func(_ context.Context, d *Delivery) []Result {
					attempts++
					if c, err := d.Open(); err == nil {
						_ = c.Close()
					}
					return []Result{later("")}
				})
				r.start()
				id := r.send("a@x", "b@y")
				sleep(time.Second)
				r.store.corrupt(part == "row", part == "content")
				sleep(time.Hour)
				r.wantWhere(id, mail.Corrupt)
				if want := map[string]int{"row": 1, "content": 2}[part]; attempts != want {
					t.Errorf("%d attempts, want %d", attempts, want)
				}
				want := fmt.Sprintf("qmgr: warning: saving corrupt file %q from queue \"active\" to queue \"corrupt\"", id.Short())
				if w := r.log.matching("corrupt"); len(w) != 1 || w[0] != want {
					t.Errorf("log %q", w)
				}
				r.store.corrupt(false, false)
				if m, _ := r.store.Message(id); m == nil || m.State.Corrupt == "" {
					t.Error("not recorded as corrupt, or gone")
				}
				_ = r.end()
			})
		})
	}
}

// TestReadErrorIsNotCorrupt: what cannot be read just now is tried again.
func TestReadErrorIsNotCorrupt(t *testing.T) {
	for _, bad := range []error{syscall.EIO, spool.ErrClosed, spool.ErrFormat, context.Canceled, fs.ErrClosed} {
		inBubble(t, func(t *testing.T, r *rig) {
			attempts := 0
			r.agent = agentFunc(func(_ context.Context, d *Delivery) []Result {
				attempts++
				if c, err := d.Open(); err == nil {
					_ = c.Close()
				}
				return []Result{later("")}
			})
			r.start()
			id := r.send("a@x", "b@y")
			sleep(time.Second)
			r.store.unreadable(bad)
			sleep(time.Hour)
			r.wantWhere(id, mail.Deferred)
			if attempts != 1 {
				t.Errorf("%v: %d attempts, want 1", bad, attempts)
			}
			r.store.unreadable(nil)
			sleep(12 * time.Hour)
			if m, err := r.store.Message(id); err != nil || m.State.Corrupt != "" || attempts < 2 {
				t.Errorf("%v: %+v, %v, %d attempts", bad, m, err, attempts)
			}
			_ = r.end()
		})
	}
}
