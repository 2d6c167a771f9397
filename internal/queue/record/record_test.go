package record

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"posthouse/internal/mail"
	"posthouse/internal/postfix/maillog"
	"posthouse/internal/spool"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// slowStore takes a second for each write and may answer out of order.
type slowStore struct {
	spool.Store
	mu      sync.Mutex
	applied []mail.QueueID
	sizes   []int
	fail    error
	takes   func(batch int) time.Duration
}

func (s *slowStore) ApplyAsync(b *spool.Batch, done func(error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, op := range b.Ops {
		s.applied = append(s.applied, op.(spool.Remove).ID)
	}
	s.sizes = append(s.sizes, len(b.Ops))
	err, wait := s.fail, s.takes(len(s.sizes))
	time.AfterFunc(wait, func() { done(err) })
}

func (s *slowStore) Apply(_ context.Context, b *spool.Batch) error {
	done := make(chan error)
	s.ApplyAsync(b, func(err error) { done <- err })
	return <-done
}

type owner struct {
	mu    sync.Mutex
	rec   *Recorder[int]
	notes []int
	errs  []error
	after int
}

func newOwner(s spool.Store) *owner {
	o := &owner{}
	o.rec = New(&o.mu, s, func(notes []int, err error) {
		for _, n := range notes {
			o.notes, o.errs = append(o.notes, n), append(o.errs, err)
		}
	}, func() { o.after++ })
	return o
}

func (o *owner) do(n int, write bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if write {
		o.rec.Add(spool.Remove{ID: mail.QueueID(n)})
	}
	o.rec.When(n)
}

func (o *owner) run() (stop func()) {
	o.mu.Lock()
	o.rec.Open()
	o.mu.Unlock()
	ended := make(chan struct{})
	go func() { o.rec.Run(); close(ended) }()
	return func() {
		o.mu.Lock()
		o.rec.Drain()
		o.mu.Unlock()
		<-ended
	}
}

func (o *owner) seen() []int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.notes)
}

func upTo(n int) (all []int) {
	for i := range n {
		all = append(all, i)
	}
	return all
}

// TestOrderAndBatches: notes come back in order even when the spool answers
// out of order, and what gathers behind slow writes becomes one batch.
func TestOrderAndBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &slowStore{takes: func(b int) time.Duration { return time.Duration(10-b%5) * time.Second }}
		o := newOwner(s)
		stop := o.run()
		for i := range 100 {
			o.do(i, i%7 != 3)
			if i < 10 {
				synctest.Wait()
			}
		}
		stop()
		if !slices.Equal(o.notes, upTo(100)) {
			t.Errorf("notes %v", o.notes)
		}
		if !slices.IsSorted(s.applied) || len(s.applied) != 86 {
			t.Errorf("applied %v", s.applied)
		}
		if n := len(s.sizes); n > 10 {
			t.Errorf("%d batches for a burst: %v", n, s.sizes)
		}
	})
}

// TestNotBefore: a note waits for what was added before it.
func TestNotBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOwner(&slowStore{takes: func(int) time.Duration { return time.Second }})
		stop := o.run()
		o.do(0, true)
		o.do(1, false)
		time.Sleep(999 * time.Millisecond)
		synctest.Wait()
		if len(o.seen()) != 0 {
			t.Error("heeded before it was durable")
		}
		time.Sleep(2 * time.Millisecond)
		synctest.Wait()
		if n := o.seen(); len(n) != 2 {
			t.Errorf("notes %v", n)
		}
		stop()
	})
}

func TestFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &slowStore{fail: spool.ErrFailed, takes: func(int) time.Duration { return time.Second }}
		o := newOwner(s)
		stop := o.run()
		for i := range 10 {
			o.do(i, true)
			synctest.Wait()
		}
		time.Sleep(time.Minute)
		s.mu.Lock()
		s.fail = nil
		s.mu.Unlock()
		o.do(10, true)
		stop()
		if !slices.Equal(o.notes, upTo(11)) {
			t.Errorf("notes %v", o.notes)
		}
		for i, err := range o.errs {
			if !errors.Is(err, spool.ErrFailed) {
				t.Errorf("note %d: %v", i, err)
			}
		}
		if slices.Contains(s.applied, 10) {
			t.Error("written after the failure")
		}
	})
}

func TestFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &slowStore{takes: func(int) time.Duration { return time.Second }}
		o := newOwner(s)
		var wg sync.WaitGroup
		for i := range 5 {
			o.do(i, true)
			wg.Go(func() { o.rec.Flush(t.Context()) })
			synctest.Wait()
		}
		wg.Wait()
		if !slices.Equal(o.notes, upTo(5)) || o.after == 0 {
			t.Errorf("notes %v", o.notes)
		}
	})
}

type keeper struct{ got []int }

func (k *keeper) Log(_ string, sev maillog.Severity, _ maillog.Event) {
	k.got = append(k.got, int(sev))
}

// TestJournalOrder: lines come out in the order of Add, whoever writes them.
func TestJournalOrder(t *testing.T) {
	var mu sync.Mutex
	k := &keeper{}
	j := NewJournal(&mu, k)
	var wg sync.WaitGroup
	n := 0
	for range 8 {
		wg.Go(func() {
			for range 30 {
				mu.Lock()
				j.Add("qmgr", maillog.Severity(n), maillog.Text("x"))
				n++
				mu.Unlock()
				j.Write()
			}
		})
	}
	wg.Wait()
	if !slices.Equal(k.got, upTo(240)) || !j.Empty() {
		t.Errorf("written %v", k.got)
	}
}

// fullStore has no room at first, then for what comes later only, as when the
// disk got room between two writes.
type fullStore struct {
	spool.Store
	mu      sync.Mutex
	refuse  int // so many more writes
	applied []mail.QueueID
	writes  int
}

func (s *fullStore) ApplyAsync(b *spool.Batch, done func(error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes++
	var err error
	if s.refuse > 0 {
		s.refuse--
		err = spool.ErrNoSpace
	} else {
		for _, op := range b.Ops {
			s.applied = append(s.applied, op.(spool.Remove).ID)
		}
	}
	time.AfterFunc(10*time.Millisecond, func() { done(err) })
}

// TestFullDiskIsWaitedOut: for lack of space nothing is given up; it is written
// in its order when there is room.
func TestFullDiskIsWaitedOut(t *testing.T) {
	for _, refuse := range []int{1, 2, 4, 60} {
		synctest.Test(t, func(t *testing.T) {
			s := &fullStore{refuse: refuse}
			o := newOwner(s)
			stop := o.run()
			for i := range 10 {
				o.do(i, true)
				synctest.Wait()
			}
			time.Sleep(500 * time.Millisecond)
			synctest.Wait()
			if o.mu.Lock(); !errors.Is(o.rec.Stalled(), spool.ErrNoSpace) {
				t.Errorf("%d refused: stalled by %v", refuse, o.rec.Stalled())
			}
			o.mu.Unlock()
			if n := o.seen(); len(n) != 0 {
				t.Errorf("%d refused: notes %v before anything is durable", refuse, n)
			}
			time.Sleep(2 * time.Minute)
			stop()
			if !slices.Equal(o.notes, upTo(10)) || errors.Join(o.errs...) != nil || o.rec.Stalled() != nil {
				t.Errorf("%d refused: notes %v, %v", refuse, o.notes, errors.Join(o.errs...))
			}
			// The last time that each was written, they were written in order.
			last := map[mail.QueueID]int{}
			for k, id := range s.applied {
				last[id] = k
			}
			for i := range 9 {
				if last[mail.QueueID(i)] >= last[mail.QueueID(i+1)] {
					t.Errorf("%d refused: applied %v", refuse, s.applied)
				}
			}
		})
	}
}

// TestDrainOnFullDiskEnds: who stops while the disk is full is told that it
// was for nothing, after one more try.
func TestDrainOnFullDiskEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fullStore{refuse: 1 << 30}
		o := newOwner(s)
		stop := o.run()
		o.do(0, true)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		before := s.writes
		o.do(1, true)
		stop()
		if len(o.notes) != 2 || !errors.Is(o.errs[0], spool.ErrNoSpace) || !errors.Is(o.errs[1], spool.ErrNoSpace) {
			t.Errorf("notes %v, %v", o.notes, o.errs)
		}
		if s.writes > before+2 {
			t.Errorf("%d tries at the end", s.writes-before)
		}
	})
}
