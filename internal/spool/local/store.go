package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"

	"posthouse/internal/mail"
	"posthouse/internal/spool"
)

// Store is the embedded spool.Store. See the package comment.
type Store struct {
	opts     Options
	mark     uint64
	logDir   string
	largeDir string
	lock     io.Closer
	largeFD  vfs.File // the directory of large contents, to sync it
	rows     *rows
	pool     bufferPool
	space    spaceGauge
	com      *committer

	segReady  chan prepared
	stop      chan struct{} // closed: the helpers end
	committed chan struct{} // closed: the committer has ended
	janitor   chan struct{} // room for one: there is something to do
	wg        sync.WaitGroup
	failure   atomic.Pointer[error]
	temporary atomic.Uint64 // numbers temporary files

	// mu guards the rest. It is never held during I/O.
	mu         sync.Mutex
	idle       sync.Cond // users fell to zero
	users      int       // calls that use Pebble or open files right now
	closed     bool
	recovered  bool // Recover came to its end
	index      map[mail.QueueID]entry
	large      map[mail.QueueID]int64 // sizes of live large contents
	largeBytes int64
	largeGone  []mail.QueueID // files to delete
	segs       map[uint32]*segment
	spares     []uint32 // dead segments to be written over
	cache      contentCache
	lastID     mail.QueueID
	gen        *generation
	frozen     *generation // being written to Pebble; nil when none is
	frozenEnd  position    // the log position that frozen ends at
	end        position    // of the log, as far as applied
	durable    position    // of the last checkpoint
	logged     int64       // bytes since the last checkpoint began
	replayed   *replay     // what Open found, for Recover; nil after it
}

var _ spool.Store = (*Store)(nil)

// Open opens the spool in opts.Dir, or makes a new one of an empty directory.
// Recover must be called before anything else. The error is ErrLocked,
// ErrFormat, or says what to do.
func Open(opts Options) (st *Store, err error) {
	opts = opts.withDefaults()
	lock, err := lockDir(&opts)
	if err != nil {
		return nil, err
	}
	st = &Store{
		opts: opts, lock: lock,
		logDir: opts.FS.PathJoin(opts.Dir, logDir), largeDir: opts.FS.PathJoin(opts.Dir, largeDir),
		segReady: make(chan prepared), stop: make(chan struct{}), committed: make(chan struct{}), janitor: make(chan struct{}, 1),
		index: make(map[mail.QueueID]entry), large: make(map[mail.QueueID]int64), segs: make(map[uint32]*segment),
		cache: contentCache{limit: opts.ContentCache, byID: make(map[mail.QueueID]*buffer)},
		gen:   newGeneration(),
	}
	st.idle.L = &st.mu
	st.space.init(&st.opts)
	st.com = &committer{st: st, wake: make(chan struct{}, 1), blank: make([]byte, min(zeroAhead, opts.SegmentSize))}
	if err := st.open(); err != nil {
		return nil, errors.Join(err, st.closeFiles())
	}
	st.start()
	return st, nil
}

func (st *Store) open() (err error) {
	if st.mark, err = readFormat(&st.opts); err != nil {
		return err
	}
	if err := makeDirs(&st.opts); err != nil {
		return err
	}
	if st.largeFD, err = st.opts.FS.OpenDir(st.largeDir); err != nil {
		return fmt.Errorf("open spool: %w", err)
	}
	if st.rows, err = openRows(st); err != nil {
		return err
	}
	if st.durable, st.lastID, err = st.rows.watermark(); err != nil {
		return err
	}
	if st.replayed, err = st.replay(); err != nil {
		return err
	}
	seg, err := st.newSegment(st.replayed.nextSeg)
	if err != nil {
		return err
	}
	st.com.batch = st.replayed.batch
	st.com.adopt(seg)
	st.end = position{seg: seg.seq, off: headerLen, batch: st.com.batch}
	return nil
}

func (st *Store) start() {
	go st.com.run()
	st.wg.Add(2)
	go st.prepare(st.end.seg + 1)
	go st.keepHouse()
}

// fail makes err the final failure, unless there is one.
func (st *Store) fail(err error) {
	if errors.Is(err, spool.ErrFailed) {
		return
	}
	err = fmt.Errorf("%w: %w", spool.ErrFailed, err)
	if st.failure.CompareAndSwap(nil, &err) {
		st.opts.Warn("spool: fatal: " + err.Error() + ": no more mail is accepted until a restart")
	}
}

// Err implements spool.Store.
func (st *Store) Err() error {
	if p := st.failure.Load(); p != nil {
		return *p
	}
	return nil
}

// enter begins a call that uses Pebble or files, which Close must wait for.
func (st *Store) enter() error {
	st.mu.Lock()
	defer st.mu.Unlock()
	switch {
	case st.closed:
		return spool.ErrClosed
	case !st.recovered:
		return errNotRecovered
	}
	st.users++
	return nil
}

var errNotRecovered = errors.New("spool: Recover must be called first")

func (st *Store) leave() {
	st.mu.Lock()
	if st.users--; st.users == 0 {
		st.idle.Broadcast()
	}
	st.mu.Unlock()
}

// Commit implements spool.Store.
func (st *Store) Commit(ctx context.Context, env *mail.Envelope, content spool.Staged) error {
	s, ok := content.(*staged)
	if !ok || s.st != st {
		content.Discard()
		return errors.New("spool: content was not staged here")
	}
	defer s.Discard()
	if s.err != nil {
		return s.err
	}
	if env.Size != s.size {
		return fmt.Errorf("spool: envelope says %d bytes, content has %d", env.Size, s.size)
	}
	if err := st.enter(); err != nil {
		return err
	}
	defer st.leave()
	if err := st.space.check(0); err != nil {
		return err
	}
	r := &request{kind: kindMessage, id: env.ID, rcpts: len(env.Recipients), size: s.size}
	r.head = spool.AppendEnvelope(make([]byte, 0, 256+96*len(env.Recipients)), env)
	r.headCRC = checksum(r.head)
	if s.file != nil {
		if err := s.keepLarge(r); err != nil {
			return err
		}
	} else {
		r.content = s.take()
		r.bodyCRC = checksum(r.content.b)
	}
	st.space.took(r.recordLen())
	return st.com.wait(ctx, r)
}

func (st *Store) batchRequest(b *spool.Batch) *request {
	r := &request{kind: kindBatch, ops: b}
	r.head = spool.AppendBatch(make([]byte, 0, 128), b)
	r.headCRC = checksum(r.head)
	return r
}

// Apply implements spool.Store.
func (st *Store) Apply(ctx context.Context, b *spool.Batch) error {
	if err := st.enter(); err != nil {
		return err
	}
	defer st.leave()
	return st.com.wait(ctx, st.batchRequest(b))
}

// ApplyAsync implements spool.Store.
func (st *Store) ApplyAsync(b *spool.Batch, done func(error)) {
	if done == nil {
		done = func(error) {}
	}
	if err := st.enter(); err != nil {
		done(err)
		return
	}
	defer st.leave()
	r := st.batchRequest(b)
	r.done = done
	if err := st.com.submit(r); err != nil {
		done(err)
	}
}

// Message implements spool.Store.
func (st *Store) Message(id mail.QueueID) (*mail.Message, error) {
	if err := st.enter(); err != nil {
		return nil, err
	}
	defer st.leave()
	st.mu.Lock()
	e, ok := st.index[id]
	list := st.current(id)
	st.mu.Unlock()
	if !ok {
		return nil, spool.ErrNotFound
	}
	m := st.readMessage(id, e)
	if e.flags&(hasState|hasRcpts) != 0 {
		c, err := st.rows.states(id)
		if err != nil {
			return nil, err
		}
		list = append(list, c)
	}
	if err := overlay(m, list); err != nil {
		m.State.Corrupt = err.Error()
	}
	return m, nil
}

// Get implements spool.Store.
func (st *Store) Get(key []byte) ([]byte, error) {
	if err := st.enter(); err != nil {
		return nil, err
	}
	defer st.leave()
	return st.rows.get(key)
}

// Scan implements spool.Store.
func (st *Store) Scan(from, to []byte, each func(key, value []byte) bool) error {
	if err := st.enter(); err != nil {
		return err
	}
	defer st.leave()
	return st.rows.scan(from, to, each)
}

// Space implements spool.Store.
func (st *Store) Space() (spool.Space, error) {
	free, err := st.space.measure()
	s := spool.Space{Free: free, Reserve: st.space.reserve}
	st.mu.Lock()
	defer st.mu.Unlock()
	for _, seg := range st.segs {
		s.Used += seg.size
		s.Live += seg.live
	}
	s.Used += st.largeBytes
	s.Live += st.largeBytes
	return s, err
}

// Close implements spool.Store. It writes a last checkpoint, so that the next
// Open has nothing to replay.
func (st *Store) Close() error {
	st.mu.Lock()
	if st.closed {
		st.mu.Unlock()
		return spool.ErrClosed
	}
	st.closed = true
	st.mu.Unlock()
	st.com.close()
	<-st.committed
	close(st.stop)
	st.wg.Wait()
	st.mu.Lock()
	for st.users > 0 {
		st.idle.Wait()
	}
	st.mu.Unlock()
	st.lastCheckpoint()
	return st.closeFiles()
}

func (st *Store) closeFiles() error {
	var errs []error
	if st.rows != nil {
		errs = append(errs, st.rows.close())
	}
	for _, seg := range st.segs {
		errs = append(errs, seg.file.Close())
	}
	if st.largeFD != nil {
		errs = append(errs, st.largeFD.Close())
	}
	return errors.Join(append(errs, st.lock.Close())...)
}
