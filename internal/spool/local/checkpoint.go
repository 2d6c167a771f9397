package local

import (
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"posthouse/internal/mail"
)

const (
	// rowChunk is how many messages are looked up under one hold of the
	// Store's mutex while a checkpoint is written.
	rowChunk = 256

	// rowBatchBytes bounds one Pebble batch.
	rowBatchBytes = 1 << 20

	// fewRecipients is up to how many recipient rows are deleted one by one;
	// a range deletion costs readers more than a few single ones.
	fewRecipients = 32

	// retryCheckpoint is how long to wait after a checkpoint failed.
	retryCheckpoint = time.Second
)

// checkpointDue tells whether to begin a checkpoint. The Store's mutex is held.
func (st *Store) checkpointDue() bool {
	return st.recovered && st.frozen == nil && (st.logged >= st.opts.CheckpointBytes || st.gen.bytes >= st.opts.CheckpointBytes/4)
}

// beginCheckpoint sets aside the changes up to now. The Store's mutex is held.
func (st *Store) beginCheckpoint() {
	st.frozen, st.frozenEnd = st.gen, st.end
	st.gen = newGeneration()
	st.logged = 0
}

// writeCheckpoint writes the changes that were set aside, and makes them
// durable. It may be called again after an error: rows are only set to what
// they are, never changed relative to what they were.
func (st *Store) writeCheckpoint() error {
	st.mu.Lock()
	g, end, last := st.frozen, st.frozenEnd, st.lastID
	st.mu.Unlock()
	if g == nil {
		return nil
	}
	if err := st.Err(); err != nil {
		return err
	}
	w := rowWriter{st: st}
	w.envelopes(g)
	w.states(g)
	w.deletions(g)
	if err := w.commit(); err != nil {
		return fmt.Errorf("write checkpoint: %w", err)
	}
	if err := st.rows.setWatermark(end, last); err != nil {
		return fmt.Errorf("write checkpoint: %w", err)
	}
	if err := st.rows.flush(); err != nil {
		return fmt.Errorf("flush checkpoint: %w", err)
	}
	st.mu.Lock()
	st.frozen, st.durable = nil, end
	st.mu.Unlock()
	return nil
}

// lastCheckpoint writes what has changed before the store closes. When that
// fails the log still has it.
func (st *Store) lastCheckpoint() {
	st.mu.Lock()
	pending, changed := st.frozen != nil, st.logged > 0
	ready := st.recovered
	st.mu.Unlock()
	if !ready || st.Err() != nil {
		return
	}
	var err error
	if pending {
		err = st.writeCheckpoint()
	}
	if err == nil && changed {
		st.mu.Lock()
		st.beginCheckpoint()
		st.mu.Unlock()
		err = st.writeCheckpoint()
	}
	if err != nil {
		st.opts.Warn("spool: " + err.Error())
	}
}

// rowWriter writes rows in Pebble batches of a limited size. Its first error
// sticks.
type rowWriter struct {
	st    *Store
	batch *pebble.Batch
	err   error
}

func (w *rowWriter) set(key, value []byte) {
	if w.err == nil {
		w.err = w.room().Set(key, value, nil)
	}
}

func (w *rowWriter) delete(key []byte) {
	if w.err == nil {
		w.err = w.room().Delete(key, nil)
	}
}

func (w *rowWriter) room() *pebble.Batch {
	if w.batch != nil && w.batch.Len() >= rowBatchBytes {
		w.err = w.commit()
	}
	if w.batch == nil {
		w.batch = w.st.rows.db.NewBatch()
	}
	return w.batch
}

func (w *rowWriter) commit() error {
	if w.err != nil || w.batch == nil {
		return w.err
	}
	b := w.batch
	w.batch = nil
	if err := b.Commit(pebble.NoSync); err != nil {
		return err
	}
	return b.Close()
}

// envelopes writes the rows of the messages that are still live. A message
// that is removed from now on finds its flag set, and has its row deleted by
// the next checkpoint.
func (w *rowWriter) envelopes(g *generation) {
	st := w.st
	type job struct {
		id   mail.QueueID
		e    entry
		size int64
	}
	jobs := make([]job, 0, rowChunk)
	var value []byte
	for ids := g.fresh; len(ids) > 0 && w.err == nil; {
		n := min(len(ids), rowChunk)
		jobs = jobs[:0]
		st.mu.Lock()
		for _, id := range ids[:n] {
			if e, ok := st.index[id]; ok {
				e.flags |= hasRow
				st.index[id] = e
				jobs = append(jobs, job{id, e, st.large[id]})
			}
		}
		st.mu.Unlock()
		ids = ids[n:]
		for _, j := range jobs {
			head := st.readHead(j.id, j.e)
			value = appendEnvelopeRow(value[:0], j.e, j.size, head)
			w.set(messageKey(j.id, rowEnvelope), value)
		}
	}
}

// states writes the rows of states that were set, of messages still live.
func (w *rowWriter) states(g *generation) {
	st := w.st
	ids := make([]mail.QueueID, 0, len(g.dirty))
	for id := range g.dirty {
		ids = append(ids, id)
	}
	live := make([]mail.QueueID, 0, rowChunk)
	for len(ids) > 0 && w.err == nil {
		n := min(len(ids), rowChunk)
		live = live[:0]
		st.mu.Lock()
		for _, id := range ids[:n] {
			if e, ok := st.index[id]; ok {
				c := g.dirty[id]
				if c.state != nil {
					e.flags |= hasState
				}
				if len(c.rcpts) > 0 {
					e.flags |= hasRcpts
				}
				st.index[id] = e
				live = append(live, id)
			}
		}
		st.mu.Unlock()
		ids = ids[n:]
		for _, id := range live {
			c := g.dirty[id]
			if c.state != nil {
				w.set(messageKey(id, rowState), c.state)
			}
			for _, r := range c.rcpts {
				w.set(recipientKey(id, r.index), r.enc)
			}
		}
	}
}

func (w *rowWriter) deletions(g *generation) {
	for _, gone := range g.gone {
		if gone.flags&hasRow != 0 {
			w.delete(messageKey(gone.id, rowEnvelope))
		}
		if gone.flags&hasState != 0 {
			w.delete(messageKey(gone.id, rowState))
		}
		switch {
		case gone.flags&hasRcpts == 0:
		case gone.rcpts <= fewRecipients:
			for i := range gone.rcpts {
				w.delete(recipientKey(gone.id, i))
			}
		case w.err == nil:
			w.err = w.room().DeleteRange(messageKey(gone.id, rowRecipient), messageKey(gone.id+1, rowEnvelope), nil)
		}
	}
}
