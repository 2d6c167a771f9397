package local

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"runtime"
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

// placeOf is where a message lies now.
func placeOf(st *Store, id mail.QueueID) entry {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.index[id]
}

// churn commits messages and removes them again until something is so, which
// also is how time passes here.
func churn(t *testing.T, st *Store, from mail.QueueID, until func() bool) {
	t.Helper()
	for id := from; !until(); id++ {
		if id > from+20_000 {
			t.Fatal("it never happened")
		}
		if err := errors.Join(commitOne(st, id, 1000), remove(st, id)); err != nil {
			t.Fatal(err)
		}
	}
}

// A reader that looked a message up before it was moved out of its segment
// must find it, not call it corrupt because the segment is gone.
func TestReadOfMovedMessageIsNotCorrupt(t *testing.T) {
	o := crashOptions(newCrashFS(t))
	o.ContentCache = -1
	st, _, _ := openRecovered(t, o)
	if err := commitOne(st, 1, 700); err != nil {
		t.Fatal(err)
	}
	before := placeOf(st, 1)
	churn(t, st, 2, func() bool { return st.log.Missing(before.at, before.recordLen()) != "" })
	buf, _, body, err := st.readRecord(1, before, true)
	if err != nil || !bytes.Equal(body, spooltest.Body(1, 700)) {
		t.Errorf("read at its old place: %v", err)
	}
	st.pool.Release(buf)
	if err := remove(st, 1); err != nil {
		t.Fatal(err)
	}
	buf, _, _, err = st.readRecord(1, before, true)
	if !errors.Is(err, spool.ErrNotFound) {
		t.Errorf("read after its removal: %v", err)
	}
	st.pool.Release(buf)
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
}

// A large message that is refused for lack of space must give its own back.
func TestRefusedLargeContentLeavesNoFile(t *testing.T) {
	mem, f := newCrashFS(t), &faults{}
	st, _, _ := openRecovered(t, crashOptions(errorfs.Wrap(mem, f)))
	f.set(errorfs.OpFileWriteAt, ".seg", syscall.ENOSPC)
	if err := commitOne(st, 1, 300_000); !errors.Is(err, spool.ErrNoSpace) {
		t.Fatalf("Commit: %v", err)
	}
	if names, err := mem.List("/spool/large"); err != nil || len(names) != 0 {
		t.Errorf("left behind: %v, %v", names, err)
	}
	f.clear()
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
}

// shortFS is a disk whose writes to the log, while it is full, get there but
// for the last byte.
type shortFS struct {
	vfs.FS
	full atomic.Bool
}

type shortFile struct {
	vfs.File
	full *atomic.Bool
}

func (s *shortFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, o ...vfs.OpenOption) (vfs.File, error) {
	f, err := s.FS.OpenReadWrite(name, c, o...)
	return &shortFile{f, &s.full}, err
}

func (f *shortFile) WriteAt(p []byte, off int64) (int, error) {
	n, err := f.File.WriteAt(p, off)
	if err == nil && f.full.Load() {
		return n - 1, syscall.ENOSPC
	}
	return n, err
}

// What was refused because a write came to its end too early must not come
// back after a crash: its content may be gone.
func TestRefusedMessageDoesNotComeBack(t *testing.T) {
	mem := newCrashFS(t)
	short := &shortFS{FS: mem}
	st, _, _ := openRecovered(t, crashOptions(short))
	if err := commitOne(st, 1, 100); err != nil {
		t.Fatal(err)
	}
	short.full.Store(true)
	for id, size := range map[mail.QueueID]int{2: 100, 3: 300_000} {
		if err := commitOne(st, id, size); !errors.Is(err, spool.ErrNoSpace) {
			t.Errorf("Commit %d: %v", id, err)
		}
	}
	crashed := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))})
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	st, found, rec := openRecovered(t, crashOptions(crashed))
	if len(found) != 1 || rec.Corrupt != 0 {
		t.Errorf("found %v, %d corrupt", found, rec.Corrupt)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
}

// Copying must not take the reserve, which is for finishing what is inside.
func TestCopyLeavesTheReserve(t *testing.T) {
	o := crashOptions(newCrashFS(t))
	o.MaxMessageSize = 10_000
	var free, clock atomic.Int64
	free.Store(1 << 40)
	o.FreeSpace = func() (int64, error) { return free.Load(), nil }
	o.Now = func() time.Time { return time.Unix(clock.Add(1), 0) }
	st, _, _ := openRecovered(t, o)
	const n = 60 // more than half a segment
	for id := range mail.QueueID(n) {
		if err := commitOne(st, id+1, 500); err != nil {
			t.Fatal(err)
		}
	}
	for id := mail.QueueID(5); id <= n; id += 5 {
		if err := remove(st, id); err != nil {
			t.Fatal(err)
		}
	}
	first := placeOf(st, 1)
	free.Store(20_000) // nearly full: any segment would do
	rounds := 0
	churn(t, st, n+1, func() bool { rounds++; return rounds > 1000 })
	if now := placeOf(st, 1); now.at != first.at {
		t.Errorf("moved from %v to %v with %d bytes free", first.at, now.at, free.Load())
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
}

// Too many open files when the log needs its next segment is no reason to
// refuse everything until a restart.
func TestSegmentThatCannotBeOpenedIsTriedAgain(t *testing.T) {
	f := &faults{}
	st, _, _ := openRecovered(t, crashOptions(errorfs.Wrap(newCrashFS(t), f)))
	f.set(errorfs.OpOpen, ".seg", syscall.EMFILE)
	var err error
	id := mail.QueueID(1)
	for ; err == nil && id < 2000; id++ {
		err = commitOne(st, id, 1000)
	}
	if !errors.Is(err, spool.ErrNoSpace) || !errors.Is(err, syscall.EMFILE) {
		t.Errorf("Commit: %v", err)
	}
	f.clear()
	if err := commitOne(st, id, 1000); err != nil {
		t.Errorf("Commit with files again: %v", err)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
}

// A store that is told to stop while Pebble cannot write must stop: the log
// has everything.
func TestCloseWithFullDiskEnds(t *testing.T) {
	f := &faults{}
	mem := newCrashFS(t)
	o := crashOptions(errorfs.Wrap(mem, f))
	st, _, _ := openRecovered(t, o)
	f.set(errorfs.OpCreate, ".sst", syscall.ENOSPC)
	for id := range mail.QueueID(200) {
		if err := commitOne(st, id+1, 1000); err != nil {
			t.Fatal(err)
		}
	}
	if err := st.Close(); err != nil {
		t.Logf("Close: %v", err)
	}
	f.clear()
	st, found, _ := openRecovered(t, crashOptions(mem))
	if len(found) != 200 {
		t.Errorf("found %d messages, want 200", len(found))
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
}

// A power loss right after the first message of a new spool must not take the
// directory with it.
func TestNewSpoolSurvivesPowerLoss(t *testing.T) {
	fs := vfs.NewCrashableMem()
	o := crashOptions(fs)
	o.Dir = "/var/posthouse/spool"
	st, _, _ := openRecovered(t, o)
	if err := commitOne(st, 1, 100); err != nil {
		t.Fatal(err)
	}
	o.FS = fs.CrashClone(vfs.CrashCloneCfg{})
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	st, found, _ := openRecovered(t, o)
	if len(found) != 1 {
		t.Errorf("found %v, want one message", found)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
}

// A queue that ran empty on a full disk must take mail again: what is dead in
// the log is given back though nothing more is written.
func TestEmptySpoolOnFullDiskTakesMailAgain(t *testing.T) {
	mem := newCrashFS(t)
	o := crashOptions(mem)
	o.SegmentSize, o.CheckpointBytes, o.MaxMessageSize = 16<<20, 1<<30, 1<<20 // reserve 1.5 MiB
	o.FreeSpace = func() (int64, error) {
		free := int64(5 << 20)
		names, err := mem.List("/spool/log")
		for _, name := range names {
			if info, err := mem.Stat("/spool/log/" + name); err == nil {
				free -= info.Size()
			}
		}
		return free, err
	}
	var clock atomic.Int64
	o.Now = func() time.Time { return time.Unix(clock.Add(1), 0) }
	st, _, _ := openRecovered(t, o)
	last := mail.QueueID(0)
	var err error
	for ; err == nil && last < 2000; last++ {
		err = commitOne(st, last+1, 8000)
	}
	if !errors.Is(err, spool.ErrNoSpace) {
		t.Fatalf("the disk is not full: %v", err)
	}
	for id := mail.QueueID(1); id < last; id++ {
		if err := remove(st, id); err != nil {
			t.Fatal(err)
		}
	}
	for tries := 0; err != nil; tries++ {
		if err = commitOne(st, last, 2000); err != nil && tries == 100_000 {
			t.Fatalf("empty, and still: %v", err)
		}
		runtime.Gosched()
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
}
