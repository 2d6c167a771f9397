package cli

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os/user"
	"strconv"
	"strings"
	"syscall"
	"time"

	"posthouse/internal/intake/pickup"
	"posthouse/internal/mail"
	"posthouse/internal/mail/message"
	"posthouse/internal/operator/control"
	"posthouse/internal/postfix/queuefile"
)

// enqueuing is one message on its way from standard input to the maildrop.
type enqueuing struct {
	*submission
	from    string // sender, without quotes
	fixEnds string // sendmail_fix_line_endings: always, strict or never
	out     *bufio.Writer
	buf     []byte          // of the record being written
	rcpts   int             // written so far
	header  *message.Filter // reads recipients for -t; nil otherwise
	plain   []mail.Address  // of To, Cc and Bcc
	resent  []mail.Address  // of their resent forms
	again   bool            // a resent form was seen
}

// enqueue puts the message on standard input into the maildrop, whether or
// not a server runs.
func (m *submission) enqueue() int {
	s := m.settings(m.config)
	if s == nil {
		return exTempFail
	}
	err := m.maySubmit(s)
	if err == nil {
		err = m.post(s)
	}
	if err != nil {
		return m.fatal(exTempFail, "%v", err)
	}
	// The server need not run, and looks by itself sooner or later. Where none
	// ever ran, the user had better know: Postfix says so under this name.
	if err := s.client().Pickup(m.ctx); errors.Is(err, syscall.ENOENT) {
		fmt.Fprintf(m.std.Err, "postdrop: warning: unable to look up public/pickup: %s\n", reason(err))
	} else if err != nil && !errors.Is(err, control.ErrUnreachable) {
		m.warn("wake up the mail system: %v", err)
	}
	if m.verbose == 1 {
		fmt.Fprintf(m.std.Out, "Mail Delivery Status Report will be mailed to <%s>.\n", m.senderName())
	}
	return 0
}

// senderName is the envelope sender: that of -f, or the user's login name.
func (m *submission) senderName() string {
	if m.hasSender {
		if strings.TrimSpace(m.sender) == "" || m.sender == "<>" {
			return ""
		}
		list := message.ParseAddressList([]byte(m.sender))
		if len(list) > 1 {
			m.warn("-f option specified malformed sender: %s", m.sender)
		}
		if len(list) > 0 {
			return queuefile.Internal(list[0])
		}
		return m.sender
	}
	u, err := user.LookupId(strconv.Itoa(m.uid))
	if err != nil {
		return ""
	}
	return u.Username
}

// post writes the maildrop file.
func (m *submission) post(s *settings) (err error) {
	e := &enqueuing{submission: m, from: m.senderName(), fixEnds: s.cfg.String("sendmail_fix_line_endings")}
	if e.from == "" && !m.hasSender {
		return fmt.Errorf("no login name found for user ID %d", m.uid)
	}
	if len(m.operands) == 0 && !m.fromHdr {
		return e.failed(complaint("Recipient addresses must be specified on the command line or via the -t option"))
	}
	w, err := pickup.NewMaildrop(s.queueDir).Create()
	if err != nil {
		return e.failed(fmt.Errorf("error writing queue file: %s", withoutOp(err)))
	}
	defer func() {
		if err != nil {
			w.Discard()
			err = e.failed(err)
		}
	}()
	limit := s.cfg.Size("message_size_limit")
	e.out = bufio.NewWriterSize(&limited{w: w, left: limit}, 64<<10)
	if err := e.envelope(); err != nil {
		return err
	}
	if err := e.content(); err != nil {
		return err
	}
	if err := e.finish(); err != nil {
		return err
	}
	if _, err := w.Commit(); err != nil {
		return fmt.Errorf("error writing queue file: %s", withoutOp(err))
	}
	return nil
}

// failed names the sender before the problem, as all of sendmail's
// complaints about a message do.
func (e *enqueuing) failed(err error) error {
	return fmt.Errorf("%s(%d): %w", e.from, e.uid, err)
}

// errTooBig is what Postfix says of a message beyond message_size_limit.
var errTooBig = errors.New("message file too big")

// limited stops a program that never stops writing.
type limited struct {
	w    io.Writer
	left int64 // 0 at the beginning: no limit
}

func (l *limited) Write(p []byte) (int, error) {
	if l.left > 0 {
		if l.left -= int64(len(p)); l.left <= 0 {
			return 0, errTooBig
		}
	}
	return l.w.Write(p)
}

func (e *enqueuing) record(t queuefile.Type, data []byte) error {
	e.buf = queuefile.AppendRecord(e.buf[:0], t, data)
	_, err := e.out.Write(e.buf)
	return err
}

func (e *enqueuing) attr(name, value string) error {
	return e.record(queuefile.TypeAttr, []byte(name+"="+value))
}

func (e *enqueuing) envelope() error {
	_, err := e.out.Write(pickup.AppendHead(nil, time.Now()))
	if e.envID != "" {
		err = errors.Join(err, e.attr("envelope_id", e.envID))
	}
	if e.ret != mail.RetUnset {
		err = errors.Join(err, e.attr("ret_flags", strconv.Itoa(int(e.ret))))
	}
	context := "local"
	if e.remote {
		context = "remote"
	}
	err = errors.Join(err, e.attr("rewrite_context", context))
	name := e.fullName
	if name == "" {
		name = e.gecosName()
	}
	if name != "" {
		err = errors.Join(err, e.record(queuefile.TypeFullName, []byte(name)))
	}
	err = errors.Join(err, e.record(queuefile.TypeSender, []byte(e.from)))
	switch {
	case e.body8Bit:
		err = errors.Join(err, e.attr("encoding", "8bit"))
	case e.body7Bit:
		err = errors.Join(err, e.attr("encoding", "7bit"))
	}
	if e.verbose == 1 {
		err = errors.Join(err, e.attr("trace_flags", "1024"))
	}
	for _, word := range e.operands {
		// Each is read like a header: programs pass lists and "Name <address>".
		list := message.ParseAddressList([]byte(word))
		if len(list) == 0 {
			return fmt.Errorf("no recipient address in %q", word)
		}
		err = errors.Join(err, e.recipients(list))
	}
	return errors.Join(err, e.record(queuefile.TypeMessage, nil))
}

func (e *enqueuing) recipients(list []mail.Address) (err error) {
	for _, a := range list {
		if e.notify != 0 {
			err = errors.Join(err, e.attr("notify_flags", strconv.Itoa(int(e.notify))))
		}
		err = errors.Join(err, e.record(queuefile.TypeRcpt, []byte(queuefile.Internal(a))))
		e.rcpts++
	}
	return err
}

// content copies standard input, line by line.
func (e *enqueuing) content() error {
	if e.fromHdr {
		e.header = message.NewFilter(io.Discard, message.Options{
			Collect: message.RecipientFields.Union(message.ResentRecipientFields), Value: e.collect, DropMailboxLines: true,
		})
	}
	in := bufio.NewReaderSize(e.std.In, queuefile.LineLimit)
	start, whole := true, true // at the top; the last piece ended its line
	// sendmail_fix_line_endings: "strict" lets the first line decide for all.
	stripCR, undecided := e.fixEnds == "always", e.fixEnds == "strict"
	for {
		piece, err := in.ReadSlice('\n')
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, bufio.ErrBufferFull) {
			return fmt.Errorf("error reading input: %s", reason(err))
		}
		if len(piece) == 0 {
			return nil
		}
		ended := piece[len(piece)-1] == '\n'
		line := bytes.TrimSuffix(piece, []byte("\n"))
		if undecided && ended {
			stripCR, undecided = bytes.HasSuffix(line, []byte("\r")), false
		}
		if stripCR && ended {
			line = bytes.TrimRight(line, "\r")
		}
		if start && ended && bytes.HasPrefix(bytes.TrimLeft(line, ">"), []byte("From ")) {
			continue // a mailbox's separator, perhaps quoted
		}
		start = false
		if !e.dots && whole && len(line) == 1 && line[0] == '.' {
			return nil
		}
		if err := e.line(line, ended); err != nil {
			return err
		}
		whole = ended
	}
}

func (e *enqueuing) line(line []byte, ended bool) error {
	t := queuefile.TypeCont
	if ended {
		t = queuefile.TypeNormal
	}
	if e.header != nil {
		if _, err := e.header.Write(line); err != nil {
			return err
		}
		if ended {
			if _, err := e.header.Write([]byte("\n")); err != nil {
				return err
			}
		}
	}
	return e.record(t, line)
}

// collect gathers recipients from the header for -t.
func (e *enqueuing) collect(f message.Field, value []byte) {
	list := message.ParseAddressList(value)
	if message.ResentFields.Has(f) {
		e.again = true
		e.resent = append(e.resent, list...)
		return
	}
	e.plain = append(e.plain, list...)
}

// finish writes what comes after the content.
func (e *enqueuing) finish() error {
	err := e.record(queuefile.TypeExtracted, nil)
	if e.header != nil {
		err = errors.Join(err, e.header.Close())
		list := e.plain
		if e.again {
			// Resent fields are the only ones that count (RFC 5322 §3.6.6).
			list = e.resent
		}
		err = errors.Join(err, e.recipients(list))
	}
	if err == nil && e.rcpts == 0 {
		return complaint("No recipient addresses found in message header")
	}
	return errors.Join(err, e.record(queuefile.TypeEnd, nil), e.out.Flush())
}
