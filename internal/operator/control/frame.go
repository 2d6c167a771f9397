package control

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"posthouse/internal/mail"
	"posthouse/internal/operator"
)

// Errors of this package; test with errors.Is.
var (
	ErrUnreachable = errors.New("mail system is down")
	ErrLost        = errors.New("lost connection with the mail system")
	ErrDenied      = errors.New("not permitted")
	ErrProtocol    = errors.New("control protocol error")
)

// RemoteError is a failure that the server reports.
type RemoteError struct{ Text string }

// Error is the server's text.
func (e *RemoteError) Error() string { return e.Text }

const (
	protocolVersion = 1

	// maxFrame bounds what one frame makes the other end allocate.
	maxFrame = 16 << 20

	// listChunk is how much of a list goes into one frame.
	listChunk = 64 << 10
	// outcomeChunk is how many outcomes go into one frame.
	outcomeChunk = 10000
	// maxRead bounds one read of content.
	maxRead = 1 << 20
)

// The kinds of frame.
const (
	kindRequest = 'q' // JSON request
	kindResult  = 'r' // JSON answer; the last frame
	kindError   = 'e' // JSON failure; the last frame
	kindViews   = 'v' // views in binary form
	kindOutcome = 'o' // JSON array of outcomes
	kindData    = 'd' // content
)

// The operations.
const (
	opList    = "list"
	opCounts  = "counts"
	opStatus  = "status"
	opAct     = "act"
	opMessage = "message"
	opRead    = "read"
	opPickup  = "pickup"
	opReload  = "reload"
	opStop    = "stop"
)

// request is what a client asks.
type request struct {
	Version   int                `json:"v"`
	Op        string             `json:"op"`
	Verb      operator.Verb      `json:"verb,omitempty"`
	Selection operator.Selection `json:"selection,omitzero"`
	Via       string             `json:"via,omitempty"` // the command that acts
	ID        mail.QueueID       `json:"id,omitempty"`
	Offset    int64              `json:"offset,omitempty"`
	Length    int                `json:"length,omitempty"`
}

// result is the last frame of a success.
type result struct {
	Counts  *operator.Counts `json:"counts,omitempty"`
	Status  *operator.Status `json:"status,omitempty"`
	Missed  int              `json:"missed,omitempty"`
	Message *mail.Message    `json:"message,omitempty"`
	Queue   mail.QueueName   `json:"queue,omitempty"`
	Size    int64            `json:"size,omitempty"`
}

// failure is the last frame of a failure.
type failure struct {
	Code string `json:"code"`
	Text string `json:"text"`
}

// The codes of a failure.
const (
	codeDenied      = "denied"
	codeNotFound    = "not-found"
	codeUnsupported = "unsupported"
	codeFailed      = "failed"
)

func failureOf(err error) failure {
	f := failure{Code: codeFailed, Text: err.Error()}
	switch {
	case errors.Is(err, ErrDenied):
		f.Code = codeDenied
	case errors.Is(err, operator.ErrNotFound):
		f.Code = codeNotFound
	case errors.Is(err, operator.ErrUnsupported):
		f.Code = codeUnsupported
	}
	return f
}

func (f failure) err() error {
	switch f.Code {
	case codeDenied:
		return fmt.Errorf("%w: %s", ErrDenied, f.Text)
	case codeNotFound:
		return operator.ErrNotFound
	case codeUnsupported:
		return operator.ErrUnsupported
	default:
		return &RemoteError{Text: f.Text}
	}
}

// link sends and receives frames over a connection, each within patience.
type link struct {
	conn     net.Conn
	in       *bufio.Reader
	patience time.Duration
	longest  uint32 // bytes of a frame that is received
	buf      []byte
}

func newLink(conn net.Conn, patience time.Duration) *link {
	return &link{conn: conn, in: bufio.NewReaderSize(conn, 128<<10), patience: patience, longest: maxFrame}
}

func (l *link) send(kind byte, payload []byte) error {
	if err := l.conn.SetWriteDeadline(time.Now().Add(l.patience)); err != nil {
		return err
	}
	var head [5]byte
	binary.BigEndian.PutUint32(head[:], uint32(len(payload)))
	head[4] = kind
	bufs := net.Buffers{head[:], payload}
	_, err := bufs.WriteTo(l.conn)
	return err
}

func (l *link) sendJSON(kind byte, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(b) > maxFrame {
		return fmt.Errorf("%w: %d bytes are too much for one frame", ErrProtocol, len(b))
	}
	return l.send(kind, b)
}

// receive reads a frame; the payload is valid until the next call.
func (l *link) receive() (kind byte, payload []byte, err error) {
	if err := l.conn.SetReadDeadline(time.Now().Add(l.patience)); err != nil {
		return 0, nil, err
	}
	var head [5]byte
	if _, err := io.ReadFull(l.in, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > l.longest {
		return 0, nil, fmt.Errorf("%w: frame of %d bytes", ErrProtocol, n)
	}
	if uint32(cap(l.buf)) < n {
		l.buf = make([]byte, n)
	}
	l.buf = l.buf[:n]
	_, err = io.ReadFull(l.in, l.buf)
	return head[4], l.buf, err
}
