package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"posthouse/internal/mail"
	"posthouse/internal/spool"
	"posthouse/internal/spool/spooltest"
)

// crashOptions make everything small, so that segments, checkpoints, copies
// and Pebble's own flushes all happen many times in one test.
func crashOptions(fs vfs.FS) Options {
	return Options{
		Dir: "/spool", FS: fs, Create: true, SegmentSize: 64 << 10, LargeSize: 12 << 10, CheckpointBytes: 48 << 10,
		ContentCache: 32 << 10, CopyRate: 1 << 30, RowMemory: 256 << 10, RowCache: 1 << 20,
	}
}

// newCrashFS returns a file system whose root has been synced, as that of a
// machine has.
func newCrashFS(t testing.TB) *vfs.MemFS {
	fs := vfs.NewCrashableMem()
	if err := fs.MkdirAll("/spool", 0o700); err != nil {
		t.Fatal(err)
	}
	syncRoot(t, fs)
	return fs
}

func syncRoot(t testing.TB, fs vfs.FS) {
	d, err := fs.OpenDir("/")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		t.Fatal(err)
	}
}

// openRecovered opens a spool and returns its messages.
func openRecovered(t testing.TB, o Options) (*Store, map[mail.QueueID]*mail.Message, spool.Recovered) {
	t.Helper()
	st, err := Open(o)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	found := make(map[mail.QueueID]*mail.Message)
	last := mail.QueueID(0)
	rec, err := st.Recover(context.Background(), func(m *mail.Message) error {
		if m.ID <= last {
			t.Errorf("recovered %d after %d", m.ID, last)
		}
		last = m.ID
		found[m.ID] = m
		return nil
	})
	if err != nil {
		t.Fatalf("recover: %v", err)
	}
	return st, found, rec
}

func readAll(st *Store, id mail.QueueID) ([]byte, error) {
	c, err := st.Content(id)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.NewSectionReader(c, 0, c.Size()))
	return b, errors.Join(err, c.Close())
}

// A message's life is a row of versions: 0 before its commit, 1 after it, then
// one more for each change of state, and goneVersion after its removal.
const goneVersion = 1 << 30

// life is what is known of a message: the version that was acknowledged, and
// the one that was last asked for.
type life struct{ acked, asked int }

// ledger is what the workers of a crash test did.
type ledger struct {
	mu    sync.Mutex
	lives map[mail.QueueID]life
	async map[int]life // worker → changes that were made without waiting
}

func (l *ledger) ask(id mail.QueueID, version int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	v := l.lives[id]
	v.asked = version
	l.lives[id] = v
}

func (l *ledger) ack(id mail.QueueID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	v := l.lives[id]
	v.acked = v.asked
	l.lives[id] = v
}

func (l *ledger) snapshot() (lives map[mail.QueueID]life, async map[int]life) {
	l.mu.Lock()
	defer l.mu.Unlock()
	lives, async = make(map[mail.QueueID]life), make(map[int]life)
	for id, v := range l.lives {
		lives[id] = v
	}
	for w, v := range l.async {
		async[w] = v
	}
	return lives, async
}

func bodySize(id mail.QueueID) int {
	if id%17 == 0 {
		return 12<<10 + int(id%7)*9000
	}
	return int(id*733) % 6000
}

func versionKey(id mail.QueueID) []byte { return fmt.Appendf(nil, "version/%020d", id) }

func asyncKey(worker, n int) []byte { return fmt.Appendf(nil, "async/%d/%06d", worker, n) }

// worker lives through messages until the store closes.
func (l *ledger) worker(t *testing.T, st *Store, w int, next func() mail.QueueID, rng *rand.Rand) {
	ctx := context.Background()
	for {
		id := next()
		l.ask(id, 1)
		env := spooltest.Envelope(id, bodySize(id), 2)
		err := spooltest.Commit(ctx, st, &env, spooltest.Body(id, bodySize(id)))
		version := 1
		for ; err == nil && rng.IntN(4) != 0; version++ {
			l.ack(id)
			l.ask(id, version+1)
			// The state and the KV pair must come and go together.
			err = st.Apply(ctx, (&spool.Batch{}).Add(
				spool.SetRecipients{ID: id, Changes: []spool.RecipientChange{{Index: version % 2, State: mail.RecipientState{Attempts: uint32(version)}}}},
				spool.SetState{ID: id, State: mail.State{HoldReason: fmt.Sprint(version + 1)}},
				spool.Put{Key: versionKey(id), Value: fmt.Append(nil, version+1)}))
		}
		if err == nil {
			l.ack(id)
			l.changeAsync(st, w)
		}
		if err == nil && rng.IntN(5) != 0 {
			l.ask(id, goneVersion)
			if err = st.Apply(ctx, (&spool.Batch{}).Add(spool.Remove{ID: id}, spool.Delete{Key: versionKey(id)})); err == nil {
				l.ack(id)
			}
		}
		if err != nil {
			if !errors.Is(err, spool.ErrClosed) {
				t.Errorf("worker %d: %v", w, err)
			}
			return
		}
	}
}

func (l *ledger) changeAsync(st *Store, w int) {
	l.mu.Lock()
	v := l.async[w]
	v.asked++
	l.async[w] = v
	l.mu.Unlock()
	st.ApplyAsync((&spool.Batch{}).Add(spool.Put{Key: asyncKey(w, v.asked)}), func(err error) {
		if err == nil {
			l.mu.Lock()
			done := l.async[w]
			done.acked++
			l.async[w] = done
			l.mu.Unlock()
		}
	})
}

// check compares what a crash left with what was acknowledged before it and
// asked for until after it, and makes that what the ledger knows.
func (l *ledger) check(t *testing.T, st *Store, found map[mail.QueueID]*mail.Message, before, after map[mail.QueueID]life, asyncBefore, asyncAfter map[int]life) {
	now := make(map[mail.QueueID]life)
	for id, hi := range after {
		lo := before[id].acked
		m := found[id]
		delete(found, id)
		if m == nil {
			if lo > 0 && hi.asked != goneVersion {
				t.Errorf("message %d is lost: version %d was acknowledged, %d asked for", id, lo, hi.asked)
			}
			continue
		}
		version := 1
		if m.State.HoldReason != "" {
			_, _ = fmt.Sscan(m.State.HoldReason, &version)
		}
		if version < lo || version > hi.asked {
			t.Errorf("message %d has version %d; %d was acknowledged, %d asked for", id, version, lo, hi.asked)
		}
		if got := max(m.RcptState[0].Attempts, m.RcptState[1].Attempts); int(got) != version-1 {
			t.Errorf("message %d: half of version %d: recipient at %d", id, version, got)
		}
		if kv, err := st.Get(versionKey(id)); version > 1 && (err != nil || string(kv) != fmt.Sprint(version)) {
			t.Errorf("message %d: half of version %d: KV %q, %v", id, version, kv, err)
		}
		if b, err := readAll(st, id); err != nil || !bytes.Equal(b, spooltest.Body(id, bodySize(id))) {
			t.Errorf("message %d: content: %d bytes, %v", id, len(b), err)
		}
		now[id] = life{version, version}
	}
	for id := range found {
		t.Errorf("message %d came from nowhere", id)
	}
	async := make(map[int]life)
	for w, hi := range asyncAfter {
		n := 0
		for ; n < hi.asked; n++ {
			if _, err := st.Get(asyncKey(w, n+1)); err != nil {
				break
			}
		}
		for i := n + 1; i <= hi.asked; i++ {
			if _, err := st.Get(asyncKey(w, i)); !errors.Is(err, spool.ErrNotFound) {
				t.Errorf("worker %d: change %d is there without change %d", w, i, n+1)
			}
		}
		if n < asyncBefore[w].acked {
			t.Errorf("worker %d: %d changes acknowledged, %d there", w, asyncBefore[w].acked, n)
		}
		async[w] = life{n, n}
	}
	l.lives, l.async = now, async
}

// TestPowerLoss crashes the machine at random moments of a random load, with a
// random part of what was not synced on disk, and goes on from there.
func TestPowerLoss(t *testing.T) {
	t.Parallel()
	for _, seed := range []uint64{1, 2} {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) { powerLoss(t, seed, 10) })
	}
}

func powerLoss(t *testing.T, seed uint64, crashes int) {
	rng := rand.New(rand.NewPCG(seed, 0))
	fs := newCrashFS(t)
	l := &ledger{lives: make(map[mail.QueueID]life), async: make(map[int]life)}
	var ids sync.Mutex
	last := mail.QueueID(0)
	next := func() mail.QueueID {
		ids.Lock()
		defer ids.Unlock()
		last++
		return last
	}
	o := crashOptions(fs)
	o.Warn = func(s string) {
		if strings.Contains(s, "damaged") || strings.Contains(s, "corrupt") || strings.Contains(s, "fatal") {
			t.Error(s)
		}
	}
	st, found, _ := openRecovered(t, o)
	for range crashes {
		l.check(t, st, found, l.lives, l.lives, l.async, l.async)
		var wg sync.WaitGroup
		for w := range 8 {
			r := rand.New(rand.NewPCG(seed, rng.Uint64()))
			wg.Go(func() { l.worker(t, st, w, next, r) })
		}
		workUntil(t, st, next()+mail.QueueID(rng.IntN(400)), func() mail.QueueID { ids.Lock(); defer ids.Unlock(); return last })
		before, asyncBefore := l.snapshot()
		crashed := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: []int{0, 5, 50, 95, 100}[rng.IntN(5)], RNG: rand.New(rand.NewPCG(seed, rng.Uint64()))})
		after, asyncAfter := l.snapshot()
		if err := st.Close(); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		fs = crashed
		o.FS = fs
		var rec spool.Recovered
		st, found, rec = openRecovered(t, o)
		if rec.Corrupt != 0 {
			t.Errorf("%d messages corrupt", rec.Corrupt)
		}
		wantLastID(t, rec, before)
		l.check(t, st, found, before, after, asyncBefore, asyncAfter)
		if t.Failed() {
			break
		}
		// The next round begins with a clean restart half of the time.
		if rng.IntN(2) == 0 {
			if err := st.Close(); err != nil {
				t.Fatal(err)
			}
			st, found, _ = openRecovered(t, o)
			continue
		}
		found = l.messages(t, st)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
}

// workUntil waits until the workers have come to a message, with writes of our
// own, so as to need no clock.
func workUntil(t *testing.T, st *Store, target mail.QueueID, reached func() mail.QueueID) {
	t.Helper()
	for reached() < target {
		if err := st.Apply(context.Background(), (&spool.Batch{}).Add(spool.Put{Key: []byte("tick")})); err != nil {
			t.Fatal(err)
		}
	}
}

// messages reads the messages that the ledger has.
func (l *ledger) messages(t *testing.T, st *Store) map[mail.QueueID]*mail.Message {
	t.Helper()
	found := make(map[mail.QueueID]*mail.Message)
	for id := range l.lives {
		m, err := st.Message(id)
		if err != nil {
			t.Fatal(err)
		}
		found[id] = m
	}
	return found
}

func wantLastID(t *testing.T, rec spool.Recovered, committed map[mail.QueueID]life) {
	t.Helper()
	for id, v := range committed {
		if v.acked > 0 && rec.LastID < id {
			t.Errorf("LastID is %d, but %d was committed", rec.LastID, id)
		}
	}
}
