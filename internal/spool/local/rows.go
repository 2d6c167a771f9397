package local

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"

	"posthouse/internal/mail"
	"posthouse/internal/spool"
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

// rows is the checkpoint of the log, and the KV space, in Pebble.
type rows struct {
	db     *pebble.DB
	broken chan struct{} // closed: Pebble cannot go on
	isDown atomic.Bool
	st     *Store
}

func openRows(st *Store) (*rows, error) {
	r := &rows{st: st, broken: make(chan struct{})}
	cache := pebble.NewCache(st.opts.RowCache)
	defer cache.Unref()
	var failing atomic.Bool
	db, err := pebble.Open(st.opts.FS.PathJoin(st.opts.Dir, rowsDir), &pebble.Options{
		FS:                          st.opts.FS,
		Cache:                       cache,
		MemTableSize:                uint64(st.opts.RowMemory),
		MemTableStopWritesThreshold: 4,
		DisableWAL:                  true,
		FormatMajorVersion:          pebble.FormatNewest,
		Logger:                      rowsLogger{r},
		EventListener: &pebble.EventListener{
			BackgroundError: func(err error) {
				// Pebble tries again at once and for ever; once is enough to say.
				if failing.CompareAndSwap(false, true) {
					st.opts.Warn("spool: writing rows: " + err.Error())
				}
			},
			FlushEnd: func(i pebble.FlushInfo) {
				if i.Err == nil {
					failing.Store(false)
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

// rowsLogger takes what Pebble has to say. What is fatal to it makes the whole
// store fail: the log has everything, and is replayed at the next start.
type rowsLogger struct{ r *rows }

func (rowsLogger) Infof(string, ...any) {}

func (l rowsLogger) Errorf(format string, args ...any) {
	l.r.st.opts.Warn("spool rows: " + fmt.Sprintf(format, args...))
}

func (l rowsLogger) Fatalf(format string, args ...any) {
	l.r.st.fail(fmt.Errorf("spool rows: "+format, args...))
	if l.r.isDown.CompareAndSwap(false, true) {
		close(l.r.broken)
	}
}

func (r *rows) close() error { return r.db.Close() }

// flush makes what was written durable.
func (r *rows) flush() error {
	done, err := r.db.AsyncFlush()
	if err != nil {
		return err
	}
	select {
	case <-done:
		return nil
	case <-r.broken:
		return r.st.Err()
	}
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

// appendEnvelopeRow writes the value of an envelope row: the entry, with the
// size of a large content, and the envelope as the log has it.
func appendEnvelopeRow(b []byte, e entry, size int64, head []byte) []byte {
	le := binary.LittleEndian
	b = append(b, rowFormat, byte(e.flags&isLarge))
	b = le.AppendUint32(b, e.seg)
	b = le.AppendUint32(b, e.off)
	b = le.AppendUint32(b, e.head)
	b = le.AppendUint32(b, e.body)
	b = le.AppendUint32(b, e.rcpts)
	b = le.AppendUint64(b, uint64(size))
	return append(b, head...)
}

const envelopeRowHead = 2 + 5*4 + 8

func parseEnvelopeRow(b []byte) (e entry, size int64, head []byte, err error) {
	if len(b) < envelopeRowHead || b[0] != rowFormat {
		return entry{}, 0, nil, fmt.Errorf("%w: malformed envelope row", spool.ErrCorrupt)
	}
	le := binary.LittleEndian
	e = entry{
		location: location{le.Uint32(b[2:]), le.Uint32(b[6:])},
		head:     le.Uint32(b[10:]), body: le.Uint32(b[14:]), rcpts: le.Uint32(b[18:]), flags: uint32(b[1]) & isLarge,
	}
	return e, int64(le.Uint64(b[22:])), b[envelopeRowHead:], nil
}

// watermark returns the log position that the rows are true for, and the
// largest queue ID seen by then.
func (r *rows) watermark() (p position, last mail.QueueID, err error) {
	v, closer, err := r.db.Get([]byte{watermarkKey})
	if errors.Is(err, pebble.ErrNotFound) {
		return position{}, 0, nil
	}
	if err != nil {
		return position{}, 0, fmt.Errorf("read spool rows: %w", err)
	}
	defer func() { _ = closer.Close() }() // releases memory only
	if len(v) != 1+4+4+8+8 || v[0] != rowFormat {
		return position{}, 0, fmt.Errorf("%w: malformed watermark", spool.ErrFormat)
	}
	le := binary.LittleEndian
	return position{le.Uint32(v[1:]), le.Uint32(v[5:]), le.Uint64(v[9:])}, mail.QueueID(le.Uint64(v[17:])), nil
}

func (r *rows) setWatermark(p position, last mail.QueueID) error {
	le := binary.LittleEndian
	v := le.AppendUint32([]byte{rowFormat}, p.seg)
	v = le.AppendUint32(v, p.off)
	v = le.AppendUint64(v, p.batch)
	v = le.AppendUint64(v, uint64(last))
	return r.db.Set([]byte{watermarkKey}, v, pebble.NoSync)
}

// envelope returns a message's envelope row.
func (r *rows) envelope(id mail.QueueID) (e entry, head []byte, err error) {
	v, closer, err := r.db.Get(messageKey(id, rowEnvelope))
	if errors.Is(err, pebble.ErrNotFound) {
		return entry{}, nil, spool.ErrNotFound
	}
	if err != nil {
		return entry{}, nil, err
	}
	defer func() { _ = closer.Close() }() // releases memory only
	e, _, head, err = parseEnvelopeRow(v)
	return e, append([]byte(nil), head...), err
}

// states returns the states of a message that Pebble has.
func (r *rows) states(id mail.QueueID) (c changes, err error) {
	it, err := r.db.NewIter(&pebble.IterOptions{LowerBound: messageKey(id, rowState), UpperBound: messageKey(id+1, rowEnvelope)})
	if err != nil {
		return c, err
	}
	for ok := it.First(); ok; ok = it.Next() {
		_, kind, index, ok := parseMessageKey(it.Key())
		enc := append([]byte(nil), it.Value()...)
		switch {
		case ok && kind == rowState:
			c.state = enc
		case ok && kind == rowRecipient:
			c.rcpts = append(c.rcpts, rcptState{index, enc})
		}
	}
	return c, it.Close()
}

// get reads a key of the KV space.
func (r *rows) get(key []byte) ([]byte, error) {
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

// scan reads a range of the KV space. An empty to means its end.
func (r *rows) scan(from, to []byte, each func(key, value []byte) bool) error {
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

// applyKV writes the KV changes of requests.
func (st *Store) applyKV(reqs []*request) error {
	var batch *pebble.Batch
	for _, r := range reqs {
		if r.kind == kindBatch {
			batch = st.rows.addKV(batch, r.ops)
		}
	}
	if batch == nil {
		return nil
	}
	if err := batch.Commit(pebble.NoSync); err != nil {
		return fmt.Errorf("write spool rows: %w", err)
	}
	return batch.Close()
}

// addKV adds the KV changes of b to batch, which is made when needed. Adding
// to a batch in memory cannot fail.
func (r *rows) addKV(batch *pebble.Batch, b *spool.Batch) *pebble.Batch {
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
		if batch == nil {
			batch = r.db.NewBatch()
		}
		if put {
			d := batch.SetDeferred(1+len(key), len(value))
			d.Key[0] = kvPrefix
			copy(d.Key[1:], key)
			copy(d.Value, value)
			_ = d.Finish()
		} else {
			_ = batch.Delete(kvKey(key), nil)
		}
	}
	return batch
}
