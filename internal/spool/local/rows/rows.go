// Package rows is the checkpoint of the log and the KV space, in Pebble.
//
// Pebble runs without a log of its own: what is written becomes durable with
// Flush, or earlier, whenever Pebble thinks fit, but always in the order it
// was written. A KV change is visible at once. An error of Pebble that it
// cannot go on after is reported to Options.Failed.
package rows

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"posthouse/internal/mail"
	"posthouse/internal/spool"
	"posthouse/internal/spool/local/seglog"
)

// Keys of Pebble. Numbers are big-endian, so that keys sort by them, and all
// rows of a message stand together, its envelope first.
//
//	m ID 0        envelope row: where its record lies, and the envelope
//	m ID 1        state
//	m ID 2 INDEX  state of a recipient
//	k KEY         the KV space
//	w             watermark
const (
	messagePrefix = 'm'
	kvPrefix      = 'k'
	watermarkKey  = 'w'

	rowEnvelope  = 0
	rowState     = 1
	rowRecipient = 2

	messageKeyLen = 1 + 8 + 1
)

// rowFormat is the first byte of envelope rows and of the watermark.
const rowFormat = 1

// Options are the settings of a DB.
type Options struct {
	FS     vfs.FS
	Dir    string            // made if it does not exist
	Cache  int64             // bytes of block cache
	Memory int64             // bytes of a memtable, of which there are up to four
	Warn   func(string)      // told of trouble, a line each
	Failed func(error) error // told when Pebble cannot go on; returns what callers are to see
}

// DB is an open checkpoint.
type DB struct {
	db     *pebble.DB
	opts   Options
	broken chan struct{} // closed: Pebble cannot go on
	isDown atomic.Bool   // broken is closed

	failing atomic.Bool   // the last flush failed; Pebble goes on trying
	trouble chan struct{} // room for one: a flush has failed
}

// Open opens the checkpoint, or makes an empty one.
func Open(o Options) (*DB, error) {
	r := &DB{opts: o, broken: make(chan struct{}), trouble: make(chan struct{}, 1)}
	cache := pebble.NewCache(o.Cache)
	defer cache.Unref()
	db, err := pebble.Open(o.Dir, &pebble.Options{
		FS:                          patientFS{o.FS, &r.failing},
		Cache:                       cache,
		MemTableSize:                uint64(o.Memory),
		MemTableStopWritesThreshold: 4,
		DisableWAL:                  true,
		FormatMajorVersion:          pebble.FormatNewest,
		Logger:                      logger{r},
		EventListener: &pebble.EventListener{
			BackgroundError: func(err error) {
				// Pebble tries again at once and for ever; once is enough to say.
				if r.failing.CompareAndSwap(false, true) {
					o.Warn("spool: writing rows: " + err.Error())
				}
				select {
				case r.trouble <- struct{}{}:
				default:
				}
			},
			FlushEnd: func(i pebble.FlushInfo) {
				if i.Err == nil {
					r.failing.Store(false)
				}
			},
		},
	})
	if err != nil {
		return nil, fmt.Errorf("open spool rows: %w", err)
	}
	r.db = db
	return r, nil
}

// Close closes the checkpoint. What was not flushed may be lost.
func (r *DB) Close() error { return r.db.Close() }

// logger takes what Pebble has to say.
type logger struct{ r *DB }

func (logger) Infof(string, ...any) {}

func (l logger) Errorf(format string, args ...any) {
	l.r.opts.Warn("spool rows: " + fmt.Sprintf(format, args...))
}

func (l logger) Fatalf(format string, args ...any) {
	_ = l.r.opts.Failed(fmt.Errorf("spool rows: "+format, args...))
	if l.r.isDown.CompareAndSwap(false, true) {
		close(l.r.broken)
	}
}

// Flush makes what was written durable. On a full disk that takes until there
// is room, or until stop is closed and one more try has failed.
func (r *DB) Flush(stop <-chan struct{}) error {
	done, err := r.db.AsyncFlush()
	if err != nil {
		return err
	}
	var giveUp chan struct{}
	for {
		select {
		case <-done:
			return nil
		case <-r.broken:
			return r.opts.Failed(errors.New("spool rows: Pebble has failed"))
		case <-stop:
			stop, giveUp = nil, r.trouble
		case <-giveUp:
			return errNotFlushed
		}
	}
}

var errNotFlushed = errors.New("the rows cannot be written now; the next start reads the log instead")

// patientFS slows down the tries of a Pebble that cannot write: by itself it
// begins the next one at once, which takes a processor for as long as the disk
// is full.
type patientFS struct {
	vfs.FS
	failing *atomic.Bool
}

// tryAgain is the pause before each new try, short enough not to be noticed
// when there is room again.
const tryAgain = 100 * time.Millisecond

// Create implements vfs.FS. Pebble holds no lock when it begins a table.
func (p patientFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if p.failing.Load() {
		time.Sleep(tryAgain)
	}
	return p.FS.Create(name, c)
}

func messageKey(id mail.QueueID, kind byte) []byte {
	b := make([]byte, 0, messageKeyLen+4)
	return append(binary.BigEndian.AppendUint64(append(b, messagePrefix), uint64(id)), kind)
}

func recipientKey(id mail.QueueID, index uint32) []byte {
	return binary.BigEndian.AppendUint32(messageKey(id, rowRecipient), index)
}

func kvKey(key []byte) []byte { return append([]byte{kvPrefix}, key...) }

// parseMessageKey takes a key of a message's row apart.
func parseMessageKey(k []byte) (id mail.QueueID, kind byte, index uint32, ok bool) {
	if len(k) < messageKeyLen || k[0] != messagePrefix {
		return 0, 0, 0, false
	}
	id, kind = mail.QueueID(binary.BigEndian.Uint64(k[1:])), k[messageKeyLen-1]
	switch k = k[messageKeyLen:]; {
	case kind == rowRecipient && len(k) == 4:
		return id, kind, binary.BigEndian.Uint32(k), true
	case (kind == rowEnvelope || kind == rowState) && len(k) == 0:
		return id, kind, 0, true
	}
	return 0, 0, 0, false
}

// Envelope is a message's envelope row: where its record lies, and the
// envelope as the log has it.
type Envelope struct {
	At    seglog.Location
	Head  uint32 // length of the record's head
	Body  uint32 // length of its body
	Large bool   // the content has a file of its own
	Size  int64  // of a large content, else 0
	Enc   []byte // the encoded envelope
}

const envelopeHead = 2 + 4*4 + 8

func (e *Envelope) append(b []byte) []byte {
	le := binary.LittleEndian
	large := byte(0)
	if e.Large {
		large = 1
	}
	b = append(b, rowFormat, large)
	b = le.AppendUint32(b, e.At.Seg)
	b = le.AppendUint32(b, e.At.Off)
	b = le.AppendUint32(b, e.Head)
	b = le.AppendUint32(b, e.Body)
	b = le.AppendUint64(b, uint64(e.Size))
	return append(b, e.Enc...)
}

func parseEnvelope(b []byte) (*Envelope, error) {
	if len(b) < envelopeHead || b[0] != rowFormat {
		return nil, fmt.Errorf("%w: malformed envelope row", spool.ErrCorrupt)
	}
	le := binary.LittleEndian
	return &Envelope{
		Large: b[1]&1 != 0, At: seglog.Location{Seg: le.Uint32(b[2:]), Off: le.Uint32(b[6:])},
		Head: le.Uint32(b[10:]), Body: le.Uint32(b[14:]), Size: int64(le.Uint64(b[18:])), Enc: append([]byte(nil), b[envelopeHead:]...),
	}, nil
}

// Recipient is one recipient's state, encoded.
type Recipient struct {
	Index uint32
	Enc   []byte
}

// States are the states of a message that were ever set, encoded.
type States struct {
	State      []byte      // nil: never set
	Recipients []Recipient // in order of index
}

// Watermark returns the log position that the rows are true for, and the
// largest queue ID seen by then.
func (r *DB) Watermark() (p seglog.Position, last mail.QueueID, err error) {
	v, closer, err := r.db.Get([]byte{watermarkKey})
	if errors.Is(err, pebble.ErrNotFound) {
		return seglog.Position{}, 0, nil
	}
	if err != nil {
		return seglog.Position{}, 0, fmt.Errorf("read spool rows: %w", err)
	}
	defer func() { _ = closer.Close() }() // releases memory only
	if len(v) != 1+4+4+8+8 || v[0] != rowFormat {
		return seglog.Position{}, 0, fmt.Errorf("%w: malformed watermark", spool.ErrFormat)
	}
	le := binary.LittleEndian
	return seglog.Position{Seg: le.Uint32(v[1:]), Off: le.Uint32(v[5:]), Batch: le.Uint64(v[9:])}, mail.QueueID(le.Uint64(v[17:])), nil
}

// SetWatermark notes the log position that the rows written so far are true for,
// and the largest queue ID seen by then.
func (r *DB) SetWatermark(p seglog.Position, last mail.QueueID) error {
	le := binary.LittleEndian
	v := le.AppendUint32([]byte{rowFormat}, p.Seg)
	v = le.AppendUint32(v, p.Off)
	v = le.AppendUint64(v, p.Batch)
	v = le.AppendUint64(v, uint64(last))
	return r.db.Set([]byte{watermarkKey}, v, pebble.NoSync)
}

// Envelope returns a message's envelope row. The error is spool.ErrNotFound,
// spool.ErrCorrupt or Pebble's.
func (r *DB) Envelope(id mail.QueueID) (*Envelope, error) {
	v, closer, err := r.db.Get(messageKey(id, rowEnvelope))
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, spool.ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = closer.Close() }() // releases memory only
	return parseEnvelope(v)
}

// Message is what the checkpoint has of a message.
type Message struct {
	ID       mail.QueueID
	Envelope *Envelope // nil when there is none, or it is malformed:
	Err      error     // then this says so
	States
}

func (m *Message) take(key, value []byte) {
	_, kind, index, ok := parseMessageKey(key)
	switch {
	case !ok:
	case kind == rowEnvelope:
		m.Envelope, m.Err = parseEnvelope(value)
	case kind == rowState:
		m.State = append([]byte(nil), value...)
	case kind == rowRecipient:
		m.Recipients = append(m.Recipients, Recipient{index, append([]byte(nil), value...)})
	}
}

// States returns the states of a message.
func (r *DB) States(id mail.QueueID) (States, error) {
	var m Message
	it, err := r.db.NewIter(&pebble.IterOptions{LowerBound: messageKey(id, rowState), UpperBound: messageKey(id+1, rowEnvelope)})
	if err != nil {
		return m.States, err
	}
	for ok := it.First(); ok; ok = it.Next() {
		m.take(it.Key(), it.Value())
	}
	return m.States, it.Close()
}

// Messages calls each for every message, in order of ID. The message is the
// callee's to keep.
func (r *DB) Messages(ctx context.Context, each func(*Message) error) (err error) {
	it, err := r.db.NewIterWithContext(ctx, &pebble.IterOptions{LowerBound: []byte{messagePrefix}, UpperBound: []byte{messagePrefix + 1}})
	if err != nil {
		return fmt.Errorf("read spool rows: %w", err)
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	m := &Message{}
	for ok := it.First(); ok; ok = it.Next() {
		id, _, _, ok := parseMessageKey(it.Key())
		if !ok {
			continue
		}
		if id != m.ID {
			if err := ctx.Err(); err != nil {
				return err
			}
			if m.ID != 0 {
				if err := each(m); err != nil {
					return err
				}
			}
			m = &Message{ID: id}
		}
		m.take(it.Key(), it.Value())
	}
	if err := it.Error(); err != nil {
		return fmt.Errorf("read spool rows: %w", err)
	}
	if m.ID != 0 {
		return each(m)
	}
	return ctx.Err()
}

// Get reads a key of the KV space.
func (r *DB) Get(key []byte) ([]byte, error) {
	v, closer, err := r.db.Get(kvKey(key))
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, spool.ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	v = append([]byte{}, v...)
	return v, closer.Close()
}

// Scan reads a range of the KV space. An empty to means its end.
func (r *DB) Scan(from, to []byte, each func(key, value []byte) bool) error {
	upper := []byte{kvPrefix + 1}
	if len(to) > 0 {
		upper = kvKey(to)
	}
	it, err := r.db.NewIter(&pebble.IterOptions{LowerBound: kvKey(from), UpperBound: upper})
	if err != nil {
		return err
	}
	for ok := it.First(); ok && each(it.Key()[1:], it.Value()); ok = it.Next() {
	}
	return it.Close()
}

// KV collects changes of the KV space.
type KV struct {
	db    *DB
	batch *pebble.Batch // nil: none
}

// NewKV returns an empty collection.
func (r *DB) NewKV() KV { return KV{db: r} }

// Add adds the KV changes of b.
func (kv *KV) Add(b *spool.Batch) {
	for _, op := range b.Ops {
		var key, value []byte
		put := false
		switch op := op.(type) {
		case spool.Put:
			key, value, put = op.Key, op.Value, true
		case spool.Delete:
			key = op.Key
		default:
			continue
		}
		if kv.batch == nil {
			kv.batch = kv.db.db.NewBatch()
		}
		// Adding to a batch in memory cannot fail.
		if put {
			d := kv.batch.SetDeferred(1+len(key), len(value))
			d.Key[0] = kvPrefix
			copy(d.Key[1:], key)
			copy(d.Value, value)
			_ = d.Finish()
		} else {
			_ = kv.batch.Delete(kvKey(key), nil)
		}
	}
}

// Write makes the changes visible.
func (kv *KV) Write() error {
	if kv.batch == nil {
		return nil
	}
	if err := kv.batch.Commit(pebble.NoSync); err != nil {
		return fmt.Errorf("write spool rows: %w", err)
	}
	return kv.batch.Close()
}
