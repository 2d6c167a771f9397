package queue

import (
	"context"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"posthouse/internal/mail"
	"posthouse/internal/postfix/maillog"
	"posthouse/internal/spool"
)

// nullStore records nothing, at once.
type nullStore struct {
	*memStore
	batches, ops atomic.Int64
}

func (s *nullStore) ApplyAsync(b *spool.Batch, done func(error)) {
	s.batches.Add(1)
	s.ops.Add(int64(len(b.Ops)))
	done(nil)
}

func (s *nullStore) Apply(context.Context, *spool.Batch) error { return nil }

type nullLog struct{}

func (nullLog) Log(string, maillog.Severity, maillog.Event) {}

// BenchmarkDeliveries is the queue's own cost of a message from Enqueue to its
// removal: an agent that accepts at once, a spool that records at once.
func BenchmarkDeliveries(b *testing.B) {
	store := &nullStore{memStore: newStore()}
	done := make(chan struct{}, 1<<16)
	agent := agentFunc(func(_ context.Context, d *Delivery) []Result {
		d.Commit()
		done <- struct{}{}
		return []Result{{Status: mail.Status{Code: mail.EnhancedCode{2, 0, 0}, Text: "250 2.0.0 Ok: queued as 4hXYZ"}}}
	})
	q := New(DefaultConfig(), Deps{
		Store: store, Router: routeFunc(domainRouter), Log: nullLog{},
		Agents: func(string) (Agent, bool) { return agent, true },
	})
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- q.Run(ctx) }()
	now := time.Now()
	b.ReportAllocs()
	b.ResetTimer()
	go func() {
		for i := range b.N {
			q.Enqueue(mail.NewMessage(mail.Envelope{
				ID: mail.QueueID(1<<40 + i), Arrival: now, Sender: "sender@origin.example", Size: 4096,
				Recipients: []mail.Recipient{{Address: mail.Address("user@dest" + string(rune('a'+i%20)) + ".example")}},
			}))
		}
	}()
	for range b.N {
		<-done
	}
	stop()
	<-ended
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "deliveries/s")
	b.ReportMetric(float64(store.ops.Load())/float64(max(store.batches.Load(), 1)), "ops/batch")
}

// deferredQueue is a queue of n deferred messages with addresses and reasons
// of usual length, one in ten of the reasons unlike all others.
func deferredQueue(tb testing.TB, n int, store spool.Store) *Queue {
	tb.Helper()
	q := New(DefaultConfig(), Deps{Store: store, Router: routeFunc(domainRouter), Log: nullLog{}})
	now := time.Now()
	for i := range n {
		m := mail.NewMessage(mail.Envelope{
			ID: mail.QueueID(1<<40 + i), Arrival: now, Sender: mail.Address(fmt.Sprintf("newsletter-%d@sender.example", i%1000)), Size: 4096,
			Recipients: []mail.Recipient{{Address: mail.Address(fmt.Sprintf("first.last.%d@destination%d.example", i, i%500))}},
		})
		reason := "connect to mx.destination.example[192.0.2.1]:25: Connection timed out"
		if i%10 == 0 {
			reason = fmt.Sprintf("host mx.example[192.0.2.1] said: 450 4.7.1 greylisted, see help/%d (in reply to RCPT TO command)", i)
		}
		m.RcptState[0] = mail.RecipientState{
			Attempts: 3, LastAttempt: now, NextAttempt: now.Add(time.Hour + time.Duration(i)*time.Microsecond), Last: mail.NewStatus("4.4.1", "%s", reason),
		}
		at := q.ask(m)
		q.mu.Lock()
		q.admit(m, at, false)
		q.unlock()
	}
	return q
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var ms runtime.MemStats
	runtime.ReadMemStats(&ms)
	return ms.HeapAlloc
}

// TestDeferredMessageIsSmall holds the memory of a waiting message to its
// budget, the scheduler's share included.
func TestDeferredMessageIsSmall(t *testing.T) {
	const n, budget = 50_000, 600
	before := heap()
	q := deferredQueue(t, n, newStore())
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- q.Run(ctx) }()
	for len(q.Destinations()) < 500 || func() (d int) {
		for _, v := range q.Destinations() {
			d += v.Deferred
		}
		return d
	}() < n {
		runtime.Gosched()
	}
	per := (heap() - before) / n
	t.Logf("%d bytes for a deferred message with one recipient", per)
	if per > budget {
		t.Errorf("%d bytes for a deferred message, more than %d", per, budget)
	}
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	runtime.KeepAlive(q)
}

func BenchmarkListMillion(b *testing.B) {
	q := deferredQueue(b, 1_000_000, newStore())
	for b.Loop() {
		n := 0
		q.List(func(v *View) bool { n += len(v.Recipients); return true })
		if n != 1_000_000 {
			b.Fatal(n)
		}
	}
}

func BenchmarkHoldMillion(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		q := deferredQueue(b, 1_000_000, &nullStore{memStore: newStore()})
		b.StartTimer()
		rep, err := q.Act(b.Context(), VerbHold, Selection{All: true}, Actor{User: "root"})
		if err != nil || len(rep.Outcomes) != 1_000_000 {
			b.Fatal(err)
		}
	}
}
