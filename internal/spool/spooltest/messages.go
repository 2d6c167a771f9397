package spooltest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/google/go-cmp/cmp"

	"posthouse/internal/mail"
	"posthouse/internal/spool"
)

func newSpoolIsEmpty(h *harness) {
	h.wantRecovered()
	if h.found.Corrupt != 0 || h.st.Err() != nil {
		h.Errorf("corrupt %d, Err %v", h.found.Corrupt, h.st.Err())
	}
}

func committedIsRecovered(h *harness) {
	env := h.commit(10, 5000, 3)
	for range 2 {
		h.restart()
		h.wantRecovered(mail.NewMessage(env))
		h.wantContent(10, 5000)
	}
}

func commitRefusesWrongSize(h *harness) {
	env := Envelope(10, 99, 1)
	if err := Commit(context.Background(), h.st, &env, Body(10, 100)); err == nil {
		h.Error("Commit took an envelope with the wrong size")
	}
	h.restart()
	h.wantRecovered()
}

func commitUsesUpStaged(h *harness) {
	s, err := h.st.Stage(0)
	h.must(err)
	_, err = s.Write(Body(1, 100))
	h.must(err)
	env := Envelope(1, 100, 1)
	h.must(h.st.Commit(context.Background(), &env, s))
	s.Discard() // harmless
	h.wantContent(1, 100)
	again := Envelope(2, 100, 1)
	if err := h.st.Commit(context.Background(), &again, s); err == nil {
		h.Error("Commit took the same staged content twice")
	}
}

func emptyContent(h *harness) {
	h.commit(1, 0, 1)
	h.wantContent(1, 0)
	h.restart()
	h.wantContent(1, 0)
}

func discardLeavesNothing(h *harness) {
	for _, size := range []int{10, h.large} {
		s, err := h.st.Stage(int64(size))
		h.must(err)
		_, err = s.Write(make([]byte, size))
		h.must(err)
		if s.Size() != int64(size) {
			h.Errorf("Size is %d, want %d", s.Size(), size)
		}
		s.Discard()
	}
	h.restart()
	h.wantRecovered()
}

func contentOfEverySize(h *harness) {
	sizes := []int{1, 100, 4096, 4097, 65535, 65536, 65537, h.large - 1, h.large, h.large + 1, 2*h.large + 12345}
	for i, size := range sizes {
		h.commit(mail.QueueID(i+1), size, 1)
	}
	for range 2 {
		for i, size := range sizes {
			h.wantContent(mail.QueueID(i+1), size)
		}
		h.restart()
	}
}

func contentReadAt(h *harness) {
	for id, size := range map[mail.QueueID]int{1: 3000, 2: h.large + 70_000} {
		h.commit(id, size, 1)
		c, err := h.st.Content(id)
		h.must(err)
		want := Body(id, size)
		if c.Size() != int64(size) {
			h.Errorf("Size is %d, want %d", c.Size(), size)
		}
		for _, off := range []int{0, 1, size / 2, size - 10} {
			p := make([]byte, 10)
			if n, err := c.ReadAt(p, int64(off)); n != 10 || (err != nil && !errors.Is(err, io.EOF)) || !bytes.Equal(p, want[off:off+10]) {
				h.Errorf("ReadAt(%d) = %d, %v, %q", off, n, err, p)
			}
		}
		p := make([]byte, 10)
		if n, err := c.ReadAt(p, int64(size-5)); n != 5 || !errors.Is(err, io.EOF) {
			h.Errorf("ReadAt over the end = %d, %v", n, err)
		}
		if n, err := c.ReadAt(p, int64(size+5)); n != 0 || !errors.Is(err, io.EOF) {
			h.Errorf("ReadAt behind the end = %d, %v", n, err)
		}
		h.must(c.Close())
	}
}

func contentNotFound(h *harness) {
	if _, err := h.st.Content(1); !errors.Is(err, spool.ErrNotFound) {
		h.Errorf("Content: %v", err)
	}
	if _, err := h.st.Message(1); !errors.Is(err, spool.ErrNotFound) {
		h.Errorf("Message: %v", err)
	}
	h.commit(1, 100, 1)
	h.apply(spool.Remove{ID: 1})
	if _, err := h.st.Content(1); !errors.Is(err, spool.ErrNotFound) {
		h.Errorf("Content after removal: %v", err)
	}
	if _, err := h.st.Message(1); !errors.Is(err, spool.ErrNotFound) {
		h.Errorf("Message after removal: %v", err)
	}
}

func contentSurvivesRemoval(h *harness) {
	for id, size := range map[mail.QueueID]int{1: 3000, 2: h.large + 70_000} {
		h.commit(id, size, 1)
		for range 2 { // fresh, and after a restart
			c, err := h.st.Content(id)
			h.must(err)
			other := id + 100
			h.commit(other, size, 1)
			h.apply(spool.Remove{ID: other})
			b, err := io.ReadAll(io.NewSectionReader(c, 0, c.Size()))
			if err != nil || !bytes.Equal(b, Body(id, size)) {
				h.Errorf("reader of %d: %d bytes, %v", id, len(b), err)
			}
			h.must(c.Close())
			h.restart()
		}
		c, err := h.st.Content(id)
		h.must(err)
		h.apply(spool.Remove{ID: id})
		for i := range mail.QueueID(20) { // may take the place of the removed one
			h.commit(1000*id+i, size, 1)
		}
		b, err := io.ReadAll(io.NewSectionReader(c, 0, c.Size()))
		if err != nil || !bytes.Equal(b, Body(id, size)) {
			h.Errorf("reader of removed %d: %d bytes, %v", id, len(b), err)
		}
		h.must(c.Close())
	}
}

func removedIsNotRecovered(h *harness) {
	h.commit(1, 100, 1)
	keep := h.commit(2, 100, 1)
	h.commit(3, h.large+1, 1)
	h.restart() // what is removed was there at the last start
	h.commit(4, 100, 1)
	h.apply(spool.Remove{ID: 1}, spool.Remove{ID: 3})
	h.apply(spool.Remove{ID: 4})
	for range 2 {
		h.restart()
		h.wantRecovered(mail.NewMessage(keep))
	}
}

// states returns a message and recipient state with every field set.
func states(n int) (mail.State, mail.RecipientState) {
	at := time.Unix(1_700_000_000+int64(n), 5)
	state := mail.State{
		Created: at, Hold: true, HoldReason: "reason", ForceExpire: true, Requeue: true, Warned: true, DeletedAt: at, DeletedBy: "root", Corrupt: "why",
	}
	rcpt := mail.RecipientState{
		Phase: mail.Bounced, Attempts: uint32(n + 1), LastAttempt: at, NextAttempt: at.Add(time.Hour), Notified: true,
		Last: mail.Status{Code: mail.EnhancedCode{5, 1, 1}, Text: "no such user", RemoteMTA: "mx.example.net", DiagType: "smtp", DiagText: "550 5.1.1 no"},
	}
	return state, rcpt
}

func latestStateIsRecovered(h *harness) {
	want := mail.NewMessage(h.commit(1, 100, 2))
	for n := range 3 {
		var r mail.RecipientState
		want.State, r = states(n)
		want.RcptState[1] = r
		h.apply(spool.SetState{ID: 1, State: mail.State{}}, spool.SetState{ID: 1, State: want.State},
			spool.SetRecipients{ID: 1, Changes: []spool.RecipientChange{{Index: 1, State: r}}})
		h.restart()
		h.wantRecovered(want)
	}
	if h.found.Corrupt != 1 {
		h.Errorf("Recovered.Corrupt is %d, want 1", h.found.Corrupt)
	}
}

func recipientStates(h *harness) {
	const n = 300
	want := mail.NewMessage(h.commit(1, 100, n))
	for round := range 3 {
		for i := n - 1 - round; i >= 0; i -= 7 {
			_, s := states(1000*round + i)
			want.RcptState[i] = s
			h.apply(spool.SetRecipients{ID: 1, Changes: []spool.RecipientChange{{Index: i, State: s}}})
		}
		if got, err := h.st.Message(1); err != nil || !cmp.Equal(want, got, same) {
			h.Fatalf("Message: %v\n%s", err, cmp.Diff(want, got, same))
		}
		h.restart()
		h.wantRecovered(want)
	}
}

func messageReadsCurrent(h *harness) {
	want := mail.NewMessage(h.commit(1, 100, 2))
	check := func() {
		h.Helper()
		if got, err := h.st.Message(1); err != nil || !cmp.Equal(want, got, same) {
			h.Errorf("Message: %v\n%s", err, cmp.Diff(want, got, same))
		}
	}
	check()
	want.State, want.RcptState[0] = states(1)
	h.apply(spool.SetState{ID: 1, State: want.State})
	h.apply(spool.SetRecipients{ID: 1, Changes: []spool.RecipientChange{{Index: 0, State: want.RcptState[0]}}})
	check()
	h.restart()
	check()
	_, want.RcptState[1] = states(2)
	h.apply(spool.SetRecipients{ID: 1, Changes: []spool.RecipientChange{{Index: 1, State: want.RcptState[1]}}})
	check()
}

func recoverInOrder(h *harness) {
	var want []mail.QueueID
	for _, id := range []mail.QueueID{500, 3, 77, 1 << 40, 12} {
		h.commit(id, 10, 1)
		want = append(want, id)
	}
	h.restart()
	for _, id := range []mail.QueueID{501, 1, 78} {
		h.commit(id, 10, 1)
		want = append(want, id)
	}
	h.restart()
	slices.Sort(want)
	var got []mail.QueueID
	for _, m := range h.recovered {
		got = append(got, m.ID)
	}
	if !slices.Equal(got, want) {
		h.Errorf("recovered %v, want %v", got, want)
	}
}

func recoverStopsAtError(h *harness) {
	h.commit(1, 10, 1)
	h.commit(2, 10, 1)
	h.close()
	st, err := h.reopen()
	h.must(err)
	stop, calls := errors.New("stop"), 0
	if _, err := st.Recover(context.Background(), func(*mail.Message) error { calls++; return stop }); !errors.Is(err, stop) || calls != 1 {
		h.Errorf("Recover = %v after %d calls", err, calls)
	}
	h.must(st.Close())
	h.open()
	if len(h.recovered) != 2 {
		h.Errorf("recovered %d messages later, want 2", len(h.recovered))
	}
}

func recoverCanceled(h *harness) {
	h.commit(1, 10, 1)
	h.close()
	st, err := h.reopen()
	h.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := st.Recover(ctx, func(*mail.Message) error { return nil }); !errors.Is(err, context.Canceled) {
		h.Errorf("Recover = %v", err)
	}
	h.must(st.Close())
	h.open()
	h.wantContent(1, 10)
}

func lastIDSurvives(h *harness) {
	h.commit(9000, 10, 1)
	h.apply(spool.Remove{ID: 9000})
	h.commit(50, 10, 1)
	h.apply(spool.Remove{ID: 50})
	for range 3 {
		h.restart()
		h.wantRecovered()
		if h.found.LastID < 9000 {
			h.Errorf("LastID is %d, want at least 9000", h.found.LastID)
		}
	}
}

func concurrentCommitters(h *harness) {
	const callers, each = 32, 20
	inParallel(callers, func(i int) {
		for j := range each {
			id := mail.QueueID(1 + i*each + j)
			env := Envelope(id, 1000+i, 1)
			if err := Commit(context.Background(), h.st, &env, Body(id, 1000+i)); err != nil {
				h.Error(err)
				return
			}
			if b, err := read(h.st, id); err != nil || !bytes.Equal(b, Body(id, 1000+i)) {
				h.Errorf("read own write: %d bytes, %v", len(b), err)
			}
		}
	})
	h.restart()
	if len(h.recovered) != callers*each {
		h.Errorf("recovered %d messages, want %d", len(h.recovered), callers*each)
	}
	for i := range callers {
		h.wantContent(mail.QueueID(1+i*each), 1000+i)
	}
}

func concurrentLifeCycles(h *harness) {
	const callers, each = 16, 30
	inParallel(callers, func(i int) {
		for j := range each {
			id := mail.QueueID(1 + i*each + j)
			env := Envelope(id, 2000, 1)
			_, s := states(j)
			err := Commit(context.Background(), h.st, &env, Body(id, 2000))
			err = errors.Join(err, h.st.Apply(context.Background(), (&spool.Batch{}).Add(
				spool.SetRecipients{ID: id, Changes: []spool.RecipientChange{{Index: 0, State: s}}})))
			if j%3 != 0 {
				err = errors.Join(err, h.st.Apply(context.Background(), (&spool.Batch{}).Add(spool.Remove{ID: id})))
			}
			if err != nil {
				h.Error(err)
				return
			}
		}
	})
	h.restart()
	if want := callers * each / 3; len(h.recovered) != want {
		h.Errorf("recovered %d messages, want %d", len(h.recovered), want)
	}
	for _, m := range h.recovered {
		if _, want := states(int(m.ID-1) % each); !cmp.Equal(m.RcptState, []mail.RecipientState{want}) {
			h.Errorf("state of %d: %s", m.ID, cmp.Diff(m.RcptState, []mail.RecipientState{want}))
		}
	}
}

func contextEndsWait(h *harness) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	env := Envelope(1, 100, 1)
	// It may have become durable all the same, and then is whole.
	if err := Commit(ctx, h.st, &env, Body(1, 100)); err != nil && !errors.Is(err, context.Canceled) {
		h.Errorf("Commit: %v", err)
	}
	h.restart()
	for range h.recovered {
		h.wantContent(1, 100)
	}
}

func spaceCounts(h *harness) {
	before, err := h.st.Space()
	h.must(err)
	h.commit(1, 10_000, 1)
	h.commit(2, h.large+1, 1)
	full, err := h.st.Space()
	h.must(err)
	if grown := full.Live - before.Live; grown < int64(10_000+h.large+1) || full.Used < full.Live {
		h.Errorf("before %+v, after two messages %+v", before, full)
	}
	h.apply(spool.Remove{ID: 1}, spool.Remove{ID: 2})
	if after, err := h.st.Space(); err != nil || after.Live != before.Live {
		h.Errorf("before %+v, after removal %+v, %v", before, after, err)
	}
}

func secondOpenIsLocked(h *harness) {
	st, err := h.reopen()
	if !errors.Is(err, spool.ErrLocked) {
		h.Errorf("second open: %v", err)
		if err == nil {
			h.must(st.Close())
		}
	}
}

func closedRefuses(h *harness) {
	h.commit(1, 100, 1)
	st := h.st
	staged, err := st.Stage(0)
	h.must(err)
	h.close()
	env := Envelope(2, 0, 1)
	var wg sync.WaitGroup
	wg.Add(1)
	var async error
	st.ApplyAsync(&spool.Batch{}, func(err error) { async = err; wg.Done() })
	wg.Wait()
	for name, err := range map[string]error{
		"Stage":      second(st.Stage(0)),
		"Commit":     st.Commit(context.Background(), &env, staged),
		"Apply":      st.Apply(context.Background(), &spool.Batch{}),
		"ApplyAsync": async,
		"Content":    second(st.Content(1)),
		"Message":    second(st.Message(1)),
		"Get":        second(st.Get([]byte("k"))),
		"Scan":       st.Scan(nil, nil, func(_, _ []byte) bool { return true }),
		"Recover":    second(st.Recover(context.Background(), func(*mail.Message) error { return nil })),
		"Close":      st.Close(),
	} {
		if !errors.Is(err, spool.ErrClosed) {
			h.Errorf("%s after Close: %v", name, err)
		}
	}
	h.open()
}

func second[T any](_ T, err error) error { return err }

func closeKeeps(h *harness) {
	h.commit(1, 10, 1)
	const n = 200
	outcomes := make(chan error, n)
	for i := range n {
		h.st.ApplyAsync((&spool.Batch{}).Add(spool.Put{Key: []byte{byte(i)}, Value: []byte("v")}), func(err error) { outcomes <- err })
	}
	h.close()
	for range n {
		if err := <-outcomes; err != nil {
			h.Errorf("submitted before Close: %v", err)
		}
	}
	h.open()
	for i := range n {
		h.wantKV(string([]byte{byte(i)}), "v")
	}
}
