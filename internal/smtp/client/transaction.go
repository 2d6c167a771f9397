package client

import (
	"context"
	"errors"
	"io"
	"strconv"

	"posthouse/internal/mail"
	"posthouse/internal/smtp"
)

// Rcpt is a recipient of a transaction.
type Rcpt struct {
	To          mail.Address
	Notify      mail.Notify // sent when the server offers DSN
	DSNOriginal string      // ORCPT, decoded "type;address"; sent when the server offers DSN
}

// Transaction is one message to send.
type Transaction struct {
	From       mail.Address
	Size       int64 // announced where SIZE is offered
	Body8Bit   bool  // BODY=8BITMIME where offered
	SMTPUTF8   bool  // SMTPUTF8 where offered
	Ret        mail.Ret
	EnvelopeID string
	Rcpts      []Rcpt
	Content    Content
	// Commit is called once, right before the final dot leaves. False means
	// that it must not leave.
	Commit func() bool
}

// Result is what became of one recipient.
type Result struct {
	Step  Step        // which command Reply answers: StepMail, StepRcpt, StepData or StepDot
	Reply *smtp.Reply // nil: not decided
}

// Decided tells whether the server gave its final word on the recipient.
func (r *Result) Decided() bool { return r.Reply != nil }

// Delivered tells whether the server took responsibility.
func (r *Result) Delivered() bool {
	return r.Step == StepDot && r.Reply != nil && r.Reply.Code/100 == 2
}

var (
	errAddress  = errors.New("address has control characters")
	errCanceled = errors.New("delivery canceled")
	errBroken   = errors.New("connection is of no further use")
)

// Content is the message to send: anything with the shape of spool.Content.
type Content interface {
	io.ReaderAt
	// Size in bytes.
	Size() int64
	// Bytes is the whole content when it is at hand in memory, else nil.
	Bytes() []byte
}

// Send carries out one transaction and fills results, which has an element for
// each recipient. A nil error means that every recipient is decided; otherwise
// the error is an *Error, and those that are not decided are up to the caller.
func (c *Conn) Send(ctx context.Context, tx *Transaction, results []Result) error {
	if c.broken {
		return &Error{Step: StepMail, Kind: Lost, Err: errBroken}
	}
	c.begin(ctx, StepMail)
	defer c.finish()
	c.uses++
	e := envelope{c: c, tx: tx, results: results}
	data, err := e.send()
	switch {
	case err != nil:
		return err
	case data == nil: // nobody to send it to
		return nil
	case data.Code/100 != 3:
		c.unexpected(data, 3)
		decide(results, StepData, data)
		return nil
	case e.accepted == 0:
		c.loneDot()
		return nil
	}
	if err := c.sendContent(tx); err != nil {
		return err
	}
	return c.endOfData(results)
}

// decide gives every recipient that is still undecided the same reply.
func decide(results []Result, s Step, r *smtp.Reply) {
	for i := range results {
		if !results[i].Decided() {
			results[i] = Result{Step: s, Reply: r}
		}
	}
}

// envelope is the part of a transaction up to the reply to DATA.
type envelope struct {
	c        *Conn
	tx       *Transaction
	results  []Result
	next     int         // recipients before it have been sent
	read     int         // recipients before it have been answered
	accepted int         // of them, not refused
	mail     *smtp.Reply // nil: not yet answered
}

// send gets the envelope across in as few round trips as the server allows,
// and returns the reply to DATA; nil when DATA was not sent, since no recipient
// was accepted.
func (e *envelope) send() (data *smtp.Reply, err error) {
	c, pipelining := e.c, e.c.ext.Pipelining
	reset := c.needReset
	sendMail, dataSent := true, false
	for {
		c.out = c.out[:0]
		sendReset := reset
		if reset {
			c.out, reset = append(c.out, "RSET\r\n"...), false
		}
		withMail := false
		if (pipelining || !sendReset) && sendMail {
			if c.out, err = c.appendMail(c.out, e.tx); err != nil {
				return nil, err
			}
			withMail, sendMail = true, false
		}
		if pipelining || !sendReset && !withMail {
			if err := e.appendRcpts(pipelining); err != nil {
				return nil, err
			}
		}
		allSent := !sendMail && e.next == len(e.tx.Rcpts)
		if allSent && (pipelining && len(c.out) < batchBytes-len("DATA\r\n") || len(c.out) == 0) {
			c.out, dataSent = append(c.out, "DATA\r\n"...), true
		}
		if err := c.flush(c.opt.Timeouts.Mail); err != nil {
			return nil, err
		}
		if err := e.replies(sendReset, withMail); err != nil {
			return nil, err
		}
		refused := e.mail != nil && e.mail.Code/100 != 2
		switch {
		case refused && c.broken: // the server says no more
			return nil, nil
		case dataSent:
			c.step = StepData
			return c.reply(c.opt.Timeouts.DataInit)
		case refused, allSent && e.accepted == 0:
			return nil, nil
		case c.broken:
			return nil, &Error{Step: c.step, Kind: Lost, Err: errBroken}
		}
	}
}

// appendRcpts adds RCPT commands: one, or as many as a batch may hold.
func (e *envelope) appendRcpts(pipelining bool) error {
	c := e.c
	for e.next < len(e.tx.Rcpts) {
		before := len(c.out)
		var err error
		if c.out, err = c.appendRcpt(c.out, &e.tx.Rcpts[e.next]); err != nil {
			return err
		}
		if before > 0 && len(c.out) > batchBytes {
			c.out = c.out[:before] // in the next batch
			return nil
		}
		e.next++
		if !pipelining {
			return nil
		}
	}
	return nil
}

// replies reads the replies to one batch, the one to DATA excepted.
func (e *envelope) replies(reset, mail bool) error {
	c := e.c
	if reset {
		c.step = StepReset
		r, err := c.reply(c.opt.Timeouts.Reset)
		if err != nil {
			return err
		}
		if r.Code/100 != 2 {
			c.broken = true
			return &Error{Step: StepReset, Kind: Refused, Reply: r}
		}
		c.needReset = false
	}
	if mail {
		c.step = StepMail
		r, err := c.reply(c.opt.Timeouts.Mail)
		if err != nil {
			return err
		}
		e.mail = r
		if r.Code/100 != 2 {
			c.unexpected(r, 2)
			decide(e.results, StepMail, r)
			if c.broken {
				return nil
			}
		} else {
			c.needReset = true
		}
	}
	c.step = StepRcpt
	for ; e.read < e.next; e.read++ {
		r, err := c.reply(c.opt.Timeouts.Rcpt)
		if err != nil {
			return err
		}
		switch {
		case e.results[e.read].Decided(): // MAIL was refused: this is its echo
		case r.Code/100 == 2:
			e.accepted++
		default:
			c.unexpected(r, 2)
			e.results[e.read] = Result{Step: StepRcpt, Reply: r}
		}
	}
	return nil
}

// unexpected keeps a connection from being used again after a reply that is
// neither the wanted class nor a refusal: such a server cannot be followed.
func (c *Conn) unexpected(r *smtp.Reply, class int) {
	if r.Code < 400 && r.Code/100 != class {
		c.broken = true
	}
}

// loneDot ends a transaction whose recipients were all refused while the DATA
// sent along with them was taken: the server waits for a message, and gets an
// empty one (RFC 2920 §3.1). An LMTP server has nobody to answer for.
func (c *Conn) loneDot() {
	if c.opt.LMTP {
		c.broken = true
		return
	}
	c.step = StepDot
	if err := c.write([]byte(".\r\n"), c.opt.Timeouts.DataXfer); err != nil {
		return // everything is decided already, and the connection is marked
	}
	if _, err := c.reply(c.opt.Timeouts.DataDone); err == nil {
		c.needReset = false
	}
}

// sendContent sends the message and the final dot. What is left of it in the
// buffer and the dot are one write.
func (c *Conn) sendContent(tx *Transaction) error {
	c.step, c.wait = StepBody, c.opt.Timeouts.DataXfer
	w := c.opt.Buffers.get(writer{c})
	defer c.opt.Buffers.put(w)
	dw := smtp.NewDataWriter(w, c.opt.LineLimit)
	if err := c.copyContent(dw, tx.Content); err != nil {
		return err
	}
	if tx.Commit != nil && !tx.Commit() {
		c.broken = true
		return &Error{Step: StepBody, Kind: Canceled, Err: errCanceled}
	}
	c.step = StepDot
	err := dw.Close()
	if ctxErr := c.ctx.Err(); ctxErr != nil { // the last moment at which nothing has happened
		return c.fail(ctxErr)
	}
	c.committed.Store(true)
	if err == nil {
		err = w.Flush()
	}
	if err != nil {
		return c.fail(err)
	}
	return nil
}

// copyContent feeds w in pieces, so that no single write is so large that a
// slow but honest peer could not take it in time.
func (c *Conn) copyContent(w io.Writer, content Content) error {
	if src := content.Bytes(); src != nil {
		for len(src) > 0 {
			n := min(len(src), contentBuffer)
			if _, err := w.Write(src[:n]); err != nil {
				return c.fail(err)
			}
			src = src[n:]
		}
		return nil
	}
	buf := make([]byte, min(contentBuffer, content.Size()))
	for offset, size := int64(0), content.Size(); offset < size; {
		n, err := content.ReadAt(buf[:min(int64(len(buf)), size-offset)], offset)
		if n == 0 {
			c.broken = true
			return &Error{Step: StepBody, Kind: BadContent, Err: readError(err)}
		}
		if _, err := w.Write(buf[:n]); err != nil {
			return c.fail(err)
		}
		offset += int64(n)
	}
	return nil
}

func readError(err error) error {
	if err == nil || err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// endOfData reads what the server says to the message: one reply, or one for
// each accepted recipient with LMTP (RFC 2033 §4.2).
func (c *Conn) endOfData(results []Result) error {
	if !c.opt.LMTP {
		r, err := c.reply(c.opt.Timeouts.DataDone)
		if err != nil {
			return err
		}
		c.needReset = false
		c.unexpected(r, 2)
		decide(results, StepDot, r)
		return nil
	}
	for i := range results {
		if results[i].Decided() {
			continue
		}
		r, err := c.reply(c.opt.Timeouts.DataDone)
		if err != nil {
			return err
		}
		c.unexpected(r, 2)
		results[i] = Result{Step: StepDot, Reply: r}
	}
	c.needReset = false
	return nil
}

// appendMail writes MAIL with the parameters the server understands.
func (c *Conn) appendMail(b []byte, tx *Transaction) ([]byte, error) {
	if !sendable(tx.From) {
		return b, &Error{Step: StepMail, Kind: BadContent, Err: errAddress}
	}
	b = append(b, "MAIL FROM:<"...)
	b = append(b, tx.From...)
	b = append(b, '>')
	if c.ext.Size && tx.Size > 0 {
		b = append(b, " SIZE="...)
		b = strconv.AppendInt(b, tx.Size, 10)
	}
	if c.ext.EightBitMIME && tx.Body8Bit {
		b = append(b, " BODY=8BITMIME"...)
	}
	if c.ext.SMTPUTF8 && tx.SMTPUTF8 {
		b = append(b, " SMTPUTF8"...)
	}
	if c.ext.DSN {
		if tx.EnvelopeID != "" {
			b = append(b, " ENVID="...)
			b = smtp.AppendXtext(b, tx.EnvelopeID)
		}
		switch tx.Ret {
		case mail.RetFull:
			b = append(b, " RET=FULL"...)
		case mail.RetHeaders:
			b = append(b, " RET=HDRS"...)
		}
	}
	return append(b, '\r', '\n'), nil
}

// appendRcpt writes RCPT with the parameters the server understands.
func (c *Conn) appendRcpt(b []byte, r *Rcpt) ([]byte, error) {
	if !sendable(r.To) {
		return b, &Error{Step: StepRcpt, Kind: BadContent, Err: errAddress}
	}
	b = append(b, "RCPT TO:<"...)
	b = append(b, r.To...)
	b = append(b, '>')
	if c.ext.DSN {
		if r.DSNOriginal != "" && sendable(mail.Address(r.DSNOriginal)) {
			b = append(b, " ORCPT="...)
			b = smtp.AppendORCPT(b, r.DSNOriginal)
		}
		if r.Notify != 0 {
			b = append(b, " NOTIFY="...)
			b = smtp.AppendNotify(b, r.Notify)
		}
	}
	return append(b, '\r', '\n'), nil
}

// sendable tells whether an address can stand in a command line.
func sendable(a mail.Address) bool {
	for i := range len(a) {
		if a[i] < ' ' || a[i] == 0x7f {
			return false
		}
	}
	return true
}
