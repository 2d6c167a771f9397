package local

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"

	"posthouse/internal/spool"
	"posthouse/internal/spool/spooltest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// factory makes spools for the conformance suite.
type factory struct {
	fs func(t *testing.T) (vfs.FS, string)
}

// Sizes small enough that tests cross segments and checkpoints all the time.
const (
	testSegment    = 256 << 10
	testLarge      = 100 << 10
	testCheckpoint = 128 << 10
)

func testOptions(fs vfs.FS, dir string) Options {
	return Options{Dir: dir, Create: true, FS: fs, SegmentSize: testSegment, LargeSize: testLarge, CheckpointBytes: testCheckpoint}
}

func (f factory) New(t *testing.T) func() (spool.Store, error) {
	fs, dir := f.fs(t)
	return func() (spool.Store, error) {
		o := testOptions(fs, dir)
		o.Warn = func(s string) { t.Log(s) }
		return Open(o)
	}
}

func (factory) LargeSize() int { return testLarge }

func TestConformanceInMemory(t *testing.T) {
	t.Parallel()
	spooltest.Run(t, factory{func(*testing.T) (vfs.FS, string) { return vfs.NewMem(), "/spool" }})
}

func TestConformanceOnDisk(t *testing.T) {
	t.Parallel()
	spooltest.Run(t, factory{func(t *testing.T) (vfs.FS, string) { return vfs.Default, t.TempDir() }})
}
