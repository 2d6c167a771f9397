package smtp

import (
	"errors"
	"strconv"
	"strings"

	"posthouse/internal/mail"
)

// ArgOptions says which extensions a server offered, and so which parameters
// of MAIL and RCPT it takes. What is not offered is refused as unsupported.
type ArgOptions struct {
	EightBitMIME bool // BODY= (RFC 6152)
	SMTPUTF8     bool // SMTPUTF8 (RFC 6531)
	DSN          bool // RET, ENVID, NOTIFY, ORCPT (RFC 3461)
	Strict       bool // angle brackets are required (strict_rfc821_envelopes)
}

// Replies to malformed commands, in Postfix's words.
func unsupported(opt string) *Reply   { return NewReply(555, "5.5.4", "Unsupported option: "+opt) }
func badParameter(what string) *Reply { return NewReply(501, "5.5.4", what) }

// BadSender and BadRecipient are the replies to a malformed address. Callers
// that log malformed addresses recognise them with IsBadAddress.
func BadSender() *Reply    { return NewReply(501, "5.1.7", "Bad sender address syntax") }
func BadRecipient() *Reply { return NewReply(501, "5.1.3", "Bad recipient address syntax") }

// IsBadAddress tells whether r is BadSender or BadRecipient.
func IsBadAddress(r *Reply) bool {
	return r.Code == 501 && r.Enhanced[1] == 1
}

// ParseMail reads the arguments of MAIL, "FROM:<address> parameters…"
// (RFC 5321 §4.1.1.2), into a. A reply says what is wrong; a is then undefined.
func ParseMail(args string, opt ArgOptions, a *MailArgs) *Reply {
	*a = MailArgs{}
	path, params, ok := cutPath(args, "FROM:")
	if !ok || path == "" {
		return badParameter("Syntax: MAIL FROM:<address>")
	}
	for params != "" {
		var p string
		p, params = cutWord(params)
		if r := a.parameter(p, opt); r != nil {
			return r
		}
	}
	from, err := parsePath(path, a.SMTPUTF8, opt.Strict)
	if errors.Is(err, ErrNeedUTF8) && opt.SMTPUTF8 {
		return needUTF8()
	}
	if err != nil {
		return BadSender()
	}
	a.From = from
	return nil
}

func (a *MailArgs) parameter(p string, opt ArgOptions) *Reply {
	key, value, hasValue := strings.Cut(p, "=")
	switch {
	case hasValue && strings.EqualFold(key, "SIZE"):
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil || value[0] < '0' || value[0] > '9' {
			return badParameter("Bad message size syntax")
		}
		a.Size = n
	case opt.EightBitMIME && strings.EqualFold(p, "BODY=8BITMIME"):
		a.Body8Bit = true
	case opt.EightBitMIME && strings.EqualFold(p, "BODY=7BIT"):
		a.Body8Bit = false
	case opt.SMTPUTF8 && strings.EqualFold(p, "SMTPUTF8"):
		a.SMTPUTF8 = true
	case opt.DSN && hasValue && strings.EqualFold(key, "RET"):
		switch {
		case a.Ret != mail.RetUnset:
			return badParameter("Bad RET parameter syntax")
		case strings.EqualFold(value, "FULL"):
			a.Ret = mail.RetFull
		case strings.EqualFold(value, "HDRS"):
			a.Ret = mail.RetHeaders
		default:
			return badParameter("Bad RET parameter syntax")
		}
	case opt.DSN && hasValue && strings.EqualFold(key, "ENVID"):
		id, ok := DecodeXtext(value)
		if !ok || a.EnvelopeID != "" || id == "" || !printable(id) {
			return badParameter("Bad ENVID parameter syntax")
		}
		a.EnvelopeID = id
	case hasValue && strings.EqualFold(key, "AUTH"):
		// RFC 4954 §5: "<>" is not xtext's business but passes through it.
		id, ok := DecodeXtext(value)
		if !ok || id == "" || !printable(id) {
			return badParameter("Bad AUTH parameter syntax")
		}
		if a.Auth != "" {
			return NewReply(503, "5.5.4", "Error: multiple AUTH= options")
		}
		a.Auth = id
	default:
		return unsupported(p)
	}
	return nil
}

// ParseRcpt reads the arguments of RCPT, "TO:<address> parameters…"
// (RFC 5321 §4.1.1.3), into a. utf8ok says that the transaction's MAIL
// declared SMTPUTF8. A reply says what is wrong; a is then undefined.
func ParseRcpt(args string, opt ArgOptions, utf8ok bool, a *RcptArgs) *Reply {
	*a = RcptArgs{}
	path, params, ok := cutPath(args, "TO:")
	if !ok || path == "" {
		return badParameter("Syntax: RCPT TO:<address>")
	}
	for params != "" {
		var p string
		p, params = cutWord(params)
		if r := a.parameter(p, opt); r != nil {
			return r
		}
	}
	to, err := parsePath(path, utf8ok, opt.Strict)
	if errors.Is(err, ErrNeedUTF8) && opt.SMTPUTF8 {
		return needUTF8()
	}
	if err != nil || to == "" {
		return BadRecipient()
	}
	a.To = to
	return nil
}

func (a *RcptArgs) parameter(p string, opt ArgOptions) *Reply {
	key, value, hasValue := strings.Cut(p, "=")
	switch {
	case opt.DSN && hasValue && strings.EqualFold(key, "NOTIFY"):
		n, ok := parseNotify(value)
		if !ok || a.Notify != 0 {
			return badParameter("Error: Bad NOTIFY parameter syntax")
		}
		a.Notify = n
	case opt.DSN && hasValue && strings.EqualFold(key, "ORCPT"):
		o, ok := parseORCPT(value)
		if !ok || a.DSNOriginal != "" {
			return badParameter("Error: Bad ORCPT parameter syntax")
		}
		a.DSNOriginal = o
	default:
		return unsupported(p)
	}
	return nil
}

// parseNotify reads NOTIFY: NEVER alone, or a list of the others (RFC 3461 §4.1).
func parseNotify(v string) (mail.Notify, bool) {
	var n mail.Notify
	for word := range strings.SplitSeq(v, ",") {
		switch {
		case strings.EqualFold(word, "SUCCESS"):
			n |= mail.NotifySuccess
		case strings.EqualFold(word, "FAILURE"):
			n |= mail.NotifyFailure
		case strings.EqualFold(word, "DELAY"):
			n |= mail.NotifyDelay
		case strings.EqualFold(word, "NEVER"):
			n |= mail.NotifyNever
		default:
			return 0, false
		}
	}
	return n, n&mail.NotifyNever == 0 || n == mail.NotifyNever
}

// AppendNotify writes a NOTIFY value; nothing for zero.
func AppendNotify(b []byte, n mail.Notify) []byte {
	start := len(b)
	for _, k := range [...]struct {
		bit  mail.Notify
		name string
	}{{mail.NotifyNever, "NEVER"}, {mail.NotifySuccess, "SUCCESS"}, {mail.NotifyFailure, "FAILURE"}, {mail.NotifyDelay, "DELAY"}} {
		if n&k.bit == 0 {
			continue
		}
		if len(b) > start {
			b = append(b, ',')
		}
		b = append(b, k.name...)
	}
	return b
}

func needUTF8() *Reply {
	return NewReply(553, "5.6.7", "Must declare SMTPUTF8 to send unicode address")
}

func parsePath(s string, utf8ok, strict bool) (mail.Address, error) {
	if strict && !strings.HasPrefix(s, "<") {
		return "", ErrAddress
	}
	return ParsePath(s, utf8ok)
}

// cutPath takes "FROM:" or "TO:" and the path after it off the front. The
// path ends at the first blank outside quotes and angle brackets, so that
// "<"a b"@c>" is one word, and garbage glued to a '>' stays with it.
func cutPath(s, keyword string) (path, rest string, ok bool) {
	if len(s) < len(keyword) || !strings.EqualFold(s[:len(keyword)], keyword) {
		return "", "", false
	}
	s = strings.TrimLeft(s[len(keyword):], " \t")
	inQuote, inAngle := false, false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\':
			i++
		case c == '"':
			inQuote = !inQuote
		case inQuote:
		case c == '<':
			inAngle = true
		case c == '>':
			inAngle = false
		case (c == ' ' || c == '\t') && !inAngle:
			return s[:i], strings.TrimLeft(s[i:], " \t"), true
		}
	}
	return s, "", true
}

func cutWord(s string) (word, rest string) {
	i := strings.IndexAny(s, " \t")
	if i < 0 {
		return s, ""
	}
	return s[:i], strings.TrimLeft(s[i:], " \t")
}
