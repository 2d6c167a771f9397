package dialogue

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
)

// ErrSyntax is wrapped by what Parse returns.
var ErrSyntax = errors.New("bad dialogue")

// Side is one end of the conversation.
type Side byte

// The sides.
const (
	Client Side = 'C'
	Server Side = 'S'
)

// Script is a parsed conversation.
type Script struct {
	name  string
	steps []step
}

type kind uint8

const (
	sayLine kind = iota
	sayRaw
	anyLines
	closes
	starttls
)

// step is one line of a script.
type step struct {
	line int // in the file
	side Side
	kind kind
	text string // as written; unescaped for sayRaw
}

// Parse reads a script; name is for messages.
func Parse(name, text string) (*Script, error) {
	s := &Script{name: name}
	for i, line := range strings.Split(text, "\n") {
		trimmed := strings.TrimSpace(line)
		if trimmed == "" || trimmed[0] == '#' {
			continue
		}
		st, err := parseLine(strings.TrimLeft(line, " \t"))
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", name, i+1, err)
		}
		st.line = i + 1
		s.steps = append(s.steps, st)
	}
	if len(s.steps) == 0 {
		return nil, fmt.Errorf("%s: %w: empty", name, ErrSyntax)
	}
	return s, nil
}

func parseLine(line string) (step, error) {
	line = strings.TrimSuffix(line, "\r")
	if len(line) < 2 || (line[0] != 'C' && line[0] != 'S') {
		return step{}, fmt.Errorf("%w: want C: or S: at the start of %q", ErrSyntax, line)
	}
	st := step{side: Side(line[0]), text: strings.TrimPrefix(line[2:], " ")}
	switch line[1] {
	case ':':
		if st.text == "..." {
			st.kind = anyLines
		}
		if _, err := pattern(st.text, nil); err != nil {
			return st, err
		}
	case '>':
		st.kind = sayRaw
		raw, err := strconv.Unquote(`"` + strings.ReplaceAll(st.text, `"`, `\"`) + `"`)
		if err != nil {
			return st, fmt.Errorf("%w: escape in %q", ErrSyntax, st.text)
		}
		st.text = raw
	case '#':
		switch strings.TrimSpace(st.text) {
		case "closes":
			st.kind = closes
		case "starttls":
			st.kind = starttls
		default:
			return st, fmt.Errorf("%w: %q (want closes or starttls)", ErrSyntax, st.text)
		}
	default:
		return st, fmt.Errorf("%w: want : > or # after %c", ErrSyntax, line[0])
	}
	return st, nil
}

// expand replaces $name by what was remembered; other dollars stay.
func expand(text string, vars map[string]string) string {
	if !strings.Contains(text, "$") {
		return text
	}
	return os.Expand(text, func(name string) string {
		if v, ok := vars[name]; ok {
			return v
		}
		return "$" + name
	})
}

// pattern turns an expected line into a regular expression for the whole line.
func pattern(text string, vars map[string]string) (*regexp.Regexp, error) {
	text = expand(text, vars)
	var re strings.Builder
	re.WriteString("^")
	for text != "" {
		open := strings.IndexByte(text, '{')
		end := -1
		if open >= 0 {
			end = closing(text[open:])
		}
		if end < 0 {
			re.WriteString(literal(text))
			break
		}
		re.WriteString(literal(text[:open]))
		inner := text[open+1 : open+end]
		if name, expr, ok := strings.Cut(inner, "="); ok && isName(name) {
			fmt.Fprintf(&re, "(?P<%s>%s)", name, expr)
		} else {
			fmt.Fprintf(&re, "(?:%s)", inner)
		}
		text = text[open+end+1:]
	}
	re.WriteString("$")
	r, err := regexp.Compile(re.String())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSyntax, err)
	}
	return r, nil
}

// closing finds the brace that closes the one s begins with; regular
// expressions have braces of their own.
func closing(s string) int {
	depth := 0
	for i := range len(s) {
		switch s[i] {
		case '{':
			depth++
		case '}':
			if depth--; depth == 0 {
				return i
			}
		}
	}
	return -1
}

func isName(s string) bool {
	for _, c := range s {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_') {
			return false
		}
	}
	return s != ""
}

func literal(s string) string {
	if rest, ok := strings.CutSuffix(s, "..."); ok {
		return regexp.QuoteMeta(rest) + ".*"
	}
	return regexp.QuoteMeta(s)
}
