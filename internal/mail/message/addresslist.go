package message

import (
	"strings"

	"posthouse/internal/mail"
)

// ParseAddressList returns the addresses of a To, Cc or Bcc field's value
// (RFC 5322 §3.4, with the obsolete forms of §4.4): groups, comments, quoted
// strings, source routes and folds. It reads what people write as
// sendmail -t always has: without angle brackets each word is an address of
// its own, so "alice bob@b.example" names two. Addresses come out in the
// form of mail.Address; a missing domain is left missing.
func ParseAddressList(value []byte) []mail.Address {
	p := listParser{s: string(value)}
	for {
		t := p.next()
		switch t.kind {
		case tokenEnd:
			p.endElement()
			return p.found
		case ',', ';':
			p.endElement()
		case ':':
			p.words = p.words[:0] // what stood before it was a group's name
		case '<':
			p.words = p.words[:0] // ... or a display name
			p.routeAddress()
		case '>':
			// closes nothing
		default:
			p.words = append(p.words, t)
		}
	}
}

// Kinds of token beside the special characters, which are their own kind.
const (
	tokenEnd  byte = 0
	tokenWord byte = 'a' // an atom, a domain literal, or a quoted string without its quotes
)

type token struct {
	kind   byte
	text   string
	quoted bool // may not be in a domain: it was quoted, or a literal without end
}

type listParser struct {
	s     string
	pos   int
	words []token // of the element being read
	found []mail.Address
}

// next returns the next token; blanks and comments are skipped.
func (p *listParser) next() token {
	for p.pos < len(p.s) {
		c := p.s[p.pos]
		switch c {
		case ' ', '\t', '\r', '\n', 0:
			p.pos++
		case '(':
			p.comment()
		case '"':
			return p.quoted()
		case '[':
			return p.literal()
		case ',', ';', ':', '<', '>', '@', '.':
			p.pos++
			return token{kind: c, text: string(c)}
		default:
			return p.atom()
		}
	}
	return token{}
}

// comment skips a comment with those inside it; one without end takes the rest.
func (p *listParser) comment() {
	depth := 0
	for ; p.pos < len(p.s); p.pos++ {
		switch p.s[p.pos] {
		case '\\':
			p.pos++
		case '(':
			depth++
		case ')':
			if depth--; depth == 0 {
				p.pos++
				return
			}
		}
	}
	p.pos = len(p.s)
}

func (p *listParser) quoted() token {
	var b []byte
	for p.pos++; p.pos < len(p.s) && p.s[p.pos] != '"'; p.pos++ {
		if p.s[p.pos] == '\\' && p.pos+1 < len(p.s) {
			p.pos++
		}
		if c := p.s[p.pos]; c != '\r' && c != '\n' {
			b = append(b, c)
		}
	}
	p.pos++
	return token{kind: tokenWord, text: string(b), quoted: true}
}

// literal reads a domain literal, brackets included; blanks inside go.
func (p *listParser) literal() token {
	start := p.pos
	for p.pos < len(p.s) && p.s[p.pos] != ']' {
		p.pos++
	}
	open := p.pos == len(p.s)
	p.pos = min(p.pos+1, len(p.s))
	return token{kind: tokenWord, text: strings.Join(strings.Fields(p.s[start:p.pos]), ""), quoted: open}
}

func (p *listParser) atom() token {
	start := p.pos
	for p.pos < len(p.s) && strings.IndexByte(" \t\r\n\x00()<>[]:;@,.\"", p.s[p.pos]) < 0 {
		p.pos++
	}
	if p.pos == start { // a stray ')' or ']': no part of any address
		p.pos++
		return p.next()
	}
	return token{kind: tokenWord, text: p.s[start:p.pos]}
}

// routeAddress reads what stands between angle brackets, the source route
// left out (RFC 5321 §4.1.1.3 and appendix C). Without '>' it ends at a comma.
func (p *listParser) routeAddress() {
	var in []token
	for {
		t := p.next()
		switch t.kind {
		case ':', '<':
			in = in[:0] // the end of the route, or a bracket too many
			continue
		case ',':
			if len(in) > 0 && in[0].kind == '@' {
				in = in[:0] // between the hops of a route
				continue
			}
			p.address(in)
			return
		case tokenEnd, '>', ';':
			p.address(in)
			return
		}
		in = append(in, t)
	}
}

// endElement makes addresses of the words of an element without brackets.
// A word that does not follow '.' or '@', nor is followed by one, begins a
// new address.
func (p *listParser) endElement() {
	start := 0
	for i := 1; i < len(p.words); i++ {
		if p.words[i].kind == tokenWord && p.words[i-1].kind == tokenWord {
			p.address(p.words[start:i])
			start = i
		}
	}
	p.address(p.words[start:])
	p.words = p.words[:0]
}

// address joins tokens to an address: the last '@' divides it. Things
// without a local part are none.
func (p *listParser) address(in []token) {
	for len(in) > 0 && in[len(in)-1].kind == '@' {
		in = in[:len(in)-1] // "user@" is a user here
	}
	local, domain := in, []token(nil)
	for i, t := range in {
		if t.kind == '@' {
			local, domain = in[:i], in[i+1:]
		}
	}
	name := join(local)
	if strings.Trim(name, ".") == "" {
		return
	}
	a := quoteLocal(name)
	for _, t := range domain {
		if t.quoted {
			return
		}
	}
	if len(domain) > 0 {
		a += "@" + join(domain)
	}
	if strings.IndexFunc(a, func(c rune) bool { return c < ' ' || c == 127 }) >= 0 {
		return // a control character has no business in an envelope
	}
	p.found = append(p.found, mail.Address(a))
}

func join(in []token) string {
	if len(in) == 1 {
		return in[0].text
	}
	var b strings.Builder
	for _, t := range in {
		b.WriteString(t.text)
	}
	return b.String()
}

// quoteLocal writes a local part as a dot-string where it is one, else quoted
// (RFC 5321 §4.1.2), so that nothing in it can be taken for syntax.
func quoteLocal(s string) string {
	dot, plain := true, true
	for i := 0; i < len(s) && plain; i++ {
		if s[i] == '.' {
			plain, dot = !dot, true
		} else {
			plain, dot = atext(s[i]) || s[i] >= 0x80, false
		}
	}
	if plain && !dot {
		return s
	}
	var b strings.Builder
	b.WriteByte('"')
	for i := range len(s) {
		if s[i] == '"' || s[i] == '\\' {
			b.WriteByte('\\')
		}
		b.WriteByte(s[i])
	}
	b.WriteByte('"')
	return b.String()
}

// atext is RFC 5322 §3.2.3.
func atext(c byte) bool {
	return c > ' ' && c < 127 && strings.IndexByte(`()<>[]:;@\,."`, c) < 0
}
