package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"posthouse/internal/mail"
	"posthouse/internal/spool"
	"posthouse/internal/spool/spooltest"
)

const damageSize = 700 // of contents in these tests

// written makes a spool of n messages, one batch each, and returns a copy of
// its disk: as a crash leaves it, or after a clean close.
func written(t *testing.T, n int, clean bool) *vfs.MemFS {
	t.Helper()
	fs := newCrashFS(t)
	o := crashOptions(fs)
	o.CheckpointBytes = 1 << 30
	st, _, _ := openRecovered(t, o)
	for id := range mail.QueueID(n) {
		env := spooltest.Envelope(id+1, damageSize, 1)
		if err := spooltest.Commit(context.Background(), st, &env, spooltest.Body(id+1, damageSize)); err != nil {
			t.Fatal(err)
		}
	}
	crashed := fs.CrashClone(vfs.CrashCloneCfg{})
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	if clean {
		return fs
	}
	return crashed
}

// segmentBytes returns the bytes of the log segment that holds a message, to be
// changed in place, and where the content of the message starts in it.
func segmentBytes(t *testing.T, fs *vfs.MemFS, id mail.QueueID) (data []byte, body int) {
	t.Helper()
	names, err := fs.List("/spool/log")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		data, err := fs.UnsafeGetFileDataBuffer("/spool/log/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if at := bytes.Index(data, spooltest.Body(id, damageSize)); at >= 0 {
			return data, at
		}
	}
	t.Fatalf("message %d is in no segment", id)
	return nil, 0
}

// wantAllBut checks that all messages but one are there and sound.
func wantAllBut(t *testing.T, st *Store, found map[mail.QueueID]*mail.Message, n int, but mail.QueueID) {
	t.Helper()
	for id := mail.QueueID(1); id <= mail.QueueID(n); id++ {
		if id == but {
			continue
		}
		m := found[id]
		if m == nil || m.State.Corrupt != "" {
			t.Errorf("message %d: %+v, want it sound", id, m)
			continue
		}
		if b, err := readAll(st, id); err != nil || !bytes.Equal(b, spooltest.Body(id, damageSize)) {
			t.Errorf("content of %d: %d bytes, %v", id, len(b), err)
		}
	}
}

// A bit that flips anywhere in an acknowledged record, with a later batch
// behind it, costs no more than that message, and is never silent.
func TestBitFlipInTheLog(t *testing.T) {
	const n, victim = 9, 5
	env := spooltest.Envelope(victim, damageSize, 1)
	head := len(spool.AppendEnvelope(nil, &env))
	places := map[string]int{ // from the start of the content
		"mark": -head - 64, "ID": -head - 56, "batch": -head - 48, "segment": -head - 40, "batch start": -head - 36,
		"head length": -head - 32, "body length": -head - 28, "high body length": -head - 25, "head checksum": -head - 24, "body checksum": -head - 20,
		"kind": -head - 16, "flags": -head - 15, "offset": -head - 12, "header checksum": -head - 4,
		"envelope": -head, "end of envelope": -1, "content": 0, "end of content": damageSize - 1,
	}
	for name, place := range places {
		t.Run(name, func(t *testing.T) {
			fs := written(t, n, false)
			data, body := segmentBytes(t, fs, victim)
			data[body+place] ^= 0x40
			o := crashOptions(fs)
			warned := 0
			o.Warn = func(string) { warned++ }
			for round := range 3 {
				st, found, rec := openRecovered(t, o)
				wantAllBut(t, st, found, n, victim)
				if warned == 0 {
					t.Error("the damage is not reported")
				}
				m := found[victim]
				for id, other := range found { // a damaged ID shows as another message
					if id < 1 || id > n {
						m = other
					}
				}
				switch {
				case m == nil && name != "mark" && name != "segment" && name != "kind":
					t.Errorf("round %d: the message is dropped", round)
				case m != nil && (m.State.Corrupt == "" || rec.Corrupt != 1):
					t.Errorf("round %d: %+v is not marked corrupt", round, m)
				case m != nil && place >= 0 && m.Sender != env.Sender:
					t.Errorf("round %d: envelope %+v lost with the content", round, m.Envelope)
				}
				if m != nil {
					if _, err := readAll(st, m.ID); !errors.Is(err, spool.ErrCorrupt) {
						t.Errorf("round %d: Content: %v", round, err)
					}
				}
				if err := st.Close(); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// Damage behind the checkpoint shows when the content is read, and at open
// when everything is verified.
func TestBitFlipBehindCheckpoint(t *testing.T) {
	fs := written(t, 3, true)
	data, body := segmentBytes(t, fs, 2)
	data[body+10] ^= 1
	o := crashOptions(fs)
	st, found, rec := openRecovered(t, o)
	wantAllBut(t, st, found, 3, 2)
	if _, err := st.Content(2); !errors.Is(err, spool.ErrCorrupt) || rec.Corrupt != 0 {
		t.Errorf("Content: %v; %d corrupt at open", err, rec.Corrupt)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	o.VerifyAll = true
	st, found, rec = openRecovered(t, o)
	wantAllBut(t, st, found, 3, 2)
	if rec.Corrupt != 1 || found[2].State.Corrupt == "" {
		t.Errorf("VerifyAll: %d corrupt, %+v", rec.Corrupt, found[2])
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
}

// A log cut short loses what was behind the cut, and nothing before it.
func TestTruncatedLog(t *testing.T) {
	const n = 5
	full := written(t, n, false)
	_, last := segmentBytes(t, full, n)
	_, before := segmentBytes(t, full, n-1)
	for cut := before + damageSize + 8; cut < last+damageSize; cut += 37 {
		fs := written(t, n, false)
		data, _ := segmentBytes(t, fs, n)
		name := "/spool/log/00000001.seg"
		f, err := fs.Create(name, diskCategory)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(bytes.Clone(data[:min(cut, len(data))])); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		st, found, rec := openRecovered(t, crashOptions(fs))
		wantAllBut(t, st, found, n-1, 0)
		if found[n] != nil || rec.Corrupt != 0 {
			t.Errorf("cut at %d: %+v, %d corrupt", cut, found[n], rec.Corrupt)
		}
		if err := st.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// Behind the checkpoint a lost segment is damage.
func TestMissingSegment(t *testing.T) {
	fs := written(t, 3, true)
	if err := fs.Remove("/spool/log/00000001.seg"); err != nil {
		t.Fatal(err)
	}
	st, found, rec := openRecovered(t, crashOptions(fs))
	if rec.Messages != 3 || rec.Corrupt != 3 {
		t.Errorf("%d messages, %d corrupt; want 3, 3", rec.Messages, rec.Corrupt)
	}
	for id, m := range found {
		if len(m.Recipients) != 1 || !strings.Contains(m.State.Corrupt, "missing") {
			t.Errorf("message %d: %+v", id, m)
		}
		if _, err := st.Content(id); !errors.Is(err, spool.ErrCorrupt) {
			t.Errorf("Content(%d): %v", id, err)
		}
		if err := st.Apply(context.Background(), (&spool.Batch{}).Add(spool.Remove{ID: id})); err != nil {
			t.Error(err)
		}
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	st, _, rec = openRecovered(t, crashOptions(fs))
	if rec.Messages != 0 {
		t.Errorf("%d messages after their removal", rec.Messages)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestDamagedLargeContent(t *testing.T) {
	const size = 200_000
	for name, damage := range map[string]func(fs *vfs.MemFS, data []byte) error{
		"block":    func(_ *vfs.MemFS, data []byte) error { data[100_000] ^= 1; return nil },
		"checksum": func(_ *vfs.MemFS, data []byte) error { data[len(data)-1] ^= 1; return nil },
		"missing":  func(fs *vfs.MemFS, _ []byte) error { return fs.Remove("/spool/large/0000000000000001") },
	} {
		t.Run(name, func(t *testing.T) {
			fs := newCrashFS(t)
			o := crashOptions(fs)
			o.VerifyAll = true
			st, _, _ := openRecovered(t, o)
			env := spooltest.Envelope(1, size, 1)
			if err := spooltest.Commit(context.Background(), st, &env, spooltest.Body(1, size)); err != nil {
				t.Fatal(err)
			}
			data, err := fs.UnsafeGetFileDataBuffer("/spool/large/0000000000000001")
			if err != nil {
				t.Fatal(err)
			}
			if err := damage(fs, data); err != nil {
				t.Fatal(err)
			}
			if _, err := readAll(st, 1); !errors.Is(err, spool.ErrCorrupt) {
				t.Errorf("reading: %v", err)
			}
			if err := st.Close(); err != nil {
				t.Fatal(err)
			}
			st, found, rec := openRecovered(t, o)
			if rec.Corrupt != 1 || found[1] == nil || found[1].State.Corrupt == "" {
				t.Errorf("%d corrupt, %+v", rec.Corrupt, found[1])
			}
			if err := st.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// A message that looks like a record of the log must not become one.
func TestForgedRecord(t *testing.T) {
	fs := newCrashFS(t)
	st, _, _ := openRecovered(t, crashOptions(fs))
	ctx := context.Background()
	env := spooltest.Envelope(1, damageSize, 1)
	if err := spooltest.Commit(ctx, st, &env, spooltest.Body(1, damageSize)); err != nil {
		t.Fatal(err)
	}
	data, body := segmentBytes(t, fs, 1)
	forged := bytes.Clone(data[:body+damageSize+64]) // records of this very segment
	env = spooltest.Envelope(2, len(forged), 1)
	if err := spooltest.Commit(ctx, st, &env, forged); err != nil {
		t.Fatal(err)
	}
	env = spooltest.Envelope(3, damageSize, 1)
	if err := spooltest.Commit(ctx, st, &env, spooltest.Body(3, damageSize)); err != nil {
		t.Fatal(err)
	}
	crashed := fs.CrashClone(vfs.CrashCloneCfg{})
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	// Damage its header, so that the search for the next record goes through
	// what it forged.
	data, at := segmentBytes(t, crashed, 1)
	data[at+damageSize+8] ^= 1
	st, found, _ := openRecovered(t, crashOptions(crashed))
	if len(found) < 2 || found[1] == nil || found[1].State.Corrupt != "" || found[3] == nil || found[3].State.Corrupt != "" {
		t.Errorf("found %s", fmt.Sprint(found))
	}
	for id := range found {
		if id > 3 {
			t.Errorf("message %d came out of a content", id)
		}
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
}
