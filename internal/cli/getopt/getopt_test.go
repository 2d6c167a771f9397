package getopt

import (
	"strings"
	"testing"
)

func TestScanner(t *testing.T) {
	for _, c := range []struct {
		spec, line string
		want       string // options as seen
		rest       string
	}{
		{"bhq", "-qbh ID", "q b h", "ID"},
		{"c:p", "-cDIR -p", "c=DIR p", ""},
		{"c:p", "-c DIR -p x", "c=DIR p", "x"},
		{"d:h:", "-d 1 -d 2 -h -", "d=1 d=2 h=-", ""},
		{"p", "- -p", "", "- -p"},
		{"p", "-p -- -p", "p", "-p"},
		{"p", "x -p", "", "x -p"},
		{"p", "-x", "?(invalid option -- 'x')", ""},
		{"d:", "-d", "?(option requires an argument -- 'd')", ""},
		{"d:", "-:", "?(invalid option -- ':')", ""},
	} {
		var seen []string
		o := New(c.spec, strings.Fields(c.line))
		for o.Next() {
			s := string(rune(o.Opt))
			if o.Arg != "" {
				s += "=" + o.Arg
			}
			if o.Complaint != "" {
				s += "(" + o.Complaint + ")"
			}
			seen = append(seen, s)
		}
		if got := strings.Join(seen, " "); got != c.want || strings.Join(o.Operands(), " ") != c.rest {
			t.Errorf("%q: %q, rest %q", c.line, got, o.Operands())
		}
	}
}

func TestWord(t *testing.T) {
	s := New("qa:", strings.Fields("-q -qq -a -q x"))
	seen := ""
	for {
		if s.Word() == "-q" {
			seen += "whole "
			s.Skip()
			continue
		}
		if !s.Next() {
			break
		}
		seen += string(rune(s.Opt)) + s.Arg + " "
	}
	if seen != "whole q q a-q " || s.Word() != "x" {
		t.Errorf("%q, then %q", seen, s.Word())
	}
}
