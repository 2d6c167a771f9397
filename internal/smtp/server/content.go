package server

import (
	"bytes"
	"strconv"
	"strings"

	"posthouse/internal/postfix/maillog"
	"posthouse/internal/smtp"
)

// bdatState is where a transaction is with BDAT (RFC 3030).
type bdatState uint8

const (
	noChunk     bdatState = iota
	chunking              // chunks were taken, the last is to come
	chunkFailed           // a chunk was refused; those that the client has already sent are thrown away
)

// data receives a message by DATA.
func (s *session) data(args []byte) bool {
	switch {
	case s.bdat != noChunk:
		return s.no("503 5.5.1 Error: DATA after BDAT")
	case s.tx == nil:
		return s.no("503 5.5.1 Error: need RCPT command")
	case s.rcpts == 0:
		return s.no("554 5.5.1 Error: no valid recipients")
	case len(args) > 0:
		return s.no("501 5.5.4 Syntax: DATA")
	}
	w, r := s.tx.Data(s.ctx)
	if r != nil && (r.Code >= 400 || w == nil) {
		return s.answer(r)
	}
	s.reply("354 End data with <CR><LF>.<CR><LF>")
	s.wait(forContent)
	st, err := smtp.ReadData(w, s.br, s.cfg.MaxMessageSize)
	if s.contentEnded(err, st.Bytes) {
		return false
	}
	return s.finish(st, "")
}

// contentEnded deals with the end of input amid content. An error of the
// Acceptor's writer is not one, and comes out of Commit.
func (s *session) contentEnded(err error, bytes int64) bool {
	if err == nil || s.readErr == nil {
		return false
	}
	s.content = bytes + int64(s.br.Buffered())
	s.inputEnded(s.readErr)
	return true
}

// finish ends a transaction whose content is complete, with its reply. bytes
// is what BDAT adds to the reply.
func (s *session) finish(st smtp.DataStats, bytes string) bool {
	s.where = atEnd
	defer s.reset()
	switch {
	case (st.BareLF || st.BareCR) && s.cfg.Newlines == RejectNewlines:
		what := "bare <LF> received"
		if !st.BareLF {
			what = "bare <CR> received"
		}
		s.refused(atEnd, what)
		return s.perRecipient(smtp.NewReply(550, "5.5.2", s.cfg.Hostname+" Error: "+what))
	case st.TooBig:
		s.log(maillog.Warning, &maillog.Queued{ID: s.tx.ID(), What: "size-limit", Text: "queue file size limit exceeded"})
		return s.perRecipient(smtp.NewReply(552, "5.3.4", "Error: message file too big"))
	}
	r := s.tx.Commit(s.ctx)
	if r.Code == 250 && bytes != "" && len(r.Lines) == 1 {
		if queued, ok := strings.CutPrefix(r.Lines[0], "Ok: "); ok {
			c := *r
			c.Lines = []string{"Ok: " + bytes + " bytes " + queued}
			r = &c
		}
	}
	if r.Code < 400 {
		s.errors, s.junk = 0, 0
	}
	return s.perRecipient(r)
}

// perRecipient answers the end of the content: in LMTP once for each
// recipient (RFC 2033 §4.2), who all share one fate here.
func (s *session) perRecipient(r *smtp.Reply) bool {
	n := 1
	if s.cfg.LMTP {
		n = s.rcpts
	}
	ok := true
	for range n {
		ok = s.answer(r)
	}
	return ok
}

// bdatChunk receives a part of a message by BDAT. Whatever the reply, the
// chunk is read first: the client sends it without waiting (RFC 3030 §2).
func (s *session) bdatChunk(line, args []byte) bool {
	size, last, ok := parseBDAT(string(args))
	if s.cfg.Offer&ExtChunking == 0 {
		// Where the next command begins is not known, nor can be asked.
		s.end = byServer
		return s.no("521 5.5.1 Error: command not implemented")
	}
	if !ok {
		s.malformedBDAT(line, args)
		s.end = byServer
		return s.no("521 5.5.4 Syntax: BDAT count [LAST]")
	}
	switch {
	case s.bdat == chunkFailed:
		return s.skipChunk(size, last, "551 5.0.0 Discarded "+strconv.FormatInt(size, 10)+" bytes after earlier error")
	case s.tx == nil:
		return s.skipChunk(size, last, "503 5.5.1 Error: need RCPT command")
	case s.rcpts == 0:
		return s.skipChunk(size, last, "554 5.5.1 Error: no valid recipients")
	case size == 0 && !last:
		s.warn("null BDAT request from " + s.client())
		return s.skipChunk(size, last, "551 5.7.1 Null BDAT request")
	case s.cfg.MaxMessageSize > 0 && size > s.cfg.MaxMessageSize-s.chunks.Stats().Bytes:
		s.warn("BDAT request from " + s.client() + " exceeds message size limit")
		return s.skipChunk(size, last, "552 5.3.4 Chunk exceeds message size limit")
	}
	if s.bdat == noChunk {
		w, r := s.tx.Data(s.ctx)
		if r != nil && (r.Code >= 400 || w == nil) {
			if r.Close {
				s.end = byServer
			}
			return s.skipChunk(size, last, strings.TrimSuffix(string(r.Append(nil)), "\r\n"))
		}
		s.chunks = smtp.ChunkReader{W: w, Limit: s.cfg.MaxMessageSize}
		s.bdat = chunking
	}
	return s.takeChunk(size, last)
}

func (s *session) takeChunk(size int64, last bool) bool {
	s.wait(forContent)
	err := s.chunks.Read(s.br, size, last)
	st := s.chunks.Stats()
	if s.contentEnded(err, st.Bytes) {
		return false
	}
	switch {
	case last:
		return s.finish(st, strconv.FormatInt(st.Bytes, 10))
	case (st.BareLF || st.BareCR) && s.cfg.Newlines == RejectNewlines:
		what := "bare <LF> received"
		if !st.BareLF {
			what = "bare <CR> received"
		}
		s.refused("BDAT content", what)
		return s.dropChunks("550 5.5.2 " + s.cfg.Hostname + " Error: " + what)
	}
	s.out = append(s.out, "250 2.0.0 Ok: "...)
	s.out = append(strconv.AppendInt(s.out, size, 10), " bytes\r\n"...)
	return true
}

// skipChunk throws a chunk away, and with it the transaction.
func (s *session) skipChunk(size int64, last bool, reply string) bool {
	s.wait(forContent)
	if err := smtp.SkipChunk(s.br, size); err != nil {
		s.inputEnded(err)
		return false
	}
	if last {
		s.reset()
		return s.no(reply)
	}
	return s.dropChunks(reply)
}

// dropChunks refuses the message while chunks of it may still be coming, up
// to the last or RSET.
func (s *session) dropChunks(reply string) bool {
	s.reset()
	s.bdat = chunkFailed
	return s.no(reply)
}

// parseBDAT reads "count [LAST]".
func parseBDAT(args string) (size int64, last, ok bool) {
	count, rest, _ := strings.Cut(args, " ")
	if rest = strings.Trim(rest, " \t"); rest != "" {
		if !strings.EqualFold(rest, "LAST") {
			return 0, false, false
		}
		last = true
	}
	n, err := strconv.ParseInt(count, 10, 64)
	return n, last, err == nil && count[0] >= '0' && count[0] <= '9'
}

// malformedBDAT warns as Postfix does, which names the transaction when the
// number of words is wrong, and not when the size is.
func (s *session) malformedBDAT(line, args []byte) {
	text := "malformed BDAT command syntax from " + s.client() + ": " + printable(line, 100)
	switch n := len(bytes.Fields(args)); {
	case n == 1 || n == 2:
		s.log(maillog.Warning, maillog.Text(text))
	case s.tx != nil && s.tx.ID() != 0:
		s.warn(text)
	default:
		s.warn("NOQUEUE: " + text)
	}
}

// warn logs a warning under the transaction's queue ID if it has one.
func (s *session) warn(text string) {
	if s.tx != nil && s.tx.ID() != 0 {
		s.log(maillog.Warning, &maillog.Queued{ID: s.tx.ID(), What: "warning", Text: text})
		return
	}
	s.log(maillog.Warning, maillog.Text(text))
}
