// Package getopt scans command lines as getopt(3) does for Postfix's commands:
// short options may be clustered (-qbh), an argument may follow its option at
// once or as the next word, an option may repeat, "--" ends the options and so
// does the first word that is not one ("-" is such a word).
//
// A mistake does not end the scan: it is an option '?' with the complaint that
// getopt(3) prints, and the caller decides.
package getopt

import "strings"

// Scanner goes through the words of a command line.
type Scanner struct {
	spec string   // letters, each followed by ':' when it takes an argument
	args []string // what is left to scan, operands in the end
	rest string   // letters of the current cluster not yet seen

	// Opt is the option that Next found, '?' for a mistake.
	Opt byte
	// Arg is its argument.
	Arg string
	// Complaint is what is wrong with it, "" when nothing is.
	Complaint string
}

// New returns a scanner for words, without the program's name. spec has the
// letters of the options, each followed by ':' when it takes an argument.
func New(spec string, words []string) *Scanner {
	return &Scanner{spec: spec, args: words}
}

// Next moves to the next option and tells whether there is one.
func (s *Scanner) Next() bool {
	s.Arg, s.Complaint = "", ""
	if s.rest == "" {
		if len(s.args) == 0 || len(s.args[0]) < 2 || s.args[0][0] != '-' {
			return false
		}
		word := s.args[0]
		s.args = s.args[1:]
		if word == "--" {
			return false
		}
		s.rest = word[1:]
	}
	s.Opt = s.rest[0]
	s.rest = s.rest[1:]
	i := strings.IndexByte(s.spec, s.Opt)
	switch {
	case i < 0 || s.Opt == ':':
		s.mistake("invalid option")
	case i+1 < len(s.spec) && s.spec[i+1] == ':':
		s.takeArgument()
	}
	return true
}

func (s *Scanner) takeArgument() {
	switch {
	case s.rest != "":
		s.Arg, s.rest = s.rest, ""
	case len(s.args) > 0:
		s.Arg, s.args = s.args[0], s.args[1:]
	default:
		s.mistake("option requires an argument")
	}
}

func (s *Scanner) mistake(what string) {
	s.Complaint = what + " -- '" + string(rune(s.Opt)) + "'"
	s.Opt = '?'
}

// Word is the whole word that Next would look at, "" inside a cluster and at
// the end: for options that getopt(3) cannot express.
func (s *Scanner) Word() string {
	if s.rest != "" || len(s.args) == 0 {
		return ""
	}
	return s.args[0]
}

// Skip passes over Word.
func (s *Scanner) Skip() { s.args = s.args[1:] }

// Operands are the words after the options.
func (s *Scanner) Operands() []string { return s.args }
