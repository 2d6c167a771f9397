package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"posthouse/internal/mail"
	"posthouse/internal/spool"
	"posthouse/internal/spool/local/contents"
	"posthouse/internal/spool/local/rows"
	"posthouse/internal/spool/local/seglog"
)

// Store is the embedded spool.Store. See the package comment.
type Store struct {
	opts     Options
	lock     io.Closer
	log      *seglog.Log
	rows     *rows.DB
	largeDir *contents.Dir
	pool     contents.Pool
	requests sync.Pool // of *request, for Commit and Apply
	space    spaceGauge
	stop     chan struct{} // closed: the janitor ends
	janitor  chan struct{} // room for one: there is something to do
	wg       sync.WaitGroup

	// mu guards the rest. It is never held during I/O. Locks of the log are
	// taken inside it.
	mu         sync.Mutex
	idle       sync.Cond // users fell to zero
	users      int       // calls that use Pebble or files right now
	closed     bool
	recovered  bool // Recover came to its end
	index      map[mail.QueueID]entry
	large      map[mail.QueueID]int64 // sizes of live large contents
	largeBytes int64                  // their sum
	largeGone  []mail.QueueID         // files to delete
	cache      *contents.Cache
	lastID     mail.QueueID
	gen        *generation
	frozen     *generation     // being written to Pebble; nil when none is
	frozenEnd  seglog.Position // that frozen is true for
	end        seglog.Position // of the log, as far as applied
	durable    seglog.Position // of the last checkpoint
	logged     int64           // bytes since the last checkpoint began
	replayed   *replay         // what Open found, for Recover; nil after it
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
		opts: opts, lock: lock, stop: make(chan struct{}), janitor: make(chan struct{}, 1),
		index: make(map[mail.QueueID]entry), large: make(map[mail.QueueID]int64),
		cache: contents.NewCache(opts.ContentCache), gen: newGeneration(),
	}
	st.idle.L = &st.mu
	st.requests.New = func() any { return &request{} }
	st.space.init(&st.opts)
	if err := st.open(); err != nil {
		return nil, errors.Join(err, st.closeFiles())
	}
	st.wg.Add(1)
	go st.keepHouse()
	return st, nil
}

func (st *Store) open() error {
	o := &st.opts
	mark, err := readFormat(o)
	if err != nil {
		return err
	}
	if err := makeDirs(o); err != nil {
		return err
	}
	dir := func(name string) string { return o.FS.PathJoin(o.Dir, name) }
	st.log, err = seglog.Open(seglog.Options{FS: o.FS, Dir: dir(logDir), Mark: mark, SegmentSize: o.SegmentSize, Warn: o.Warn})
	if err != nil {
		return err
	}
	if st.largeDir, err = contents.OpenDir(o.FS, dir(largeDir), st.log.Fail, st.space.took); err != nil {
		return err
	}
	st.rows, err = rows.Open(rows.Options{FS: o.FS, Dir: dir(rowsDir), Cache: o.RowCache, Memory: o.RowMemory, Warn: o.Warn, Failed: st.log.Fail})
	if err != nil {
		return err
	}
	if st.durable, st.lastID, err = st.rows.Watermark(); err != nil {
		return err
	}
	st.replayed = newReplay(st)
	end, length, err := st.log.Replay(st.durable, st.replayed)
	if err != nil {
		return err
	}
	st.logged = length
	st.end, err = st.log.Start(sink{st}, end)
	return err
}

// Err implements spool.Store.
func (st *Store) Err() error { return st.log.Err() }

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
		st.wakeJanitor()
		return err
	}
	r := st.requests.Get().(*request)
	r.log.Kind, r.log.ID, r.rcpts, r.size = seglog.Message, env.ID, len(env.Recipients), s.size
	r.log.Head = spool.AppendEnvelope(r.log.Head[:0], env)
	if s.file != nil {
		if err := s.keepLarge(r); err != nil {
			return err
		}
	} else {
		r.content = s.take()
		r.log.Body = r.content.B
	}
	st.space.took(r.log.Len())
	large := r.log.Kind == seglog.Large
	err := st.submit(ctx, r)
	if large && (errors.Is(err, spool.ErrNoSpace) || errors.Is(err, spool.ErrClosed)) {
		// Nothing refers to the file, and where space is short it must not
		// stay until the next open. (After a failed sync nobody can tell.)
		_ = st.largeDir.Remove(env.ID)
	}
	return err
}

// submit makes r durable. It is used up.
func (st *Store) submit(ctx context.Context, r *request) error {
	r.log.Owner = r
	r.log.HeadCRC, r.log.BodyCRC = seglog.Checksum(r.log.Head), seglog.Checksum(r.log.Body)
	used, err := st.log.Wait(ctx, &r.log)
	if used && cap(r.log.Head) <= maxPooledHead {
		r.log.Body, r.ops, r.content = nil, nil, nil
		st.requests.Put(r)
	}
	return err
}

// maxPooledHead is the largest envelope or batch whose memory is kept.
const maxPooledHead = 16 << 10

// Apply implements spool.Store.
func (st *Store) Apply(ctx context.Context, b *spool.Batch) error {
	if err := st.enter(); err != nil {
		return err
	}
	defer st.leave()
	return st.submit(ctx, st.batch(b))
}

// batch is a request for b.
func (st *Store) batch(b *spool.Batch) *request {
	r := st.requests.Get().(*request)
	r.log.Kind, r.log.ID, r.ops = seglog.Batch, 0, b
	r.log.Head = spool.AppendBatch(r.log.Head[:0], b)
	return r
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
	r := &request{ops: b}
	r.log = seglog.Request{Kind: seglog.Batch, Owner: r, Done: done, Head: spool.AppendBatch(make([]byte, 0, 128), b)}
	r.log.HeadCRC = seglog.Checksum(r.log.Head)
	if err := st.log.Submit(&r.log); err != nil {
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
	m, err := st.readMessage(id, e)
	if err != nil {
		return nil, err
	}
	if e.flags&(hasState|hasRcpts) != 0 {
		c, err := st.rows.States(id)
		if err != nil {
			return nil, err
		}
		list = append(list, c)
	}
	if err := overlay(m, list); err != nil {
		return nil, err
	}
	return m, nil
}

// Get implements spool.Store.
func (st *Store) Get(key []byte) ([]byte, error) {
	if err := st.enter(); err != nil {
		return nil, err
	}
	defer st.leave()
	return st.rows.Get(key)
}

// Scan implements spool.Store.
func (st *Store) Scan(from, to []byte, each func(key, value []byte) bool) error {
	if err := st.enter(); err != nil {
		return err
	}
	defer st.leave()
	return st.rows.Scan(from, to, each)
}

// Space implements spool.Store.
func (st *Store) Space() (spool.Space, error) {
	free, err := st.space.measure()
	if st.space.short() {
		st.wakeJanitor() // whoever asks is about to refuse mail
	}
	s := spool.Space{Free: free, Reserve: st.space.reserve}
	s.Used, s.Live = st.log.Space()
	st.mu.Lock()
	defer st.mu.Unlock()
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
	st.log.Drain()
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
		errs = append(errs, st.rows.Close())
	}
	if st.log != nil {
		errs = append(errs, st.log.Close())
	}
	if st.largeDir != nil {
		errs = append(errs, st.largeDir.Close())
	}
	return errors.Join(append(errs, st.lock.Close())...)
}
