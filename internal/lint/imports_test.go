package lint

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

// rule says what the packages below a path may import of Posthouse.
type rule struct {
	pkg   string   // path below posthouse/, its subpackages included; the longest match counts
	allow []string // paths below posthouse/, subpackages included; a trailing "$" means that package alone
	why   string
}

// rules is the house plan, as in ARCHITECTURE.md. A package without a rule fails the test.
var rules = []rule{
	{"internal/mail", []string{"internal/mail"}, "values at the centre: everyone speaks of mail in these words, so they depend on no one"},
	{"internal/smtp", []string{"internal/mail", "internal/smtp$"}, "the grammar is shared by both ends of the wire and knows neither"},
	{"internal/smtp/server", []string{"internal/mail", "internal/smtp", "internal/postfix/maillog"}, "the protocol asks an Acceptor; it does not know who accepts"},
	{"internal/smtp/client", []string{"internal/mail", "internal/smtp"}, "one connection, and no opinion about what is delivered over it"},
	{"internal/intake", []string{"internal/mail", "internal/smtp", "internal/spool$", "internal/intake", "internal/postfix"}, "intake commits messages; what happens to them afterwards is the queue's"},
	{"internal/spool", []string{"internal/mail", "internal/spool"}, "the durability contract never answers queries, so it can stay small"},
	{"internal/queue", []string{"internal/mail", "internal/spool$", "internal/queue", "internal/postfix/maillog"}, "the queue owns messages and declares the agents, router and bouncer it needs"},
	{"internal/queue/schedule", []string{"internal/mail"}, "scheduling is pure: no I/O, no clock, so that it can be proven"},
	{"internal/delivery", []string{"internal/mail", "internal/smtp$", "internal/smtp/client", "internal/spool$", "internal/queue$", "internal/delivery", "internal/postfix", "internal/intake$"}, "agents implement what the queue asks for"},
	{"internal/postfix", []string{"internal/mail", "internal/postfix"}, "the Postfix face is formats: values in, text out"},
	{"internal/operator", []string{"internal/mail", "internal/spool$", "internal/queue$", "internal/operator", "internal/postfix"}, "the verbs of an operator, once; every face is a face of this"},
	{"internal/cli", []string{"internal/mail", "internal/operator", "internal/postfix", "internal/queue$", "internal/intake/pickup", "internal/cli", "internal/spool$"}, "commands talk to an Operator, never to the queue; they borrow its vocabulary"},
	{"internal/traffic", []string{"internal/traffic"}, "the far ends of the wire are independent peers: they share no code with what they test"},
	{"internal/demo", []string{"internal/demo", "internal/traffic", "internal/testkit"}, "the demo builds a pretend world and knows the relay only by its configuration"},
	{"internal/testkit", []string{"internal/testkit", "internal/traffic", "internal/mail"}, "helpers for tests know programs by their outside"},
	{"internal/lint", nil, "tests only"},
	{"internal/e2e", nil, "tests only: the whole program, seen from outside"},
	{"internal/daemon", []string{"internal"}, "the one room that knows everything and joins it"},
	{"cmd/posthouse", []string{"internal/operator$", "internal/cli", "internal/daemon", "internal/demo", "internal/traffic"}, "main only chooses the program"},
	{"bench", []string{"internal/testkit", "internal/traffic"}, "benchmarks see both servers from outside"},
}

type pkg struct {
	ImportPath string
	Imports    []string
}

// TestImportsFollowTheHousePlan holds the import graph (tests aside) against
// rules, so that a room cannot lean on another by accident.
func TestImportsFollowTheHousePlan(t *testing.T) {
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports", "posthouse/...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	dec := json.NewDecoder(strings.NewReader(string(out)))
	seen := 0
	for {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		seen++
		checkPackage(t, p)
	}
	if seen < len(rules) {
		t.Errorf("go list named %d packages, fewer than there are rules: is a rule stale?", seen)
	}
}

func checkPackage(t *testing.T, p pkg) {
	t.Helper()
	from := strings.TrimPrefix(p.ImportPath, "posthouse/")
	r, ok := ruleFor(from)
	if !ok {
		t.Errorf("%s has no rule: say in rules what it may import, and why", from)
		return
	}
	for _, imp := range p.Imports {
		to, ours := strings.CutPrefix(imp, "posthouse/")
		if ours && !allowed(r, to) {
			t.Errorf("%s imports %s: %s", from, to, r.why)
		}
	}
}

func ruleFor(path string) (rule, bool) {
	best, found := rule{}, false
	for _, r := range rules {
		if within(path, r.pkg) && len(r.pkg) >= len(best.pkg) {
			best, found = r, true
		}
	}
	return best, found
}

func allowed(r rule, to string) bool {
	for _, a := range r.allow {
		if exact, ok := strings.CutSuffix(a, "$"); ok {
			if to == exact {
				return true
			}
		} else if within(to, a) {
			return true
		}
	}
	return false
}

func within(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, dir+"/")
}

// TestImportRulesBite makes sure that a forbidden import would be caught.
func TestImportRulesBite(t *testing.T) {
	for _, c := range []struct {
		from, to string
		want     bool
	}{
		{"internal/mail", "internal/spool", false},
		{"internal/queue/schedule", "internal/spool", false},
		{"internal/queue", "internal/spool", true},
		{"internal/queue", "internal/spool/local", false},
		{"internal/operator/control", "internal/queue", true},
		{"internal/spool/local", "internal/queue", false},
		{"internal/smtp/server", "internal/intake", false},
		{"internal/daemon", "internal/spool/local", true},
	} {
		r, ok := ruleFor(c.from)
		if !ok {
			t.Fatalf("no rule for %s", c.from)
		}
		if got := allowed(r, c.to); got != c.want {
			t.Errorf("%s → %s: allowed = %v, want %v", c.from, c.to, got, c.want)
		}
	}
}
