package local

import (
	"errors"

	"posthouse/internal/mail"
	"posthouse/internal/spool"
	"posthouse/internal/spool/local/contents"
	"posthouse/internal/spool/local/seglog"
)

// replay applies the log after the last checkpoint, at open. The state of the
// messages goes straight into the Store's index and generation; the rest is
// kept here for Recover, which knows the rows.
type replay struct {
	st      *Store
	removed map[mail.QueueID]struct{} // removed in the log; Pebble may have rows of them
	corrupt map[mail.QueueID]string   // damaged messages, and how
}

func newReplay(st *Store) *replay {
	return &replay{st: st, removed: make(map[mail.QueueID]struct{}), corrupt: make(map[mail.QueueID]string)}
}

// Record implements seglog.Handler.
func (r *replay) Record(rec *seglog.Record) error {
	if rec.Kind != seglog.Batch {
		if rec.Copied {
			live, err := r.liveAtCopy(rec.ID)
			if err != nil || !live {
				return err
			}
		}
		r.place(rec)
		return nil
	}
	b, err := spool.DecodeBatch(rec.Head)
	if err != nil {
		return err // sound by its checksum, so written by a newer version
	}
	r.applyOps(b)
	kv := r.st.rows.NewKV()
	kv.Add(b)
	return kv.Write()
}

// liveAtCopy tells whether a message was live when a copy of it was logged: it
// is in the index if its own record was replayed, or else in Pebble. Rows are
// never behind the position the replay began at, so what was removed before
// that is in neither.
func (r *replay) liveAtCopy(id mail.QueueID) (bool, error) {
	if _, gone := r.removed[id]; gone {
		return false, nil
	}
	if _, ok := r.st.index[id]; ok {
		return true, nil
	}
	switch _, err := r.st.rows.Envelope(id); {
	case errors.Is(err, spool.ErrNotFound):
		return false, nil
	case err != nil && !errors.Is(err, spool.ErrCorrupt):
		return false, err
	}
	return true, nil
}

// Damaged implements seglog.Handler.
func (r *replay) Damaged(rec *seglog.Record, cause error) {
	if _, gone := r.removed[rec.ID]; gone {
		return
	}
	if _, ok := r.st.index[rec.ID]; rec.Copied && !ok {
		return // the row still says where the original is
	}
	r.corrupt[rec.ID] = cause.Error()
	r.place(rec)
}

// place puts a message into the index, where it is new or was moved.
func (r *replay) place(rec *seglog.Record) {
	st := r.st
	if old, ok := st.index[rec.ID]; ok {
		st.unlink(old)
	}
	e := entry{at: rec.At, head: uint32(len(rec.Head)), body: uint32(len(rec.Body))}
	if rec.Kind == seglog.Large {
		e.flags |= isLarge
		st.large[rec.ID] = contents.RefSize(rec.Body)
	}
	st.place(rec.ID, e)
}

// applyOps applies changes to messages. Whether a message that the log has no
// record of exists is for Recover to find out.
func (r *replay) applyOps(b *spool.Batch) {
	st := r.st
	for _, op := range b.Ops {
		switch op := op.(type) {
		case spool.SetState:
			if _, gone := r.removed[op.ID]; !gone {
				st.gen.setState(op.ID, &op.State)
			}
		case spool.SetRecipients:
			if _, gone := r.removed[op.ID]; gone {
				continue
			}
			for i := range op.Changes {
				st.gen.setRecipient(op.ID, uint32(op.Changes[i].Index), &op.Changes[i].State)
			}
		case spool.Remove:
			r.removed[op.ID] = struct{}{}
			delete(r.corrupt, op.ID)
			st.gen.drop(op.ID)
			if e, ok := st.index[op.ID]; ok {
				delete(st.index, op.ID)
				delete(st.large, op.ID)
				st.unlink(e)
			}
			st.lastID = max(st.lastID, op.ID)
		}
	}
}
