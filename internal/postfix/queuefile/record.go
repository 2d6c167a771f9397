package queuefile

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// ErrMalformed: the file breaks the format. Errors that wrap it say how.
var ErrMalformed = errors.New("malformed queue file")

// Type is the type byte of a record.
type Type byte

// The record types that this package handles by name.
const (
	TypeSize      Type = 'C'
	TypeTime      Type = 'T'
	TypeAttr      Type = 'A'
	TypeFullName  Type = 'F'
	TypeInspector Type = 'I'
	TypeFilter    Type = 'L' // in the envelope
	TypeSender    Type = 'S'
	TypeOrigRcpt  Type = 'O'
	TypeRcpt      Type = 'R'
	TypeDone      Type = 'D'
	TypeCanceled  Type = '/'
	TypeDSNOrig   Type = 'o'
	TypeDSNNotify Type = 'n'
	TypeDSNRet    Type = '<'
	TypeDSNEnvID  Type = 'i'
	TypeWarn      Type = 'W'
	TypeVerp      Type = 'V'
	TypeRedirect  Type = '>'
	TypeFlags     Type = 'f'
	TypeDelay     Type = 'd'
	TypeMessage   Type = 'M' // begins the content
	TypeNormal    Type = 'N' // a line, or the end of one
	TypeCont      Type = 'L' // in the content: a piece of a line
	TypePadding   Type = 'w'
	TypeExtracted Type = 'X' // ends the content
	TypePointer   Type = 'p'
	TypeKilled    Type = 'K'
	TypeEnd       Type = 'E'
	TypeCreated   Type = 'c' // queue file creation time, of old
)

// maxRecord bounds one record. Postfix writes lines of at most 2048 bytes
// (line_length_limit) and attributes of little more; 1 MiB is generous and
// still keeps a hostile length from costing memory.
const maxRecord = 1 << 20

// maxReverseJumps bounds pointers that lead backwards, as Postfix does, so
// that a loop of pointers ends.
const maxReverseJumps = 10000

// Record is one record of a file.
type Record struct {
	Type   Type
	Data   []byte // valid until the next call of Next
	Offset int64  // of the type byte
}

// ReadError is a record that cannot be read.
type ReadError struct {
	Problem string // as postcat words it: "unexpected EOF in data, record type 83 length 5"
	Offset  int64  // where the record began
}

// Error names the problem and the place.
func (e *ReadError) Error() string {
	return fmt.Sprintf("%s at offset %d", e.Problem, e.Offset)
}

// Unwrap makes every ReadError an ErrMalformed.
func (e *ReadError) Unwrap() error { return ErrMalformed }

// Reader reads records one after another, and jumps.
type Reader struct {
	src      io.ReadSeeker
	buf      *bufio.Reader
	offset   int64
	data     []byte
	lastJump int64 // where the last pointer led
	reverse  int   // pointers that led no further than the one before
}

// NewReader reads records from src, from its current position, which counts as offset 0.
func NewReader(src io.ReadSeeker) *Reader {
	return &Reader{src: src, buf: bufio.NewReaderSize(src, 32<<10)}
}

// Offset is where the next record begins.
func (r *Reader) Offset() int64 { return r.offset }

// SeekTo moves to an offset.
func (r *Reader) SeekTo(offset int64) error {
	if offset == r.offset {
		return nil
	}
	if _, err := r.src.Seek(offset, io.SeekStart); err != nil {
		return err
	}
	r.buf.Reset(r.src)
	r.offset = offset
	return nil
}

// Next reads a record. io.EOF at the end of the file; a *ReadError for a
// record that is cut short or has an impossible length.
func (r *Reader) Next() (Record, error) {
	start := r.offset
	t, err := r.buf.ReadByte()
	if err != nil {
		return Record{}, err
	}
	r.offset++
	n, err := r.length(Type(t), start)
	if err != nil {
		return Record{}, err
	}
	if cap(r.data) < n {
		r.data = make([]byte, n, n+512)
	}
	r.data = r.data[:n]
	got, err := io.ReadFull(r.buf, r.data)
	r.offset += int64(got)
	if err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = &ReadError{Problem: fmt.Sprintf("unexpected EOF in data, record type %d length %d", t, n), Offset: start}
		}
		return Record{}, err
	}
	return Record{Type: Type(t), Data: r.data, Offset: start}, nil
}

func (r *Reader) length(t Type, start int64) (int, error) {
	n := 0
	for shift := 0; ; shift += 7 {
		if shift >= 32 {
			return 0, &ReadError{Problem: fmt.Sprintf("too many length bits, record type %d", t), Offset: start}
		}
		c, err := r.buf.ReadByte()
		if errors.Is(err, io.EOF) {
			return 0, &ReadError{Problem: fmt.Sprintf("unexpected EOF reading length, record type %d", t), Offset: start}
		} else if err != nil {
			return 0, err
		}
		r.offset++
		n |= int(c&0x7f) << shift
		if c&0x80 == 0 {
			break
		}
	}
	if n > maxRecord {
		return 0, &ReadError{Problem: fmt.Sprintf("illegal length %d, record type %d", n, t), Offset: start}
	}
	return n, nil
}

// Follow jumps to where a pointer record leads. 0 leads nowhere.
func (r *Reader) Follow(value []byte) error {
	at := r.offset
	target, err := strconv.ParseInt(strings.TrimSpace(string(value)), 10, 63)
	switch {
	case err != nil || target < 0:
		return &ReadError{Problem: fmt.Sprintf("malformed pointer record value: %.100s", value), Offset: at}
	case target == 0:
		return nil
	}
	if target <= r.lastJump {
		if r.reverse++; r.reverse > maxReverseJumps {
			return &ReadError{Problem: "too many reverse jump records", Offset: at}
		}
	}
	r.lastJump = target
	return r.SeekTo(target)
}

// AppendRecord appends a record in its stored form.
func AppendRecord(b []byte, t Type, data []byte) []byte {
	return append(appendHead(b, t, len(data)), data...)
}

// AppendString is AppendRecord for a string.
func AppendString(b []byte, t Type, data string) []byte {
	return append(appendHead(b, t, len(data)), data...)
}

func appendHead(b []byte, t Type, n int) []byte {
	b = append(b, byte(t))
	for n >= 0x80 {
		b = append(b, byte(n)|0x80)
		n >>= 7
	}
	return append(b, byte(n))
}

// recordSize is how many bytes a record with n bytes of data takes.
func recordSize(n int) int64 {
	size := int64(2 + n)
	for n >>= 7; n > 0; n >>= 7 {
		size++
	}
	return size
}
