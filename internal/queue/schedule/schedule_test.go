package schedule

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"posthouse/internal/mail"
)

var (
	t0   = time.Unix(1_700_000_000, 0)
	down = mail.NewStatus("4.4.1", "connect to example: Connection refused")
)

func smtp(hop string) mail.Destination { return mail.Destination{Transport: "smtp", NextHop: hop} }

func with(l Limits) func(string) Limits { return func(string) Limits { return l } }

// starts runs Next until it has nothing to say and returns what was started.
func starts(t *testing.T, s *State, now time.Time) (started, refused []Item) {
	t.Helper()
	for range 1_000_000 {
		switch it, what := s.Next(now); what {
		case Nothing:
			return started, refused
		case Start:
			started = append(started, it)
		case Refuse:
			refused = append(refused, it)
		}
	}
	t.Fatal("Next does not end")
	return nil, nil
}

func window(s *State, hop string) (w int) {
	s.Views(func(v View) {
		if v.Destination == smtp(hop) {
			w = v.Window
		}
	})
	return w
}

func TestRoundRobinBetweenDestinations(t *testing.T) {
	l := Defaults()
	l.Processes = 4
	s := New(with(l))
	a, b := s.Acquire(smtp("a")), s.Acquire(smtp("b"))
	for i := range 10 {
		s.Add(Item(1+i), a, t0, t0)
	}
	s.Add(100, b, t0, t0)
	s.Add(101, b, t0, t0)
	got, _ := starts(t, s, t0)
	if want := []Item{1, 100, 2, 101}; !slices.Equal(got, want) {
		t.Errorf("started %v, want %v: the second destination's turn comes after one item of the first", got, want)
	}
}

func TestFirstDueGoesFirst(t *testing.T) {
	s := New(with(Limits{Window: 1, Initial: 1}))
	a := s.Acquire(smtp("a"))
	s.Add(1, a, t0.Add(3*time.Second), t0)
	s.Add(2, a, t0.Add(1*time.Second), t0)
	s.Add(3, a, t0.Add(2*time.Second), t0)
	s.Add(4, a, t0.Add(1*time.Second), t0)
	var got []Item
	now := t0
	for len(got) < 4 {
		st, _ := starts(t, s, now)
		got = append(got, st...)
		if len(st) == 0 {
			now = s.Wake()
			continue
		}
		now = now.Add(5 * time.Second)
		s.Finished(st[0], Positive, mail.Status{}, now)
	}
	if want := []Item{2, 4, 3, 1}; !slices.Equal(got, want) {
		t.Errorf("order %v, want %v", got, want)
	}
}

// TestWindowFeedback follows the arithmetic step by step. One failure at a
// window of five costs two places, since the hysteresis cycle begins with its
// effect; at the defaults a fresh destination dies of three consecutive
// failures (1/5 + 1/3 + 1/2 of a cohort).
func TestWindowFeedback(t *testing.T) {
	type step struct {
		out    Outcome
		window int
		dead   bool
	}
	for _, c := range []struct {
		name  string
		set   func(*Limits)
		steps []step
	}{
		{"success widens by one", func(*Limits) {}, []step{{Positive, 6, false}, {Positive, 7, false}}},
		{"up to the limit", func(l *Limits) { l.Window = 6 }, []step{{Positive, 6, false}, {Positive, 6, false}}},
		{"neutral does nothing", func(*Limits) {}, []step{{Neutral, 5, false}, {Neutral, 5, false}}},
		{"failures kill", func(*Limits) {}, []step{{Negative, 3, false}, {Negative, 2, false}, {Negative, 2, true}}},
		{"a success between failures forgives the cohort", func(*Limits) {}, []step{
			{Negative, 3, false}, {Negative, 2, false}, {Positive, 3, false}, {Negative, 1, false},
		}},
		{"no cohort limit never kills", func(l *Limits) { l.CohortLimit = 0 }, []step{
			{Negative, 3, false}, {Negative, 2, false}, {Negative, 1, false}, {Negative, 1, false}, {Negative, 1, false},
		}},
		{"per concurrency", func(l *Limits) { l.Positive = Feedback{1, PerConcurrency} }, []step{
			{Positive, 5, false}, {Positive, 5, false}, {Positive, 5, false}, {Positive, 5, false}, {Positive, 6, false},
		}},
		{"no limit", func(l *Limits) { l.Window = 0 }, []step{{Positive, 6, false}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := Defaults()
			c.set(&l)
			s := New(with(l))
			a := s.Acquire(smtp("a"))
			for i := range 100 {
				s.Add(Item(i+1), a, t0, t0)
			}
			run, _ := starts(t, s, t0)
			for i, st := range c.steps {
				s.Finished(run[0], st.out, down, t0)
				run = run[1:]
				until, reason := s.Dead(a)
				if dead := !until.IsZero(); dead != st.dead || dead && reason != down {
					t.Fatalf("step %d: dead = %v (%v)", i, dead, reason)
				}
				if w := window(s, "a"); w != st.window {
					t.Fatalf("step %d: window %d, want %d", i, w, st.window)
				}
				more, _ := starts(t, s, t0)
				run = append(run, more...)
			}
		})
	}
}

func TestDeadDestination(t *testing.T) {
	s := New(with(Defaults()))
	a, b := s.Acquire(smtp("a")), s.Acquire(smtp("b"))
	for i := range 20 {
		s.Add(Item(i+1), a, t0, t0)
	}
	s.Add(50, b, t0, t0)
	s.Add(40, a, t0.Add(100*time.Second), t0)
	run, _ := starts(t, s, t0)
	if len(run) != 6 {
		t.Fatalf("%d started, want 5 and 1", len(run))
	}
	refused := 0
	for _, it := range run {
		if it != 50 {
			s.Finished(it, Negative, down, t0)
		}
		more, no := starts(t, s, t0)
		refused += len(no)
		if len(no) > 0 && len(more) > 0 {
			t.Fatal("started at a dead destination")
		}
	}
	if refused != 15 {
		t.Errorf("%d refused, want the 15 that waited", refused)
	}
	if _, no := starts(t, s, t0.Add(100*time.Second)); !slices.Equal(no, []Item{40}) {
		t.Errorf("refused %v: one that becomes due meanwhile is refused when it is due", no)
	}
	s.Add(41, a, t0.Add(299*time.Second), t0.Add(299*time.Second))
	if _, no := starts(t, s, t0.Add(299*time.Second)); !slices.Equal(no, []Item{41}) {
		t.Errorf("refused %v: new mail waits without an attempt", no)
	}
	s.Add(42, a, t0.Add(400*time.Second), t0.Add(299*time.Second))
	if got := s.Wake(); !got.Equal(t0.Add(300 * time.Second)) {
		t.Errorf("wakes at +%v, want the end of its death", got.Sub(t0))
	}
	if got, _ := starts(t, s, t0.Add(400*time.Second)); !slices.Equal(got, []Item{42}) {
		t.Errorf("started %v after its death", got)
	}
	if w := window(s, "a"); w != 5 {
		t.Errorf("window %d after its death, want the initial 5", w)
	}
}

func TestRateDelay(t *testing.T) {
	l := Defaults()
	l.RateDelay = 2 * time.Second
	s := New(with(l))
	a := s.Acquire(smtp("a"))
	for i := range 3 {
		s.Add(Item(i+1), a, t0, t0)
	}
	now := t0
	for i := range 3 {
		got, _ := starts(t, s, now)
		if !slices.Equal(got, []Item{Item(i + 1)}) {
			t.Fatalf("at +%v started %v", now.Sub(t0), got)
		}
		now = now.Add(30 * time.Millisecond)
		s.Finished(got[0], Positive, mail.Status{}, now)
		if got, _ := starts(t, s, now); len(got) > 0 {
			t.Fatal("started during the pause")
		}
		if wake := s.Wake(); !wake.Equal(now.Add(2 * time.Second)) {
			t.Fatalf("wakes after %v", wake.Sub(now))
		}
		now = s.Wake()
	}
}

// TestForgetsDestinations: what nobody holds leaves no trace after a minute.
func TestForgetsDestinations(t *testing.T) {
	s := New(with(Defaults()))
	for i := range 100 {
		id := s.Acquire(smtp(fmt.Sprint(i)))
		s.Release(id, t0)
	}
	starts(t, s, t0.Add(59*time.Second))
	if len(s.byKey) != 100 {
		t.Errorf("%d destinations known after 59s, want all", len(s.byKey))
	}
	starts(t, s, t0.Add(60*time.Second))
	if len(s.byKey)+len(s.transports)+len(s.timers) != 0 || !s.Wake().IsZero() {
		t.Errorf("left behind: %d destinations, %d transports, %d timers", len(s.byKey), len(s.transports), len(s.timers))
	}
}

// TestWarmWindow: a window survives being idle for a moment, not for long.
func TestWarmWindow(t *testing.T) {
	s := New(with(Defaults()))
	a := s.Acquire(smtp("a"))
	now := t0
	burst := func(n int) int {
		for i := range n {
			s.Add(Item(i+1), a, now, now)
		}
		run, _ := starts(t, s, now)
		first := len(run)
		for len(run) > 0 {
			s.Finished(run[0], Positive, mail.Status{}, now)
			more, _ := starts(t, s, now)
			run = append(run[1:], more...)
		}
		return first
	}
	if n := burst(100); n != 5 {
		t.Errorf("a fresh destination got %d at once", n)
	}
	now = now.Add(time.Second)
	if n := burst(100); n != 20 {
		t.Errorf("a warm destination got %d at once, want its widened window", n)
	}
	now = now.Add(2 * time.Minute)
	if n := burst(100); n != 5 {
		t.Errorf("a cold destination got %d at once, want the initial window", n)
	}
}

// TestSimulatedDays lets 20,000 messages to 100 destinations arrive over two
// days, a tenth of them down for the first of these, and holds delays against
// what they must be. It takes milliseconds.
func TestSimulatedDays(t *testing.T) {
	s := New(with(Defaults()))
	const n, dests = 20_000, 100
	day := t0.Add(24 * time.Hour)
	type running struct {
		it Item
		at time.Time
	}
	var ids []DestID
	for i := range dests {
		ids = append(ids, s.Acquire(smtp(fmt.Sprint(i))))
	}
	due, firstDue := make([]time.Time, n+1), make([]time.Time, n+1)
	var flight []running
	now, delivered, worst := t0, 0, time.Duration(0)
	handle := func() {
		for {
			it, what := s.Next(now)
			switch what {
			case Nothing:
				return
			case Start:
				flight = append(flight, running{it, now.Add(time.Second)})
			case Refuse:
				s.Add(it, ids[int(it)%dests], now.Add(time.Hour), now)
			}
		}
	}
	land := func() {
		for len(flight) > 0 && !flight[0].at.After(now) {
			it := flight[0].it
			flight = flight[1:]
			if int(it)%dests < dests/10 && now.Before(day) {
				s.Finished(it, Negative, down, now)
				s.Add(it, ids[int(it)%dests], now.Add(time.Hour), now)
				continue
			}
			s.Finished(it, Positive, mail.Status{}, now)
			delivered++
			if int(it)%dests >= dests/10 {
				worst = max(worst, now.Sub(firstDue[it]))
			}
		}
		handle()
	}
	for i := 1; i <= n; i++ {
		due[i] = t0.Add(time.Duration(i) * 8 * time.Second)
		firstDue[i] = due[i]
		s.Add(Item(i), ids[i%dests], due[i], now)
	}
	for delivered < n {
		next := s.Wake()
		if len(flight) > 0 && (next.IsZero() || flight[0].at.Before(next)) {
			next = flight[0].at
		}
		if next.IsZero() || next.Before(now) {
			t.Fatalf("stuck at %v with %d of %d delivered", now.Sub(t0), delivered, n)
		}
		now = next
		land()
		handle()
	}
	if worst > 2*time.Second {
		t.Errorf("a message to a healthy destination waited %v because of sick ones", worst)
	}
	if end := now.Sub(t0); end > 50*time.Hour {
		t.Errorf("the backlog was gone after %v", end)
	}
}

func BenchmarkAddStartFinish(b *testing.B) {
	l := Defaults()
	s := New(with(l))
	var ids []DestID
	for i := range 1000 {
		ids = append(ids, s.Acquire(smtp(fmt.Sprint(i))))
	}
	for i := range 1_000_000 {
		s.Add(Item(i+10), ids[i%1000], t0.Add(time.Hour+time.Duration(i)), t0)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		s.Add(1, ids[i%1000], t0, t0)
		it, _ := s.Next(t0)
		s.Finished(it, Positive, mail.Status{}, t0)
	}
}
