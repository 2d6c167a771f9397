package differential

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

var errScript = errors.New("bad script")

// step is one line of a script, with its block.
type step struct {
	line  int
	verb  string
	args  []string
	text  string // the line as written
	block []string
}

// edit is an accepted difference.
type edit struct {
	line   int
	re     *regexp.Regexp
	with   string
	drop   bool
	reason string
}

// script is one case.
type script struct {
	name  string
	steps []step
	edits []edit
}

func loadScripts(glob string) ([]script, error) {
	paths, err := filepath.Glob(glob)
	if err != nil {
		return nil, err
	}
	var all []script
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			return nil, err
		}
		s, err := parseScript(strings.TrimSuffix(filepath.Base(p), ".txt"), string(b))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p, err)
		}
		all = append(all, s)
	}
	return all, nil
}

func parseScript(name, text string) (script, error) {
	s := script{name: name}
	lines := strings.Split(text, "\n")
	for i := 0; i < len(lines); i++ {
		line := strings.TrimSpace(lines[i])
		if line == "" || line[0] == '#' {
			continue
		}
		st := step{line: i + 1, text: line}
		if head, ok := strings.CutSuffix(line, " {"); ok {
			end := i + 1
			for end < len(lines) && lines[end] != "}" {
				end++
			}
			if end == len(lines) {
				return s, fmt.Errorf("line %d: %w: no } to this {", i+1, errScript)
			}
			st.text, st.block = head, lines[i+1:end]
			i = end
		}
		if err := s.add(st); err != nil {
			return s, fmt.Errorf("line %d: %w", st.line, err)
		}
	}
	if len(s.steps) == 0 {
		return s, fmt.Errorf("%w: empty", errScript)
	}
	return s, nil
}

func (s *script) add(st step) error {
	verb, rest, _ := strings.Cut(st.text, " ")
	st.verb = verb
	switch verb {
	case "replace", "ignore":
		e, err := parseEdit(verb, rest)
		e.line = st.line
		s.edits = append(s.edits, e)
		return err
	case "expect":
		st.args = []string{rest}
	default:
		var err error
		if st.args, err = words(rest); err != nil {
			return err
		}
	}
	if (st.block != nil) != (verb == "smtp" || verb == "restart") && verb != "run" {
		return fmt.Errorf("%w: %s and its block", errScript, verb)
	}
	s.steps = append(s.steps, st)
	return nil
}

// parseEdit reads "/REGEXP/TEXT/ REASON" or "/REGEXP/ REASON".
func parseEdit(verb, rest string) (e edit, err error) {
	want := 4
	if e.drop = verb == "ignore"; e.drop {
		want = 3
	}
	part := strings.SplitN(rest, "/", want)
	if len(part) != want || part[0] != "" || strings.TrimSpace(part[want-1]) == "" {
		return e, fmt.Errorf("%w: want %s /REGEXP/… REASON", errScript, verb)
	}
	if !e.drop {
		e.with = part[2]
	}
	e.reason = strings.TrimSpace(part[want-1])
	e.re, err = regexp.Compile(part[1])
	return e, err
}

// words splits as a shell does, knowing only quotes.
func words(s string) (out []string, err error) {
	var word strings.Builder
	var quote byte
	in := false
	for i := range len(s) {
		c := s[i]
		switch {
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
			word.WriteByte(c)
		case c == '\'' || c == '"':
			quote, in = c, true
		case c == ' ' || c == '\t':
			if in {
				out = append(out, word.String())
				word.Reset()
			}
			in = false
		default:
			in = true
			word.WriteByte(c)
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("%w: quote is not closed", errScript)
	}
	if in {
		out = append(out, word.String())
	}
	return out, nil
}
