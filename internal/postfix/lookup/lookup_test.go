package lookup

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func file(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "map")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// check looks up each key and compares; "-" stands for not found.
func check(t *testing.T, table Table, want map[string]string) {
	t.Helper()
	for key, value := range want {
		got, ok, err := table.Lookup(t.Context(), key)
		if !ok {
			got = "-"
		}
		if err != nil || got != value {
			t.Errorf("%s: %q gives %q, %v; want %q", table, key, got, err, value)
		}
	}
}

func open(t *testing.T, spec string, opt Options) Table {
	t.Helper()
	table, err := Open(spec, opt)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func TestInlineStaticAndCombined(t *testing.T) {
	check(t, open(t, "inline:{a=1, B=two, {c d = e, f}}", Options{}), map[string]string{"A": "1", "b": "two", "c d": "e, f", "x": "-"})
	check(t, open(t, "static:ok", Options{}), map[string]string{"any": "ok", "": "ok"})
	check(t, open(t, "static:{ two words }", Options{}), map[string]string{"any": "two words"})
	check(t, open(t, "pipemap:{inline:{a=b}, inline:{b=c}}", Options{}), map[string]string{"a": "c", "b": "-"})
	check(t, open(t, "unionmap:{inline:{a=1}, inline:{a=2,b=3}}", Options{}), map[string]string{"a": "1,2", "b": "3", "c": "-"})
	if err := Check(t.Context(), open(t, "fail:broken", Options{})); !errors.Is(err, ErrUnavailable) {
		t.Errorf("fail: %v", err)
	}
}

func TestBadSpecifications(t *testing.T) {
	for spec, want := range map[string]error{
		"ldap:x": ErrType, "inline:": ErrSyntax, "inline:{}": ErrSyntax, "inline:{a}": ErrSyntax,
		"inline:a=b": ErrSyntax, "inline:{{a=b}": ErrSyntax, "hash:": ErrSyntax, "unix:x": ErrSyntax,
		"pipemap:{}": ErrSyntax, "pipemap:{nosuch:x}": ErrType, "proxy:nosuch:x": ErrType,
	} {
		if _, err := Open(spec, Options{}); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", spec, err, want)
		}
	}
	_, err := Open("ldap:x", Options{})
	if !strings.Contains(err.Error(), "texthash") || !strings.Contains(err.Error(), "ldap") {
		t.Errorf("the error does not name the known types: %v", err)
	}
}

func TestTextFile(t *testing.T) {
	var warned []string
	opt := Options{Warn: func(s string) { warned = append(warned, s) }}
	path := file(t, "# comment\nExample.com  smtp:[relay]:25\n.example.com\n  smtp:[sub]\n# in between\n  :10025\nnovalue\n\"two words\" yes\nexample.COM other\r\n")
	table := open(t, "hash:"+path, opt)
	check(t, table, map[string]string{
		"example.com": "smtp:[relay]:25", "EXAMPLE.com": "smtp:[relay]:25",
		".example.com": "smtp:[sub]  :10025", "two words": "yes", "novalue": "-",
	})
	if len(warned) != 2 || !strings.Contains(warned[0], "line 7: expected format") || !strings.Contains(warned[1], "line 9: duplicate entry") {
		t.Errorf("warnings: %q", warned)
	}
	check(t, open(t, path, opt), map[string]string{"example.com": "smtp:[relay]:25"})
	aliases := open(t, "hash:"+file(t, "postmaster: root\n\"a b\":c,\n d\n"), Options{Aliases: true})
	check(t, aliases, map[string]string{"Postmaster": "root", "a b": "c, d", "root": "-"})
	check(t, open(t, "proxy:unix:passwd.byname", Options{}), map[string]string{"no such user": "-"})
}

func TestChangedFileIsReadAgain(t *testing.T) {
	now := time.Unix(1000, 0)
	path := file(t, "a 1\n")
	table := open(t, "texthash:"+path, Options{Now: func() time.Time { return now }})
	check(t, table, map[string]string{"a": "1"})
	replace := func(content string) {
		t.Helper()
		if err := os.WriteFile(path+".new", []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	replace("a 2\n")
	now = now.Add(recheck / 2)
	check(t, table, map[string]string{"a": "1"}) // not looked at yet
	now = now.Add(recheck)
	check(t, table, map[string]string{"a": "2"})
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	now = now.Add(recheck)
	if _, _, err := table.Lookup(t.Context(), "a"); !errors.Is(err, ErrUnavailable) || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
	replace("a 3\n")
	now = now.Add(recheck)
	check(t, table, map[string]string{"a": "3"})
	now = now.Add(-time.Hour) // the clock was set back
	replace("a 4\n")
	check(t, table, map[string]string{"a": "4"})
}

func TestRegexp(t *testing.T) {
	var warned []string
	path := file(t, `
/^Subject: (.*)viagra/   REJECT $1 ${1}| $(9) $$5
!/@/                     local
if /^x-/
/^X-Spam/i               exact
/^x-foo/                 DISCARD
endif
m|a/b|                   never: m is not a delimiter
#|
|a/b\|c|                 pipe
/(unclosed/              never
/noresult/
if /(?<=bad)/
/./                      never
endif
/@example\.com$/         done
`)
	table := open(t, "regexp:"+path, Options{Warn: func(s string) { warned = append(warned, s) }})
	check(t, table, map[string]string{
		"subject: buy viagra": "REJECT buy  buy |  $5", "nobody": "local", "x-FOO@": "DISCARD",
		"x-spam@": "-", "X-Spam@": "exact", "@a/b|c": "pipe", "u@example.com": "done", "u@example.org": "-",
	})
	if len(warned) != 4 {
		t.Errorf("warnings: %q", warned)
	}
	if !IsPattern(table) || IsPattern(open(t, "hash:/x", Options{})) {
		t.Error("IsPattern")
	}
}

func TestCIDR(t *testing.T) {
	var warned []string
	path := file(t, "192.0.2.1 one\n192.0.2.0/24 net\n192.0.3.7/24 hostbits\n2001:db8::/32 six\n[2001:db9::]/32 seven\nif !10.0.0.0/8\n10.1.1.1 never\n0.0.0.0/0 rest\nendif\n")
	table := open(t, "cidr:"+path, Options{Warn: func(s string) { warned = append(warned, s) }})
	check(t, table, map[string]string{
		"192.0.2.1": "one", "192.0.2.9": "net", "2001:db8::5": "six", "2001:db9::5": "seven",
		"10.1.1.1": "-", "198.51.100.1": "rest", "name": "-", "::ffff:192.0.2.9": "net",
	})
	if len(warned) != 1 || !strings.Contains(warned[0], "non-null host address bits") {
		t.Errorf("warnings: %q", warned)
	}
}

func FuzzFileTables(f *testing.F) {
	f.Add("a b\n c\n#x\n\"q k\" v\n", "a")
	f.Add("/a(b)/ $1\nif /x/\n!/y/i z\nendif\n", "abx")
	f.Add("10.0.0.0/8 x\nendif\nif\n", "10.1.1.1")
	f.Fuzz(func(t *testing.T, content, key string) {
		lines, _ := splitLogical(content)
		for _, parse := range []parser{parsePairs, parseAliases, parseAccounts, parseRegexp, parseCIDR} {
			parse(lines, func(int, string) {}).find(key)
		}
	})
}
