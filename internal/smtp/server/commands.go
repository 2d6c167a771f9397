package server

import (
	"strconv"
	"strings"

	"posthouse/internal/mail"
	"posthouse/internal/postfix/maillog"
	"posthouse/internal/smtp"
)

func itoa(n int) string { return strconv.Itoa(n) }

// greet answers HELO, EHLO and LHLO.
func (s *session) greet(verb smtp.Verb, args []byte) bool {
	if len(args) == 0 {
		return s.no("501 Syntax: " + verb.String() + " hostname")
	}
	s.reset()
	s.peer.Helo = neutral(printable(args, 255))
	s.esmtp = verb != smtp.HELO
	switch verb {
	case smtp.HELO:
		s.peer.Protocol = "SMTP"
		return s.ok("250 " + s.cfg.Hostname)
	case smtp.LHLO:
		s.peer.Protocol = "LMTP"
	default:
		s.peer.Protocol = "ESMTP"
	}
	if s.tls {
		s.out = append(s.out, s.cfg.ehloTLS...)
	} else {
		s.out = append(s.out, s.cfg.ehloClear...)
	}
	return true
}

// neutral replaces what has a meaning of its own in log lines and Received
// fields, as Postfix does, so that a client's name for itself cannot add a
// fact to either: "x> proto=ESMTP", or "x (bank.example [192.0.2.1]) by".
func neutral(name string) string {
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune(` <>()\";@`, r) {
			return '?'
		}
		return r
	}, name)
}

// reset ends the transaction, if there is one.
func (s *session) reset() {
	if s.tx != nil {
		s.tx.Abort()
	}
	s.tx, s.lastRcpt, s.rcpts, s.overshoot = nil, "", 0, 0
	s.bdat, s.chunks = noChunk, smtp.ChunkReader{}
}

func (s *session) mailFrom(args string) bool {
	switch {
	case s.tx != nil:
		return s.no("503 5.5.1 Error: nested MAIL command")
	case s.bdat != noChunk:
		return s.no("503 5.5.1 Error: MAIL after BDAT")
	case s.cfg.RequireHELO && s.peer.Helo == "":
		return s.no("503 5.5.1 Error: send HELO/EHLO first")
	}
	if r := smtp.ParseMail(args, s.cfg.args, &s.mailArgs); r != nil {
		s.badAddress(r, "MAIL", args)
		return s.answer(r)
	}
	if s.cfg.MaxMessageSize > 0 && s.mailArgs.Size > s.cfg.MaxMessageSize {
		const text = "552 5.3.4 Message size exceeds fixed limit"
		s.log(maillog.Info, &Refused{
			Stage: "MAIL", Name: s.peer.Name, Addr: s.peer.Addr, Text: text,
			Mail: true, From: s.mailArgs.From, Proto: s.peer.Protocol, Helo: s.peer.Helo,
		})
		return s.no(text)
	}
	tx, r := s.srv.acc.Mail(s.ctx, &s.peer, &s.mailArgs)
	if r != nil {
		if r.Code >= 400 || tx == nil {
			return s.answer(r)
		}
		s.tx = tx
		return s.answer(r)
	}
	s.tx = tx
	return s.ok("250 2.1.0 Ok")
}

func (s *session) rcptTo(args string) bool {
	switch {
	case s.tx == nil:
		return s.no("503 5.5.1 Error: need MAIL command")
	case s.bdat != noChunk:
		return s.no("503 5.5.1 Error: RCPT after BDAT")
	}
	if r := smtp.ParseRcpt(args, s.cfg.args, s.mailArgs.SMTPUTF8, &s.rcptArgs); r != nil {
		s.badAddress(r, "RCPT", args)
		return s.answer(r)
	}
	if s.cfg.MaxRecipients > 0 && s.rcpts >= s.cfg.MaxRecipients {
		s.reply("452 4.5.3 Error: too many recipients")
		// A client with a longer list sends the rest in another transaction
		// (RFC 5321 §4.5.3.1.10) and is not at fault for a while.
		s.overshoot++
		return s.overshoot <= s.cfg.RecipientOvershoot
	}
	if r := s.tx.Rcpt(s.ctx, &s.rcptArgs); r != nil {
		if !s.answer(r) {
			return false
		}
	} else {
		s.reply("250 2.1.5 Ok")
	}
	s.rcpts++
	s.lastRcpt = s.rcptArgs.To
	return true
}

// badAddress logs an address that could not be read.
func (s *session) badAddress(r *smtp.Reply, verb, args string) {
	if smtp.IsBadAddress(r) {
		_, path, _ := strings.Cut(args, ":")
		s.log(maillog.Warning, maillog.Text("Illegal address syntax from "+s.client()+" in "+verb+" command: "+
			printable([]byte(strings.TrimSpace(path)), 200)))
	}
}

func (s *session) rset(args []byte) bool {
	if len(args) > 0 {
		return s.no("501 5.5.4 Syntax: RSET")
	}
	s.reset()
	return s.ok("250 2.0.0 Ok")
}

// vrfy says that we cannot tell (RFC 5321 §3.5.3): to say more would hand
// address lists to whoever asks.
func (s *session) vrfy(args []byte) bool {
	if s.cfg.DisableVRFY {
		return s.no("502 5.5.1 VRFY command is disabled")
	}
	arg := string(args)
	utf8ok := false
	if i := strings.LastIndexByte(arg, ' '); i > 0 && s.cfg.args.SMTPUTF8 && strings.EqualFold(arg[i+1:], "SMTPUTF8") {
		arg, utf8ok = strings.TrimRight(arg[:i], " "), true
	}
	if arg == "" {
		if s.cfg.args.SMTPUTF8 {
			return s.no("501 5.5.4 Syntax: VRFY address [SMTPUTF8]")
		}
		return s.no("501 5.5.4 Syntax: VRFY address")
	}
	if a, err := smtp.ParsePath(arg, utf8ok); err != nil || a == mail.NullSender {
		s.log(maillog.Warning, maillog.Text("Illegal address syntax from "+s.client()+" in VRFY command: "+printable(args, 200)))
		return s.no("501 5.1.3 Bad recipient address syntax")
	}
	return s.ok("252 2.0.0 " + arg)
}

// etrn refuses as Postfix does for a domain without a fast flush log (RFC 1985 §5.3).
func (s *session) etrn(args []byte) bool {
	domain := string(args)
	switch {
	case s.cfg.Offer&ExtETRN == 0:
		return s.no("502 5.5.1 Error: command not implemented")
	case s.cfg.RequireHELO && s.peer.Helo == "":
		return s.no("503 Error: send HELO/EHLO first")
	case s.tx != nil:
		return s.no("503 Error: MAIL transaction in progress")
	case domain == "" || strings.ContainsAny(domain, " \t"):
		return s.no("500 Syntax: ETRN domain")
	}
	domain = strings.TrimLeft(domain, "@#")
	if !smtp.ValidDomain(domain) {
		return s.no("501 Error: invalid parameter syntax")
	}
	s.log(maillog.Warning, maillog.Text("reject: ETRN "+printable([]byte(domain), 100)+"... from "+s.client()))
	return s.no("459 <" + domain + ">: service unavailable")
}

func (s *session) starttls(args []byte) bool {
	switch {
	case len(args) > 0:
		return s.no("501 5.5.4 Syntax: STARTTLS")
	case s.tx != nil:
		return s.no("503 5.5.1 Error: MAIL transaction in progress")
	case s.tls:
		return s.no("554 5.5.1 Error: TLS already active")
	case s.cfg.TLS == TLSNone:
		return s.no("502 5.5.1 Error: command not implemented")
	case s.cfg.tls == nil:
		return s.no("454 4.7.0 TLS not available due to local problem")
	}
	s.reply("220 2.0.0 Ready to start TLS")
	if !s.handshake() {
		return false
	}
	// RFC 3207 §4.2: forget what was said in the clear.
	s.reset()
	s.esmtp, s.peer.Helo, s.peer.Protocol = false, "", "SMTP"
	return true
}
