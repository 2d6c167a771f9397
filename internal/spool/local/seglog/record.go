package seglog

import (
	"encoding/binary"
	"hash/crc32"

	"posthouse/internal/mail"
)

// A record of the log is a header of 64 bytes, a head, a body, and zeros up to
// a multiple of 8. The three parts have a checksum each, so that the envelope
// of a message can be read when its content is damaged.
//
//	 0  8  mark of the spool
//	 8  8  queue ID, messages only
//	16  8  batch: one write and one sync; numbers only grow
//	24  4  segment
//	28  4  offset in the segment at which the batch starts
//	32  4  length of the head
//	36  4  length of the body
//	40  4  CRC-32C of the head
//	44  4  CRC-32C of the body
//	48  1  kind
//	49  1  flags
//	52  4  offset of this record in the segment
//	60  4  CRC-32C of the 60 bytes before
const (
	headerLen   = 64
	recordAlign = 8
)

// Kind is the kind of a record. The numbers are stored: only append.
type Kind uint8

// The kinds. The owner's are Message to Batch.
const (
	kindSegment Kind = 1 // the first of a segment; no head, no body
	Message     Kind = 2 // head: envelope; body: content
	Large       Kind = 3 // head: envelope; body: reference to the content
	Batch       Kind = 4 // head: changes
	kindEnd     Kind = 5 // the last of a segment
)

// flagCopied is Request.Copied.
const flagCopied = 1

// header is a record's header in memory.
type header struct {
	id      mail.QueueID
	batch   uint64
	seg     uint32
	start   uint32 // where the batch starts
	off     uint32 // where the record starts
	headLen uint32
	bodyLen uint32
	headCRC uint32
	bodyCRC uint32
	kind    Kind
	flags   uint8
}

// castagnoli is the polynomial that processors compute in hardware.
func checksum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// Checksum is the checksum of heads and bodies.
func Checksum(b []byte) uint32 { return checksum(b) }

// RecordLen is how much of the log a record takes.
func RecordLen(headLen, bodyLen int64) int64 { return recordLen(headLen, bodyLen) }

func recordLen(headLen, bodyLen int64) int64 {
	return (headerLen + headLen + bodyLen + recordAlign - 1) &^ (recordAlign - 1)
}

func (h *header) recordLen() int64 { return recordLen(int64(h.headLen), int64(h.bodyLen)) }

// append writes the header to b.
func (h *header) append(b []byte, mark uint64) []byte {
	at := len(b)
	le := binary.LittleEndian
	b = le.AppendUint64(b, mark)
	b = le.AppendUint64(b, uint64(h.id))
	b = le.AppendUint64(b, h.batch)
	b = le.AppendUint32(b, h.seg)
	b = le.AppendUint32(b, h.start)
	b = le.AppendUint32(b, h.headLen)
	b = le.AppendUint32(b, h.bodyLen)
	b = le.AppendUint32(b, h.headCRC)
	b = le.AppendUint32(b, h.bodyCRC)
	b = append(b, byte(h.kind), h.flags, 0, 0)
	b = le.AppendUint32(b, h.off)
	b = le.AppendUint32(b, 0)
	return le.AppendUint32(b, checksum(b[at:at+headerLen-4]))
}

// appendRecord writes a whole record to b.
func (h *header) appendRecord(b []byte, mark uint64, head, body []byte) []byte {
	b = h.append(b, mark)
	b = append(b, head...)
	b = append(b, body...)
	for len(b)%recordAlign != 0 {
		b = append(b, 0)
	}
	return b
}

// parse reads the header of a record that is expected at an offset of a
// segment, and tells whether it is one. b holds at least headerLen bytes.
func (h *header) parse(b []byte, mark uint64, seg uint32, off int64) bool {
	le := binary.LittleEndian
	if le.Uint64(b) != mark || le.Uint32(b[24:]) != seg || int64(le.Uint32(b[52:])) != off {
		return false
	}
	h.fill(b)
	return checksum(b[:headerLen-4]) == le.Uint32(b[headerLen-4:])
}

// fill reads the header without checking it.
func (h *header) fill(b []byte) {
	le := binary.LittleEndian
	*h = header{
		id: mail.QueueID(le.Uint64(b[8:])), batch: le.Uint64(b[16:]), seg: le.Uint32(b[24:]), start: le.Uint32(b[28:]),
		headLen: le.Uint32(b[32:]), bodyLen: le.Uint32(b[36:]), headCRC: le.Uint32(b[40:]), bodyCRC: le.Uint32(b[44:]),
		kind: Kind(b[48]), flags: b[49], off: le.Uint32(b[52:]),
	}
}
