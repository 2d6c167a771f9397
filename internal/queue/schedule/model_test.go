package schedule

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"posthouse/internal/mail"
)

// naive is the scheduler as one would write it down first: a list of items,
// looked through from end to end. It decides nothing itself; it judges.
type naive struct {
	t      *rapid.T
	s      *State
	now    time.Time
	limits map[string]Limits
	ids    []DestID
	keys   []mail.Destination
	items  map[Item]*naiveItem
	dead   map[DestID]time.Time
	paused map[DestID]time.Time
	done   int
}

type naiveItem struct {
	dest    DestID
	due     time.Time
	running bool
}

func (m *naive) running(id DestID) (n int) {
	for _, x := range m.items {
		if x.running && x.dest == id {
			n++
		}
	}
	return n
}

func (m *naive) transportRunning(name string) (n int) {
	for _, x := range m.items {
		if x.running && m.s.Destination(x.dest).Transport == name {
			n++
		}
	}
	return n
}

func (m *naive) window(id DestID) int {
	w := 0
	m.s.Views(func(v View) {
		if v.Destination == m.s.Destination(id) {
			w = v.Window
		}
	})
	return w
}

func (m *naive) deadNow(id DestID) bool { return m.dead[id].After(m.now) }

// mayStart is the whole contract of a start.
func (m *naive) mayStart(it Item, x *naiveItem) error {
	key := m.s.Destination(x.dest)
	l := m.limits[key.Transport]
	// Start has counted the item already.
	switch run := m.running(x.dest); {
	case x.running:
		return fmt.Errorf("started twice")
	case x.due.After(m.now):
		return fmt.Errorf("started %v early", x.due.Sub(m.now))
	case m.deadNow(x.dest):
		return fmt.Errorf("started at a dead destination")
	case m.paused[x.dest].After(m.now):
		return fmt.Errorf("started during a pause")
	case run+1 > m.window(x.dest):
		return fmt.Errorf("started beyond the window")
	case l.Window > 0 && run+1 > l.Window:
		return fmt.Errorf("started beyond the limit")
	case l.RateDelay > 0 && run > 0:
		return fmt.Errorf("two at a time at a rate limited destination")
	case l.Processes > 0 && m.transportRunning(key.Transport)+1 > l.Processes:
		return fmt.Errorf("started beyond the process limit")
	}
	return nil
}

func (m *naive) drain() {
	for range 10_000 {
		it, what := m.s.Next(m.now)
		x := m.items[it]
		switch what {
		case Nothing:
			m.checkQuiet()
			return
		case Start:
			if x == nil {
				m.t.Fatalf("item %d started but not known", it)
			}
			if err := m.mayStart(it, x); err != nil {
				m.t.Fatalf("item %d: %v", it, err)
			}
			x.running = true
		case Refuse:
			if !m.deadNow(x.dest) || x.due.After(m.now) || x.running {
				m.t.Fatalf("item %d refused at a destination that is alive, early, or while running", it)
			}
			delete(m.items, it)
		case Due:
			if x.due.After(m.now) {
				m.t.Fatalf("item %d called due %v early", it, x.due.Sub(m.now))
			}
		}
	}
	m.t.Fatal("Next does not come to an end")
}

// checkQuiet: when there is nothing to do, nothing could be done (work
// conservation), and Wake is the next moment at which something could.
func (m *naive) checkQuiet() {
	next := time.Time{}
	soonest := func(at time.Time) {
		if at.After(m.now) && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	for it, x := range m.items {
		if x.running {
			continue
		}
		if m.mayStart(it, x) == nil {
			m.t.Fatalf("item %d could start and was not started", it)
		}
		if m.deadNow(x.dest) && !x.due.After(m.now) {
			m.t.Fatalf("item %d waits at a dead destination", it)
		}
		soonest(x.due)
		soonest(m.paused[x.dest])
	}
	for _, at := range m.dead {
		soonest(at)
	}
	wake := m.s.Wake()
	if !next.IsZero() && (wake.IsZero() || wake.After(next)) {
		m.t.Fatalf("wakes at %v, too late for %v", wake, next)
	}
	if !wake.IsZero() && !wake.After(m.now) {
		m.t.Fatalf("wakes at %v, which has passed (%v)", wake, m.now)
	}
}

func (m *naive) pick(label string, running bool) (Item, *naiveItem) {
	var its []Item
	for it := Item(1); int(it) < 60; it++ {
		if x := m.items[it]; x != nil && x.running == running {
			its = append(its, it)
		}
	}
	if len(its) == 0 {
		return 0, nil
	}
	it := rapid.SampledFrom(its).Draw(m.t, label)
	return it, m.items[it]
}

func (m *naive) add(t *rapid.T) {
	it := Item(rapid.IntRange(1, 59).Draw(t, "item"))
	if m.items[it] != nil {
		return
	}
	id := rapid.SampledFrom(m.ids).Draw(t, "dest")
	due := m.now.Add(time.Duration(rapid.IntRange(-20, 400).Draw(t, "in")) * time.Second)
	if got := m.s.Add(it, id, due, m.now); got != !due.After(m.now) {
		t.Fatalf("Add says due = %v", got)
	}
	m.items[it] = &naiveItem{dest: id, due: due}
	m.drain()
}

func (m *naive) finish(t *rapid.T) {
	it, x := m.pick("finish", true)
	if x == nil {
		return
	}
	out := Outcome(rapid.IntRange(0, 2).Draw(t, "outcome"))
	m.s.Finished(it, out, mail.NewStatus("4.4.1", "no answer"), m.now)
	delete(m.items, it)
	until, _ := m.s.Dead(x.dest)
	m.dead[x.dest] = until
	if l := m.limits[m.s.Destination(x.dest).Transport]; out != Neutral && l.RateDelay > 0 {
		m.paused[x.dest] = m.now.Add(l.RateDelay)
	}
	m.done++
	m.drain()
}

func (m *naive) tick(t *rapid.T) {
	if wake := m.s.Wake(); rapid.Bool().Draw(t, "exactly") && !wake.IsZero() {
		m.now = wake
	} else {
		m.now = m.now.Add(time.Duration(rapid.IntRange(0, 500).Draw(t, "seconds")) * time.Second)
	}
	m.drain()
}

func (m *naive) remove(*rapid.T) {
	it, x := m.pick("remove", false)
	if x == nil {
		return
	}
	if !m.s.Remove(it, m.now) {
		m.t.Fatal("a waiting item cannot be removed")
	}
	delete(m.items, it)
	m.drain()
}

func (m *naive) retry(*rapid.T) {
	it, x := m.pick("retry", false)
	if x == nil {
		return
	}
	later := x.due.After(m.now)
	if m.s.RetryNow(it, m.now) != later {
		m.t.Fatalf("RetryNow of an item due %v", x.due)
	}
	if later {
		x.due = m.now
	}
	m.drain()
}

func (m *naive) revive(t *rapid.T) {
	if rapid.Bool().Draw(t, "all") {
		m.s.ReviveAll()
		clear(m.dead)
	} else {
		id := rapid.SampledFrom(m.ids).Draw(t, "revived")
		m.s.Revive(id)
		delete(m.dead, id)
	}
	m.drain()
}

func (m *naive) reconfigure(t *rapid.T) {
	l := Defaults()
	l.Window = rapid.IntRange(0, 6).Draw(t, "limit")
	l.Initial = rapid.IntRange(1, 5).Draw(t, "initial")
	l.Processes = rapid.IntRange(0, 8).Draw(t, "processes")
	l.CohortLimit = float64(rapid.IntRange(0, 2).Draw(t, "cohorts"))
	l.RateDelay = time.Duration(rapid.SampledFrom([]int{0, 0, 0, 7}).Draw(t, "delay")) * time.Second
	m.limits[rapid.SampledFrom([]string{"smtp", "slow"}).Draw(t, "transport")] = l
	m.s.SetLimits(func(name string) Limits { return m.limits[name] })
	for id := range m.paused {
		if m.limits[m.s.Destination(id).Transport].RateDelay == 0 {
			delete(m.paused, id)
		}
	}
	m.drain()
}

// TestAgainstNaiveModel drives the scheduler with arbitrary events and holds
// each decision against the contract; at the end, with all destinations alive
// and all deliveries succeeding, every item left is started.
func TestAgainstNaiveModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		slow := Defaults()
		slow.RateDelay, slow.Processes = 5*time.Second, 2
		m := &naive{
			t: t, now: time.Unix(1_000_000, 0), items: map[Item]*naiveItem{},
			dead: map[DestID]time.Time{}, paused: map[DestID]time.Time{},
			limits: map[string]Limits{"smtp": Defaults(), "slow": slow},
		}
		m.s = New(func(name string) Limits { return m.limits[name] })
		for i := range 4 {
			key := mail.Destination{Transport: []string{"smtp", "slow"}[i%2], NextHop: fmt.Sprint(i)}
			m.keys, m.ids = append(m.keys, key), append(m.ids, m.s.Acquire(key))
		}
		t.Repeat(map[string]func(*rapid.T){
			"add": m.add, "add again": m.add, "finish": m.finish, "finish again": m.finish, "tick": m.tick,
			"remove": m.remove, "retry": m.retry, "revive": m.revive, "reconfigure": m.reconfigure,
		})
		m.settle()
	})
}

func (m *naive) settle() {
	m.s.ReviveAll()
	clear(m.dead)
	m.drain()
	for range 10_000 {
		for it, x := range m.items {
			if x.running {
				m.s.Finished(it, Positive, mail.Status{}, m.now)
				delete(m.items, it)
				if l := m.limits[m.s.Destination(x.dest).Transport]; l.RateDelay > 0 {
					m.paused[x.dest] = m.now.Add(l.RateDelay)
				}
			}
		}
		m.drain()
		if len(m.items) == 0 {
			return
		}
		if wake := m.s.Wake(); m.quietBut(wake) {
			m.now = wake
			m.drain()
		}
	}
	m.t.Fatalf("%d items starve", len(m.items))
}

func (m *naive) quietBut(wake time.Time) bool {
	for _, x := range m.items {
		if x.running {
			return false
		}
	}
	return !wake.IsZero()
}
