package schedule

import (
	"time"

	"posthouse/internal/mail"
)

// Item names a delivery. The owner gives the numbers out, small and dense,
// from 1; they index a slice.
type Item uint32

// DestID names a destination for as long as somebody has acquired it.
type DestID uint32

// Outcome is what a finished delivery says about its destination.
type Outcome uint8

// The outcomes. Neutral is for deliveries that did not get as far as the
// destination: canceled, moved elsewhere, failed on our side.
const (
	Neutral Outcome = iota
	Positive
	Negative
)

// place is where an item is.
type place uint8

const (
	nowhere place = iota
	inLater
	inReady
	inFlight
)

// item is the state of an Item, 24 bytes.
type item struct {
	due  int64  // Unix nanoseconds; 0 means at once
	seq  uint32 // order of arrival among equal due times
	dest uint32 // DestID
	pos  uint32 // index in its heap
	at   place
}

// State is a scheduler; see the package comment. Make one with New. It is not
// safe for concurrent use.
type State struct {
	items      []item // by Item
	dests      []*dest
	free       []DestID
	byKey      map[mail.Destination]*dest
	transports map[string]*transport
	limits     func(transport string) Limits
	turns      list[*transport] // transports that may start an item now
	shut       list[*dest]      // dead destinations with items to refuse
	timers     []*dest          // heap by alarmAt
	seq        uint32
}

// New returns an empty scheduler. limits gives the settings of a transport by
// its name; it is asked when a transport is first seen and by SetLimits.
func New(limits func(transport string) Limits) *State {
	return &State{
		items: make([]item, 1), dests: make([]*dest, 1), limits: limits,
		byKey: make(map[mail.Destination]*dest), transports: make(map[string]*transport),
	}
}

// Acquire returns the ID of a destination and keeps it known until as many
// calls of Release.
func (s *State) Acquire(key mail.Destination) DestID {
	d := s.byKey[key]
	if d == nil {
		d = &dest{key: key, alarmPos: -1, alarmAt: never, tr: s.transport(key.Transport)}
		d.window = d.tr.limits.initial()
		d.tr.dests++
		if n := len(s.free); n > 0 {
			d.id, s.free = s.free[n-1], s.free[:n-1]
			s.dests[d.id] = d
		} else {
			d.id = DestID(len(s.dests))
			s.dests = append(s.dests, d)
		}
		s.byKey[key] = d
	}
	d.refs++
	return d.id
}

// Release undoes one Acquire. The destination is forgotten some time after
// the last, once it is neither dead nor paused.
func (s *State) Release(id DestID, now time.Time) {
	d := s.dests[id]
	if d.refs--; d.refs == 0 {
		d.idleSince = max(d.idleSince, nanos(now))
		s.retime(d)
	}
}

func (s *State) transport(name string) *transport {
	t := s.transports[name]
	if t == nil {
		t = &transport{name: name, limits: s.limits(name)}
		s.transports[name] = t
	}
	return t
}

// Destination is what an ID stands for.
func (s *State) Destination(id DestID) mail.Destination { return s.dests[id].key }

// Add puts an item into a destination's line, to start at due or later, and
// tells whether it is due already.
func (s *State) Add(it Item, id DestID, due, now time.Time) bool {
	for int(it) >= len(s.items) {
		s.items = append(s.items, item{})
	}
	x := &s.items[it]
	if x.at != nowhere {
		return false
	}
	s.seq++
	*x = item{due: nanos(due), seq: s.seq, dest: uint32(id)}
	d := s.dests[id]
	if x.due <= nanos(now) {
		s.ripe(d, it, nanos(now))
		s.refresh(d)
		return true
	}
	x.at = inLater
	s.push(&d.later, it)
	s.retime(d)
	return false
}

// ripe puts an item among the ready ones. The caller refreshes.
func (s *State) ripe(d *dest, it Item, now int64) {
	d.rouse(now)
	s.items[it].at = inReady
	s.push(&d.ready, it)
}

// Remove takes a waiting item out and tells whether it was waiting. A running
// item is not touched: it ends with Finished.
func (s *State) Remove(it Item, now time.Time) bool {
	if int(it) >= len(s.items) {
		return false
	}
	x := &s.items[it]
	d := s.dests[x.dest]
	switch x.at {
	case inLater:
		s.take(&d.later, x.pos)
	case inReady:
		s.take(&d.ready, x.pos)
		s.calm(d, nanos(now))
	default:
		return false
	}
	x.at = nowhere
	s.refresh(d)
	return true
}

// RetryNow makes a waiting item due at once, behind those that are due
// already, and tells whether it was waiting for a later time.
func (s *State) RetryNow(it Item, now time.Time) bool {
	if int(it) >= len(s.items) || s.items[it].at != inLater {
		return false
	}
	x := &s.items[it]
	d := s.dests[x.dest]
	s.take(&d.later, x.pos)
	x.due = nanos(now)
	s.ripe(d, it, nanos(now))
	s.refresh(d)
	return true
}

// Finished ends a running item. For Negative, reason is what items are
// refused with should the destination be dead now.
func (s *State) Finished(it Item, out Outcome, reason mail.Status, now time.Time) {
	if int(it) >= len(s.items) || s.items[it].at != inFlight {
		return
	}
	s.items[it].at = nowhere
	d := s.dests[s.items[it].dest]
	d.running--
	d.tr.running--
	switch out {
	case Positive:
		d.positive()
	case Negative:
		d.negative(reason, nanos(now))
	}
	if out != Neutral && d.tr.limits.RateDelay > 0 {
		d.paused = nanos(now) + int64(d.tr.limits.RateDelay)
	}
	s.calm(d, nanos(now))
	s.refresh(d)
	s.takeTurns(d.tr)
}

// Shift moves all times that were planned by a clock that has been set
// forwards or back.
func (s *State) Shift(by time.Duration) {
	d := int64(by)
	for i := range s.items {
		if s.items[i].at != nowhere && s.items[i].due != 0 {
			s.items[i].due += d
		}
	}
	for _, x := range s.dests {
		if x == nil {
			continue
		}
		for _, t := range []*int64{&x.deadUntil, &x.paused, &x.idleSince} {
			if *t != 0 {
				*t += d
			}
		}
		if x.alarmAt != never {
			x.alarmAt += d
		}
	}
}

// Revive forgets that a destination is dead, if it is.
func (s *State) Revive(id DestID) {
	if d := s.dests[id]; d != nil && d.deadUntil != 0 {
		d.revive()
		s.refresh(d)
	}
}

// ReviveAll forgets all dead destinations, those without items included.
func (s *State) ReviveAll() {
	for id := range s.dests {
		s.Revive(DestID(id))
	}
}

// SetLimits asks for the limits of every transport anew.
func (s *State) SetLimits(limits func(transport string) Limits) {
	s.limits = limits
	for name, t := range s.transports {
		t.limits = limits(name)
	}
	for _, d := range s.dests[1:] {
		if d != nil {
			d.window = d.tr.limits.bound(d.window)
			if d.tr.limits.RateDelay == 0 {
				d.paused = 0
			}
			s.refresh(d)
		}
	}
	for _, t := range s.transports {
		s.takeTurns(t)
	}
}

// calm notes that a destination has come to rest, if it has.
func (s *State) calm(d *dest, now int64) {
	if d.idle() {
		d.rest(now)
	}
}

// refresh brings everything that is derived from a destination up to date:
// its place in its transport's round, among the shut ones, and its alarm.
func (s *State) refresh(d *dest) {
	dead := d.deadUntil != 0
	if len(d.ready) > 0 && !dead && d.paused == 0 && d.running < d.room() {
		enter(&d.tr.round, d, destTurn)
	} else {
		leave(&d.tr.round, d, destTurn)
	}
	if dead && len(d.ready) > 0 {
		enter(&s.shut, d, destShut)
	} else {
		leave(&s.shut, d, destShut)
	}
	s.takeTurns(d.tr)
	s.retime(d)
}

func (s *State) takeTurns(t *transport) {
	if t.round.head != nil && (t.limits.Processes == 0 || t.running < t.limits.Processes) {
		enter(&s.turns, t, transportTurn)
	} else {
		leave(&s.turns, t, transportTurn)
	}
}

// retime sets the alarm of a destination: the next moment at which something
// happens to it by itself.
func (s *State) retime(d *dest) {
	at := int64(never)
	if len(d.later) > 0 {
		at = s.items[d.later[0]].due
	}
	if d.deadUntil != 0 {
		at = min(at, d.deadUntil)
	}
	if d.paused != 0 {
		at = min(at, d.paused)
	}
	if at == never && d.refs == 0 && d.idle() {
		at = d.idleSince + int64(warmFor)
	}
	s.alarm(d, at)
}

func (s *State) forget(d *dest) {
	s.alarm(d, never)
	delete(s.byKey, d.key)
	s.dests[d.id] = nil
	s.free = append(s.free, d.id)
	if d.tr.dests--; d.tr.dests == 0 {
		delete(s.transports, d.tr.name)
	}
}

// nanos is a time as the scheduler counts it; the zero time is "at once".
func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}
