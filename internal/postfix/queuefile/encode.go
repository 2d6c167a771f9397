package queuefile

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"posthouse/internal/mail"
)

// LineLimit is how many bytes of a line go into one record (line_length_limit).
const LineLimit = 2048

// Encode writes m as the queue file that Postfix would have for it. content
// is the stored content with CRLF line ends; it is read twice, since the first
// record holds the size of what follows. ids is the form of the queue ID that
// the file mentions.
func Encode(w io.Writer, m *mail.Message, content io.ReadSeeker, ids mail.IDForm) error {
	size, err := contentSize(content)
	if err != nil {
		return err
	}
	env := appendEnvelope(nil, m, ids)
	// The C record has a fixed width, so the offset of the content does not
	// depend on what it says.
	dataAt := recordSize(len(sizeRecord(0, 0, 0, 0))) + int64(len(env)) + recordSize(0)
	utf8 := 0
	if m.SMTPUTF8 {
		utf8 = 1
	}
	out := bufio.NewWriterSize(w, 32<<10)
	b := AppendString(nil, TypeSize, sizeRecord(size, dataAt, len(m.Recipients), utf8))
	b = append(b, env...)
	b = AppendRecord(b, TypeMessage, nil)
	out.Write(b)
	if err := eachPiece(content, func(t Type, data []byte) error {
		b = AppendRecord(b[:0], t, data)
		_, err := out.Write(b)
		return err
	}); err != nil {
		return err
	}
	b = AppendRecord(b[:0], TypeExtracted, nil)
	if m.Body8Bit {
		b = AppendString(b, TypeAttr, "encoding=8bit")
	}
	out.Write(AppendRecord(b, TypeEnd, nil))
	return out.Flush()
}

// sizeRecord is the data of the C record: content size, content offset,
// recipients, hints to the queue manager (none), content size again as the
// SIZE that is announced, SMTPUTF8 flags.
func sizeRecord(size, offset int64, rcpts, utf8 int) string {
	return fmt.Sprintf("%15d %15d %15d %15d %15d %15d", size, offset, rcpts, 0, size, utf8)
}

// contentSize is how many bytes the records of the content take.
func contentSize(content io.ReadSeeker) (n int64, err error) {
	if _, err := content.Seek(0, io.SeekStart); err != nil {
		return 0, err
	}
	err = eachPiece(content, func(_ Type, data []byte) error {
		n += recordSize(len(data))
		return nil
	})
	if err != nil {
		return 0, err
	}
	_, err = content.Seek(0, io.SeekStart)
	return n, err
}

// eachPiece splits content into lines, and long lines into pieces: N ends a
// line, L does not. A last line without a line end is a line.
func eachPiece(content io.Reader, each func(Type, []byte) error) error {
	const window = LineLimit + len("\r\n")
	in := bufio.NewReaderSize(content, 32<<10)
	for {
		buf, err := in.Peek(window)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if len(buf) == 0 {
			return nil
		}
		t, line, taken := TypeNormal, buf, len(buf)
		if i := bytes.IndexByte(buf, '\n'); i >= 0 {
			line, taken = bytes.TrimSuffix(buf[:i], []byte("\r")), i+1
		}
		if len(line) > LineLimit {
			t, line, taken = TypeCont, buf[:LineLimit], LineLimit
		}
		if err := each(t, line); err != nil {
			return err
		}
		if _, err := in.Discard(taken); err != nil {
			return err
		}
	}
}

// appendEnvelope writes the records between C and M, in the order in which
// smtpd and cleanup, or pickup and cleanup, write them.
func appendEnvelope(b []byte, m *mail.Message, ids mail.IDForm) []byte {
	attr := func(name, value string) {
		b = AppendString(b, TypeAttr, name+"="+value)
	}
	optional := func(name, value string) {
		if value != "" {
			attr(name, value)
		}
	}
	b = AppendString(b, TypeTime, fmt.Sprintf("%d %d", m.Arrival.Unix(), m.Arrival.Nanosecond()/1000))
	attr("create_time", strconv.FormatInt(m.ID.Time().Unix(), 10))
	remote := m.Origin == mail.FromSMTP
	if remote {
		attr("log_ident", ids.Format(m.ID))
	}
	attr("rewrite_context", "local")
	optional("envelope_id", m.EnvelopeID)
	if m.Ret != mail.RetUnset {
		attr("ret_flags", strconv.Itoa(int(m.Ret)))
	}
	if m.FullName != "" {
		b = AppendString(b, TypeFullName, m.FullName)
	}
	b = AppendString(b, TypeSender, Internal(m.Sender))
	if m.Body8Bit {
		attr("encoding", "8bit")
	}
	if remote {
		optional("sasl_method", m.Client.SASLMethod)
		optional("sasl_username", m.Client.SASLUser)
		optional("sasl_sender", m.Client.SASLSender)
		b = appendClient(b, &m.Client)
	}
	for i := range m.Recipients {
		phase := mail.Pending
		if i < len(m.RcptState) {
			phase = m.RcptState[i].Phase
		}
		b = appendRecipient(b, &m.Recipients[i], phase)
	}
	return b
}

func appendClient(b []byte, c *mail.Client) []byte {
	attr := func(name, value string) {
		if value != "" {
			b = AppendString(b, TypeAttr, name+"="+value)
		}
	}
	port := func(n uint16) string {
		if n == 0 {
			return ""
		}
		return strconv.Itoa(int(n))
	}
	attr("log_client_name", c.Name)
	attr("log_client_address", c.Addr)
	attr("log_client_port", port(c.Port))
	attr("log_message_origin", c.Name+"["+c.Addr+"]")
	attr("log_helo_name", c.Helo)
	attr("log_protocol_name", c.Protocol)
	attr("client_name", c.Name)
	attr("reverse_client_name", c.ReverseName)
	attr("client_address", c.Addr)
	attr("client_port", port(c.Port))
	attr("server_address", c.ServerAddr)
	attr("server_port", port(c.ServerPort))
	attr("helo_name", c.Helo)
	attr("protocol_name", c.Protocol)
	// The numbers are those of the address families AF_INET and AF_INET6.
	if strings.Contains(c.Addr, ":") {
		attr("client_address_type", "10")
	} else if c.Addr != "" {
		attr("client_address_type", "2")
	}
	return b
}

func appendRecipient(b []byte, r *mail.Recipient, phase mail.Phase) []byte {
	if r.Notify != 0 {
		b = AppendString(b, TypeAttr, "notify_flags="+strconv.Itoa(int(r.Notify)))
	}
	orig := r.OrigAddress
	if orig == "" {
		orig = r.Address
	}
	dsn := r.DSNOriginal
	if dsn == "" {
		dsn = "rfc822;" + string(orig)
	}
	b = AppendString(b, TypeAttr, "dsn_orig_rcpt="+dsn)
	b = AppendString(b, TypeOrigRcpt, Internal(orig))
	t := TypeRcpt
	switch phase {
	case mail.Sent, mail.Bounced, mail.Expired:
		t = TypeDone
	case mail.Canceled:
		t = TypeCanceled
	}
	return AppendString(b, t, Internal(r.Address))
}
