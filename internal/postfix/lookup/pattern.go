package lookup

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"
)

// ruleSet is a pattern table: the first rule that matches gives the value.
type ruleSet []rule

// rule is one line. A rule with a condition but no value is "if"; it skips to
// the rule at index skip when it does not match.
type rule struct {
	match  func(key string) ([]int, bool) // submatch indices, for regular expressions
	negate bool
	isIf   bool
	skip   int
	value  string
	expand bool // value has $1, ${1} or $(1)
}

func (rs ruleSet) find(key string) (string, bool) {
	for i := 0; i < len(rs); i++ {
		r := &rs[i]
		at, ok := r.match(key)
		switch {
		case ok == r.negate && r.isIf:
			i = r.skip - 1
		case ok == r.negate || r.isIf:
		case r.expand:
			return expandMatch(r.value, key, at), true
		default:
			return r.value, true
		}
	}
	return "", false
}

// expandMatch replaces $1, ${1}, $(1) and $$ in value.
func expandMatch(value, key string, at []int) string {
	var b strings.Builder
	for i := 0; i < len(value); i++ {
		if value[i] != '$' {
			b.WriteByte(value[i])
			continue
		}
		n, width := submatchRef(value[i+1:])
		switch {
		case width == 0 && strings.HasPrefix(value[i+1:], "$"):
			b.WriteByte('$')
			i++
		case width == 0:
			b.WriteByte('$')
		default:
			if 2*n+1 < len(at) && at[2*n] >= 0 {
				b.WriteString(key[at[2*n]:at[2*n+1]])
			}
			i += width
		}
	}
	return b.String()
}

// submatchRef reads "1", "{1}" or "(1)" and returns the number and its width.
func submatchRef(s string) (n, width int) {
	digits := s
	closing := byte(0)
	if strings.HasPrefix(s, "{") {
		digits, closing = s[1:], '}'
	} else if strings.HasPrefix(s, "(") {
		digits, closing = s[1:], ')'
	}
	i := 0
	for i < len(digits) && i < 3 && digits[i] >= '0' && digits[i] <= '9' {
		n = n*10 + int(digits[i]-'0')
		i++
	}
	switch {
	case i == 0:
		return 0, 0
	case closing == 0:
		return n, i
	case i < len(digits) && digits[i] == closing:
		return n, i + 2
	}
	return 0, 0
}

// parseRules reads a pattern table; pattern compiles what stands before a
// rule's value and returns the rest of the line.
func parseRules(lines []logicalLine, warn func(int, string), pattern func(text string) (rule, string, error)) finder {
	var rs ruleSet
	var open []int // rules that are an "if" without its "endif" yet
	for _, l := range lines {
		word, rest := cutKey(l.text)
		isIf := strings.EqualFold(word, "if")
		switch {
		case strings.EqualFold(word, "endif"):
			if len(open) == 0 {
				warn(l.number, "ignoring ENDIF without matching IF")
				continue
			}
			rs[open[len(open)-1]].skip = len(rs)
			open = open[:len(open)-1]
			continue
		case !isIf:
			rest = l.text
		}
		r, value, err := pattern(rest)
		if err != nil {
			warn(l.number, err.Error()+": skipping this rule")
			if !isIf {
				continue
			}
			// Without its condition the block must not apply to everything.
			r = rule{match: func(string) ([]int, bool) { return nil, false }}
		}
		r.isIf = isIf
		r.value = value
		if isIf {
			open = append(open, len(rs))
		} else if value == "" {
			warn(l.number, "no result: skipping this rule")
			continue
		}
		rs = append(rs, r)
	}
	for _, i := range open {
		warn(0, "IF without matching ENDIF")
		rs[i].skip = len(rs)
	}
	return rs
}

func parseRegexp(lines []logicalLine, warn func(int, string)) finder {
	return parseRules(lines, warn, func(text string) (rule, string, error) {
		negate := false
		for strings.HasPrefix(text, "!") {
			negate, text = !negate, strings.TrimLeft(text[1:], " \t")
		}
		if text == "" || isWordByte(text[0]) {
			return rule{}, "", fmt.Errorf("expected a pattern such as /pattern/, not %q", text)
		}
		body, rest, ok := cutDelimited(text)
		if !ok {
			return rule{}, "", fmt.Errorf("no closing %q", text[0])
		}
		end := strings.IndexAny(rest, " \t")
		if end < 0 {
			end = len(rest)
		}
		flags, err := goFlags(rest[:end])
		if err != nil {
			return rule{}, "", err
		}
		re, err := regexp.Compile(flags + body)
		if err != nil {
			return rule{}, "", err
		}
		value := strings.TrimSpace(rest[end:])
		match := func(key string) ([]int, bool) {
			at := re.FindStringSubmatchIndex(key)
			return at, at != nil
		}
		return rule{match: match, negate: negate, expand: strings.Contains(value, "$") && !negate}, value, nil
	})
}

func isWordByte(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z'
}

// cutDelimited returns what stands between text's first byte and its next
// occurrence; a backslash before the delimiter hides it.
func cutDelimited(text string) (body, rest string, ok bool) {
	delim := text[0]
	var b strings.Builder
	for i := 1; i < len(text); i++ {
		switch {
		case text[i] == '\\' && i+1 < len(text):
			if text[i+1] != delim {
				b.WriteByte('\\')
			} else if strings.IndexByte(`.*+?()|[]{}^$`, delim) >= 0 {
				b.WriteByte('\\')
			}
			i++
			b.WriteByte(text[i])
		case text[i] == delim:
			return b.String(), text[i+1:], true
		default:
			b.WriteByte(text[i])
		}
	}
	return "", "", false
}

// goFlags turns the letters after a pattern into Go's (?flags). Each letter
// toggles; case folding and "dot matches newline" begin switched on.
func goFlags(letters string) (string, error) {
	fold, multi, dotall, ungreedy := true, false, true, false
	for _, c := range letters {
		switch c {
		case 'i':
			fold = !fold
		case 'm':
			multi = !multi
		case 's':
			dotall = !dotall
		case 'U':
			ungreedy = !ungreedy
		case 'x', 'A', 'E', 'X', 'u': // no meaning in RE2, or always so
		default:
			return "", fmt.Errorf("unknown flag %q after the pattern", c)
		}
	}
	flags := ""
	for _, f := range []struct {
		on     bool
		letter string
	}{{fold, "i"}, {multi, "m"}, {dotall, "s"}, {ungreedy, "U"}} {
		if f.on {
			flags += f.letter
		}
	}
	if flags == "" {
		return "", nil
	}
	return "(?" + flags + ")", nil
}

func parseCIDR(lines []logicalLine, warn func(int, string)) finder {
	return parseRules(lines, warn, func(text string) (rule, string, error) {
		negate := false
		for strings.HasPrefix(text, "!") {
			negate, text = !negate, strings.TrimLeft(text[1:], " \t")
		}
		network, value := cutKey(text)
		prefix, err := parsePrefix(network)
		if err != nil {
			return rule{}, "", err
		}
		match := func(key string) ([]int, bool) {
			addr, err := netip.ParseAddr(key)
			return nil, err == nil && prefix.Contains(addr.Unmap().WithZone(""))
		}
		return rule{match: match, negate: negate}, value, nil
	})
}

// parsePrefix reads "192.0.2.0/24", "2001:db8::/32", "[2001:db8::]/32" or a
// single address. Bits beyond the prefix length are an error, as in Postfix.
func parsePrefix(s string) (netip.Prefix, error) {
	plain := strings.NewReplacer("[", "", "]", "").Replace(s)
	if !strings.Contains(plain, "/") {
		addr, err := netip.ParseAddr(plain)
		if err != nil {
			return netip.Prefix{}, fmt.Errorf("bad address %q", s)
		}
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	p, err := netip.ParsePrefix(plain)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("bad net/mask pattern %q", s)
	}
	if p.Masked() != p {
		return netip.Prefix{}, fmt.Errorf("non-null host address bits in %q, perhaps you should use %q instead", s, p.Masked())
	}
	return p, nil
}
