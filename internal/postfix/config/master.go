package config

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Override is one "-o name=value" of a service.
type Override struct {
	Name  string
	Value string // unexpanded
}

// Service is one entry of master.cf.
type Service struct {
	Name         string        // "smtp", "127.0.0.1:2525", ...
	Type         string        // inet, unix, unix-dgram, fifo or pass
	Private      bool          // of unix sockets: in the private directory
	Unprivileged bool          // runs as mail_owner
	Chroot       bool          // accepted, of no effect here
	Wakeup       time.Duration // 0: never
	WakeupIfUsed bool          // the wakeup had a '?'
	MaxProc      int           // 0: no limit; -1: default_process_limit
	Command      string        // the program's name: smtpd, smtp, ...
	Args         []string      // the command's arguments, -o settings included
	Overrides    []Override    // the -o settings, in order; the last of equal names counts
	Fields       [7]string     // the first seven fields as written
	File         string
	Line         int
}

// serviceOptionsWithValue are the options of daemons that take an argument.
const serviceOptionsWithValue = "oimnstu"

// parseMaster reads master.cf.
func parseMaster(file, data string) (services []Service, problems []Problem) {
	lines, problems := splitLogical(file, data)
	for _, l := range lines {
		s, found := parseService(l.text)
		for _, p := range found {
			p.File, p.Line = file, l.number
			problems = append(problems, p)
		}
		if s != nil {
			s.File, s.Line = file, l.number
			services = append(services, *s)
		}
	}
	return services, problems
}

// parseService reads one entry. It returns nil when there is an error.
func parseService(text string) (*Service, []Problem) {
	var problems []Problem
	fail := func(format string, args ...any) (*Service, []Problem) {
		return nil, append(problems, Problem{Severity: Error, Text: fmt.Sprintf(format, args...)})
	}
	words, ok := splitWords(text, "")
	if len(words) < 8 {
		return fail("bad field count")
	}
	if !ok {
		problems = append(problems, Problem{Severity: Warning, Text: fmt.Sprintf("missing '}' in %q", words[len(words)-1])})
	}
	s := &Service{Name: words[0], Type: words[1], Command: words[7]}
	copy(s.Fields[:], words)
	switch s.Type {
	case "inet", "unix", "unix-dgram", "fifo", "pass":
	default:
		return fail("invalid type field %q in %q", s.Type, text)
	}
	for i := 2; i <= 4; i++ {
		if w := words[i]; w != "y" && w != "n" && w != "-" {
			return fail("invalid %s field %q in %q", fieldNames()[i], w, text)
		}
	}
	// A "-" means yes for the first two and no for chroot.
	s.Private, s.Unprivileged, s.Chroot = words[2] != "n", words[3] != "n", words[4] == "y"
	if err := s.parseNumbers(); err != "" {
		return fail("%s in %q", err, text)
	}
	for i, w := range words[8:] {
		if strings.HasPrefix(w, "argv=") {
			// The rest is another program's command line, braces and all.
			s.Args = append(s.Args, words[8+i:]...)
			break
		}
		arg, err := unbraceArgument(w)
		if err != "" {
			problems = append(problems, Problem{Severity: Warning, Text: err})
		}
		s.Args = append(s.Args, arg)
	}
	s.normalize()
	return s, problems
}

// fieldNames are the names of master.cf's columns, as postconf -F shows them.
func fieldNames() [8]string {
	return [8]string{"service", "type", "private", "unprivileged", "chroot", "wakeup", "process_limit", "command"}
}

// FieldNames lists the columns of master.cf.
func FieldNames() []string {
	n := fieldNames()
	return n[:]
}

func (s *Service) parseNumbers() (problem string) {
	wakeup, limit := s.Fields[5], s.Fields[6]
	if wakeup != "-" {
		digits, cond := strings.CutSuffix(wakeup, "?")
		n, err := strconv.ParseUint(digits, 10, 31)
		if err != nil {
			return fmt.Sprintf("invalid wakeup field %q", wakeup)
		}
		s.Wakeup, s.WakeupIfUsed = time.Duration(n)*time.Second, cond
	}
	s.MaxProc = -1
	if limit != "-" {
		n, err := strconv.ParseUint(limit, 10, 31)
		if err != nil {
			return fmt.Sprintf("invalid process_limit field %q", limit)
		}
		s.MaxProc = int(n)
	}
	return ""
}

// unbraceArgument takes the braces off "{ text }".
func unbraceArgument(w string) (arg, problem string) {
	if !strings.HasPrefix(w, "{") {
		return w, ""
	}
	end := balanced(w)
	switch {
	case end < 0:
		return strings.Trim(w[1:], white), fmt.Sprintf("missing '}' in %q", w)
	case end != len(w)-1:
		return strings.Trim(w[1:end], white), fmt.Sprintf("syntax error after '}' in %q", w)
	}
	return strings.Trim(w[1:end], white), ""
}

// normalize writes "-o name = value" without the spaces around "=", and fills
// Overrides.
func (s *Service) normalize() {
	s.Overrides = nil
	for i := 0; i < len(s.Args); i++ {
		arg := s.Args[i]
		if len(arg) < 2 || arg[0] != '-' || arg == "--" {
			return
		}
		if strings.IndexByte(serviceOptionsWithValue, arg[1]) < 0 {
			continue
		}
		if text, glued := strings.CutPrefix(arg, "-o"); glued && text != "" {
			if name, value, err := splitNameValue(text); err == nil {
				s.Overrides = append(s.Overrides, Override{name, value})
			}
			continue
		}
		if len(arg) > 2 || i+1 == len(s.Args) {
			continue
		}
		i++
		if arg != "-o" {
			continue
		}
		if name, value, err := splitNameValue(s.Args[i]); err == nil {
			s.Args[i] = name + "=" + value
			s.Overrides = append(s.Overrides, Override{name, value})
		}
	}
}

// Override returns the value that the service sets for a parameter.
func (s *Service) Override(name string) (value string, ok bool) {
	for _, o := range s.Overrides {
		if o.Name == name {
			value, ok = o.Value, true
		}
	}
	return value, ok
}

// defaultServices is what runs when there is no master.cf: a server on the
// standard port, and the transports that main.cf's defaults speak of.
func defaultServices() []Service {
	const builtin = `smtp inet n - n - - smtpd
smtp unix - - n - - smtp
relay unix - - n - - smtp
lmtp unix - - n - - lmtp
local unix - n n - - local
virtual unix - n n - - virtual
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
`
	services, _ := parseMaster("built-in master.cf", builtin)
	return services
}

// FormatService writes an entry in columns, as postconf -M does: on one line,
// or with fold on several. expand, if not nil, replaces $name in -o values.
func FormatService(s *Service, fold bool, expand func(value string) string) string {
	f := serviceFormatter{fold: fold}
	for i, col := range []int{0, 11, 17, 25, 33, 41, 49, 57} {
		if i > 0 {
			f.pad(col)
		}
		if i < 7 {
			f.text(s.Fields[i])
		} else {
			f.text(s.Command)
		}
	}
	f.args(s.Args, expand)
	return f.b.String()
}

// Postfix folds so that no line is longer than this where that is possible.
const (
	foldLimit  = 80
	foldIndent = 4
)

type serviceFormatter struct {
	b    strings.Builder
	len  int // of the line so far
	fold bool
}

func (f *serviceFormatter) text(s string) {
	f.b.WriteString(s)
	f.len += len(s)
}

// pad moves to a column, or by one space when that has been passed.
func (f *serviceFormatter) pad(col int) {
	f.text(" ")
	for f.len < col {
		f.text(" ")
	}
}

// FormatCommand writes a command and its arguments after prefix, as postconf
// -F shows the command field.
func FormatCommand(prefix string, s *Service, fold bool, expand func(string) string) string {
	f := serviceFormatter{fold: fold}
	f.text(prefix + s.Command)
	f.args(s.Args, expand)
	return f.b.String()
}

func (f *serviceFormatter) args(args []string, expand func(string) string) {
	inOptions, verbatim := true, false
	for i := 0; i < len(args); i++ {
		item := args[i]
		if verbatim = verbatim || strings.HasPrefix(item, "argv="); !verbatim {
			item = braceArgument(item)
		}
		wrap := false
		switch {
		case !inOptions:
		case args[i] == "" || args[i][0] != '-' || args[i] == "--":
			inOptions = false
		case len(args[i]) == 2 && strings.IndexByte(serviceOptionsWithValue, args[i][1]) >= 0 && i+1 < len(args):
			// Postfix gives every option with a value a line of its own.
			i++
			value := args[i]
			if name, v, ok := strings.Cut(value, "="); ok && expand != nil && args[i-1] == "-o" {
				value = name + "=" + expand(v)
			}
			item += " " + braceArgument(value)
			wrap = true
		}
		f.item(item, wrap)
	}
}

func (f *serviceFormatter) item(item string, wrap bool) {
	width := len(item)
	if strings.HasPrefix(item, "{") {
		width -= 2 // what Postfix checks does not include the braces
	}
	if f.fold && (wrap || f.len+1+width >= foldLimit) && f.len > foldIndent {
		f.b.WriteString("\n" + strings.Repeat(" ", foldIndent))
		f.len = foldIndent
	} else {
		f.text(" ")
	}
	f.b.WriteString(item)
	f.len += len(item)
	if wrap && f.fold {
		f.len = foldLimit
	}
}

// braceArgument puts braces around an argument that would not survive without.
func braceArgument(arg string) string {
	if arg == "" || strings.ContainsAny(arg, white) || strings.HasPrefix(arg, "{") {
		return "{" + arg + "}"
	}
	return arg
}
