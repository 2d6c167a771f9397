package control

import (
	"encoding/binary"
	"fmt"
	"time"

	"posthouse/internal/mail"
	"posthouse/internal/operator"
)

// A view in binary form: numbers as varints, strings with their length before
// them, times as nanoseconds since the epoch with 0 for none. Both ends are
// the same program, so there are no field numbers; protocolVersion counts the
// changes.

const flagForceExpire = 1

func appendView(b []byte, v *operator.View) []byte {
	b = appendString(b, string(v.Queue))
	b = binary.AppendUvarint(b, uint64(v.ID))
	b = appendTime(b, v.Arrival)
	b = binary.AppendVarint(b, v.Size)
	b = appendString(b, string(v.Sender))
	flags := byte(0)
	if v.ForceExpire {
		flags |= flagForceExpire
	}
	b = append(b, flags, byte(v.Origin))
	b = appendString(b, v.User)
	b = appendTime(b, v.NextAttempt)
	b = appendTime(b, v.Expires)
	b = binary.AppendUvarint(b, uint64(v.Attempts))
	b = binary.AppendUvarint(b, uint64(len(v.Recipients)))
	for i := range v.Recipients {
		r := &v.Recipients[i]
		b = appendString(b, string(r.Address))
		b = appendString(b, string(r.OrigAddress))
		b = appendString(b, r.Reason)
		b = appendTime(b, r.NextAttempt)
		b = appendString(b, r.Destination.Transport)
		b = appendString(b, r.Destination.NextHop)
	}
	return b
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendTime(b []byte, t time.Time) []byte {
	if t.IsZero() {
		return append(b, 0)
	}
	return binary.AppendVarint(b, t.UnixNano())
}

// maxInterned bounds the memory of a decoder.
const maxInterned = 1 << 16

// decoder reads views. Senders, reasons and destinations repeat from message
// to message: it hands out one string for all equal ones.
type decoder struct {
	b       []byte
	bad     bool
	strings map[string]string
}

func newDecoder() *decoder { return &decoder{strings: make(map[string]string)} }

// decode calls each for every view in b until it returns false. The view is
// used again for the next one.
func (d *decoder) decode(b []byte, each func(*operator.View) bool) (more bool, err error) {
	var v operator.View
	d.b = b
	for len(d.b) > 0 {
		d.view(&v)
		if d.bad {
			return false, fmt.Errorf("%w: malformed list", ErrProtocol)
		}
		if !each(&v) {
			return false, nil
		}
	}
	return true, nil
}

func (d *decoder) view(v *operator.View) {
	v.Queue = mail.QueueName(d.interned())
	v.ID = mail.QueueID(d.uvarint())
	v.Arrival = d.time()
	v.Size = d.varint()
	v.Sender = mail.Address(d.interned())
	v.ForceExpire = d.byte()&flagForceExpire != 0
	v.Origin = mail.Origin(d.byte())
	v.User = d.interned()
	v.NextAttempt, v.Expires = d.time(), d.time()
	v.Attempts = uint32(d.uvarint())
	n := d.uvarint()
	v.Recipients = v.Recipients[:0]
	for range n {
		if d.bad {
			return
		}
		v.Recipients = append(v.Recipients, operator.RecipientView{
			Address: mail.Address(d.string()), OrigAddress: mail.Address(d.string()), Reason: d.interned(), NextAttempt: d.time(),
			Destination: mail.Destination{Transport: d.interned(), NextHop: d.interned()},
		})
	}
}

func (d *decoder) uvarint() uint64 {
	n, size := binary.Uvarint(d.b)
	if size <= 0 {
		d.bad, d.b = true, nil
		return 0
	}
	d.b = d.b[size:]
	return n
}

func (d *decoder) varint() int64 {
	n, size := binary.Varint(d.b)
	if size <= 0 {
		d.bad, d.b = true, nil
		return 0
	}
	d.b = d.b[size:]
	return n
}

func (d *decoder) byte() byte {
	if len(d.b) == 0 {
		d.bad = true
		return 0
	}
	c := d.b[0]
	d.b = d.b[1:]
	return c
}

func (d *decoder) time() time.Time {
	n := d.varint()
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}

func (d *decoder) bytes() []byte {
	n := d.uvarint()
	if n > uint64(len(d.b)) {
		d.bad, d.b = true, nil
		return nil
	}
	s := d.b[:n]
	d.b = d.b[n:]
	return s
}

func (d *decoder) string() string { return string(d.bytes()) }

func (d *decoder) interned() string {
	raw := d.bytes()
	if len(raw) == 0 {
		return ""
	}
	if s, ok := d.strings[string(raw)]; ok {
		return s
	}
	if len(d.strings) >= maxInterned {
		clear(d.strings)
	}
	s := string(raw)
	d.strings[s] = s
	return s
}
