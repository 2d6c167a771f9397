package smtp

import (
	"errors"
	"net/netip"
	"strings"
	"unicode"
	"unicode/utf8"

	"posthouse/internal/mail"
)

// Errors of ParsePath.
var (
	// ErrAddress: not an address, by any tolerance.
	ErrAddress = errors.New("bad address syntax")
	// ErrNeedUTF8: well formed, but it has characters beyond ASCII and
	// SMTPUTF8 was not declared (RFC 6531 §3.4).
	ErrNeedUTF8 = errors.New("address needs SMTPUTF8")
)

// Limits on an address. RFC 5321 §4.5.3.1 asks servers to take at least 64
// octets of local part and 255 of domain; real local parts (bounce addresses
// that encode a recipient) are longer, so only the whole is bounded, by what
// fits a reply line with room to spare.
const (
	maxAddress = 900
	maxDomain  = 255
	maxLabel   = 63
)

// ParsePath reads a reverse- or forward-path as it stands after "MAIL FROM:"
// or "RCPT TO:": "<a@b>", "<@route:a@b>", "<>", or, with tolerance, "a@b".
// utf8ok says that SMTPUTF8 was declared. The error is ErrAddress or
// ErrNeedUTF8.
func ParsePath(s string, utf8ok bool) (mail.Address, error) {
	if strings.HasPrefix(s, "<") {
		if !strings.HasSuffix(s, ">") {
			return "", ErrAddress
		}
		s = strings.Trim(s[1:len(s)-1], " \t")
		if s == "" {
			return mail.NullSender, nil
		}
	}
	return ParseAddress(s, utf8ok)
}

// ParseAddress reads an address without angle brackets, with or without a
// domain. Errors as of ParsePath.
func ParseAddress(s string, utf8ok bool) (mail.Address, error) {
	if len(s) > maxAddress {
		return "", ErrAddress
	}
	if simpleAddress(s) {
		return mail.Address(s), nil
	}
	s, ok := stripRoute(s)
	if !ok || s == "" {
		return "", ErrAddress
	}
	at := lastAt(s)
	local, ok := UnquoteLocal(s[:max(at, 0)])
	if at < 0 {
		local, ok = UnquoteLocal(s)
	}
	if !ok || (local == "" && (at <= 0)) {
		return "", ErrAddress
	}
	quoted := QuoteLocal(local)
	if at < 0 {
		return checkUTF8(quoted, utf8ok)
	}
	domain := strings.TrimSuffix(s[at+1:], ".")
	if !ValidDomain(domain) {
		return "", ErrAddress
	}
	return checkUTF8(quoted+"@"+domain, utf8ok)
}

// checkUTF8 applies RFC 6531: what is beyond ASCII must be declared, and must be UTF-8.
func checkUTF8(s string, utf8ok bool) (mail.Address, error) {
	for i := range len(s) {
		if s[i] < utf8.RuneSelf {
			continue
		}
		if !utf8.ValidString(s) {
			return "", ErrAddress
		}
		if !utf8ok {
			return "", ErrNeedUTF8
		}
		break
	}
	return mail.Address(s), nil
}

// simpleAddress recognises dot-atom "@" host name, in which nothing needs a
// second look: nearly all addresses, and not worth an allocation.
func simpleAddress(s string) bool {
	at := strings.IndexByte(s, '@')
	if at <= 0 {
		return false
	}
	return dotString(s[:at], false) && ValidDomain(s[at+1:]) && isASCII(s[at+1:])
}

// stripRoute takes away "@a,@b:" (RFC 5321 §4.1.2: source routes are accepted and ignored).
func stripRoute(s string) (string, bool) {
	if !strings.HasPrefix(s, "@") {
		return s, true
	}
	route, rest, ok := strings.Cut(s, ":")
	if !ok {
		return "", false
	}
	for hop := range strings.SplitSeq(route, ",") {
		hop = strings.Trim(hop, " \t")
		if !strings.HasPrefix(hop, "@") || !ValidDomain(hop[1:]) {
			return "", false
		}
	}
	return strings.Trim(rest, " \t"), true
}

// lastAt finds the last '@' that is neither quoted nor escaped, or -1.
func lastAt(s string) int {
	at, inQuote := -1, false
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			inQuote = !inQuote
		case '@':
			if !inQuote {
				at = i
			}
		}
	}
	return at
}

// UnquoteLocal returns what a local part means: quotes and escapes removed.
// It takes more than RFC 5321: empty atoms, a bare '@' or ':' and escapes
// outside quotes, as long as it is clear what is meant.
func UnquoteLocal(s string) (string, bool) {
	if dotString(s, true) {
		return s, true
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '"':
			// A quoted string is a whole word: dots around it, not letters.
			if i > 0 && s[i-1] != '.' {
				return "", false
			}
			end, ok := false, true
			for i++; i < len(s) && !end; i++ {
				if s[i] == '\\' {
					i++
				} else if s[i] == '"' {
					end = true
					continue
				}
				if i >= len(s) || control(s[i]) {
					ok = false
					break
				}
				b = append(b, s[i])
			}
			if !end || !ok || (i < len(s) && s[i] != '.') {
				return "", false
			}
			i--
		case c == '\\':
			if i++; i >= len(s) || control(s[i]) {
				return "", false
			}
			b = append(b, s[i])
		case atext(c) || c >= utf8.RuneSelf || c == '.' || c == '@' || c == ':':
			b = append(b, c)
		default:
			return "", false
		}
	}
	return string(b), true
}

// QuoteLocal writes a local part for the wire: as it is when it is a
// dot-string, quoted otherwise (RFC 5321 §4.1.2).
func QuoteLocal(s string) string {
	if dotString(s, true) {
		return s
	}
	b := make([]byte, 0, len(s)+4)
	b = append(b, '"')
	for i := range len(s) {
		if s[i] == '"' || s[i] == '\\' {
			b = append(b, '\\')
		}
		b = append(b, s[i])
	}
	return string(append(b, '"'))
}

// dotString tells whether s is 1*atext *("." 1*atext).
func dotString(s string, utf8ok bool) bool {
	dot := true // an atom must come
	for i := range len(s) {
		c := s[i]
		switch {
		case c == '.':
			if dot {
				return false
			}
			dot = true
		case atext(c) || utf8ok && c >= utf8.RuneSelf:
			dot = false
		default:
			return false
		}
	}
	return !dot
}

// atext is RFC 5322 §3.2.3.
func atext(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', '0' <= c && c <= '9', 'A' <= c && c <= 'Z':
		return true
	case c <= ' ' || c >= 127:
		return false
	}
	return strings.IndexByte(`()<>[]:;@\,."`, c) < 0
}

func control(c byte) bool { return c < ' ' || c == 127 }

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// ValidDomain tells whether s may stand after the '@': a host name as Postfix
// sees it (letters, digits, hyphens inside, underscores; labels of 1 to 63
// octets; 255 in all; not just numbers), characters beyond ASCII, or an
// address literal such as [192.0.2.1] or [IPv6:2001:db8::1] (RFC 5321 §4.1.3).
func ValidDomain(s string) bool {
	if s == "" || len(s) > maxDomain {
		return false
	}
	if s[0] == '[' {
		return validLiteral(s)
	}
	start, numeric := 0, true
	for i := 0; i <= len(s); i++ {
		if i < len(s) && s[i] != '.' {
			switch c := s[i]; {
			case '0' <= c && c <= '9':
			case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', c == '_', c == '-', c >= utf8.RuneSelf:
				numeric = false
			default:
				return false
			}
			continue
		}
		if i == start || i-start > maxLabel || s[start] == '-' || s[i-1] == '-' {
			return false
		}
		start = i + 1
	}
	return !numeric && (isASCII(s) || !foldsToASCII(s))
}

// foldsToASCII tells whether s has a letter beyond ASCII whose lower case is
// an ASCII one, as the dotted capital I and the Kelvin sign. No domain is
// written with those (RFC 5891 §5.3), and lower-casing would make another
// domain of it: mail for a stranger's domain would pass for ours.
func foldsToASCII(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r >= utf8.RuneSelf && unicode.ToLower(r) < utf8.RuneSelf })
}

func validLiteral(s string) bool {
	if len(s) < 3 || s[len(s)-1] != ']' {
		return false
	}
	s = s[1 : len(s)-1]
	if len(s) > 5 && strings.EqualFold(s[:5], "IPv6:") {
		a, err := netip.ParseAddr(s[5:])
		return err == nil && a.Is6() && a.Zone() == ""
	}
	a, err := netip.ParseAddr(s)
	return err == nil && a.Is4()
}
