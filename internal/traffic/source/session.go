package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"
)

// conn is one session's connection and buffers.
type conn struct {
	r         *run
	c         net.Conn
	pipeline  bool
	in        []byte // in[rd:wr] is unread
	rd, wr    int
	out       []byte
	content   []byte // the message, with room for its number patched in place
	at        []int  // offsets of the number in content
	messageID int    // offset of the Message-ID's '<' in content
	latencies histogram
}

// numberWidth is the fixed width of a message number, so that it can be
// overwritten in place.
const numberWidth = 12

// linger is how long a session that is told to end may wait for the reply to
// the message it has begun.
const linger = 10 * time.Second

// session sends messages until there are none left.
func (r *run) session(ctx context.Context) error {
	s := &conn{r: r, in: make([]byte, 4096), out: make([]byte, 0, 4096)}
	s.compose()
	defer func() {
		r.mu.Lock()
		r.latencies.merge(&s.latencies)
		r.mu.Unlock()
		s.hangUp(false)
	}()
	for first := true; ; first = false {
		if !first && !pause(ctx, r.cfg.Wait) {
			return nil
		}
		n, ok := r.claim(ctx)
		if !ok {
			s.hangUp(s.c != nil)
			return nil
		}
		err := s.one(ctx, n)
		switch {
		case err == nil:
		case errors.Is(err, ErrRefused):
			r.refused.Add(1)
			s.hangUp(true)
		case ctx.Err() != nil && s.c == nil:
			return nil
		default:
			r.lost.Add(1)
			s.hangUp(false)
			// A dead server is not to be hammered.
			if r.cfg.Tolerate && !pause(ctx, 100*time.Millisecond) {
				return nil
			}
		}
		if err != nil && !r.cfg.Tolerate {
			return err
		}
		if !r.cfg.Persistent {
			s.hangUp(s.c != nil)
		}
	}
}

// compose builds the message once; each send only patches the number.
func (s *conn) compose() {
	cfg := &s.r.cfg
	var b bytes.Buffer
	number := func() {
		s.at = append(s.at, b.Len())
		b.WriteString("000000000000")
	}
	fmt.Fprintf(&b, "From: <%s>\r\nTo: <%s>\r\nDate: %s\r\n", s.r.from, cfg.Recipient(nil, 0), s.r.start.Format(time.RFC1123Z))
	b.WriteString("Message-ID: ")
	s.messageID = b.Len()
	fmt.Fprintf(&b, "<%s.", s.r.id)
	number()
	fmt.Fprintf(&b, "@%s>\r\n", cfg.Helo)
	if cfg.Subject != "" {
		fmt.Fprintf(&b, "Subject: %s\r\n", cfg.Subject)
	}
	b.WriteString("X-Test: ")
	number()
	b.WriteString("\r\n\r\n")
	line := bytes.Repeat([]byte("X"), 78)
	for left := cfg.Length; left > 0; {
		n := min(left, 80)
		if left-n == 1 {
			n-- // a last line needs its CRLF
		}
		b.Write(line[:max(n-2, 0)])
		b.WriteString("\r\n")
		left -= n
	}
	b.WriteString(".\r\n")
	s.content = b.Bytes()
}

// number writes n into the message.
func (s *conn) number(n uint64) {
	for _, at := range s.at {
		v := n
		for i := at + numberWidth - 1; i >= at; i-- {
			s.content[i] = byte('0' + v%10)
			v /= 10
		}
	}
}

func (s *conn) id() string {
	b := s.content[s.messageID:]
	return string(b[:bytes.IndexByte(b, '>')+1])
}

// one sends message n and tells the ledger.
func (s *conn) one(ctx context.Context, n uint64) error {
	if s.c == nil {
		if err := s.connect(ctx); err != nil {
			s.hangUp(false)
			return err
		}
	}
	c := s.c
	// When ctx ends the message under way may still be finished.
	stop := context.AfterFunc(ctx, func() { c.SetReadDeadline(time.Now().Add(linger)) })
	defer stop()
	s.number(n)
	began := time.Now()
	took, err := s.envelope(n)
	if err != nil {
		return err
	}
	if _, err = s.c.Write(s.content); err == nil {
		took, err = s.final(took)
	}
	if err != nil {
		if !errors.Is(err, ErrRefused) && s.r.cfg.Unknown != nil {
			s.r.cfg.Unknown(s.id())
		}
		return err
	}
	s.latencies.add(time.Since(began))
	s.r.accepted.Add(1)
	s.r.rcpts.Add(int64(took))
	return nil
}

// envelope sends MAIL, RCPTs and DATA and returns the number of recipients
// accepted. On success the server waits for the content.
func (s *conn) envelope(n uint64) (took int, err error) {
	cfg := &s.r.cfg
	s.out = append(s.out[:0], "MAIL FROM:<"...)
	s.out = append(s.r.from.Append(s.out, n), ">\r\n"...)
	if err := s.step("250"); err != nil {
		return 0, err
	}
	var refusal error
	for i := range cfg.Recipients {
		s.out = append(s.out, "RCPT TO:<"...)
		s.out = append(cfg.Recipient(s.out, n*uint64(cfg.Recipients)+uint64(i)), ">\r\n"...)
		switch err := s.step("25"); {
		case err == nil:
			took++
		case errors.Is(err, ErrRefused):
			refusal = err
		default:
			return 0, err
		}
	}
	if took == 0 && refusal != nil {
		return 0, refusal
	}
	s.out = append(s.out, "DATA\r\n"...)
	if err := s.step("354"); err != nil || !s.pipeline {
		return took, err
	}
	return s.collect()
}

// step ends one command: with pipelining it only stays in the buffer.
func (s *conn) step(want string) error {
	if s.pipeline {
		return nil
	}
	if err := s.flush(); err != nil {
		return err
	}
	_, err := s.expect(want)
	return err
}

// collect writes the group and reads its replies (RFC 2920 §3.1). Where MAIL
// or every RCPT fails the server must refuse DATA too, and all replies are
// read either way. A server that hangs up behind a refusal (421, say) has
// refused.
func (s *conn) collect() (took int, err error) {
	if err := s.flush(); err != nil {
		return 0, err
	}
	_, refusal := s.expect("250")
	for range s.r.cfg.Recipients {
		if refusal != nil && !errors.Is(refusal, ErrRefused) {
			return 0, refusal
		}
		_, err := s.expect("25")
		switch {
		case err == nil:
			took++
		case refusal == nil:
			refusal = err
		case !errors.Is(err, ErrRefused):
			return 0, refusal
		}
	}
	_, err = s.expect("354")
	if err != nil && refusal != nil {
		return 0, refusal
	}
	if err == nil && took == 0 {
		// The server waits for content all the same: give it none.
		if _, err := io.WriteString(s.c, ".\r\n"); err != nil {
			return 0, err
		}
		if _, err := s.expect(""); err != nil {
			return 0, err
		}
		return 0, refusal
	}
	return took, err
}

// final reads the reply to the dot, with LMTP one per accepted recipient, and
// returns for how many it was good.
func (s *conn) final(took int) (good int, err error) {
	replies := 1
	if s.r.cfg.LMTP {
		replies = took
	}
	var text string
	for range replies {
		reply, e := s.expect("250")
		switch {
		case e == nil:
			good++
			if s.r.cfg.Acked != nil {
				text = string(reply)
			}
		case errors.Is(e, ErrRefused):
			err = e
		default:
			return good, e
		}
	}
	if good == 0 {
		return 0, err
	}
	if s.r.cfg.Acked != nil {
		s.r.cfg.Acked(s.id(), text)
	}
	if !s.r.cfg.LMTP {
		good = took
	}
	return good, nil
}

func (s *conn) connect(ctx context.Context) error {
	c, err := s.r.cfg.Dial(ctx)
	if err != nil {
		return err
	}
	s.c, s.rd, s.wr, s.pipeline = c, 0, 0, false
	stop := context.AfterFunc(ctx, func() { c.SetReadDeadline(time.Now()) })
	if err := s.greet(); err != nil {
		stop()
		return err
	}
	if !stop() {
		// The deadline may be set only now; a message must not be begun under it.
		return ctx.Err()
	}
	return nil
}

// greet reads the greeting and says EHLO, or HELO to a server that knows no better.
func (s *conn) greet() error {
	if _, err := s.expect("220"); err != nil {
		return err
	}
	verb := "EHLO "
	if s.r.cfg.LMTP {
		verb = "LHLO "
	}
	s.out = append(append(append(s.out[:0], verb...), s.r.cfg.Helo...), "\r\n"...)
	if err := s.flush(); err != nil {
		return err
	}
	reply, err := s.expect("250")
	if errors.Is(err, ErrRefused) && !s.r.cfg.LMTP {
		s.out = append(append(append(s.out[:0], "HELO "...), s.r.cfg.Helo...), "\r\n"...)
		if err := s.flush(); err != nil {
			return err
		}
		_, err = s.expect("250")
		return err
	}
	s.pipeline = !s.r.cfg.NoPipelining && bytes.Contains(bytes.ToUpper(reply), []byte("PIPELINING"))
	return err
}

// hangUp closes the connection, with QUIT where the session is in order.
func (s *conn) hangUp(polite bool) {
	if s.c == nil {
		return
	}
	if polite {
		s.c.SetDeadline(time.Now().Add(linger))
		if _, err := io.WriteString(s.c, "QUIT\r\n"); err == nil {
			s.expect("221")
		}
	}
	s.c.Close()
	s.c = nil
}

func (s *conn) flush() error {
	_, err := s.c.Write(s.out)
	s.out = s.out[:0]
	return err
}

// expect reads one reply and returns all its lines; an ErrRefused when its
// code does not begin with want. The bytes are good until the next call.
func (s *conn) expect(want string) ([]byte, error) {
	for scan := s.rd; ; {
		i := bytes.IndexByte(s.in[scan:s.wr], '\n')
		if i < 0 {
			moved := s.rd
			if err := s.fill(); err != nil {
				return nil, err
			}
			scan -= moved
			continue
		}
		line := s.in[scan : scan+i]
		scan += i + 1
		if len(line) < 3 {
			return nil, fmt.Errorf("not a reply: %s", strconv.Quote(string(line)))
		}
		if len(line) > 3 && line[3] == '-' {
			continue
		}
		reply := bytes.TrimSpace(s.in[s.rd:scan])
		s.rd = scan
		if !bytes.HasPrefix(line, []byte(want)) {
			return nil, fmt.Errorf("%w: %s", ErrRefused, reply)
		}
		return reply, nil
	}
}

// fill reads more; the unread part moves to the front of the buffer.
func (s *conn) fill() error {
	s.wr = copy(s.in, s.in[s.rd:s.wr])
	s.rd = 0
	if s.wr == len(s.in) {
		s.in = append(s.in, make([]byte, len(s.in))...)
	}
	n, err := s.c.Read(s.in[s.wr:])
	s.wr += n
	if n > 0 {
		return nil
	}
	return err
}
