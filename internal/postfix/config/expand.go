package config

import (
	"fmt"
	"strconv"
	"strings"
)

// maxNesting bounds values that refer to values; maxReferences bounds how
// often, since each level can double the length.
const (
	maxNesting    = 100
	maxReferences = 10000
)

// expander replaces $name, ${name?text} and so on. Its errors are in the words
// that Postfix logs.
type expander struct {
	// value returns the unexpanded value of a parameter, "" when it is not
	// defined.
	value func(name string) string
	// scan visits both branches of every condition, for finding references.
	scan bool

	references int // evaluated so far
}

// expand returns text with all references replaced.
func (e *expander) expand(text string, depth int) (string, error) {
	if strings.IndexByte(text, '$') < 0 {
		return text, nil
	}
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] != '$' {
			b.WriteByte(text[i])
			continue
		}
		rest := text[i+1:]
		if strings.HasPrefix(rest, "$") {
			b.WriteByte('$')
			i++
			continue
		}
		ref, width, err := cutReference(text, i+1)
		if err != nil {
			return "", err
		}
		s, err := e.reference(ref, depth)
		if err != nil {
			return "", err
		}
		b.WriteString(s)
		i += width
	}
	return b.String(), nil
}

// cutReference returns what stands after the '$' before at, without braces,
// and how long it is with them.
func cutReference(text string, at int) (ref string, width int, err error) {
	rest := text[at:]
	if strings.HasPrefix(rest, "{") || strings.HasPrefix(rest, "(") {
		end := balanced(rest)
		if end < 0 {
			return "", 0, fmt.Errorf("truncated macro reference: %q", text)
		}
		ref, width = strings.Trim(rest[1:end], white), end+1
	} else {
		width = nameLength(rest)
		ref = rest[:width]
	}
	if ref == "" {
		return "", 0, fmt.Errorf("empty macro name: %q", text)
	}
	return ref, width, nil
}

// balanced returns the index of the brace or parenthesis that closes s[0],
// or -1.
func balanced(s string) int {
	opening, closing := s[0], byte('}')
	if opening == '(' {
		closing = ')'
	}
	depth := 0
	for i := range len(s) {
		switch s[i] {
		case opening:
			depth++
		case closing:
			if depth--; depth == 0 {
				return i
			}
		}
	}
	return -1
}

func nameLength(s string) int {
	i := 0
	for i < len(s) && (s[i] == '_' || s[i] >= '0' && s[i] <= '9' || s[i] >= 'A' && s[i] <= 'Z' || s[i] >= 'a' && s[i] <= 'z') {
		i++
	}
	return i
}

// reference evaluates "name", "name?text", "name:text" and the same after a
// comparison "{a} == {b}".
func (e *expander) reference(ref string, depth int) (string, error) {
	if e.references++; depth > maxNesting || e.references > maxReferences {
		return "", fmt.Errorf("unreasonable macro call nesting: %q", ref)
	}
	var value, rest string
	if strings.HasPrefix(ref, "{") {
		var err error
		if value, rest, err = e.comparison(ref, depth); err != nil {
			return "", err
		}
	} else {
		n := nameLength(ref)
		name := ref[:n]
		rest = strings.TrimLeft(ref[n:], white)
		if rest != "" && rest[0] != '?' && rest[0] != ':' {
			return "", syntaxError("attribute name syntax error", ref, rest)
		}
		if value = e.value(name); rest == "" {
			return e.nested(value, name, depth)
		}
		// A parameter is empty by its value as written: that also keeps
		// "${x:$x}" from looping.
		if e.scan {
			if _, err := e.nested(value, name, depth); err != nil {
				return "", err
			}
		}
	}
	return e.choose(value, ref, rest, depth)
}

func (e *expander) nested(value, name string, depth int) (string, error) {
	if depth >= maxNesting {
		return "", fmt.Errorf("unreasonable macro call nesting: %q", name)
	}
	if e.scan {
		return value, nil
	}
	return e.expand(value, depth+1)
}

// choose takes the branch of "?a", ":b" or "?{a}:{b}" that value calls for.
func (e *expander) choose(value, ref, rest string, depth int) (string, error) {
	if rest == "" {
		return value, nil
	}
	var yes, no string
	if rest[0] == '?' {
		var after string
		var err error
		if yes, after, err = cutBranch(ref, rest[1:]); err != nil {
			return "", err
		}
		if after != "" && after[0] != ':' {
			return "", syntaxError("\":\" expected", ref, after)
		}
		rest = after
	}
	if strings.HasPrefix(rest, ":") {
		var after string
		var err error
		if no, after, err = cutBranch(ref, rest[1:]); err != nil {
			return "", err
		}
		if after != "" {
			return "", syntaxError("unexpected input", ref, after)
		}
	}
	if e.scan {
		if _, err := e.expand(yes, depth+1); err != nil {
			return "", err
		}
		return e.expand(no, depth+1)
	}
	if value != "" {
		return e.expand(yes, depth+1)
	}
	return e.expand(no, depth+1)
}

// cutBranch reads "{text}" or everything that is left.
func cutBranch(ref, s string) (text, rest string, err error) {
	s = strings.TrimLeft(s, white)
	if !strings.HasPrefix(s, "{") {
		return s, "", nil
	}
	end := balanced(s)
	if end < 0 {
		return "", "", fmt.Errorf("truncated macro reference: %q", ref)
	}
	return strings.Trim(s[1:end], white), strings.TrimLeft(s[end+1:], white), nil
}

func syntaxError(what, ref, rest string) error {
	done := strings.TrimRight(ref[:len(ref)-len(rest)], white)
	if len(done) > 2 {
		done = done[len(done)-2:]
	}
	return fmt.Errorf("%s at: \"...%s>>>%s\"", what, done, rest)
}

// comparison evaluates "{a} op {b}" and gives "true" or "".
func (e *expander) comparison(ref string, depth int) (value, rest string, err error) {
	left, rest, err := cutBranch(ref, ref)
	if err != nil {
		return "", "", err
	}
	op := ""
	for _, o := range []string{"==", "!=", "<=", ">=", "<", ">"} {
		if strings.HasPrefix(rest, o) {
			op = o
			break
		}
	}
	if op == "" {
		return "", "", syntaxError(`"==" or "!="" or "<"" or "<="" or ">="" or ">" expected`, ref, rest)
	}
	at := strings.TrimPrefix(rest[len(op):], "level")
	isLevel := len(at) != len(rest[len(op):])
	at = strings.TrimLeft(at, white)
	if !strings.HasPrefix(at, "{") {
		return "", "", syntaxError(`"{" expected`, ref, at)
	}
	right, rest, err := cutBranch(ref, at)
	if err != nil {
		return "", "", err
	}
	if left, err = e.expand(left, depth+1); err != nil {
		return "", "", err
	}
	if right, err = e.expand(right, depth+1); err != nil {
		return "", "", err
	}
	c := compareOperands(left, right, isLevel)
	if (op == "==" && c == 0) || (op == "!=" && c != 0) || (op[0] == '<' && c < 0) || (op[0] == '>' && c > 0) ||
		((op == "<=" || op == ">=") && c == 0) {
		value = "true"
	}
	if rest != "" && rest[0] != '?' && rest[0] != ':' {
		return "", "", syntaxError(`"?" expected`, ref, rest)
	}
	return value, rest, nil
}

// compareOperands compares release levels such as 3.6, numbers when both are,
// and text otherwise.
func compareOperands(a, b string, level bool) int {
	if level {
		return compareLevels(a, b)
	}
	x, errX := strconv.ParseUint(a, 10, 63)
	y, errY := strconv.ParseUint(b, 10, 63)
	if errX == nil && errY == nil {
		switch {
		case x < y:
			return -1
		case x > y:
			return 1
		}
		return 0
	}
	return strings.Compare(a, b)
}

func compareLevels(a, b string) int {
	as, bs := strings.Split(a, "."), strings.Split(b, ".")
	for i := range max(len(as), len(bs)) {
		var x, y uint64
		if i < len(as) {
			x, _ = strconv.ParseUint(as[i], 10, 31)
		}
		if i < len(bs) {
			y, _ = strconv.ParseUint(bs[i], 10, 31)
		}
		if x != y {
			if x < y {
				return -1
			}
			return 1
		}
	}
	return 0
}
