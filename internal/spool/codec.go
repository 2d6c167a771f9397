package spool

import (
	"encoding/binary"
	"fmt"
	"time"

	"posthouse/internal/mail"
)

// The record codec: how a Store writes envelopes, states and batches.
//
// A record is a format byte followed by fields. A field is a key, which is a
// varint of tag<<1|kind, and a value: kind 0 is a varint, kind 1 a length and
// that many bytes. A field whose value is the zero value is left out, and a
// reader skips tags it does not know, so that fields can be added without a
// new format and a spool can still be read after a downgrade. Only a change
// of meaning takes a new format byte.
//
// Decoding never panics and allocates in proportion to its input, whatever
// the input; every string of a record shares one allocation. Times are stored
// as nanoseconds since 1970, so they must lie between the years 1678 and 2262.
const codecFormat = 1

const (
	kindVarint = 0
	kindBytes  = 1
)

func appendUint(b []byte, tag int, v uint64) []byte {
	if v == 0 {
		return b
	}
	return binary.AppendUvarint(append(b, byte(tag<<1|kindVarint)), v)
}

func appendInt(b []byte, tag int, v int64) []byte {
	return appendUint(b, tag, uint64(v)<<1^uint64(v>>63))
}

func appendBool(b []byte, tag int, v bool) []byte {
	if !v {
		return b
	}
	return append(b, byte(tag<<1|kindVarint), 1)
}

func appendString[T ~string | ~[]byte](b []byte, tag int, v T) []byte {
	if len(v) == 0 {
		return b
	}
	b = binary.AppendUvarint(append(b, byte(tag<<1|kindBytes)), uint64(len(v)))
	return append(b, v...)
}

// appendTime writes a time; the zero time is left out. The instant 1970 itself
// must not be mistaken for it, hence the offset of one.
func appendTime(b []byte, tag int, t time.Time) []byte {
	if t.IsZero() {
		return b
	}
	n := t.UnixNano()
	return binary.AppendUvarint(append(b, byte(tag<<1|kindVarint)), (uint64(n)<<1^uint64(n>>63))+1)
}

// appendNested writes a record inside a record. The length stands before the
// body and is only known after it, so the body is written first and moved by
// the one or more bytes that the length takes.
func appendNested(b []byte, tag int, body func([]byte) []byte) []byte {
	b = append(b, byte(tag<<1|kindBytes), 0)
	start := len(b)
	b = body(b)
	n := len(b) - start
	if n < 0x80 {
		b[start-1] = byte(n)
		return b
	}
	var tmp [binary.MaxVarintLen64]byte
	w := binary.PutUvarint(tmp[:], uint64(n))
	b = append(b, tmp[:w-1]...)
	copy(b[start+w-1:], b[start:start+n])
	copy(b[start-1:], tmp[:w])
	return b
}

// field is one decoded field.
type field struct {
	tag  int
	kind int
	num  uint64 // kindVarint
	text string // kindBytes; shares the record's backing string
}

func (f *field) int() int64 { return int64(f.num>>1) ^ -int64(f.num&1) }

func (f *field) time() time.Time {
	if f.num == 0 {
		return time.Time{}
	}
	n := f.num - 1
	return time.Unix(0, int64(n>>1)^-int64(n&1))
}

// fields reads a record without its format byte.
type fields struct {
	rest string
	bad  bool
}

// next reads one field; false at the end or at damage, told apart by r.bad.
func (r *fields) next(f *field) bool {
	if r.rest == "" || r.bad {
		return false
	}
	key, ok := r.uvarint()
	if !ok || key>>1 > 1<<20 {
		r.bad = true
		return false
	}
	f.tag, f.kind = int(key>>1), int(key&1)
	f.num, f.text = 0, ""
	v, ok := r.uvarint()
	if !ok {
		r.bad = true
		return false
	}
	if f.kind == kindVarint {
		f.num = v
		return true
	}
	if v > uint64(len(r.rest)) {
		r.bad = true
		return false
	}
	f.text, r.rest = r.rest[:v], r.rest[v:]
	return true
}

func (r *fields) uvarint() (uint64, bool) {
	var v uint64
	for i := 0; i < len(r.rest) && i < binary.MaxVarintLen64; i++ {
		c := r.rest[i]
		if c < 0x80 {
			if i == binary.MaxVarintLen64-1 && c > 1 {
				return 0, false
			}
			r.rest = r.rest[i+1:]
			return v | uint64(c)<<(7*i), true
		}
		v |= uint64(c&0x7f) << (7 * i)
	}
	return 0, false
}

// open checks the format byte and returns the fields after it.
func open(b []byte, what string) (fields, error) {
	if len(b) == 0 {
		return fields{}, fmt.Errorf("%w: empty %s record", ErrCorrupt, what)
	}
	if b[0] != codecFormat {
		return fields{}, fmt.Errorf("%w: %s record has format %d", ErrFormat, what, b[0])
	}
	return fields{rest: string(b[1:])}, nil
}

func (r *fields) err(what string) error {
	if r.bad {
		return fmt.Errorf("%w: malformed %s record", ErrCorrupt, what)
	}
	return nil
}

// Tags of a state. The numbers are stored: only append.
const (
	tagStateCreated = iota + 1
	tagStateHold
	tagStateHoldReason
	tagStateForceExpire
	tagStateRequeue
	tagStateWarned
	tagStateDeletedAt
	tagStateDeletedBy
	tagStateCorrupt
)

// AppendState writes a message state to b.
func AppendState(b []byte, s *mail.State) []byte {
	return appendState(append(b, codecFormat), s)
}

func appendState(b []byte, s *mail.State) []byte {
	b = appendTime(b, tagStateCreated, s.Created)
	b = appendBool(b, tagStateHold, s.Hold)
	b = appendString(b, tagStateHoldReason, s.HoldReason)
	b = appendBool(b, tagStateForceExpire, s.ForceExpire)
	b = appendBool(b, tagStateRequeue, s.Requeue)
	b = appendBool(b, tagStateWarned, s.Warned)
	b = appendTime(b, tagStateDeletedAt, s.DeletedAt)
	b = appendString(b, tagStateDeletedBy, s.DeletedBy)
	return appendString(b, tagStateCorrupt, s.Corrupt)
}

// DecodeState reads what AppendState wrote. The error is ErrCorrupt or ErrFormat.
func DecodeState(b []byte) (mail.State, error) {
	r, err := open(b, "state")
	if err != nil {
		return mail.State{}, err
	}
	s := decodeState(&r)
	return s, r.err("state")
}

func decodeState(r *fields) (s mail.State) {
	var f field
	for r.next(&f) {
		switch f.tag {
		case tagStateCreated:
			s.Created = f.time()
		case tagStateHold:
			s.Hold = f.num != 0
		case tagStateHoldReason:
			s.HoldReason = f.text
		case tagStateForceExpire:
			s.ForceExpire = f.num != 0
		case tagStateRequeue:
			s.Requeue = f.num != 0
		case tagStateWarned:
			s.Warned = f.num != 0
		case tagStateDeletedAt:
			s.DeletedAt = f.time()
		case tagStateDeletedBy:
			s.DeletedBy = f.text
		case tagStateCorrupt:
			s.Corrupt = f.text
		}
	}
	return s
}

// Tags of a recipient's state. The numbers are stored: only append.
const (
	tagRcptPhase = iota + 1
	tagRcptAttempts
	tagRcptLastAttempt
	tagRcptNextAttempt
	tagRcptNotified
	tagRcptCode
	tagRcptText
	tagRcptRemoteMTA
	tagRcptDiagType
	tagRcptDiagText
)

// AppendRecipientState writes a recipient's state to b.
func AppendRecipientState(b []byte, s *mail.RecipientState) []byte {
	return appendRecipientState(append(b, codecFormat), s)
}

func appendRecipientState(b []byte, s *mail.RecipientState) []byte {
	b = appendUint(b, tagRcptPhase, uint64(s.Phase))
	b = appendUint(b, tagRcptAttempts, uint64(s.Attempts))
	b = appendTime(b, tagRcptLastAttempt, s.LastAttempt)
	b = appendTime(b, tagRcptNextAttempt, s.NextAttempt)
	b = appendBool(b, tagRcptNotified, s.Notified)
	c := s.Last.Code
	b = appendUint(b, tagRcptCode, uint64(c[0])<<32|uint64(c[1])<<16|uint64(c[2]))
	b = appendString(b, tagRcptText, s.Last.Text)
	b = appendString(b, tagRcptRemoteMTA, s.Last.RemoteMTA)
	b = appendString(b, tagRcptDiagType, s.Last.DiagType)
	return appendString(b, tagRcptDiagText, s.Last.DiagText)
}

// DecodeRecipientState reads what AppendRecipientState wrote. The error is
// ErrCorrupt or ErrFormat.
func DecodeRecipientState(b []byte) (mail.RecipientState, error) {
	r, err := open(b, "recipient state")
	if err != nil {
		return mail.RecipientState{}, err
	}
	s := decodeRecipientState(&r)
	return s, r.err("recipient state")
}

func decodeRecipientState(r *fields) (s mail.RecipientState) {
	var f field
	for r.next(&f) {
		switch f.tag {
		case tagRcptPhase:
			s.Phase = mail.Phase(f.num)
		case tagRcptAttempts:
			s.Attempts = uint32(f.num)
		case tagRcptLastAttempt:
			s.LastAttempt = f.time()
		case tagRcptNextAttempt:
			s.NextAttempt = f.time()
		case tagRcptNotified:
			s.Notified = f.num != 0
		case tagRcptCode:
			s.Last.Code = mail.EnhancedCode{uint16(f.num >> 32), uint16(f.num >> 16), uint16(f.num)}
		case tagRcptText:
			s.Last.Text = f.text
		case tagRcptRemoteMTA:
			s.Last.RemoteMTA = f.text
		case tagRcptDiagType:
			s.Last.DiagType = f.text
		case tagRcptDiagText:
			s.Last.DiagText = f.text
		}
	}
	return s
}
