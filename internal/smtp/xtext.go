package smtp

import "strings"

// AppendXtext writes s in xtext (RFC 3461 §4): "+XX" for '+', '=' and
// everything that is not a visible ASCII character.
func AppendXtext(b []byte, s string) []byte {
	const hex = "0123456789ABCDEF"
	for i := range len(s) {
		c := s[i]
		if c <= ' ' || c >= 127 || c == '+' || c == '=' {
			b = append(b, '+', hex[c>>4], hex[c&15])
		} else {
			b = append(b, c)
		}
	}
	return b
}

// DecodeXtext reads xtext; false when it is not. What comes out may hold any
// byte.
func DecodeXtext(s string) (string, bool) {
	plain := true
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 127 || s[i] == '=' {
			return "", false
		}
		plain = plain && s[i] != '+'
	}
	if plain {
		return s, true
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '+' {
			if i+2 >= len(s) {
				return "", false
			}
			hi, ok1 := upperHex(s[i+1])
			lo, ok2 := upperHex(s[i+2])
			if !ok1 || !ok2 {
				return "", false
			}
			c = hi<<4 | lo
			i += 2
		}
		b = append(b, c)
	}
	return string(b), true
}

// upperHex reads a hexadecimal digit; xtext has only upper-case ones.
func upperHex(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

// parseORCPT reads the value of ORCPT: a type, ';', and an address in xtext.
// An address of type utf-8 has an encoding of its own (RFC 6533 §3) and is
// kept as it came, since nothing here needs to look inside.
func parseORCPT(v string) (string, bool) {
	typ, addr, ok := strings.Cut(v, ";")
	if !ok || typ == "" {
		return "", false
	}
	for i := range len(typ) {
		if !atext(typ[i]) {
			return "", false
		}
	}
	if strings.EqualFold(typ, "utf-8") {
		for i := range len(addr) {
			if control(addr[i]) || addr[i] == ' ' {
				return "", false
			}
		}
		return v, true
	}
	dec, ok := DecodeXtext(addr)
	if !ok || !printable(dec) {
		return "", false
	}
	if len(dec) == len(addr) {
		return v, true
	}
	return typ + ";" + dec, true
}

// AppendORCPT writes a decoded "type;address", as RcptArgs.DSNOriginal has
// it, as the value of an ORCPT parameter.
func AppendORCPT(b []byte, s string) []byte {
	typ, addr, ok := strings.Cut(s, ";")
	if !ok {
		return AppendXtext(b, s)
	}
	b = append(append(b, typ...), ';')
	if strings.EqualFold(typ, "utf-8") {
		return append(b, addr...)
	}
	return AppendXtext(b, addr)
}

func printable(s string) bool {
	for i := range len(s) {
		if control(s[i]) {
			return false
		}
	}
	return true
}
