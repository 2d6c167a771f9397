package schedule

// The heaps are written out rather than built on container/heap: a million
// items are held, each with its place in its heap, and an interface call per
// comparison would double the cost of the hottest path.

// before orders a line: the longest due first, then the order of arrival.
func (s *State) before(a, b Item) bool {
	x, y := &s.items[a], &s.items[b]
	if x.due != y.due {
		return x.due < y.due
	}
	return x.seq < y.seq
}

func (s *State) push(h *[]Item, it Item) {
	*h = append(*h, it)
	s.items[it].pos = uint32(len(*h) - 1)
	s.siftUp(*h, len(*h)-1)
}

func (s *State) take(h *[]Item, pos uint32) Item {
	old := *h
	it := old[pos]
	last := len(old) - 1
	if int(pos) != last {
		old[pos] = old[last]
		s.items[old[pos]].pos = pos
	}
	*h = old[:last]
	if int(pos) < last {
		s.siftDown(*h, int(pos))
		s.siftUp(*h, int(pos))
	}
	// A line that was once very long gives its memory back.
	if c := cap(*h); c > 1024 && last < c/4 {
		*h = append(make([]Item, 0, c/2), *h...)
	}
	return it
}

func (s *State) siftUp(h []Item, i int) {
	for i > 0 {
		p := (i - 1) / 2
		if !s.before(h[i], h[p]) {
			return
		}
		h[i], h[p] = h[p], h[i]
		s.items[h[i]].pos, s.items[h[p]].pos = uint32(i), uint32(p)
		i = p
	}
}

func (s *State) siftDown(h []Item, i int) {
	for {
		c := 2*i + 1
		if c >= len(h) {
			return
		}
		if c+1 < len(h) && s.before(h[c+1], h[c]) {
			c++
		}
		if !s.before(h[c], h[i]) {
			return
		}
		h[i], h[c] = h[c], h[i]
		s.items[h[i]].pos, s.items[h[c]].pos = uint32(i), uint32(c)
		i = c
	}
}

// alarm puts a destination into the heap of timers, moves it there, or takes
// it out (at = never).
func (s *State) alarm(d *dest, at int64) {
	switch {
	case d.alarmPos < 0 && at == never:
		return
	case d.alarmPos < 0:
		d.alarmAt, d.alarmPos = at, len(s.timers)
		s.timers = append(s.timers, d)
		s.timerUp(d.alarmPos)
	case at == never:
		i, last := d.alarmPos, len(s.timers)-1
		s.timers[i] = s.timers[last]
		s.timers[i].alarmPos = i
		s.timers[last] = nil
		s.timers = s.timers[:last]
		d.alarmAt, d.alarmPos = never, -1
		if i < last {
			s.timerDown(i)
			s.timerUp(i)
		}
	case at != d.alarmAt:
		d.alarmAt = at
		s.timerDown(d.alarmPos)
		s.timerUp(d.alarmPos)
	}
}

func (s *State) timerUp(i int) {
	t := s.timers
	for i > 0 {
		p := (i - 1) / 2
		if t[i].alarmAt >= t[p].alarmAt {
			return
		}
		t[i], t[p] = t[p], t[i]
		t[i].alarmPos, t[p].alarmPos = i, p
		i = p
	}
}

func (s *State) timerDown(i int) {
	t := s.timers
	for {
		c := 2*i + 1
		if c >= len(t) {
			return
		}
		if c+1 < len(t) && t[c+1].alarmAt < t[c].alarmAt {
			c++
		}
		if t[c].alarmAt >= t[i].alarmAt {
			return
		}
		t[i], t[c] = t[c], t[i]
		t[i].alarmPos, t[c].alarmPos = i, c
		i = c
	}
}
