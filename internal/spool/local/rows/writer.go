package rows

import (
	"github.com/cockroachdb/pebble/v2"

	"posthouse/internal/mail"
)

const (
	// batchBytes bounds one Pebble batch.
	batchBytes = 1 << 20

	// fewRecipients is up to how many recipient rows are deleted one by one;
	// a range deletion costs readers more than a few single ones.
	fewRecipients = 32
)

// Writer writes rows, in batches of a limited size. Its first error sticks, and
// is returned by Commit.
type Writer struct {
	db    *DB
	batch *pebble.Batch
	value []byte // room for an envelope row
	err   error
}

// NewWriter returns a Writer.
func (r *DB) NewWriter() *Writer { return &Writer{db: r} }

// room returns the batch to write to, or nil after an error.
func (w *Writer) room() *pebble.Batch {
	if w.batch != nil && w.batch.Len() >= batchBytes {
		w.err = w.Commit()
	}
	if w.err != nil {
		return nil
	}
	if w.batch == nil {
		w.batch = w.db.db.NewBatch()
	}
	return w.batch
}

func (w *Writer) set(key, value []byte) {
	if b := w.room(); b != nil {
		w.err = b.Set(key, value, nil)
	}
}

func (w *Writer) delete(key []byte) {
	if b := w.room(); b != nil {
		w.err = b.Delete(key, nil)
	}
}

// Err is the error that Commit will return.
func (w *Writer) Err() error { return w.err }

// Envelope writes a message's envelope row.
func (w *Writer) Envelope(id mail.QueueID, e *Envelope) {
	w.value = e.append(w.value[:0])
	w.set(messageKey(id, rowEnvelope), w.value)
}

// States writes those states of a message that are not nil.
func (w *Writer) States(id mail.QueueID, s *States) {
	if s.State != nil {
		w.set(messageKey(id, rowState), s.State)
	}
	for _, r := range s.Recipients {
		w.set(recipientKey(id, r.Index), r.Enc)
	}
}

// Delete deletes rows of a message with so many recipients: its envelope, its
// state, those of its recipients.
func (w *Writer) Delete(id mail.QueueID, recipients uint32, envelope, state, rcpts bool) {
	if envelope {
		w.delete(messageKey(id, rowEnvelope))
	}
	if state {
		w.delete(messageKey(id, rowState))
	}
	switch {
	case !rcpts:
	case recipients <= fewRecipients:
		for i := range recipients {
			w.delete(recipientKey(id, i))
		}
	default:
		if b := w.room(); b != nil {
			w.err = b.DeleteRange(messageKey(id, rowRecipient), messageKey(id+1, rowEnvelope), nil)
		}
	}
}

// Commit writes what is left.
func (w *Writer) Commit() error {
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
