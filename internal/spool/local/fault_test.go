package local

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"posthouse/internal/mail"
	"posthouse/internal/spool"
	"posthouse/internal/spool/spooltest"
)

// faults is a disk that fails as it is told.
type faults struct {
	rule atomic.Pointer[func(errorfs.Op) error]
}

func (f *faults) String() string { return "faults" }

func (f *faults) MaybeError(op errorfs.Op) error {
	if rule := f.rule.Load(); rule != nil {
		return (*rule)(op)
	}
	return nil
}

// set makes operations of a kind, on paths with some text in them, fail.
func (f *faults) set(kind errorfs.OpKind, path string, err error) {
	rule := func(op errorfs.Op) error {
		if op.Kind == kind && strings.Contains(op.Path, path) {
			return err
		}
		return nil
	}
	f.rule.Store(&rule)
}

func (f *faults) clear() { f.rule.Store(nil) }

func commitOne(st *Store, id mail.QueueID, size int) error {
	env := spooltest.Envelope(id, size, 1)
	return spooltest.Commit(context.Background(), st, &env, spooltest.Body(id, size))
}

func remove(st *Store, id mail.QueueID) error {
	return st.Apply(context.Background(), (&spool.Batch{}).Add(spool.Remove{ID: id}))
}

// The first sync or write error is final; what was acknowledged can be read,
// and is there after a restart.
func TestDiskErrorIsFinal(t *testing.T) {
	eio := errors.New("the disk is on fire")
	for name, c := range map[string]struct {
		kind errorfs.OpKind
		path string
		size int
	}{
		"log sync":        {errorfs.OpFileSyncData, ".seg", 100},
		"log write":       {errorfs.OpFileWriteAt, ".seg", 100},
		"content sync":    {errorfs.OpFileSync, "/large/", 20_000},
		"directory sync":  {errorfs.OpFileSync, "/large", 20_000},
		"next segment":    {errorfs.OpFileSync, ".seg", 100},
		"rows' directory": {errorfs.OpFileSync, "MANIFEST", 100},
	} {
		t.Run(name, func(t *testing.T) {
			mem := newCrashFS(t)
			f := &faults{}
			st, _, _ := openRecovered(t, crashOptions(errorfs.Wrap(mem, f)))
			if err := commitOne(st, 1, 100); err != nil {
				t.Fatal(err)
			}
			f.set(c.kind, c.path, eio)
			var err error
			id := mail.QueueID(2)
			for ; err == nil && id < 5000; id++ {
				err = commitOne(st, id, c.size)
			}
			if !errors.Is(err, spool.ErrFailed) || !strings.Contains(err.Error(), "on fire") {
				t.Fatalf("Commit: %v", err)
			}
			f.clear()
			failed := id - 1
			wantFailed(t, st, id)
			if b, err := readAll(st, 1); err != nil || !bytes.Equal(b, spooltest.Body(1, 100)) {
				t.Errorf("Content afterwards: %v", err)
			}
			crashed := mem.CrashClone(vfs.CrashCloneCfg{})
			if err := st.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
			st, found, rec := openRecovered(t, crashOptions(crashed))
			for id := mail.QueueID(1); id < failed; id++ {
				if found[id] == nil || found[id].State.Corrupt != "" {
					t.Fatalf("message %d is lost", id)
				}
			}
			if rec.Messages < int(failed)-1 || rec.Corrupt != 0 {
				t.Errorf("%+v, want %d messages", rec, failed-1)
			}
			if err := st.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// wantFailed checks that nothing more is accepted.
func wantFailed(t *testing.T, st *Store, id mail.QueueID) {
	t.Helper()
	if err := commitOne(st, id, 100); !errors.Is(err, spool.ErrFailed) {
		t.Errorf("Commit afterwards: %v", err)
	}
	if err := remove(st, 1); !errors.Is(err, spool.ErrFailed) {
		t.Errorf("Apply afterwards: %v", err)
	}
	if err := second(st.Stage(0)); !errors.Is(err, spool.ErrFailed) {
		t.Errorf("Stage afterwards: %v", err)
	}
	outcome := make(chan error, 1)
	st.ApplyAsync(&spool.Batch{}, func(err error) { outcome <- err })
	if err := <-outcome; !errors.Is(err, spool.ErrFailed) {
		t.Errorf("ApplyAsync afterwards: %v", err)
	}
	if !errors.Is(st.Err(), spool.ErrFailed) {
		t.Errorf("Err: %v", st.Err())
	}
}

func second[T any](_ T, err error) error { return err }

// A full disk refuses mail, small and large, and everything works again when
// there is room.
func TestFullDisk(t *testing.T) {
	mem := newCrashFS(t)
	f := &faults{}
	st, _, _ := openRecovered(t, crashOptions(errorfs.Wrap(mem, f)))
	if err := commitOne(st, 1, 100); err != nil {
		t.Fatal(err)
	}
	f.set(errorfs.OpFileWriteAt, ".seg", syscall.ENOSPC)
	if err := commitOne(st, 2, 100); !errors.Is(err, spool.ErrNoSpace) {
		t.Errorf("small: %v", err)
	}
	if err := remove(st, 1); !errors.Is(err, spool.ErrNoSpace) {
		t.Errorf("removal without any space: %v", err)
	}
	f.set(errorfs.OpFileWrite, "/large/", syscall.ENOSPC)
	if err := commitOne(st, 3, 300_000); !errors.Is(err, spool.ErrNoSpace) {
		t.Errorf("large: %v", err)
	}
	if st.Err() != nil {
		t.Fatalf("Err: %v", st.Err())
	}
	f.clear()
	if err := commitOne(st, 4, 100); err != nil {
		t.Errorf("with space again: %v", err)
	}
	if err := remove(st, 1); err != nil {
		t.Errorf("removal with space again: %v", err)
	}
	crashed := mem.CrashClone(vfs.CrashCloneCfg{})
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	st, found, _ := openRecovered(t, crashOptions(crashed))
	if len(found) != 1 || found[4] == nil {
		t.Errorf("found %v, want message 4", found)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
}

// When a batch does not fit the disk, what finishes messages is written
// without the new ones.
func TestFullDiskFinishesWhatIsInside(t *testing.T) {
	f := &faults{}
	st, _, _ := openRecovered(t, crashOptions(errorfs.Wrap(newCrashFS(t), f)))
	if err := commitOne(st, 1, 100); err != nil {
		t.Fatal(err)
	}
	// A first write is held up until the others are queued behind it.
	holding, queued := make(chan struct{}), make(chan struct{})
	var writes atomic.Int32
	rule := func(op errorfs.Op) error {
		if op.Kind != errorfs.OpFileWriteAt || !strings.Contains(op.Path, "00000001.seg") {
			return nil
		}
		switch writes.Add(1) {
		case 1:
			close(holding)
			<-queued
		case 2:
			return syscall.ENOSPC
		}
		return nil
	}
	f.rule.Store(&rule)
	outcomes := make(chan error, 2)
	go func() { outcomes <- st.Apply(context.Background(), &spool.Batch{}) }()
	<-holding
	env := spooltest.Envelope(2, 0, 1)
	staged, err := st.Stage(0)
	if err != nil {
		t.Fatal(err)
	}
	refused := make(chan error, 1)
	// Both are queued when their calls wait; the asynchronous one tells so.
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	refused <- st.Commit(ctx, &env, staged)
	st.ApplyAsync((&spool.Batch{}).Add(spool.Remove{ID: 1}), func(err error) { outcomes <- err })
	close(queued)
	for range 2 {
		if err := <-outcomes; err != nil {
			t.Errorf("Apply: %v", err)
		}
	}
	if err := <-refused; !errors.Is(err, context.Canceled) {
		t.Errorf("Commit: %v", err)
	}
	for id := range mail.QueueID(2) {
		if _, err := st.Message(id + 1); !errors.Is(err, spool.ErrNotFound) {
			t.Errorf("message %d: %v", id+1, err)
		}
	}
	if writes.Load() < 3 || st.Err() != nil {
		t.Errorf("%d writes, Err %v", writes.Load(), st.Err())
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestReserve(t *testing.T) {
	o := crashOptions(newCrashFS(t))
	var free atomic.Int64
	o.FreeSpace = func() (int64, error) { return free.Load(), nil }
	o.MinFree, o.MaxMessageSize = 1000, 10_000
	at := mail.QueueID(0).Time()
	o.Now = func() time.Time { return at }
	free.Store(1 << 40)
	st, _, _ := openRecovered(t, o)
	if err := commitOne(st, 1, 100); err != nil {
		t.Fatal(err)
	}
	staged, err := st.Stage(0)
	if err != nil {
		t.Fatal(err)
	}
	free.Store(14_999)
	at = at.Add(2 * measureEvery)
	if err := second(st.Stage(10)); !errors.Is(err, spool.ErrNoSpace) {
		t.Errorf("Stage: %v", err)
	}
	env := spooltest.Envelope(2, 0, 1)
	if err := st.Commit(context.Background(), &env, staged); !errors.Is(err, spool.ErrNoSpace) {
		t.Errorf("Commit: %v", err)
	}
	if s, err := st.Space(); err != nil || s.Free != 14_999 || s.Reserve != 15_000 {
		t.Errorf("Space: %+v, %v", s, err)
	}
	if err := remove(st, 1); err != nil {
		t.Errorf("Apply in the reserve: %v", err)
	}
	free.Store(20_000)
	at = at.Add(2 * measureEvery)
	if err := second(st.Stage(100_000)); !errors.Is(err, spool.ErrNoSpace) {
		t.Errorf("Stage of more than is free: %v", err)
	}
	if err := commitOne(st, 3, 100); err != nil {
		t.Errorf("with space again: %v", err)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
}

// Rows that cannot be written do not stop mail, and are written later.
func TestRowsCannotBeWritten(t *testing.T) {
	mem := newCrashFS(t)
	f := &faults{}
	o := crashOptions(errorfs.Wrap(mem, f))
	var warnings atomic.Int32
	warned := make(chan struct{}, 1)
	o.Warn = func(string) {
		warnings.Add(1)
		select {
		case warned <- struct{}{}:
		default:
		}
	}
	st, _, _ := openRecovered(t, o)
	f.set(errorfs.OpCreate, ".sst", syscall.ENOSPC)
	for id := range mail.QueueID(200) {
		if err := commitOne(st, id+1, 1000); err != nil {
			t.Fatal(err)
		}
	}
	<-warned
	crashed := mem.CrashClone(vfs.CrashCloneCfg{})
	f.clear()
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	if n := warnings.Load(); n > 20 {
		t.Errorf("%d warnings about one trouble", n)
	}
	for _, disk := range []vfs.FS{crashed, mem} {
		st, found, _ := openRecovered(t, crashOptions(disk))
		if len(found) != 200 {
			t.Errorf("found %d messages, want 200", len(found))
		}
		if err := st.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestOpenSaysWhatToDo(t *testing.T) {
	write := func(fs vfs.FS, name, text string) {
		f, err := fs.Create(name, diskCategory)
		if err == nil {
			_, err = f.Write([]byte(text))
		}
		if err = errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		prepare func(m *vfs.MemFS, f *faults, o *Options)
		is      error
		says    string
	}{
		"missing": {func(_ *vfs.MemFS, _ *faults, o *Options) { o.Dir, o.Create = "/no", false }, fs.ErrNotExist, "create it"},
		"no permission": {func(_ *vfs.MemFS, f *faults, _ *Options) {
			f.set(errorfs.OpLock, "", &fs.PathError{Op: "open", Path: "lock", Err: fs.ErrPermission})
		}, fs.ErrPermission, "make the user who runs this its owner"},
		"not a spool":   {func(m *vfs.MemFS, _ *faults, _ *Options) { write(m, "/spool/main.cf", "x") }, spool.ErrFormat, "not a spool"},
		"newer version": {func(m *vfs.MemFS, _ *faults, _ *Options) { write(m, "/spool/FORMAT", "posthouse spool 2\nmark 1\n") }, spool.ErrFormat, "newer one"},
		"nonsense":      {func(m *vfs.MemFS, _ *faults, _ *Options) { write(m, "/spool/FORMAT", "hello") }, spool.ErrFormat, "not the format file"},
		"no mark":       {func(m *vfs.MemFS, _ *faults, _ *Options) { write(m, "/spool/FORMAT", "posthouse spool 1\n") }, spool.ErrFormat, "no mark"},
		"bad disk":      {func(_ *vfs.MemFS, f *faults, _ *Options) { f.set(errorfs.OpList, "/spool/log", errors.New("on fire")) }, nil, "on fire"},
	} {
		t.Run(name, func(t *testing.T) {
			mem, f := newCrashFS(t), &faults{}
			o := crashOptions(errorfs.Wrap(mem, f))
			c.prepare(mem, f, &o)
			st, err := Open(o)
			if err == nil {
				t.Fatal(errors.Join(errors.New("opened"), st.Close()))
			}
			if (c.is != nil && !errors.Is(err, c.is)) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, want %v saying %q", err, c.is, c.says)
			}
			if name == "bad disk" { // nothing is left behind, not even the lock
				f.clear()
				st, _, _ := openRecovered(t, o)
				if err := st.Close(); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func TestMethodsWantRecoverFirst(t *testing.T) {
	st, err := Open(crashOptions(newCrashFS(t)))
	if err != nil {
		t.Fatal(err)
	}
	if err := commitOne(st, 1, 10); !errors.Is(err, errNotRecovered) {
		t.Errorf("Commit: %v", err)
	}
	if _, err := st.Content(1); !errors.Is(err, errNotRecovered) {
		t.Errorf("Content: %v", err)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
}
