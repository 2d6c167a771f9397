package queue

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"posthouse/internal/mail"
	"posthouse/internal/spool"
)

// A disk that is full for a while must not end deliveries until a restart, and
// nothing may be delivered whose result could not be recorded.
func TestFullDiskHaltsDeliveries(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.start()
		r.store.fail(spool.ErrNoSpace)
		first := r.send("a@x", "b@y")
		sleep(time.Second)
		second := r.send("a@x", "c@y")
		sleep(10 * time.Minute)
		if n := len(r.tried()); n != 1 {
			t.Errorf("%d attempts while nothing can be recorded, want the one that found out", n)
		}
		if r.q.Err() != nil {
			t.Errorf("Err() = %v", r.q.Err())
		}
		r.wantWhere(second, mail.Active)
		r.store.fail(nil)
		sleep(5 * time.Second)
		if r.store.len() != 0 || r.where(first) != "" || r.where(second) != "" {
			t.Errorf("%d messages left when there is room again", r.store.len())
		}
		if n := len(r.tried()); n != 2 {
			t.Errorf("%d attempts, want one for each message", n)
		}
		if said := append(r.log.matching("cannot be recorded"), r.log.matching("recorded again")...); len(said) != 2 {
			t.Errorf("said %q", said)
		}
		if err := r.end(); err != nil {
			t.Error(err)
		}
	})
}

// The same, and a stop comes before there is room.
func TestStopOnFullDiskEnds(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.start()
		r.store.fail(spool.ErrNoSpace)
		r.send("a@x", "b@y")
		sleep(time.Minute)
		if err := r.end(); !errors.Is(err, spool.ErrNoSpace) {
			t.Errorf("Run: %v", err)
		}
	})
}

// When the spool has failed, what becomes due must not keep a processor busy:
// in the bubble that would be for ever.
func TestFailedSpoolIsQuiet(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.always(later)
		r.start()
		r.send("a@x", "b@y")
		sleep(time.Second)
		r.store.fail(spool.ErrFailed)
		r.send("a@x", "c@y")
		sleep(time.Hour)
		if n := len(r.tried()); n != 2 {
			t.Errorf("%d attempts", n)
		}
		if err := r.end(); !errors.Is(err, spool.ErrFailed) {
			t.Errorf("Run: %v", err)
		}
	})
}

// A crash between the commit of a resubmitted message and the removal of its
// original leaves both in the spool. One of them is delivered.
func TestCrashAfterResubmissionIsNoDuplicate(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		old := r.message("a@x", "b@y")
		old.State.Requeue = true
		r.store.put(old)
		again := r.message("a@x", "b@y")
		again.OrigID = old.ID
		r.store.put(again)
		plain := r.message("a@x", "c@y") // waits for its resubmission still
		plain.State.Requeue = true
		r.store.put(plain)
		resubmitted := 0
		r.resub = func(m *mail.Message) (mail.QueueID, error) {
			resubmitted++
			if m.ID != plain.ID {
				t.Errorf("%s is resubmitted once more", m.ID.Short())
			}
			return 7, nil
		}
		r.start()
		sleep(time.Second)
		if n := len(r.tried()); n != 1 || resubmitted != 1 || r.store.len() != 0 {
			t.Errorf("%d attempts, %d resubmissions, %d messages left; want 1, 1, 0", n, resubmitted, r.store.len())
		}
		if err := r.end(); err != nil {
			t.Error(err)
		}
	})
}

// A clock that was ahead and is put right must not leave mail waiting for the
// time it showed, in a running queue or in the next.
func TestClockSetBack(t *testing.T) {
	const ahead = 1000 * time.Hour
	for _, restart := range []bool{false, true} {
		inBubble(t, func(t *testing.T, r *rig) {
			r.setClock(ahead)
			r.always(noAnswer)
			r.start()
			id := r.send("a@x", "b@y")
			sleep(time.Second)
			r.wantWhere(id, mail.Deferred)
			if restart {
				if err := r.end(); err != nil {
					t.Fatal(err)
				}
			}
			r.setClock(0)
			if restart {
				r.start()
			}
			sleep(r.cfg.MaxBackoff + 2*clockStep)
			if n := len(r.tried()); n < 2 {
				t.Errorf("restart %v: %d attempts after %v", restart, n, r.cfg.MaxBackoff)
			}
			if err := r.end(); err != nil {
				t.Error(err)
			}
			synctest.Wait()
		})
	}
}
