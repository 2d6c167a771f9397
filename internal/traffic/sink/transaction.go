package sink

import (
	"bytes"
	"crypto/sha256"
	"strconv"
)

func (s *session) reset() {
	s.inMail = false
	s.rcpts, s.took, s.msg = s.rcpts[:0], s.took[:0], s.msg[:0]
}

// keeps tells whether a message must be remembered and not just counted.
func (s *session) keeps() bool { return s.srv.cfg.Ledger != nil }

func (s *session) doMail(line, rest []byte) error {
	path, params, ok := cutPath(rest, "FROM:")
	switch {
	case s.inMail:
		s.reply("503 ", "5.5.1 ", "Error: nested MAIL command")
		return nil
	case !ok:
		s.reply("501 ", "5.5.4 ", "Syntax: MAIL FROM:<address>")
		return nil
	}
	if limit := s.srv.cfg.MaxSize; limit > 0 && sizeParam(params) > limit {
		s.reply("552 ", "5.3.4 ", "Message size exceeds fixed limit")
		return nil
	}
	if s.p.overRate() {
		return s.refuse(s.p, &Action{Kind: HangUp, Reply: rateReply})
	}
	if ok, err := s.act(s.p, &s.p.Steps[Mail]); !ok {
		return err
	}
	s.reset()
	s.inMail = true
	s.mail = append(s.mail[:0], line...)
	s.sender = append(s.sender[:0], path...)
	s.srv.total.transactions.Add(1)
	s.p.transactions.Add(1)
	s.reply("250 ", "2.1.0 ", "Ok")
	return nil
}

func (s *session) doRcpt(line, rest []byte) error {
	path, _, ok := cutPath(rest, "TO:")
	switch {
	case !s.inMail:
		s.reply("503 ", "5.5.1 ", "Error: need MAIL command")
		return nil
	case !ok || len(path) == 0:
		s.reply("501 ", "5.5.4 ", "Syntax: RCPT TO:<address>")
		return nil
	}
	if ok, err := s.act(s.p, &s.p.Steps[Rcpt]); !ok {
		return err
	}
	grey := s.p
	var domain *persona
	if len(s.srv.domains) > 0 {
		if i := bytes.LastIndexByte(path, '@'); i >= 0 {
			domain = s.srv.lookup(bytes.ToLower(path[i+1:]))
		}
	}
	if domain != nil {
		if ok, err := s.act(domain, domain.early()); !ok {
			return err
		}
		if domain.overRate() {
			return s.refuse(domain, &Action{Kind: HangUp, Reply: rateReply})
		}
		if domain.Greylist > 0 {
			grey = domain
		}
	}
	if grey.Greylist > 0 && grey.grey(s.client, string(s.sender), string(path)) {
		return s.refuse(grey, &Action{Kind: Refuse, Reply: greyReply})
	}
	s.took = append(s.took, domain)
	if s.keeps() {
		s.rcpts = append(s.rcpts, bytes.Clone(line))
	}
	s.reply("250 ", "2.1.5 ", "Ok")
	return nil
}

// at returns the action of the first recipient's domain that does not simply
// accept at this stage, and that domain's personality.
func (s *session) at(stage Stage) (*persona, *Action) {
	for _, p := range s.took {
		if p != nil && p.Steps[stage] != (Action{}) {
			return p, &p.Steps[stage]
		}
	}
	return nil, nil
}

func (s *session) doData() error {
	switch {
	case !s.inMail:
		s.reply("503 ", "5.5.1 ", "Error: need MAIL command")
		return nil
	case len(s.took) == 0:
		s.reply("554 ", "5.5.1 ", "Error: no valid recipients")
		return nil
	}
	if ok, err := s.act(s.p, &s.p.Steps[Data]); !ok {
		return err
	}
	if p, a := s.at(Data); a != nil {
		if ok, err := s.act(p, a); !ok {
			return err
		}
	}
	s.reply("354 ", "", "End data with <CR><LF>.<CR><LF>")
	size, err := s.content()
	if err != nil {
		return err
	}
	err = s.end(size)
	s.reset()
	return err
}

// content reads up to the final dot and returns the number of bytes before
// it. The end is CRLF "." CRLF and nothing else (RFC 5321 §4.1.1.4); an empty
// message is the dot alone.
func (s *session) content() (size int64, err error) {
	end := []byte("\r\n.\r\n")
	for s.w-s.r < 3 {
		if err := s.fill(); err != nil {
			return 0, err
		}
	}
	if bytes.HasPrefix(s.buf[s.r:s.w], end[2:]) {
		s.r += 3
		return 0, nil
	}
	for {
		b := s.buf[s.r:s.w]
		if i := bytes.Index(b, end); i >= 0 {
			s.keep(b[:i+2])
			s.r += i + len(end)
			return size + int64(i) + 2, nil
		}
		// The last four bytes may be the beginning of the end.
		if n := len(b) - (len(end) - 1); n > 0 {
			s.keep(b[:n])
			size += int64(n)
			s.r += n
		}
		if err := s.fill(); err != nil {
			return 0, err
		}
	}
}

func (s *session) keep(b []byte) {
	if s.keeps() {
		s.msg = append(s.msg, b...)
	}
}

// end answers the final dot: once, or with LMTP once per recipient (RFC 2033 §4.2).
func (s *session) end(size int64) error {
	if ok, err := s.act(s.p, &s.p.Steps[End]); !ok {
		return err
	}
	if !s.srv.cfg.LMTP {
		if p, a := s.at(End); a != nil {
			if ok, err := s.act(p, a); !ok {
				return err
			}
		}
		s.accepted(size, s.took, s.rcpts)
		s.queued()
		return nil
	}
	var took []*persona
	var rcpts [][]byte
	for i, p := range s.took {
		if p == nil || p.Steps[End].Kind == Accept {
			took = append(took, p)
			if s.keeps() {
				rcpts = append(rcpts, s.rcpts[i])
			}
		}
	}
	if len(took) > 0 {
		s.accepted(size, took, rcpts)
	}
	for _, p := range s.took {
		if p != nil {
			if ok, err := s.act(p, &p.Steps[End]); err != nil {
				return err
			} else if !ok {
				continue
			}
		}
		s.queued()
	}
	return nil
}

func (s *session) queued() { s.reply("250 ", "2.0.0 ", "Ok") }

// accepted counts the message and tells the ledger, before the reply is sent.
func (s *session) accepted(size int64, took []*persona, rcpts [][]byte) {
	if s.keeps() {
		s.srv.cfg.Ledger(s.delivery(rcpts))
	}
	s.p.messages.Add(1)
	s.p.recipients.Add(int64(len(took)))
	s.p.bytes.Add(size)
	for _, p := range took {
		if p != nil {
			p.recipients.Add(1)
		}
	}
	s.srv.total.recipients.Add(int64(len(took)))
	s.srv.total.bytes.Add(size)
	s.srv.counted(s.srv.total.messages.Add(1))
}

func (s *session) delivery(rcpts [][]byte) Delivery {
	content, bare := unstuff(s.msg)
	d := Delivery{
		Client: s.peer, Listener: s.local, Helo: s.helo, TLS: s.inTLS,
		Mail: string(s.mail), Sender: string(s.sender),
		Size: int64(len(content)), Hash: sha256.Sum256(content), BareNL: bare,
		MessageID: header(content, "Message-ID"), Test: header(content, "X-Test"),
	}
	for _, line := range rcpts {
		_, rest := split(line)
		path, _, _ := cutPath(rest, "TO:")
		d.Rcpts = append(d.Rcpts, string(line))
		d.Recipients = append(d.Recipients, string(path))
	}
	if s.srv.cfg.KeepContent {
		d.Content = bytes.Clone(content)
	}
	return d
}

// unstuff removes, in place, the dot a client adds to lines that begin with
// one (RFC 5321 §4.5.2), and tells whether there are bare CRs or LFs.
func unstuff(b []byte) (out []byte, bare bool) {
	out = b[:0]
	for len(b) > 0 {
		n := bytes.IndexByte(b, '\n')
		line := b
		if n >= 0 {
			line = b[:n+1]
		}
		b = b[len(line):]
		crlf := bytes.HasSuffix(line, []byte("\r\n"))
		if body := bytes.TrimSuffix(line, []byte("\r\n")); !crlf || bytes.IndexByte(body, '\r') >= 0 {
			bare = true
		}
		// Only a line that follows a CRLF can have been stuffed.
		if line[0] == '.' && (len(out) == 0 || bytes.HasSuffix(out, []byte("\r\n"))) {
			line = line[1:]
		}
		out = append(out, line...)
	}
	return out, bare
}

// header returns the value of the first header field of this name, unfolded
// only as far as tests need it: one line.
func header(content []byte, name string) string {
	for len(content) > 0 {
		line, rest, _ := bytes.Cut(content, []byte("\n"))
		line = bytes.TrimSuffix(line, []byte{'\r'})
		if len(line) == 0 {
			return ""
		}
		if len(line) > len(name) && line[len(name)] == ':' && bytes.EqualFold(line[:len(name)], []byte(name)) {
			return string(bytes.TrimSpace(line[len(name)+1:]))
		}
		content = rest
	}
	return ""
}

// cutPath reads KEY:<path> params. Angle brackets inside a quoted local part
// do not end the path; missing brackets are tolerated.
func cutPath(rest []byte, key string) (path, params []byte, ok bool) {
	if len(rest) < len(key) || !bytes.EqualFold(rest[:len(key)], []byte(key)) {
		return nil, nil, false
	}
	rest = bytes.TrimLeft(rest[len(key):], " ")
	if len(rest) == 0 {
		return nil, nil, false
	}
	if rest[0] != '<' {
		path, params, _ = bytes.Cut(rest, []byte{' '})
		return path, params, true
	}
	quoted := false
	for i := 1; i < len(rest); i++ {
		switch c := rest[i]; {
		case c == '\\' && quoted:
			i++
		case c == '"':
			quoted = !quoted
		case c == '>' && !quoted:
			return rest[1:i], bytes.TrimSpace(rest[i+1:]), true
		}
	}
	return nil, nil, false
}

// sizeParam returns the value of SIZE= (RFC 1870 §6), 0 without one.
func sizeParam(params []byte) int64 {
	for p := range bytes.FieldsSeq(params) {
		if len(p) > 5 && bytes.EqualFold(p[:5], []byte("SIZE=")) {
			n, err := strconv.ParseInt(string(p[5:]), 10, 64)
			if err == nil {
				return n
			}
		}
	}
	return 0
}
