package local

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"posthouse/internal/mail"
	"posthouse/internal/spool"
	"posthouse/internal/spool/local/rows"
	"posthouse/internal/spool/spooltest"
)

// trashed makes a spool of one message in the trash, and closes it.
func trashed(t *testing.T, o Options) mail.QueueID {
	t.Helper()
	st, _, _ := openRecovered(t, o)
	if err := commitOne(st, 1, damageSize); err != nil {
		t.Fatal(err)
	}
	s := mail.State{DeletedAt: time.Unix(1, 0), DeletedBy: "root"}
	if err := st.Apply(context.Background(), &spool.Batch{Ops: []spool.Op{spool.SetState{ID: 1, State: s}}}); err != nil {
		t.Fatal(err)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	return 1
}

// spoilRow makes the envelope in a message's row unreadable, not where its
// record lies.
func spoilRow(t *testing.T, fsys vfs.FS, id mail.QueueID) {
	t.Helper()
	db, err := rows.Open(rows.Options{FS: fsys, Dir: "/spool/rows", Cache: 1 << 20, Memory: 1 << 20, Warn: func(s string) { t.Log(s) }})
	if err != nil {
		t.Fatal(err)
	}
	row, err := db.Envelope(id)
	if err != nil {
		t.Fatal(err)
	}
	row.Enc = append(make([]byte, 4), row.Enc...) // as of another layout
	w := db.NewWriter()
	w.Envelope(id, row)
	if err := errors.Join(w.Commit(), db.Flush(nil), db.Close()); err != nil {
		t.Fatal(err)
	}
}

// A sound message was set aside as corrupt because its row, which is only a
// copy of what the log has, could not be read.
func TestUnreadableRowIsNotDamage(t *testing.T) {
	mem := newCrashFS(t)
	o := crashOptions(mem)
	id := trashed(t, o)
	spoilRow(t, mem, id)
	warned := 0
	o.Warn = func(s string) {
		warned++
		t.Log(s)
	}
	for round := range 3 {
		st, found, rec := openRecovered(t, o)
		m := found[id]
		if rec.Corrupt != 0 || m == nil || m.State.Corrupt != "" || len(m.Recipients) != 1 || !m.State.Trashed() {
			t.Fatalf("round %d: corrupt %d, %+v", round, rec.Corrupt, m)
		}
		if b, err := readAll(st, id); err != nil || !bytes.Equal(b, spooltest.Body(id, damageSize)) {
			t.Fatalf("round %d: content: %d bytes, %v", round, len(b), err)
		}
		if want := min(round+1, 1); warned != want { // then a checkpoint has mended it
			t.Fatalf("round %d: %d warnings, want %d", round, warned, want)
		}
		if err := commitOne(st, id+1+mail.QueueID(round), damageSize); err != nil {
			t.Fatal(err)
		}
		if err := st.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// Damage to an envelope was forgotten when the message had a recorded state,
// and the message came back without recipients, but not marked corrupt.
func TestRecordedStateDoesNotHideDamage(t *testing.T) {
	mem := newCrashFS(t)
	o := crashOptions(mem)
	id := trashed(t, o)
	spoilRow(t, mem, id)
	data, body := segmentBytes(t, mem, id)
	data[body-1] ^= 1 // of the envelope
	warned := ""
	o.Warn = func(s string) { warned += s + "\n" }
	st, found, rec := openRecovered(t, o)
	defer func() { _ = st.Close() }()
	if m := found[id]; rec.Corrupt != 1 || m == nil || m.State.Corrupt == "" || !m.State.Trashed() {
		t.Errorf("corrupt %d, %+v", rec.Corrupt, m)
	}
	if !strings.Contains(warned, "is corrupt") {
		t.Errorf("warned of %q", warned)
	}
	if m, err := st.Message(id); err != nil || m.State.Corrupt == "" {
		t.Errorf("Message: %+v, %v", m, err)
	}
}

// A disk that cannot be read for a moment made sound messages corrupt, some of
// them for good.
func TestReadErrorIsNotDamage(t *testing.T) {
	mem, f := newCrashFS(t), &faults{}
	o := crashOptions(errorfs.Wrap(mem, f))
	o.CheckpointBytes = 1 << 30
	st, _, _ := openRecovered(t, o)
	if err := commitOne(st, 1, damageSize); err != nil {
		t.Fatal(err)
	}
	crashed := mem.CrashClone(vfs.CrashCloneCfg{})

	f.set(errorfs.OpFileReadAt, ".seg", syscall.EIO)
	if m, err := st.Message(1); !errors.Is(err, syscall.EIO) {
		t.Errorf("Message: %+v, %v, want the disk's error", m, err)
	}
	if err := st.Close(); err != nil { // a checkpoint that cannot read the envelope
		t.Fatal(err)
	}
	f.clear()
	st, found, rec := openRecovered(t, o)
	if rec.Corrupt != 0 || len(found[1].Recipients) != 1 {
		t.Errorf("after a checkpoint: corrupt %d, %+v", rec.Corrupt, found[1])
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}

	o = crashOptions(errorfs.Wrap(crashed, f))
	st, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	f.set(errorfs.OpFileReadAt, ".seg", syscall.EIO)
	_, err = st.Recover(context.Background(), func(m *mail.Message) error {
		t.Errorf("recovered %+v", m)
		return nil
	})
	if !errors.Is(err, syscall.EIO) {
		t.Errorf("Recover: %v, want the disk's error", err)
	}
	f.clear()
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
}

// What a verification at open cannot read is not damaged either.
func TestReadErrorWhileVerifyingIsNotDamage(t *testing.T) {
	mem, f := newCrashFS(t), &faults{}
	trashed(t, crashOptions(mem))
	o := crashOptions(errorfs.Wrap(mem, f))
	o.VerifyAll = true
	warned := ""
	o.Warn = func(s string) { warned += s + "\n" }
	st, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = st.Close() }()
	f.set(errorfs.OpFileReadAt, ".seg", syscall.EIO)
	rec, err := st.Recover(context.Background(), func(*mail.Message) error { return nil })
	f.clear()
	if err != nil || rec.Corrupt != 0 || !strings.Contains(warned, "could not be verified") {
		t.Errorf("corrupt %d, %v, warned of %q", rec.Corrupt, err, warned)
	}
}

// A message that is removed while it is read is not found, and not corrupt.
func TestRemovedWhileReadIsNotDamage(t *testing.T) {
	mem, f := newCrashFS(t), &faults{}
	st, _, _ := openRecovered(t, crashOptions(errorfs.Wrap(mem, f)))
	defer func() { _ = st.Close() }()
	if err := errors.Join(commitOne(st, 1, damageSize), commitOne(st, 2, 2*testLarge)); err != nil {
		t.Fatal(err)
	}
	before := placeOf(st, 1)
	if err := remove(st, 1); err != nil {
		t.Fatal(err)
	}
	f.set(errorfs.OpFileReadAt, ".seg", fs.ErrClosed)
	if m, err := st.readMessage(1, before); !errors.Is(err, spool.ErrNotFound) {
		t.Errorf("message: %+v, %v", m, err)
	}
	removed := false
	rule := func(op errorfs.Op) error {
		if removed || op.Kind != errorfs.OpOpen || !strings.Contains(op.Path, "/large/") {
			return nil
		}
		removed = true
		return errors.Join(remove(st, 2), fs.ErrNotExist)
	}
	f.rule.Store(&rule)
	if _, err := st.Content(2); !removed || !errors.Is(err, spool.ErrNotFound) {
		t.Errorf("content: %v, removed meanwhile %v", err, removed)
	}
	f.clear()
}
