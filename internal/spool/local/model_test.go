package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"posthouse/internal/mail"
	"posthouse/internal/spool"
	"posthouse/internal/spool/spooltest"
)

// model is what a spool should be: maps. A lone caller's every change is
// acknowledged, so that not even a crash may make a difference.
type model struct {
	fs       *vfs.MemFS
	st       *Store
	messages map[mail.QueueID]*mail.Message
	kv       map[string]string
	last     mail.QueueID
}

func (m *model) some(t *rapid.T) (mail.QueueID, bool) {
	if len(m.messages) == 0 {
		return 0, false
	}
	ids := make([]mail.QueueID, 0, len(m.messages))
	for id := range m.messages {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return rapid.SampledFrom(ids).Draw(t, "message"), true
}

func (m *model) apply(t *rapid.T, ops ...spool.Op) {
	if err := m.st.Apply(context.Background(), (&spool.Batch{}).Add(ops...)); err != nil {
		t.Fatal(err)
	}
}

func (m *model) commit(t *rapid.T) {
	m.last += mail.QueueID(rapid.IntRange(1, 1000).Draw(t, "step"))
	size := bodySize(m.last)
	env := spooltest.Envelope(m.last, size, rapid.IntRange(1, 40).Draw(t, "recipients"))
	if err := spooltest.Commit(context.Background(), m.st, &env, spooltest.Body(m.last, size)); err != nil {
		t.Fatal(err)
	}
	m.messages[m.last] = mail.NewMessage(env)
}

func (m *model) change(t *rapid.T) {
	id, ok := m.some(t)
	if !ok {
		return
	}
	msg := m.messages[id]
	var ops []spool.Op
	if rapid.Bool().Draw(t, "state") {
		msg.State = mail.State{Created: time.Unix(int64(m.last), 0), HoldReason: rapid.String().Draw(t, "reason")}
		ops = append(ops, spool.SetState{ID: id, State: msg.State})
	}
	var changes []spool.RecipientChange
	for _, i := range rapid.SliceOfN(rapid.IntRange(0, len(msg.Recipients)-1), 0, 5).Draw(t, "indexes") {
		msg.RcptState[i] = mail.RecipientState{Attempts: rapid.Uint32().Draw(t, "attempts"), Last: mail.Status{Text: "x"}}
		changes = append(changes, spool.RecipientChange{Index: i, State: msg.RcptState[i]})
	}
	m.apply(t, append(ops, spool.SetRecipients{ID: id, Changes: changes})...)
}

func (m *model) remove(t *rapid.T) {
	if id, ok := m.some(t); ok {
		m.apply(t, spool.Remove{ID: id})
		delete(m.messages, id)
	}
}

func (m *model) putOrDelete(t *rapid.T) {
	key := rapid.StringMatching(`[ab]{1,3}`).Draw(t, "key")
	if rapid.Bool().Draw(t, "put") {
		m.kv[key] = rapid.String().Draw(t, "value")
		m.apply(t, spool.Put{Key: []byte(key), Value: []byte(m.kv[key])})
		return
	}
	delete(m.kv, key)
	m.apply(t, spool.Delete{Key: []byte(key)})
}

func (m *model) restart(t *rapid.T) {
	crashed := m.fs
	if rapid.Bool().Draw(t, "crash") {
		crashed = m.fs.CrashClone(vfs.CrashCloneCfg{
			UnsyncedDataPercent: rapid.IntRange(0, 100).Draw(t, "unsynced"), RNG: rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0)),
		})
	}
	if err := m.st.Close(); err != nil {
		t.Fatal(err)
	}
	m.fs = crashed
	m.open(t)
}

func (m *model) open(t *rapid.T) {
	st, err := Open(crashOptions(m.fs))
	if err != nil {
		t.Fatal(err)
	}
	m.st = st
	found := make(map[mail.QueueID]*mail.Message)
	rec, err := st.Recover(context.Background(), func(msg *mail.Message) error { found[msg.ID] = msg; return nil })
	if err != nil || rec.LastID < m.last {
		t.Fatalf("recover: %+v, %v; last is %d", rec, err, m.last)
	}
	if d := cmp.Diff(m.messages, found, cmpopts.EquateEmpty()); d != "" {
		t.Fatalf("recovered:\n%s", d)
	}
}

// check compares everything that can be asked.
func (m *model) check(t *rapid.T) {
	for id, want := range m.messages {
		got, err := m.st.Message(id)
		if err != nil || !cmp.Equal(want, got, cmpopts.EquateEmpty()) {
			t.Fatalf("message %d: %v\n%s", id, err, cmp.Diff(want, got))
		}
		if b, err := readAll(m.st, id); err != nil || !bytes.Equal(b, spooltest.Body(id, bodySize(id))) {
			t.Fatalf("content of %d: %d bytes, %v", id, len(b), err)
		}
	}
	got := make(map[string]string)
	if err := m.st.Scan(nil, nil, func(k, v []byte) bool { got[string(k)] = string(v); return true }); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(m.kv, got); d != "" {
		t.Fatalf("KV:\n%s", d)
	}
}

func TestAgainstModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		m := &model{fs: newCrashFS(t), messages: make(map[mail.QueueID]*mail.Message), kv: make(map[string]string)}
		m.open(rt)
		defer func() {
			if err := m.st.Close(); err != nil {
				rt.Fatal(err)
			}
		}()
		rt.Repeat(map[string]func(*rapid.T){
			"commit": m.commit, "commit again": m.commit, "change": m.change, "remove": m.remove, "put or delete": m.putOrDelete, "restart": m.restart,
		})
		m.check(rt)
	})
}

// Under a load of short-lived messages of which a few stay, the log stays
// small: dead segments go, and mostly dead ones are copied forward.
func TestReclaimUnderLoad(t *testing.T) {
	t.Parallel()
	fs := newCrashFS(t)
	o := crashOptions(fs)
	o.ContentCache = -1
	st, _, _ := openRecovered(t, o)
	const size, every = 2000, 25
	var kept []mail.QueueID
	for id := mail.QueueID(1); id < 6000; id++ {
		env := spooltest.Envelope(id, size, 1)
		if err := spooltest.Commit(context.Background(), st, &env, spooltest.Body(id, size)); err != nil {
			t.Fatal(err)
		}
		if id%every == 0 {
			kept = append(kept, id)
		} else if err := remove(st, id); err != nil {
			t.Fatal(err)
		}
		if len(kept) > 20 { // they do go in the end
			if err := remove(st, kept[0]); err != nil {
				t.Fatal(err)
			}
			kept = kept[1:]
		}
	}
	wantSmall(t, st, 12*o.SegmentSize)
	for round := range 2 {
		for _, id := range kept {
			if b, err := readAll(st, id); err != nil || !bytes.Equal(b, spooltest.Body(id, size)) {
				t.Errorf("round %d: content of %d: %v", round, id, err)
			}
		}
		if err := st.Close(); err != nil {
			t.Fatal(err)
		}
		var found map[mail.QueueID]*mail.Message
		st, found, _ = openRecovered(t, o)
		if len(found) != len(kept) {
			t.Errorf("round %d: %d messages, want %d", round, len(found), len(kept))
		}
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	names, err := fs.List("/spool/log")
	if err != nil || len(names) > 20 {
		t.Errorf("%d files in the log, %v", len(names), err)
	}
}

// wantSmall waits until the log is small; what is left to do needs no load.
func wantSmall(t *testing.T, st *Store, limit int64) {
	t.Helper()
	for i := 0; ; i++ {
		s, err := st.Space()
		if err != nil {
			t.Fatal(err)
		}
		if s.Used <= limit {
			return
		}
		if i > 100_000 {
			t.Fatalf("%d bytes used for %d live", s.Used, s.Live)
		}
		if err := st.Apply(context.Background(), (&spool.Batch{}).Add(spool.Put{Key: []byte("tick")})); err != nil {
			t.Fatal(err)
		}
	}
}

// A spool whose every message is gone is small again.
func TestEmptySpoolIsSmall(t *testing.T) {
	fs := newCrashFS(t)
	st, _, _ := openRecovered(t, crashOptions(fs))
	for id := range mail.QueueID(500) {
		if err := errors.Join(commitOne(st, id+1, bodySize(id+1)), remove(st, id+1)); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := st.Close(); err != nil {
			t.Fatal(err)
		}
		st, _, _ = openRecovered(t, crashOptions(fs))
	}
	for i := 0; ; i++ {
		names, err := fs.List("/spool/log")
		if err != nil {
			t.Fatal(err)
		}
		large, err := fs.List("/spool/large")
		if err != nil {
			t.Fatal(err)
		}
		if len(names) <= spareLimit && len(large) == 0 {
			break
		}
		if i > 10_000 {
			t.Fatal(fmt.Sprint("still there: ", names, large))
		}
		if err := st.Apply(context.Background(), (&spool.Batch{}).Add(spool.Put{Key: []byte("tick"), Value: make([]byte, 1000)})); err != nil {
			t.Fatal(err)
		}
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
}

// spareLimit is the most segment files an empty spool has: the one written, the
// next, those kept to be written over, and those since the last checkpoint.
const spareLimit = 7
