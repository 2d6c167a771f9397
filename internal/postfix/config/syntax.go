package config

import (
	"fmt"
	"strings"
)

// Severity of a Problem.
type Severity uint8

// Severities. An Error stops a start, a Warning does not.
const (
	Warning Severity = iota
	Error
)

// Problem is something wrong in a configuration file.
type Problem struct {
	File     string // as opened
	Line     int    // where the setting begins; 0 when the whole file is meant
	Severity Severity
	Text     string // in words, with what was expected
}

// String is "main.cf, line 9: text".
func (p Problem) String() string {
	if p.File == "" {
		return p.Text
	}
	if p.Line == 0 {
		return p.File + ": " + p.Text
	}
	return fmt.Sprintf("%s, line %d: %s", p.File, p.Line, p.Text)
}

// white is what separates words in both files.
const white = " \t\r\f\v\n"

// logicalLine is a line and its continuations, without their newlines.
type logicalLine struct {
	number int // of the first line
	text   string
}

// splitLogical joins lines that begin with white space to the one before.
// Comments and empty lines vanish, and do not end a logical line.
func splitLogical(file, data string) (lines []logicalLine, problems []Problem) {
	n := 0
	for line := range strings.Lines(data) {
		n++
		line = strings.TrimSuffix(line, "\n")
		rest := strings.TrimLeft(line, white)
		switch {
		case rest == "" || rest[0] == '#':
		case len(rest) == len(line):
			lines = append(lines, logicalLine{n, line})
		case len(lines) == 0:
			problems = append(problems, Problem{file, 0, Warning, fmt.Sprintf("logical line must not start with whitespace: %q", line)})
		default:
			lines[len(lines)-1].text += line
		}
	}
	return lines, problems
}

// splitNameValue cuts "name = value". The error is in Postfix's words.
func splitNameValue(text string) (name, value string, err error) {
	text = strings.Trim(text, white)
	end := strings.IndexAny(text, white+"=")
	if end < 0 {
		end = len(text)
	}
	name, rest := text[:end], strings.TrimLeft(text[end:], white)
	if name == "" {
		return "", "", fmt.Errorf("missing attribute name: \"%s\"", text)
	}
	if !strings.HasPrefix(rest, "=") {
		return "", "", fmt.Errorf("missing '=' after attribute name: \"%s\"", text)
	}
	return name, strings.Trim(rest[1:], white), nil
}

// setting is one "name = value" and where it stands.
type setting struct {
	name, value string
	file        string
	line        int
}

// parseMain reads main.cf. Of equal names the last counts, as in Postfix.
func parseMain(file, data string) (order []string, settings map[string]setting, problems []Problem) {
	lines, problems := splitLogical(file, data)
	settings = make(map[string]setting, len(lines))
	for _, l := range lines {
		name, value, err := splitNameValue(l.text)
		if err != nil {
			problems = append(problems, Problem{file, l.number, Error, err.Error()})
			continue
		}
		if old, dup := settings[name]; dup {
			problems = append(problems, Problem{file, l.number, Warning, fmt.Sprintf("overriding earlier entry: %s=%s", name, old.value)})
		} else {
			order = append(order, name)
		}
		settings[name] = setting{name, value, file, l.number}
	}
	return order, settings, problems
}

// splitWords cuts at white space (and at the bytes of more) outside braces.
// Braces stay. The second result is false when they do not match.
func splitWords(s, more string) ([]string, bool) {
	var words []string
	depth, start, ok := 0, -1, true
	for i := 0; i <= len(s); i++ {
		sep := i == len(s) || depth == 0 && strings.IndexByte(white+more, s[i]) >= 0
		switch {
		case sep && start >= 0:
			words = append(words, s[start:i])
			start = -1
		case !sep && start < 0:
			start = i
		}
		if i == len(s) {
			break
		}
		switch s[i] {
		case '{':
			depth++
		case '}':
			if depth > 0 {
				depth--
			} else {
				ok = false
			}
		}
	}
	return words, ok && depth == 0
}
