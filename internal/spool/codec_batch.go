package spool

import (
	"fmt"

	"posthouse/internal/mail"
)

// Tags of a batch's changes, one field each. The numbers are stored: only append.
const (
	tagOpSetState = iota + 1
	tagOpSetRecipients
	tagOpRemove
	tagOpPut
	tagOpDelete
)

// Tags inside a change. The numbers are stored: only append.
const (
	tagChangeID = iota + 1
	tagChangeState
	tagChangeRecipient
	tagChangeKey
	tagChangeValue
)

// Tags inside a recipient change. The numbers are stored: only append.
const (
	tagRcptChangeIndex = iota + 1
	tagRcptChangeState
)

// AppendBatch writes a batch to b.
func AppendBatch(b []byte, batch *Batch) []byte {
	b = append(b, codecFormat)
	for _, op := range batch.Ops {
		switch op := op.(type) {
		case SetState:
			b = appendNested(b, tagOpSetState, func(b []byte) []byte {
				b = appendUint(b, tagChangeID, uint64(op.ID))
				return appendNested(b, tagChangeState, func(b []byte) []byte { return appendState(b, &op.State) })
			})
		case SetRecipients:
			b = appendNested(b, tagOpSetRecipients, func(b []byte) []byte {
				return appendRecipientChanges(appendUint(b, tagChangeID, uint64(op.ID)), op.Changes)
			})
		case Remove:
			b = appendNested(b, tagOpRemove, func(b []byte) []byte { return appendUint(b, tagChangeID, uint64(op.ID)) })
		case Put:
			b = appendNested(b, tagOpPut, func(b []byte) []byte {
				return appendString(appendString(b, tagChangeKey, op.Key), tagChangeValue, op.Value)
			})
		case Delete:
			b = appendNested(b, tagOpDelete, func(b []byte) []byte { return appendString(b, tagChangeKey, op.Key) })
		}
	}
	return b
}

func appendRecipientChanges(b []byte, changes []RecipientChange) []byte {
	for i := range changes {
		c := &changes[i]
		b = appendNested(b, tagChangeRecipient, func(b []byte) []byte {
			b = appendUint(b, tagRcptChangeIndex, uint64(c.Index))
			return appendNested(b, tagRcptChangeState, func(b []byte) []byte { return appendRecipientState(b, &c.State) })
		})
	}
	return b
}

// DecodeBatch reads what AppendBatch wrote. The error is ErrCorrupt or
// ErrFormat. An unknown kind of change is ErrFormat: skipping a change is not
// safe, as skipping a field is.
func DecodeBatch(b []byte) (*Batch, error) {
	r, err := open(b, "batch")
	if err != nil {
		return nil, err
	}
	batch := &Batch{}
	var f field
	for r.next(&f) {
		c := decodeChange(&r, f.text)
		var op Op
		switch f.tag {
		case tagOpSetState:
			op = SetState{ID: c.id, State: c.state}
		case tagOpSetRecipients:
			op = SetRecipients{ID: c.id, Changes: c.rcpts}
		case tagOpRemove:
			op = Remove{ID: c.id}
		case tagOpPut:
			op = Put{Key: []byte(c.key), Value: []byte(c.value)}
		case tagOpDelete:
			op = Delete{Key: []byte(c.key)}
		default:
			return nil, fmt.Errorf("%w: change of unknown kind %d", ErrFormat, f.tag)
		}
		batch.Ops = append(batch.Ops, op)
	}
	return batch, r.err("batch")
}

// change holds whatever fields a change had.
type change struct {
	id         mail.QueueID
	state      mail.State
	rcpts      []RecipientChange
	key, value string
}

func decodeChange(outer *fields, text string) (c change) {
	r, f := fields{rest: text}, field{}
	for r.next(&f) {
		switch f.tag {
		case tagChangeID:
			c.id = mail.QueueID(f.num)
		case tagChangeState:
			s := fields{rest: f.text}
			c.state = decodeState(&s)
			r.bad = r.bad || s.bad
		case tagChangeRecipient:
			c.rcpts = append(c.rcpts, decodeRecipientChange(&r, f.text))
		case tagChangeKey:
			c.key = f.text
		case tagChangeValue:
			c.value = f.text
		}
	}
	outer.bad = outer.bad || r.bad
	return c
}

func decodeRecipientChange(outer *fields, text string) (c RecipientChange) {
	r, f := fields{rest: text}, field{}
	for r.next(&f) {
		switch f.tag {
		case tagRcptChangeIndex:
			c.Index = int(f.num & (1<<31 - 1))
		case tagRcptChangeState:
			s := fields{rest: f.text}
			c.State = decodeRecipientState(&s)
			r.bad = r.bad || s.bad
		}
	}
	outer.bad = outer.bad || r.bad
	return c
}
