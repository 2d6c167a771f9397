package schedule

import (
	"time"

	"posthouse/internal/mail"
)

// Decision is what is to be done with an item.
type Decision uint8

// The decisions. Nothing means: nothing to do before Wake or the next event.
const (
	Nothing Decision = iota
	// Start: carry the delivery out now, and call Finished after it.
	Start
	// Refuse: the destination is dead. The item has left the line; the owner
	// defers it and adds it again for a later time.
	Refuse
	// Due: the item, which waited for this time, is in its line now. Nothing
	// has to be done; a Start or Refuse follows.
	Due
)

// Next returns the next decision and carries it out on the scheduler's side.
// Call it until it says Nothing (or stop, and go on later).
func (s *State) Next(now time.Time) (Item, Decision) {
	t := nanos(now)
	for {
		if d := s.shut.head; d != nil && d.deadUntil > t {
			it := s.take(&d.ready, 0)
			s.items[it].at = nowhere
			s.calm(d, t)
			s.refresh(d)
			return it, Refuse
		}
		if tr := s.turns.head; tr != nil {
			return s.start(tr), Start
		}
		if len(s.timers) == 0 || s.timers[0].alarmAt > t {
			return 0, Nothing
		}
		if it, ok := s.ring(s.timers[0], t); ok {
			return it, Due
		}
	}
}

// start lets the transport whose turn it is start one item of the destination
// whose turn it is; both then go to the end of their round.
func (s *State) start(tr *transport) Item {
	d := tr.round.head
	it := s.take(&d.ready, 0)
	s.items[it].at = inFlight
	d.running++
	tr.running++
	leave(&tr.round, d, destTurn)
	leave(&s.turns, tr, transportTurn)
	s.refresh(d)
	return it
}

// ring handles the alarm of one destination: it comes back to life, its pause
// ends, it is forgotten, or one item is due, which is returned.
func (s *State) ring(d *dest, now int64) (Item, bool) {
	if d.deadUntil != 0 && d.deadUntil <= now {
		d.revive()
	}
	if d.paused != 0 && d.paused <= now {
		d.paused = 0
	}
	if len(d.later) > 0 && s.items[d.later[0]].due <= now {
		it := s.take(&d.later, 0)
		s.ripe(d, it, now)
		s.refresh(d)
		return it, true
	}
	if d.refs == 0 && d.idle() && d.deadUntil == 0 && d.paused == 0 && d.idleSince+int64(warmFor) <= now {
		s.forget(d)
		return 0, false
	}
	s.refresh(d)
	return 0, false
}

// Wake is when Next has something new to say if nothing else happens; the
// zero time means never. Ask it after Next said Nothing.
func (s *State) Wake() time.Time {
	if len(s.timers) == 0 {
		return time.Time{}
	}
	return time.Unix(0, s.timers[0].alarmAt)
}

// Dead tells until when a destination is dead, and why; the zero time when it
// is alive.
func (s *State) Dead(id DestID) (time.Time, mail.Status) {
	d := s.dests[id]
	if d.deadUntil == 0 {
		return time.Time{}, mail.Status{}
	}
	return time.Unix(0, d.deadUntil), d.reason
}

// Waiting is how many items of a destination are due and wait for a slot.
func (s *State) Waiting(id DestID) int { return len(s.dests[id].ready) }

// View is how a destination stands.
type View struct {
	Destination mail.Destination
	Waiting     int // due, waiting for a slot
	Running     int
	Deferred    int // waiting for a later time
	Window      int
	DeadUntil   time.Time // zero when alive
	Reason      mail.Status
}

// Views lists the destinations that are known, in no order.
func (s *State) Views(each func(View)) {
	for id, d := range s.dests {
		if d == nil {
			continue
		}
		until, reason := s.Dead(DestID(id))
		each(View{
			Destination: d.key, Waiting: len(d.ready), Running: d.running, Deferred: len(d.later),
			Window: d.room(), DeadUntil: until, Reason: reason,
		})
	}
}
