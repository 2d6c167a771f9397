package smtp

import (
	"errors"
	"strings"
	"testing"

	"posthouse/internal/mail"
)

func TestParsePath(t *testing.T) {
	long := strings.Repeat("a", 300)
	for _, c := range []struct {
		in   string
		want mail.Address
	}{
		{"<a@b.c>", "a@b.c"},
		{"<>", ""},
		{"< >", ""},
		{"< a@b.c >", "a@b.c"},
		{"a@b.c", "a@b.c"},
		{"<postmaster>", "postmaster"},
		{"postmaster", "postmaster"},
		{"<@r.x,@q.y:a@b.c>", "a@b.c"},
		{"<@r.x:a@b.c>", "a@b.c"},
		{`<"a b"@c>`, `"a b"@c`},
		{`"a b"@c`, `"a b"@c`},
		{`<"plain"@c>`, `plain@c`},
		{`<"a\"b"@b.c>`, `"a\"b"@b.c`},
		{`<a\@b@b.c>`, `"a@b"@b.c`},
		{"<a@b@c>", `"a@b"@c`},
		{"<a..b@c.d>", `"a..b"@c.d`},
		{"<.a@c.d>", `".a"@c.d`},
		{`<""@b.c>`, `""@b.c`},
		{`<"a".b@c.d>`, `a.b@c.d`},
		{"<a:b@c.d>", `"a:b"@c.d`},
		{"<a!b%c@d.e>", "a!b%c@d.e"},
		{"<a@[1.2.3.4]>", "a@[1.2.3.4]"},
		{"<a@[IPv6:::1]>", "a@[IPv6:::1]"},
		{"<a@b.c.>", "a@b.c"},
		{"<a@b_c.d>", "a@b_c.d"},
		{"<" + long + "@b.c>", mail.Address(long + "@b.c")},
	} {
		got, err := ParsePath(c.in, false)
		if got != c.want || err != nil {
			t.Errorf("ParsePath(%q) = %q, %v; want %q", c.in, got, err, c.want)
		}
	}
	for _, in := range []string{"<ä@b.c>", "<a@ä.c>", `<"ä b"@c.d>`} {
		if got, err := ParsePath(in, true); err != nil || string(got) != strings.Trim(in, "<>") {
			t.Errorf("ParsePath(%q) with SMTPUTF8 = %q, %v", in, got, err)
		}
	}
}

func TestParsePathRefuses(t *testing.T) {
	for _, c := range []struct {
		in   string
		want error
	}{
		{"<ä@b.c>", ErrNeedUTF8},
		{"<a@ä.c>", ErrNeedUTF8},
		{"<a@b.c", ErrAddress},
		{"<a@b.c>SIZE=3", ErrAddress},
		{"<a@>", ErrAddress},
		{"<@b.c>", ErrAddress},
		{"<a@[1.2.3]>", ErrAddress},
		{"<a@[1.2.3.4>", ErrAddress},
		{"<a@b..c>", ErrAddress},
		{"<a@.b.c>", ErrAddress},
		{"<a@b.c..>", ErrAddress},
		{"<a@-b.d>", ErrAddress},
		{"<a@b-.d>", ErrAddress},
		{"<a@b!c>", ErrAddress},
		{"<a@1.2.3.4>", ErrAddress},
		{"<a b@c>", ErrAddress},
		{"<a@b.c x>", ErrAddress},
		{"<a,b@c.d>", ErrAddress},
		{"<a;b@c.d>", ErrAddress},
		{"<a(c)b@c.d>", ErrAddress},
		{`<"a"b@c.d>`, ErrAddress},
		{`<b"a"@c.d>`, ErrAddress},
		{`<"a@c.d>`, ErrAddress},
		{`<"">`, ErrAddress},
		{"<a\x01b@c.d>", ErrAddress},
		{"<\"a\x00b\"@c.d>", ErrAddress},
		{"<\xff@c.d>", ErrAddress},
		{"<x" + strings.Repeat("a", maxAddress) + "@b.c>", ErrAddress},
		{"<a@" + strings.Repeat("b", 64) + ".c>", ErrAddress},
		{"x:<a@b>", ErrAddress},
	} {
		if got, err := ParsePath(c.in, false); got != "" || !errors.Is(err, c.want) {
			t.Errorf("ParsePath(%q) = %q, %v; want %v", c.in, got, err, c.want)
		}
	}
}

// TestDomainThatFoldsIntoAnother: "\u0130" in lower case is "i" to Go and two
// characters to DNS, so that two domains were taken for one.
func TestDomainThatFoldsIntoAnother(t *testing.T) {
	for _, in := range []string{"<a@ma\u0130l.example>", "<a@\u212Aernel.example>", "<@\u0130.example:a@b.example>"} {
		if got, err := ParsePath(in, true); !errors.Is(err, ErrAddress) {
			t.Errorf("ParsePath(%q) = %q, %v", in, got, err)
		}
	}
	for _, in := range []string{"<a@\u0131.example>", "<a@B\u00DCCHER.example>", "<\u0130@b.example>"} {
		if _, err := ParsePath(in, true); err != nil {
			t.Errorf("ParsePath(%q): %v", in, err)
		}
	}
}

func TestSimpleAddressDoesNotAllocate(t *testing.T) {
	s := "first.last+tag@mail.example.com"
	if n := testing.AllocsPerRun(100, func() {
		if _, err := ParseAddress(s, false); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// What the parser returns must be safe to write, and mean itself.
func FuzzPath(f *testing.F) {
	for _, s := range []string{"<a@b.c>", `<"a\"b"@c>`, "<@a,@b:c@d>", "a@b@c", `\"@x`, "<a@[1.2.3.4]>", "<ä@ö>", `"".""@x`, "a\\", `"a`, "@:@"} {
		f.Add(s, true)
		f.Add(s, false)
	}
	f.Fuzz(func(t *testing.T, s string, utf8ok bool) {
		a, err := ParsePath(s, utf8ok)
		if err != nil {
			if a != "" || !errors.Is(err, ErrAddress) && !errors.Is(err, ErrNeedUTF8) {
				t.Fatalf("%q, %v", a, err)
			}
			return
		}
		for i := range len(a) {
			if control(a[i]) || a[i] >= 128 && !utf8ok {
				t.Fatalf("%q: byte %#x", a, a[i])
			}
		}
		again, err := ParsePath("<"+string(a)+">", utf8ok)
		if err != nil || again != a {
			t.Fatalf("%q became %q, which reads as %q, %v", s, a, again, err)
		}
	})
}

func FuzzLocal(f *testing.F) {
	f.Add("a b")
	f.Add(`"\`)
	f.Add("a..b")
	f.Fuzz(func(t *testing.T, s string) {
		if !printable(s) {
			return
		}
		if got, ok := UnquoteLocal(QuoteLocal(s)); !ok || got != s {
			t.Fatalf("%q -> %q -> %q, %v", s, QuoteLocal(s), got, ok)
		}
	})
}
