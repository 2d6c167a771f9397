package seglog

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"

	"posthouse/internal/mail"
	"posthouse/internal/spool"
)

// Options are the settings of a Log.
type Options struct {
	FS          vfs.FS
	Dir         string       // must exist
	Mark        uint64       // random, never 0, the same for the life of the log
	SegmentSize int64        // bytes at which a segment ends; one large record may overshoot
	Warn        func(string) // told of damage and failure, a line each
}

// Position is a place in the log, after some batch.
type Position struct {
	Seg   uint32 // segment
	Off   uint32 // offset in it
	Batch uint64 // the last batch before it
}

// Location is where a record lies.
type Location struct{ Seg, Off uint32 }

// Request is one record on its way into the log. The slices must not change
// until its outcome is known.
type Request struct {
	Kind    Kind
	Copied  bool         // marks a message that was moved here from an older segment
	ID      mail.QueueID // messages only
	Head    []byte
	Body    []byte
	HeadCRC uint32      // Checksum of Head
	BodyCRC uint32      // Checksum of Body
	Owner   any         // the Sink's
	Done    func(error) // called with the outcome; nil for Wait

	At      Location   // where it lies, set before Sink.Apply
	outcome chan error // room for one
}

// Len is how much of the log the record takes.
func (r *Request) Len() int64 { return recordLen(int64(len(r.Head)), int64(len(r.Body))) }

// Sink is the owner of a Log, called from its committer.
type Sink interface {
	// Apply makes requests visible that have become durable; end is where the
	// log ends after them. An error is final, as one of a sync.
	Apply(reqs []*Request, end Position) error
	// Refused is told of a request that does not become durable, before its
	// caller is.
	Refused(r *Request)
}

// Log is an open log. See the package comment.
type Log struct {
	opts      Options
	sink      Sink
	com       committer
	ready     chan prepared // the next segment
	stop      chan struct{} // closed: prepare ends
	committed chan struct{} // closed: the committer has ended; nil before Start
	wg        sync.WaitGroup
	failure   atomic.Pointer[error]

	mu     sync.Mutex
	segs   map[uint32]*segment
	spares []uint32 // dead segments to be written over
	last   uint32   // the largest number of a segment seen at Open
}

// segment is one file of the log.
type segment struct {
	seq  uint32
	file vfs.File // read, and written while it is the last one

	// Guarded by Log.mu.
	size   int64 // of the file
	live   int64 // bytes of records that the owner still needs
	count  int   // their number
	refs   int   // users of the file right now
	sealed bool  // the committer is done with it
	stuck  bool  // what lives in it cannot be moved
}

// Open opens the segments in a directory. Replay, Start and Close follow.
func Open(o Options) (*Log, error) {
	l := &Log{opts: o, ready: make(chan prepared), stop: make(chan struct{}), segs: make(map[uint32]*segment)}
	l.com.log = l
	l.com.wake = make(chan struct{}, 1)
	names, err := o.FS.List(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("read log directory: %w", err)
	}
	for _, name := range names {
		seq, ok := parseName(name)
		if !ok {
			continue
		}
		seg, err := l.openSegment(seq)
		if err != nil {
			return nil, errors.Join(err, l.Close())
		}
		l.segs[seq] = seg
		l.last = max(l.last, seq)
	}
	return l, nil
}

func (l *Log) openSegment(seq uint32) (*segment, error) {
	f, err := l.opts.FS.OpenReadWrite(l.path(seq), vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, fmt.Errorf("open log segment: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open log segment: %w", err), f.Close())
	}
	return &segment{seq: seq, file: f, size: info.Size(), sealed: true}, nil
}

// Start begins to take requests, in a new segment. after is where Replay ended.
// It returns where the log ends.
func (l *Log) Start(sink Sink, after Position) (Position, error) {
	l.sink = sink
	seq := max(l.last, after.Seg) + 1
	seg, err := l.newSegment(seq)
	if err != nil {
		return Position{}, err
	}
	c := &l.com
	c.batch = after.Batch
	c.blank = make([]byte, zeroAhead)
	c.adopt(seg)
	l.committed = make(chan struct{})
	go c.run()
	l.wg.Add(1)
	go l.prepare(seq + 1)
	return Position{Seg: seq, Off: headerLen, Batch: c.batch}, nil
}

// Drain waits for what was submitted, and takes no more.
func (l *Log) Drain() {
	l.com.close()
	if l.committed != nil {
		<-l.committed
	}
}

// Close drains the log and closes its files. Reads must have ended.
func (l *Log) Close() error {
	l.Drain()
	close(l.stop)
	l.wg.Wait()
	var errs []error
	for _, seg := range l.segs {
		errs = append(errs, seg.file.Close())
	}
	return errors.Join(errs...)
}

// Fail makes err the final failure, unless there is one, and returns that.
func (l *Log) Fail(err error) error {
	if !errors.Is(err, spool.ErrFailed) {
		err = fmt.Errorf("%w: %w", spool.ErrFailed, err)
		if l.failure.CompareAndSwap(nil, &err) {
			l.opts.Warn("spool: fatal: " + err.Error() + ": nothing more is accepted until a restart")
		}
	}
	return l.Err()
}

// Err is the final failure, nil while there is none.
func (l *Log) Err() error {
	if p := l.failure.Load(); p != nil {
		return *p
	}
	return nil
}

// Link counts a record as needed.
func (l *Log) Link(seq uint32, length int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if seg := l.segs[seq]; seg != nil {
		seg.live += length
		seg.count++
	}
}

// Unlink counts a record as no longer needed. It returns the live part of its
// segment, 1 while that is still written.
func (l *Log) Unlink(seq uint32, length int64) (ratio float64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	seg := l.segs[seq]
	if seg == nil {
		return 1
	}
	seg.live -= length
	seg.count--
	if !seg.sealed {
		return 1
	}
	return seg.ratio()
}

// ratio is the live part of the segment.
func (s *segment) ratio() float64 { return float64(s.live) / float64(max(s.size, 1)) }

// Space is the size of the log and what of it is needed, in bytes.
func (l *Log) Space() (used, live int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, seg := range l.segs {
		used += seg.size
		live += seg.live
	}
	return used, live
}

// Missing tells why a record cannot be where it should be, or "".
func (l *Log) Missing(at Location, length int64) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch seg := l.segs[at.Seg]; {
	case seg == nil:
		return fmt.Sprintf("log segment %08x is missing", at.Seg)
	case int64(at.Off)+length > seg.size:
		return fmt.Sprintf("log segment %08x ends too early", at.Seg)
	}
	return ""
}

// Read fills b, whose length says how much is wanted, with a message's record
// and checks what of it is there: the head, headLen bytes, and the body, if b
// has room for bodyLen bytes more. The slices returned are parts of b; head is
// nil when it is damaged. The error is spool.ErrCorrupt or the disk's.
func (l *Log) Read(b []byte, at Location, id mail.QueueID, headLen, bodyLen uint32) (head, body []byte, err error) {
	seg := l.hold(at.Seg)
	if seg == nil {
		return nil, nil, fmt.Errorf("%w: log segment %08x is missing", spool.ErrCorrupt, at.Seg)
	}
	defer l.release(seg)
	if _, err := seg.file.ReadAt(b, int64(at.Off)); err != nil {
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("%w: log segment %08x ends too early", spool.ErrCorrupt, at.Seg)
		}
		return nil, nil, err
	}
	var h header
	if !h.parse(b, l.opts.Mark, at.Seg, int64(at.Off)) || h.id != id || h.headLen != headLen || h.bodyLen != bodyLen {
		return nil, nil, fmt.Errorf("%w: damaged record in log segment %08x at %d", spool.ErrCorrupt, at.Seg, at.Off)
	}
	head, body = b[headerLen:headerLen+headLen], b[headerLen+headLen:]
	if checksum(head) != h.headCRC {
		head, err = nil, fmt.Errorf("%w: damaged envelope in log segment %08x at %d", spool.ErrCorrupt, at.Seg, at.Off)
	}
	if len(body) > 0 && checksum(body) != h.bodyCRC {
		err = fmt.Errorf("%w: damaged content in log segment %08x at %d", spool.ErrCorrupt, at.Seg, at.Off)
	}
	return head, body, err
}

// ReadLen is the length of b for Read.
func ReadLen(headLen, bodyLen uint32) int64 { return headerLen + int64(headLen) + int64(bodyLen) }

func (l *Log) hold(seq uint32) *segment {
	l.mu.Lock()
	defer l.mu.Unlock()
	seg := l.segs[seq]
	if seg != nil {
		seg.refs++
	}
	return seg
}

func (l *Log) release(seg *segment) {
	l.mu.Lock()
	seg.refs--
	l.mu.Unlock()
}

// ordered returns the segments, oldest first.
func (l *Log) ordered() []*segment {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := make([]*segment, 0, len(l.segs))
	for _, seg := range l.segs {
		list = append(list, seg)
	}
	slices.SortFunc(list, func(a, b *segment) int { return int(int64(a.seq) - int64(b.seq)) })
	return list
}
