package config

import (
	"fmt"
	"strings"
	"testing"
)

func TestExpand(t *testing.T) {
	values := map[string]string{"a": "1", "b": "$a$a", "empty": "", "loop": "$loop", "x": "$y", "y": "$x", "lvl": "3.10"}
	e := expander{value: func(n string) string { return values[n] }}
	for in, want := range map[string]string{
		"plain": "plain", "$a": "1", "${b}": "11", "$(b)c": "11c", "$$a": "$a", "$a.b": "1.b", "${ a }": "1",
		"${a?yes}": "yes", "${empty?yes}": "", "${empty:no}": "no", "${a:no}": "", "${none?{y}:{n o}}": "n o",
		"${a?{y es}:{n}}": "y es", "${a ?{x}:{y}}": "x", "${a? {x} : {y} }": "x", "${a?  ab  }": "ab", "${none?{a}:b}": "b", "${a?}": "", "${?a}": "", "${:a}": "a",
		"${none:a}b}": "ab}", "${{2} < {10}?{x}:{y}}": "x", "${{2} >= {10}?{x}}": "", "${{b} != {c}?{x}}": "x", "${{a} ==  {a}}|": "true|",
		"${{} == {}?{t}:{f}}": "t", "${{a}<={b}?{t}:{f}}": "t", "${{$lvl} <level {3.9} ? {t}:{f}}": "f", "${{$lvl} >=level {3.6.1}?{t}}": "t",
		"${{2a} > {10}?{x}:{y}}": "x", "${none?{a}:{${a?{$b}}}}": "11", "${{$a} == {1} ? {} : {z}}": "",
	} {
		if got, err := e.expand(in, 0); got != want || err != nil {
			t.Errorf("%q: %q, %v; want %q", in, got, err, want)
		}
	}
	values["l0"] = "x"
	for i := range 40 {
		values[fmt.Sprint("l", i+1)] = fmt.Sprintf("$l%d$l%d", i, i)
	}
	for in, want := range map[string]string{
		"$l40":  "unreasonable macro call nesting",
		"$loop": `unreasonable macro call nesting: "loop"`, "$x": "unreasonable macro call nesting",
		"${foo": `truncated macro reference: "${foo"`, "$(foo}": "truncated", "${a)": "truncated",
		"$": `empty macro name: "$"`, "$ x": "empty macro name", "$-x": "empty macro name", "${}": "empty macro name",
		"${a.b}": `attribute name syntax error at: "...a>>>.b"`, "${a?{a}{b}}": `":" expected at: "...a}>>>{b}"`,
		"${a:{a}:{b}}": `unexpected input at: "...a}>>>:{b}"`, "${{a} ~= {a}?{x}}": `expected at: "...a}>>>~= {a}?{x}"`,
		"${{a} == b}": `"{" expected`, "${{a} == {b} c}": `"?" expected`,
	} {
		e.references = 0
		if got, err := e.expand(in, 0); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %q, %v; want %s", in, got, err, want)
		}
	}
}

func TestMasterEntries(t *testing.T) {
	services, problems := parseMaster("master.cf", `# comment
127.0.0.1:2525 inet n - y 1? 0 smtpd
  -o smtpd_tls=yes
# in between
  -o { x = a, b } -v
pipe unix - n n - 10 pipe flags=R argv=/bin/x {a  b} ${sender}
old unix y y - - - smtp -oa=b
`)
	if len(problems) != 0 || len(services) != 3 {
		t.Fatal(problems, services)
	}
	s := services[0]
	if s.Private || !s.Unprivileged || !s.Chroot || s.Wakeup.Seconds() != 1 || !s.WakeupIfUsed || s.MaxProc != 0 || s.Command != "smtpd" || s.Line != 2 {
		t.Errorf("%+v", s)
	}
	if v, ok := s.Override("x"); v != "a, b" || !ok {
		t.Errorf("override %q", v)
	}
	if got, want := FormatService(&s, true, nil), "127.0.0.1:2525 inet n    -       y       1?      0       smtpd\n    -o smtpd_tls=yes\n    -o {x=a, b}\n    -v"; got != want {
		t.Errorf("formatted\n%s\nwant\n%s", got, want)
	}
	if got := FormatCommand("", &services[1], false, nil); got != "pipe flags=R argv=/bin/x {a  b} ${sender}" {
		t.Errorf("pipe command %q", got)
	}
	if v, _ := services[2].Override("a"); v != "b" || services[2].MaxProc != -1 {
		t.Errorf("glued option: %+v", services[2])
	}
}

func FuzzMain(f *testing.F) {
	for _, s := range []string{"a=b\n", " x\na = b\n  c\n# d\n\te\n", "a\n= b\n", "a = $b ${c?{d}:{e}}\r\n", "a={ {b} c", "smtpd_restriction_classes = x y"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		order, settings, _ := parseMain("main.cf", text)
		if len(order) != len(settings) {
			t.Errorf("%d names, %d settings", len(order), len(settings))
		}
		c := &Config{host: testHost(), order: order, main: settings, services: defaultServices()}
		c.service = serviceParams(c.services)
		c.host.Resolve = nil
		for _, name := range order {
			if name == "inet_interfaces" || strings.Contains(settings[name].value, "/") {
				return // resolves names, opens files
			}
		}
		c.host = testHost()
		c.Check()
		once, _ := editMain(text, []Change{{Set, "k", "v"}, {Remove, "gone", ""}})
		twice, _ := editMain(once, []Change{{Set, "k", "v"}, {Remove, "gone", ""}})
		if once != twice {
			t.Errorf("editing again changes %q to %q", once, twice)
		}
		if _, after, _ := parseMain("main.cf", once); after["k"].value != "v" || after["gone"].value != "" {
			t.Errorf("the edit did not take: %q", once)
		}
	})
}

func FuzzMaster(f *testing.F) {
	for _, s := range []string{
		"smtp inet n - n - - smtpd\n", "a unix - - - 1? 0 b -o c=d -o { e = f g }\n  -v\n#x\n h", "x", "a unix - - - - - b {", "a unix - - - - - p argv={x} {y\n",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		services, _ := parseMaster("master.cf", text)
		for i := range services {
			line := FormatService(&services[i], true, nil)
			again, _ := parseMaster("master.cf", line+"\n")
			if strings.ContainsAny(line, "{}#") {
				continue // unbalanced braces cannot be written so that they read the same
			}
			if len(again) != 1 || FormatService(&again[0], true, nil) != line {
				t.Errorf("%q reads as %+v", line, again)
			}
		}
		_, _ = editMaster(text, func(s *Service) EditKind { s.SetOverride("k", "v"); return Rewrite }, func() []Service { return nil })
	})
}

func FuzzExpand(f *testing.F) {
	for _, s := range []string{"$a", "${a?{b}:{c}}", "${{$a} == {b} ? {c} : {d}}", "$$ ${a:$b}", "${", "$(a)"} {
		f.Add(s, "$b", "x")
	}
	f.Fuzz(func(t *testing.T, text, a, b string) {
		if len(text)+len(a)+len(b) > 200 {
			return
		}
		values := map[string]string{"a": a, "b": b}
		e := expander{value: func(n string) string { return values[n] }}
		_, _ = e.expand(text, 0)
	})
}
