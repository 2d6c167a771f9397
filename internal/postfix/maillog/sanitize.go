package maillog

import "unicode/utf8"

// sanitize replaces, in place, what must not stand in a log line by '?': a
// peer chooses much of the text, and a newline would let it write lines of its
// own, an escape sequence steer the terminal of whoever reads them. UTF-8 text
// stays; control characters of Unicode (C1) and malformed bytes do not. The
// length never changes, as with Postfix.
func sanitize(b []byte) []byte {
	for i, c := range b {
		if c < ' ' || c >= 0x7f {
			return sanitizeFrom(b, i)
		}
	}
	return b
}

func sanitizeFrom(b []byte, i int) []byte {
	for i < len(b) {
		c := b[i]
		if c < utf8.RuneSelf {
			if c < ' ' || c == 0x7f {
				b[i] = '?'
			}
			i++
			continue
		}
		r, n := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && n == 1 || r < 0xa0 || r == '\u2028' || r == '\u2029' {
			for j := range n {
				b[i+j] = '?'
			}
		}
		i += n
	}
	return b
}
