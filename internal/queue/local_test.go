package queue

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"posthouse/internal/mail"
	"posthouse/internal/spool"
	"posthouse/internal/spool/local"
)

// TestOnTheRealSpool: with the embedded engine, half of a few hundred messages
// fail at first, are found deferred by the next start, and end when retried.
func TestOnTheRealSpool(t *testing.T) {
	dir := t.TempDir()
	cfg := DefaultConfig()
	var mu sync.Mutex
	taken := map[mail.QueueID]int{}
	failing := true
	agent := agentFunc(func(_ context.Context, d *Delivery) []Result {
		c, err := d.Open()
		if err != nil {
			return []Result{noAnswer("")}
		}
		_ = c.Close()
		mu.Lock()
		defer mu.Unlock()
		if failing && d.Envelope.ID%2 == 0 || !d.Commit() {
			return []Result{later("")}
		}
		taken[d.Envelope.ID]++
		return []Result{accept("")}
	})
	life := func(work func(q *Queue, s spool.Store)) {
		s, err := local.Open(local.Options{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		q := New(cfg, Deps{
			Store: s, Router: routeFunc(domainRouter), Bouncer: &bouncer{}, Log: nullLog{},
			Agents: func(string) (Agent, bool) { return agent, true },
		})
		if _, err := q.Recover(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- q.Run(ctx) }()
		work(q, s)
		stop()
		if err := errors.Join(<-ended, s.Close()); err != nil {
			t.Fatal(err)
		}
	}
	left := func(q *Queue, at mail.QueueName, want int) {
		for deadline := time.Now().Add(10 * time.Second); ; runtime.Gosched() {
			c := q.Counts()
			total := 0
			for _, n := range c.Messages {
				total += n
			}
			if total == want && c.Messages[at] == want {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("counts %v, want %d in %s", c.Messages, want, at)
			}
		}
	}
	life(func(q *Queue, s spool.Store) {
		for i := range 300 {
			text := fmt.Appendf(nil, "Subject: %d\r\n\r\nx\r\n", i)
			env := mail.Envelope{
				ID: mail.QueueID(1<<40 + i), Arrival: time.Now(), Sender: "a@x", Size: int64(len(text)), Origin: mail.FromSMTP,
				Recipients: []mail.Recipient{{Address: "b@y"}},
			}
			c, err := s.Stage(0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Write(text); err != nil {
				t.Fatal(err)
			}
			if err := s.Commit(t.Context(), &env, c); err != nil {
				t.Fatal(err)
			}
			q.Enqueue(mail.NewMessage(env))
		}
		left(q, mail.Deferred, 150)
	})
	mu.Lock()
	failing = false
	mu.Unlock()
	life(func(q *Queue, _ spool.Store) {
		left(q, mail.Deferred, 150)
		if rep, err := q.Act(t.Context(), VerbRetry, Selection{All: true}, Actor{}); err != nil || len(rep.Outcomes) != 150 {
			t.Fatal(err, len(rep.Outcomes))
		}
		left(q, mail.Active, 0)
	})
	life(func(q *Queue, _ spool.Store) { left(q, mail.Active, 0) })
	for id, n := range taken {
		if n != 1 {
			t.Errorf("%s was taken %d times", id.Short(), n)
		}
	}
	if len(taken) != 300 {
		t.Errorf("%d of 300 taken", len(taken))
	}
}
