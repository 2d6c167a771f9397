package queuefile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"posthouse/internal/mail"
)

// File is a decoded queue file. Content reads its content, so the source must
// stay open until that is done.
type File struct {
	// Envelope is what the file says of the message. ID and MessageID are
	// not in it; Size is that of Content. The client's name and address are
	// claims: a file from the maildrop can say what it likes.
	Envelope mail.Envelope
	// States tells, for each of Envelope.Recipients, whether it is done.
	States []mail.RecipientState
	// Created is when the file was made, zero when it does not say: the
	// retry clock of Postfix.
	Created time.Time
	// Warned tells that the delay notice was sent.
	Warned bool
	// SizeRecord tells that the file has a C record: cleanup made it.
	SizeRecord bool
	// Remote tells that headers are not to be completed with the local
	// domain (sendmail -G).
	Remote bool
	// VerifyOnly tells that only a report on the recipients is wanted
	// (sendmail -bv); Report tells that one is wanted of the delivery
	// (sendmail -v).
	VerifyOnly, Report bool

	src       io.ReadSeeker
	contentAt int64
}

// The bits of trace_flags.
const (
	traceVerify = 1 << 9
	traceReport = 1 << 10
)

// decoding is a Decode under way.
type decoding struct {
	*File
	in     *Reader
	sender bool
	orig   string      // of the recipient to come
	dsn    string      // of the recipient to come
	notify mail.Notify // of the recipient to come
}

// The record types that each group may have, pointers and padding apart.
const (
	envelopeTypes  = "MCTFILSDROWVA></<inofdKc"
	contentTypes   = "XLN"
	extractedTypes = "EDROPreAFIL></<inoK"
)

// Decode reads the envelope of a queue file and walks its content once, to
// find its end and its size. Errors wrap ErrMalformed when the file is to
// blame.
func Decode(src io.ReadSeeker) (*File, error) {
	d := &decoding{File: &File{src: src}, in: NewReader(src)}
	d.Envelope.Client.UID = -1
	if err := d.group(envelopeTypes, TypeMessage); err != nil {
		return nil, err
	}
	if !d.sender {
		return nil, fmt.Errorf("%w: no envelope sender", ErrMalformed)
	}
	d.contentAt = d.in.Offset()
	if err := d.content(); err != nil {
		return nil, err
	}
	if err := d.group(extractedTypes, TypeEnd); err != nil {
		return nil, err
	}
	return d.File, nil
}

// next reads a record past pointers and padding.
func next(in *Reader) (Record, error) {
	for {
		rec, err := in.Next()
		if errors.Is(err, io.EOF) {
			return rec, fmt.Errorf("%w: end of file at offset %d", ErrMalformed, in.Offset())
		}
		if err != nil {
			return rec, err
		}
		switch rec.Type {
		case TypePointer:
			if err := in.Follow(rec.Data); err != nil {
				return rec, err
			}
		case TypePadding:
		default:
			return rec, nil
		}
	}
}

func checkType(rec Record, allowed string) error {
	if strings.IndexByte(allowed, byte(rec.Type)) < 0 {
		return fmt.Errorf("%w: unexpected record type %d at offset %d", ErrMalformed, rec.Type, rec.Offset)
	}
	return nil
}

// group reads envelope records until one of type last.
func (d *decoding) group(allowed string, last Type) error {
	for {
		rec, err := next(d.in)
		if err != nil {
			return err
		}
		if err := checkType(rec, allowed); err != nil {
			return err
		}
		if rec.Type == last {
			return nil
		}
		d.envelope(rec.Type, string(cString(rec.Data)))
	}
}

func (d *decoding) envelope(t Type, text string) {
	env := &d.Envelope
	switch t {
	case TypeSize:
		d.SizeRecord = true
	case TypeTime:
		env.Arrival = arrival(text)
	case TypeFullName:
		env.FullName = text
	case TypeSender:
		env.Sender, d.sender = External(text), true
	case TypeWarn:
		d.Warned = leadingInt([]byte(text)) < 0
	case TypeAttr:
		name, value, _ := strings.Cut(text, "=")
		d.attribute(name, value)
	case TypeOrigRcpt:
		d.orig = text
	case TypeDSNOrig:
		d.dsn = text
	case TypeDSNNotify:
		d.notify = notify(text)
	case TypeDSNRet:
		env.Ret = ret(text)
	case TypeDSNEnvID:
		env.EnvelopeID = text
	case TypeRcpt, TypeDone, TypeCanceled:
		d.recipient(t, text)
	}
}

func (d *decoding) recipient(t Type, text string) {
	r := mail.Recipient{Address: External(text), DSNOriginal: d.dsn, Notify: d.notify}
	if d.orig != "" && d.orig != text {
		r.OrigAddress = External(d.orig)
	}
	var s mail.RecipientState
	switch t {
	case TypeDone:
		s.Phase, s.Notified = mail.Sent, true
	case TypeCanceled:
		s.Phase, s.Notified = mail.Canceled, true
	}
	d.Envelope.Recipients = append(d.Envelope.Recipients, r)
	d.States = append(d.States, s)
	d.orig, d.dsn, d.notify = "", "", 0
}

func (d *decoding) attribute(name, value string) {
	env, c := &d.Envelope, &d.Envelope.Client
	switch name {
	case "create_time":
		d.Created = time.Unix(leadingInt([]byte(value)), 0).UTC()
	case "rewrite_context":
		d.Remote = value == "remote"
	case "encoding":
		env.Body8Bit = value == "8bit"
	case "trace_flags":
		flags := leadingInt([]byte(value))
		d.VerifyOnly, d.Report = flags&traceVerify != 0, flags&traceReport != 0
	case "envelope_id":
		env.EnvelopeID = value
	case "ret_flags":
		env.Ret = ret(value)
	case "notify_flags":
		d.notify = notify(value)
	case "dsn_orig_rcpt":
		d.dsn = value
	case "sasl_method":
		c.SASLMethod = value
	case "sasl_username":
		c.SASLUser = value
	case "sasl_sender":
		c.SASLSender = value
	default:
		d.client(name, value)
	}
}

func (d *decoding) client(name, value string) {
	c := &d.Envelope.Client
	switch name {
	case "client_name":
		c.Name = value
	case "reverse_client_name":
		c.ReverseName = value
	case "client_address":
		c.Addr = value
	case "client_port":
		c.Port = uint16(leadingInt([]byte(value)))
	case "server_address":
		c.ServerAddr = value
	case "server_port":
		c.ServerPort = uint16(leadingInt([]byte(value)))
	case "helo_name":
		c.Helo = value
	case "protocol_name":
		c.Protocol = value
	}
}

// content walks the content up to X and counts what Content will give.
func (d *decoding) content() error {
	open := false
	for {
		rec, err := next(d.in)
		if err != nil {
			return err
		}
		if err := checkType(rec, contentTypes); err != nil {
			return err
		}
		d.Envelope.Size += int64(len(rec.Data))
		switch rec.Type {
		case TypeNormal:
			d.Envelope.Size += 2
			open = false
		case TypeCont:
			open = true
		case TypeExtracted:
			d.Envelope.Size -= int64(len(rec.Data))
			if open {
				d.Envelope.Size += 2
			}
			return nil
		}
	}
}

// Content reads the content with CRLF line ends from its beginning. A last
// line without a line end gets one: SMTP knows no other.
func (f *File) Content() io.Reader {
	in := NewReader(f.src)
	return &contentReader{in: in, err: in.SeekTo(f.contentAt)}
}

type contentReader struct {
	in   *Reader
	buf  bytes.Buffer
	open bool // the last piece did not end its line
	err  error
}

func (c *contentReader) Read(p []byte) (int, error) {
	for c.buf.Len() < len(p) && c.err == nil {
		c.err = c.fill()
	}
	if c.buf.Len() == 0 {
		return 0, c.err
	}
	return c.buf.Read(p)
}

func (c *contentReader) fill() error {
	rec, err := next(c.in)
	if err != nil {
		return err
	}
	switch rec.Type {
	case TypeNormal:
		c.buf.Write(rec.Data)
		c.buf.WriteString("\r\n")
		c.open = false
	case TypeCont:
		c.buf.Write(rec.Data)
		c.open = true
	case TypeExtracted:
		if c.open {
			c.buf.WriteString("\r\n")
		}
		return io.EOF
	default:
		return checkType(rec, contentTypes)
	}
	return nil
}

func arrival(text string) time.Time {
	sec, usec, _ := strings.Cut(strings.TrimSpace(text), " ")
	return time.Unix(leadingInt([]byte(sec)), leadingInt([]byte(usec))*1000).UTC()
}

func ret(text string) mail.Ret {
	if r := mail.Ret(leadingInt([]byte(text))); r <= mail.RetHeaders {
		return r
	}
	return mail.RetUnset
}

func notify(text string) mail.Notify {
	const all = mail.NotifyNever | mail.NotifySuccess | mail.NotifyFailure | mail.NotifyDelay
	return mail.Notify(leadingInt([]byte(text))) & all
}
