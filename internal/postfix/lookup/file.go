package lookup

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// finder is the content of a file, ready to be searched.
type finder interface {
	find(key string) (value string, found bool)
}

// parser makes a finder of a file's logical lines. warn takes a line number
// and what is wrong there.
type parser func(lines []logicalLine, warn func(line int, text string)) finder

// fileTable answers from a file and follows its changes. The content is
// swapped atomically; one lookup a second pays for a stat(2).
type fileTable struct {
	spec    string
	path    string
	parse   parser
	opt     Options
	pattern bool

	state atomic.Pointer[fileState]
	mu    sync.Mutex // held while the file is being read
}

// fileState is one reading of the file, or the error that it ended with.
type fileState struct {
	checked time.Time
	info    os.FileInfo
	finder  finder
	err     error
}

// recheck is how long an answer about a file's state is good for.
const recheck = time.Second

func (t *fileTable) String() string { return t.spec }

func (t *fileTable) Lookup(_ context.Context, key string) (string, bool, error) {
	st := t.current()
	if st.err != nil {
		return "", false, st.err
	}
	v, ok := st.finder.find(key)
	return v, ok, nil
}

// current returns the newest state. While one caller reads a changed file, the
// others go on with the state before, unless there is none.
func (t *fileTable) current() *fileState {
	st := t.state.Load()
	now := t.opt.Now()
	if st != nil && fresh(st, now) {
		return st
	}
	if st == nil {
		t.mu.Lock()
	} else if !t.mu.TryLock() {
		return st
	}
	defer t.mu.Unlock()
	if st = t.state.Load(); st != nil && fresh(st, now) {
		return st
	}
	st = t.refresh(st, now)
	t.state.Store(st)
	return st
}

// fresh also holds when the clock was set back by less than the interval.
func fresh(st *fileState, now time.Time) bool {
	d := now.Sub(st.checked)
	return d > -recheck && d < recheck
}

func (t *fileTable) refresh(old *fileState, now time.Time) *fileState {
	info, err := os.Stat(t.path)
	if err != nil {
		return &fileState{checked: now, err: t.failed(err)}
	}
	if old != nil && old.err == nil && unchanged(old.info, info) {
		return &fileState{checked: now, info: old.info, finder: old.finder}
	}
	data, err := os.ReadFile(t.path)
	if err != nil {
		return &fileState{checked: now, err: t.failed(err)}
	}
	lines, bad := splitLogical(string(data))
	warn := func(line int, text string) {
		t.opt.Warn(fmt.Sprintf("%s, line %d: %s", t.path, line, text))
	}
	for _, n := range bad {
		warn(n, "logical line must not start with whitespace")
	}
	// The information from before the reading counts: when the file changed
	// in between, the next check sees a difference and reads again.
	return &fileState{checked: now, info: info, finder: t.parse(lines, warn)}
}

func (t *fileTable) failed(err error) error {
	return fmt.Errorf("%w: %s: %w", ErrUnavailable, t.spec, err)
}

func unchanged(a, b os.FileInfo) bool {
	return a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size() && os.SameFile(a, b)
}

// logicalLine is a line with the lines that continue it.
type logicalLine struct {
	number int // of its first line
	text   string
}

// splitLogical joins continuation lines (those that begin with white space)
// and drops comments and empty lines, which do not end a logical line. The
// second result has the numbers of continuations of nothing.
func splitLogical(data string) (lines []logicalLine, bad []int) {
	for n := 1; data != ""; n++ {
		var line string
		line, data, _ = strings.Cut(data, "\n")
		line = strings.TrimRight(line, " \t\r\f\v")
		rest := strings.TrimLeft(line, " \t")
		switch {
		case rest == "" || rest[0] == '#':
		case len(rest) == len(line):
			lines = append(lines, logicalLine{n, line})
		case len(lines) == 0:
			bad = append(bad, n)
		default:
			lines[len(lines)-1].text += line
		}
	}
	return lines, bad
}

// pairs is a map with folded keys.
type pairs map[string]string

// add keeps the first of equal keys, as Postfix does.
func (p pairs) add(key, value string) bool {
	key = strings.ToLower(key)
	if _, dup := p[key]; dup {
		return false
	}
	p[key] = value
	return true
}

func (p pairs) find(key string) (string, bool) {
	v, ok := p[strings.ToLower(key)]
	return v, ok
}

// parsePairs reads "key value"; a key with spaces is written in double quotes.
func parsePairs(lines []logicalLine, warn func(int, string)) finder {
	p := make(pairs, len(lines))
	for _, l := range lines {
		key, value := cutKey(l.text)
		if key == "" || value == "" {
			warn(l.number, "expected format: key whitespace value")
			continue
		}
		if strings.HasSuffix(key, ":") && len(key) > 1 {
			warn(l.number, fmt.Sprintf("record is in \"key: value\" format; is this an alias file? (key %q)", key))
		}
		if !p.add(key, value) {
			warn(l.number, fmt.Sprintf("duplicate entry: %q", key))
		}
	}
	return p
}

func cutKey(text string) (key, value string) {
	if strings.HasPrefix(text, `"`) {
		var b strings.Builder
		for i := 1; i < len(text); i++ {
			switch {
			case text[i] == '\\' && i+1 < len(text):
				i++
				b.WriteByte(text[i])
			case text[i] == '"':
				return b.String(), strings.TrimSpace(text[i+1:])
			default:
				b.WriteByte(text[i])
			}
		}
		return "", ""
	}
	i := strings.IndexAny(text, " \t\r\f\v")
	if i < 0 {
		return text, ""
	}
	return text[:i], strings.TrimSpace(text[i:])
}

// parseAliases reads "name: value".
func parseAliases(lines []logicalLine, warn func(int, string)) finder {
	p := make(pairs, len(lines))
	for _, l := range lines {
		text, quoted := l.text, ""
		if strings.HasPrefix(text, `"`) {
			if end := strings.IndexByte(text[1:], '"'); end >= 0 {
				quoted, text = text[1:end+1], text[end+2:]
			}
		}
		key, value, ok := strings.Cut(text, ":")
		key = quoted + strings.TrimSpace(key)
		if !ok || key == "" {
			warn(l.number, "expected format: name: value")
			continue
		}
		if !p.add(key, strings.TrimSpace(value)) {
			warn(l.number, fmt.Sprintf("duplicate entry: %q", key))
		}
	}
	return p
}

// parseAccounts reads passwd(5) and group(5): the name is the key, the line
// the value. Names keep their case on the system, but callers fold addresses.
func parseAccounts(lines []logicalLine, _ func(int, string)) finder {
	p := make(pairs, len(lines))
	for _, l := range lines {
		if name, _, ok := strings.Cut(l.text, ":"); ok && name != "" {
			p.add(name, l.text)
		}
	}
	return p
}
