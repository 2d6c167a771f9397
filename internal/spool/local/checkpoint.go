package local

import (
	"fmt"
	"time"

	"posthouse/internal/mail"
	"posthouse/internal/spool"
	"posthouse/internal/spool/local/rows"
)

const (
	// rowChunk is how many messages are looked up under one hold of the
	// Store's mutex while a checkpoint is written.
	rowChunk = 256

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
	w := st.rows.NewWriter()
	st.writeEnvelopes(w, g)
	st.writeStates(w, g)
	for _, gone := range g.gone {
		w.Delete(gone.id, gone.rcpts, gone.flags&hasRow != 0, gone.flags&hasState != 0, gone.flags&hasRcpts != 0)
	}
	if err := w.Commit(); err != nil {
		return fmt.Errorf("write checkpoint: %w", err)
	}
	if err := st.rows.SetWatermark(end, last); err != nil {
		return fmt.Errorf("write checkpoint: %w", err)
	}
	if err := st.rows.Flush(st.stop); err != nil {
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

// writeEnvelopes writes the rows of the messages that are still live. A
// message that is removed from now on finds its flag set, and has its row
// deleted by the next checkpoint.
func (st *Store) writeEnvelopes(w *rows.Writer, g *generation) {
	type job struct {
		id   mail.QueueID
		e    entry
		size int64
	}
	jobs := make([]job, 0, rowChunk)
	for ids := g.fresh; len(ids) > 0 && w.Err() == nil; {
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
			buf, enc, err := st.readHead(j.id, j.e)
			if err != nil {
				// The next start finds nothing in the row, and asks the log.
				env := lostEnvelope(j.id)
				enc = spool.AppendEnvelope(nil, &env)
			}
			w.Envelope(j.id, &rows.Envelope{At: j.e.at, Head: j.e.head, Body: j.e.body, Large: j.e.flags&isLarge != 0, Size: j.size, Enc: enc})
			st.pool.Release(buf)
		}
	}
}

// writeStates writes the rows of states that were set, of messages still live.
func (st *Store) writeStates(w *rows.Writer, g *generation) {
	ids := make([]mail.QueueID, 0, len(g.dirty))
	for id := range g.dirty {
		ids = append(ids, id)
	}
	live := make([]mail.QueueID, 0, rowChunk)
	for len(ids) > 0 && w.Err() == nil {
		n := min(len(ids), rowChunk)
		live = live[:0]
		st.mu.Lock()
		for _, id := range ids[:n] {
			if e, ok := st.index[id]; ok {
				e.flags |= stateFlags(g.dirty[id])
				st.index[id] = e
				live = append(live, id)
			}
		}
		st.mu.Unlock()
		ids = ids[n:]
		for _, id := range live {
			w.States(id, g.dirty[id])
		}
	}
}

// stateFlags tells which rows s needs.
func stateFlags(s *rows.States) (flags uint32) {
	if s.State != nil {
		flags |= hasState
	}
	if len(s.Recipients) > 0 {
		flags |= hasRcpts
	}
	return flags
}
