package match

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"posthouse/internal/postfix/lookup"
)

func TestDomains(t *testing.T) {
	path := filepath.Join(t.TempDir(), "list")
	if err := os.WriteFile(path, []byte("from-file.example # comment\n!not.example, second.example\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		spec   string
		parent bool
		yes    string
		no     string
	}{
		{"example.com, .example.org\tlocalhost", false, "example.com EXAMPLE.COM a.example.org LOCALHOST", "sub.example.com example.org xexample.com"},
		{"example.com .example.org", true, "example.com a.b.example.com", "xexample.com a.example.org com"},
		{"!bad.example.com example.com", true, "example.com ok.example.com", "bad.example.com x.bad.example.com"},
		{path + " other", false, "from-file.example second.example other", "not.example comment"},
		{"!" + path, false, "not.example", "from-file.example"},
		{"inline:{a.example=1, .b.example=2}", false, "a.example x.b.example y.x.b.example", "x.a.example b.example"},
		{"inline:{a.example=1}", true, "a.example x.a.example", "example"},
		{"static:x", false, "anything", ""},
		{"{a.example, b.example}", false, "b.example", "c.example"},
		{"", false, "", "a.example"},
	} {
		l, err := ParseDomains(c.spec, Options{ParentMatches: c.parent})
		if err != nil {
			t.Fatal(err)
		}
		for want, names := range map[bool]string{true: c.yes, false: c.no} {
			for _, name := range strings.Fields(names) {
				if got, err := l.Match(t.Context(), name); got != want || err != nil {
					t.Errorf("%q matches %q: %v, %v", c.spec, name, got, err)
				}
			}
		}
	}
}

func TestNetworks(t *testing.T) {
	for _, c := range []struct{ spec, yes, no string }{
		{"127.0.0.0/8 192.0.2.1", "127.1.2.3 192.0.2.1 ::ffff:127.0.0.1", "192.0.2.2 ::1"},
		{"!192.0.2.5 192.0.2.0/24 [2001:db8::]/32 ::1", "192.0.2.4 2001:db8:1::1 ::1", "192.0.2.5 2001:db9::"},
		{"[::1]/128 [fe80::]/64", "fe80::1%eth0 ::1", "fe80:1::1"},
		{"cidr:/dev/null inline:{198.51.100.7=ok}", "198.51.100.7", "198.51.100.8"},
	} {
		l, err := ParseNetworks(c.spec, Options{})
		if err != nil {
			t.Fatal(err)
		}
		for want, addrs := range map[bool]string{true: c.yes, false: c.no} {
			for _, a := range strings.Fields(addrs) {
				if got, err := l.Match(t.Context(), netip.MustParseAddr(a), "unknown"); got != want || err != nil {
					t.Errorf("%q matches %s: %v, %v", c.spec, a, got, err)
				}
			}
		}
	}
	l, err := ParseNetworks("client.example .sub.example", Options{})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"client.example": true, "x.sub.example": true, "unknown": false, "": false, "other.example": false} {
		if got, err := l.Match(t.Context(), netip.MustParseAddr("192.0.2.1"), name); got != want || err != nil {
			t.Errorf("name %q: %v, %v", name, got, err)
		}
	}
}

func TestBadLists(t *testing.T) {
	for _, spec := range []string{"!", "192.0.2.1/24", "192.0.2.0/33", "[::1", "1.2.3", "{a", "a}", "/no/such/file", "nosuch:table"} {
		if _, err := ParseNetworks(spec, Options{}); !errors.Is(err, ErrPattern) {
			t.Errorf("%q: %v", spec, err)
		}
	}
	l, err := ParseDomains("a.example fail:x", Options{})
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := l.Match(t.Context(), "a.example"); !ok || err != nil {
		t.Error("a match before the broken table counts")
	}
	if _, err := l.Match(t.Context(), "b.example"); !errors.Is(err, lookup.ErrUnavailable) {
		t.Errorf("broken table: %v", err)
	}
}

func FuzzLists(f *testing.F) {
	f.Add("a, .b !c {d, e} 10.0.0.0/8 [::1]/128 inline:{a=b}", "x.b")
	f.Add("!!x {{}} :", "")
	f.Fuzz(func(t *testing.T, spec, name string) {
		if strings.Contains(spec, "/") { // no files
			return
		}
		if l, err := ParseDomains(spec, Options{}); err == nil {
			_, _ = l.Match(t.Context(), name)
		}
		if l, err := ParseNetworks(spec, Options{}); err == nil {
			_, _ = l.Match(t.Context(), netip.MustParseAddr("192.0.2.1"), name)
		}
	})
}
