package message

import (
	"strings"
	"testing"

	"posthouse/internal/mail"
)

var listCases = []struct{ in, want string }{
	{
		`"Last, First" <a1@keep.example>, a2@keep.example (com, ment), grp: g1@keep.example, g2@keep.example;, <@route.example:r1@keep.example>`,
		"a1@keep.example|a2@keep.example|g1@keep.example|g2@keep.example|r1@keep.example",
	},
	{`bare,, "q uoted"@keep.example`, `bare|"q uoted"@keep.example`},
	{"b1@keep.example, b2@keep.example", "b1@keep.example|b2@keep.example"},
	{"A1@keep.example, a b@keep.example, undisclosed-recipients:;", "A1@keep.example|a|b@keep.example"},
	{
		";,<>, <x@keep.example>,, y @ keep . example, z@keep.example@foo, =?utf-8?q?J?= <w@keep.example> trailing",
		`x@keep.example|y@keep.example|"z@keep.example"@foo|w@keep.example|trailing`,
	},
	{"(only comment)", ""},
	{
		"a@[192.0.2.1], b.c.\"d e\".f@keep.example, \"esc\\\"q\"@keep.example,\r\n folded@keep.example",
		`a@[192.0.2.1]|"b.c.d e.f"@keep.example|"esc\"q"@keep.example|folded@keep.example`,
	},
	{"", ""},
	{"  \r\n ", ""},
	{"a (nested (deep \\) ) comment) @ b . example", "a@b.example"},
	{"a@b.example (unclosed", "a@b.example"},
	{`"unclosed quote <a@b.example>`, `"unclosed quote <a@b.example>"`},
	{"<a@b.example, c@d.example", "a@b.example|c@d.example"},
	{"Name <@one,@two:a@b.example> more@d.example", "a@b.example|more@d.example"},
	{"a@b; c@d", "a@b|c@d"},
	{"group: ; , x", "x"},
	{"group: Name <a@b>, \"N, M\" <c@d>; e@f", "a@b|c@d|e@f"},
	{"user@", "user"},
	{"@domain", ""},
	{"[1.2.3.4]", `"[1.2.3.4]"`},
	{") a@b ]", "a@b"},
	{"Jörg <j@b.example>, ü@b.example", "j@b.example|ü@b.example"},
	{"a..b@c", `"a..b"@c`},
	{`<"a@b"@c>`, `"a@b"@c`},
	{"mailto:x@y", "x@y"},
	{`"" <a@b>`, "a@b"},
	{`""@b`, ""},
}

func TestParseAddressList(t *testing.T) {
	for _, c := range listCases {
		var got []string
		for _, a := range ParseAddressList([]byte(c.in)) {
			got = append(got, string(a))
		}
		if s := strings.Join(got, "|"); s != c.want {
			t.Errorf("%q:\n got %s\nwant %s", c.in, s, c.want)
		}
	}
}

func FuzzParseAddressList(f *testing.F) {
	for _, c := range listCases {
		f.Add([]byte(c.in))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		for _, a := range ParseAddressList(in) {
			if a == mail.NullSender || strings.ContainsAny(string(a), "\r\n\x00") {
				t.Fatalf("%q gave the address %q", in, a)
			}
			// An address by itself must mean what it meant in the list.
			if local, domain := a.Split(); !strings.ContainsAny(string(a), "[]") && !strings.ContainsAny(domain, "\" ") && !strings.Contains(local, "\\") {
				again := ParseAddressList([]byte("<" + string(a) + ">"))
				if len(again) != 1 || again[0] != a {
					t.Fatalf("%q read again is %q", a, again)
				}
			}
		}
	})
}
