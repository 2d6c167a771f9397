package mail

import (
	"sync/atomic"
	"time"
)

// IDSource gives out queue IDs. It is safe for concurrent use.
//
// IDs never repeat while the floor given to NewIDSource is at least the
// largest ID ever handed out before, even when the clock was set back: the
// source then counts on from the floor.
type IDSource struct {
	last atomic.Uint64
	now  func() time.Time
}

// NewIDSource returns a source whose IDs are all larger than floor. now is
// the clock, time.Now outside tests.
func NewIDSource(floor QueueID, now func() time.Time) *IDSource {
	s := &IDSource{now: now}
	s.last.Store(uint64(floor))
	return s
}

// Next returns an ID that was never returned before.
func (s *IDSource) Next() QueueID {
	t := s.now()
	want := uint64(t.Unix())*ticksPerSecond + uint64(t.Nanosecond())/uint64(IDTick)
	for {
		last := s.last.Load()
		id := max(want, last+1)
		if s.last.CompareAndSwap(last, id) {
			return QueueID(id)
		}
	}
}

// Raise makes all further IDs larger than floor.
func (s *IDSource) Raise(floor QueueID) {
	for {
		last := s.last.Load()
		if last >= uint64(floor) || s.last.CompareAndSwap(last, uint64(floor)) {
			return
		}
	}
}
