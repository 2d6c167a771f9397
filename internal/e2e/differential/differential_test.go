package differential

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"posthouse/internal/testkit"
	"posthouse/internal/testkit/program"
)

func TestMain(m *testing.M) { os.Exit(program.Main(m)) }

// TestScripts performs every script on both servers. They are started once:
// a script begins with an empty queue, and tidies up after itself.
func TestScripts(t *testing.T) {
	testkit.Require(t, "postfix")
	scripts, err := loadScripts(filepath.Join("testdata", "*.txt"))
	if err != nil {
		t.Fatal(err)
	}
	if len(scripts) == 0 {
		t.Fatal("no scripts")
	}
	oracle, ours := newSide(t, "postfix"), newSide(t, "posthouse")
	for _, sc := range scripts {
		t.Run(sc.name, func(t *testing.T) {
			want, got := both(t, sc, oracle, ours)
			needed := map[int]bool{}
			want, got = apply(sc.edits, want, needed), apply(sc.edits, got, needed)
			if d := cmp.Diff(strings.Split(want, "\n"), strings.Split(got, "\n")); d != "" {
				t.Errorf("Postfix (-) and Posthouse (+) differ:\n%s", d)
			}
			for _, e := range sc.edits {
				if !needed[e.line] {
					t.Errorf("line %d: nothing matches %q: the reason is gone (%s)", e.line, e.re, e.reason)
				}
			}
			if testing.Verbose() && os.Getenv("TRANSCRIPT") != "" {
				t.Logf("transcript:\n%s", want)
			}
		})
	}
}

func both(t *testing.T, sc script, oracle, ours *side) (want, got string) {
	t.Helper()
	var wg sync.WaitGroup
	var texts [2]string
	var errs [2]error
	for i, s := range []*side{oracle, ours} {
		wg.Go(func() { texts[i], errs[i] = s.perform(sc) })
	}
	wg.Wait()
	for i, s := range []*side{oracle, ours} {
		if errs[i] != nil {
			t.Errorf("%s: %v", s.name, errs[i])
		}
	}
	if t.Failed() {
		t.FailNow()
	}
	return texts[0], texts[1]
}

func TestParseScript(t *testing.T) {
	sc, err := parseScript("x", "# because: nothing\nrun postqueue -i 'bad id' \"\" {\nin\n}\nignore /^a.b/ it is so\nreplace /x/y/ and so\nexpect a {2}\n")
	if err != nil {
		t.Fatal(err)
	}
	if len(sc.steps) != 2 || len(sc.edits) != 2 || strings.Join(sc.steps[0].args, "|") != "postqueue|-i|bad id|" || sc.steps[1].args[0] != "a {2}" {
		t.Fatalf("%+v", sc)
	}
	for _, bad := range []string{"", "run x {", "run 'x", "ignore /a/", "replace /a/b/", "smtp", "ignore /(/ why"} {
		if _, err := parseScript("x", bad); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}
