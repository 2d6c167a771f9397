package local

import (
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Options are the settings of a Store. Only Dir must be set.
type Options struct {
	// Dir is the spool's directory. It must exist unless Create is set, and be
	// empty or a spool.
	Dir string
	// Create makes Dir, readable by its owner only, when it does not exist.
	Create bool
	// FS is where Dir is; default the operating system's files. The segments,
	// the large contents and Pebble all go through it.
	FS vfs.FS
	// Now is the clock; default time.Now. It only spaces the looks at the
	// free disk space.
	Now func() time.Time
	// Warn is told, in one line for the log, what an operator should know:
	// damage found, a checkpoint that failed. Default: nobody. It may be
	// called from any goroutine.
	Warn func(string)

	// MinFree is the least free disk space in bytes to accept mail with
	// (queue_minfree); default 0.
	MinFree int64
	// MaxMessageSize is the largest content to expect, in bytes: one and a half
	// times that is kept free as well; default 10,240,000.
	MaxMessageSize int64
	// FreeSpace tells how many bytes are free; default: FS is asked. Asked at
	// most once a second.
	FreeSpace func() (int64, error)

	// SegmentSize is the size of a log file in bytes; default 128 MiB, at most
	// 1 GiB.
	SegmentSize int64
	// LargeSize is the size in bytes above which a content gets a file of its
	// own; default 1 MiB.
	LargeSize int64
	// CheckpointBytes is how much log in bytes is written between two
	// checkpoints; default 64 MiB. A quarter of it also bounds the memory
	// taken by changes that wait for one.
	CheckpointBytes int64
	// ContentCache bounds the memory in bytes for contents that were committed
	// recently; default 32 MiB, negative for none.
	ContentCache int64
	// CopyRate bounds, in bytes per second, the copying of the live rest of
	// mostly dead segments; default 16 MiB.
	CopyRate int64
	// RowCache and RowMemory are the sizes in bytes of Pebble's block cache
	// and memtable; default 16 MiB and 8 MiB.
	RowCache, RowMemory int64
	// VerifyAll makes Recover check every content on disk, not only those
	// since the last checkpoint. It reads the whole spool.
	VerifyAll bool
}

const (
	defaultMaxMessageSize  = 10240000 // Postfix's message_size_limit
	defaultSegmentSize     = 128 << 20
	maxSegmentSize         = 1 << 30 // offsets are 32 bits wide, and one large batch may overshoot
	defaultLargeSize       = 1 << 20
	defaultCheckpointBytes = 64 << 20
	defaultContentCache    = 32 << 20
	defaultCopyRate        = 16 << 20
	defaultRowCache        = 16 << 20
	defaultRowMemory       = 8 << 20
)

func (o Options) withDefaults() Options {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Warn == nil {
		o.Warn = func(string) {}
	}
	setDefault(&o.MaxMessageSize, defaultMaxMessageSize)
	setDefault(&o.SegmentSize, defaultSegmentSize)
	setDefault(&o.LargeSize, defaultLargeSize)
	setDefault(&o.CheckpointBytes, defaultCheckpointBytes)
	setDefault(&o.ContentCache, defaultContentCache)
	setDefault(&o.CopyRate, defaultCopyRate)
	setDefault(&o.RowCache, defaultRowCache)
	setDefault(&o.RowMemory, defaultRowMemory)
	o.SegmentSize = min(o.SegmentSize, maxSegmentSize)
	return o
}

func setDefault(v *int64, def int64) {
	if *v == 0 {
		*v = def
	}
}
