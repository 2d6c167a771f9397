package queuefile

import (
	"strings"

	"posthouse/internal/mail"
)

// External turns an address as queue files have it, without quotes, into the
// form between SMTP's angle brackets: the local part is quoted where RFC 5321
// §4.1.2 wants it.
func External(internal string) mail.Address {
	local, domain := internal, ""
	if i := strings.LastIndexByte(internal, '@'); i >= 0 {
		local, domain = internal[:i], internal[i:]
	}
	if dotString(local) || (local == "" && domain == "") {
		return mail.Address(internal)
	}
	b := make([]byte, 0, len(internal)+8)
	b = append(b, '"')
	for i := range len(local) {
		if c := local[i]; c == '"' || c == '\\' || c == '\r' {
			b = append(b, '\\')
		}
		b = append(b, local[i])
	}
	b = append(b, '"')
	return mail.Address(append(b, domain...))
}

// Internal is the reverse of External.
func Internal(a mail.Address) string {
	local, domain := string(a), ""
	if i := strings.LastIndexByte(local, '@'); i >= 0 {
		local, domain = local[:i], local[i:]
	}
	if !strings.Contains(local, `"`) && !strings.Contains(local, `\`) {
		return string(a)
	}
	b := make([]byte, 0, len(a))
	for i := 0; i < len(local); i++ {
		switch c := local[i]; {
		case c == '"':
		case c == '\\' && i+1 < len(local):
			i++
			b = append(b, local[i])
		default:
			b = append(b, c)
		}
	}
	return string(append(b, domain...))
}

// dotString tells whether a local part needs no quotes: atoms separated by
// single dots (RFC 5321 §4.1.2), UTF-8 allowed (RFC 6531 §3.3).
func dotString(s string) bool {
	dot := true
	for i := range len(s) {
		c := s[i]
		switch {
		case c == '.':
			if dot {
				return false
			}
			dot = true
			continue
		case c >= 0x80, c >= '0' && c <= '9', c >= 'A' && c <= 'Z', c >= 'a' && c <= 'z':
		case strings.IndexByte("!#$%&'*+-/=?^_`{|}~", c) >= 0:
		default:
			return false
		}
		dot = false
	}
	return !dot
}
