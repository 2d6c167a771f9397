package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// EditKind is what an edit does to an entry.
type EditKind uint8

// The kinds of edits.
const (
	Set        EditKind = iota // postconf -e
	Remove                     // postconf -X
	CommentOut                 // postconf -#
	Keep                       // nothing: the entry stays byte for byte
	Rewrite                    // Set, with comments inside the entry moved before it
)

// Change is one edit of main.cf.
type Change struct {
	Kind  EditKind
	Name  string
	Value string // of Set
}

// ParseChange reads "name=value" of a command line.
func ParseChange(arg string) (Change, error) {
	if strings.ContainsAny(arg, "\r\n") {
		return Change{}, ErrMultiLine
	}
	name, value, err := splitNameValue(arg)
	if err != nil {
		return Change{}, err
	}
	return Change{Set, name, value}, nil
}

// ErrMultiLine is returned for an edit that would not stay on one line.
var ErrMultiLine = errors.New("-e, -X, or -# accepts no multi-line input")

// EditMain applies changes to main.cf in dir. The warnings are entries that
// main.cf has more than once.
func EditMain(dir string, changes []Change) (warnings []string, err error) {
	path := filepath.Join(dir, "main.cf")
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	text, again := editMain(string(data), changes)
	for _, name := range again {
		warnings = append(warnings, fmt.Sprintf("%s: multiple entries for %q", path, name))
	}
	return warnings, replaceFile(path, []byte(text))
}

func editMain(text string, changes []Change) (result string, again []string) {
	wanted := make(map[string]Change, len(changes))
	var order []string
	for _, c := range changes {
		if _, dup := wanted[c.Name]; !dup {
			order = append(order, c.Name)
		}
		wanted[c.Name] = c
	}
	seen := map[string]int{}
	var b strings.Builder
	eachEntry(text, func(lines []string, isEntry bool) {
		name := ""
		if isEntry {
			name = lines[0][:nameEnd(lines[0])]
		}
		change, ok := wanted[name]
		if !isEntry || !ok {
			writeLines(&b, lines, "")
			return
		}
		if seen[name]++; seen[name] == 2 {
			again = append(again, name)
		}
		switch change.Kind {
		case Set:
			fmt.Fprintf(&b, "%s = %s\n", change.Name, change.Value)
			writeComments(&b, lines[1:])
		case Remove:
			writeComments(&b, lines[1:])
		case CommentOut:
			writeCommentedOut(&b, lines)
		}
	})
	for _, name := range order {
		if c := wanted[name]; c.Kind == Set && seen[name] == 0 {
			fmt.Fprintf(&b, "%s = %s\n", c.Name, c.Value)
		}
	}
	return b.String(), again
}

func nameEnd(line string) int {
	if i := strings.IndexAny(line, white+"="); i >= 0 {
		return i
	}
	return len(line)
}

func isComment(line string) bool {
	rest := strings.TrimLeft(line, white)
	return rest == "" || rest[0] == '#'
}

// eachEntry calls visit for each logical line with all its physical lines,
// comments in between included, and for everything else line by line. Lines
// come without their newline.
func eachEntry(text string, visit func(lines []string, isEntry bool)) {
	var entry, trailing []string
	flush := func() {
		if entry != nil {
			visit(entry, true)
		}
		for _, l := range trailing {
			visit([]string{l}, false)
		}
		entry, trailing = nil, nil
	}
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case isComment(line):
			trailing = append(trailing, line)
		case strings.IndexByte(white, line[0]) < 0:
			flush()
			entry = []string{line}
		case entry == nil:
			flush()
			visit([]string{line}, false)
		default:
			// Comments before a continuation are inside the entry.
			entry = append(append(entry, trailing...), line)
			trailing = nil
		}
	}
	flush()
}

func writeLines(b *strings.Builder, lines []string, prefix string) {
	for _, l := range lines {
		b.WriteString(prefix + l + "\n")
	}
}

// writeComments keeps the comments of an entry whose lines go.
func writeComments(b *strings.Builder, lines []string) {
	for _, l := range lines {
		if isComment(l) {
			b.WriteString(l + "\n")
		}
	}
}

func writeCommentedOut(b *strings.Builder, lines []string) {
	for _, l := range lines {
		if !isComment(l) {
			b.WriteByte('#')
		}
		b.WriteString(l + "\n")
	}
}

// EditMaster gives every entry of master.cf in dir to edit, which may change
// it and says what becomes of it. What add returns is added at the end.
func EditMaster(dir string, edit func(*Service) EditKind, add func() []Service) error {
	path := filepath.Join(dir, "master.cf")
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	text, err := editMaster(string(data), edit, add)
	if err != nil {
		return err
	}
	return replaceFile(path, []byte(text))
}

func editMaster(text string, edit func(*Service) EditKind, add func() []Service) (string, error) {
	var b strings.Builder
	var failed error
	eachEntry(text, func(lines []string, isEntry bool) {
		if !isEntry || failed != nil {
			writeLines(&b, lines, "")
			return
		}
		var entry strings.Builder
		for _, l := range lines {
			if !isComment(l) {
				entry.WriteString(l)
			}
		}
		old, problems := parseService(entry.String())
		if old == nil {
			failed = errors.New(problems[len(problems)-1].Text)
			return
		}
		switch edit(old) {
		case Set:
			b.WriteString(FormatService(old, true, nil) + "\n")
			writeComments(&b, lines[1:])
		case Rewrite:
			writeComments(&b, lines[1:])
			b.WriteString(FormatService(old, true, nil) + "\n")
		case Remove:
			writeComments(&b, lines[1:])
		case CommentOut:
			writeCommentedOut(&b, lines)
		default:
			writeLines(&b, lines, "")
		}
	})
	if failed != nil {
		return "", failed
	}
	for _, s := range add() {
		b.WriteString(FormatService(&s, true, nil) + "\n")
	}
	return b.String(), nil
}

// ParseService reads one entry of master.cf, as on a command line.
func ParseService(text string) (Service, error) {
	s, problems := parseService(text)
	if s == nil {
		return Service{}, errors.New(problems[len(problems)-1].Text)
	}
	return *s, nil
}

// SetField changes a column of an entry, given its name as in FieldNames.
func (s *Service) SetField(field, value string) error {
	words := append(append([]string(nil), s.Fields[:]...), s.Command)
	words[len(words)-1] = FormatCommand("", s, false, nil)
	for i, name := range fieldNames() {
		if name != field {
			continue
		}
		if name == "command" {
			words = append(words[:i], value)
		} else {
			words[i] = value
		}
		changed, _ := parseService(strings.Join(words, " "))
		if changed == nil {
			return fmt.Errorf("invalid %s field %q in %q", field, value, value)
		}
		*s = *changed
		return nil
	}
	return fmt.Errorf("invalid service attribute name: %q", field)
}

// SetOverride sets "-o name=value", or adds it after the other options.
func (s *Service) SetOverride(name, value string) {
	args := append([]string(nil), s.Args...)
	end := 0
	for end < len(args) && len(args[end]) > 1 && args[end][0] == '-' {
		if args[end] == "-o" && end+1 < len(args) {
			end++
			if n, _, _ := strings.Cut(args[end], "="); n == name {
				args[end] = name + "=" + value
				s.Args = args
				s.normalize()
				return
			}
		}
		end++
	}
	s.Args = append(append(append([]string(nil), args[:end]...), "-o", name+"="+value), args[end:]...)
	s.normalize()
}

// RemoveOverride drops "-o name=…".
func (s *Service) RemoveOverride(name string) {
	var args []string
	for i := 0; i < len(s.Args); i++ {
		if s.Args[i] == "-o" && i+1 < len(s.Args) {
			if n, _, _ := strings.Cut(s.Args[i+1], "="); n == name {
				i++
				continue
			}
		}
		args = append(args, s.Args[i])
	}
	s.Args = args
	s.normalize()
}

// replaceFile writes a new file beside the old one and renames it into place,
// so that a reader sees the one or the other. Mode and owner are kept.
func replaceFile(path string, data []byte) (err error) {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target // a symbolic link stays one
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".tmp*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(info.Mode().Perm()))
	if st, ok := info.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 {
		err = errors.Join(err, f.Chown(int(st.Uid), int(st.Gid)))
	}
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
