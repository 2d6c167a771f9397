package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"posthouse/internal/testkit/oracle"
)

// invocation is a command line with its input.
type invocation struct {
	line  string // words separated by "|"
	stdin string
}

func (c invocation) split() (name string, args []string) {
	words := strings.Split(c.line, "|")
	return words[0], words[1:]
}

var unfinished = regexp.MustCompile(`postdrop: warning: uid=0: remove maildrop/.*\n`)

// against runs commands on Postfix and on ours and compares everything.
func against(t *testing.T, pf *oracle.Instance, w *world, cases []invocation) {
	t.Helper()
	wants := make([]oracle.Output, len(cases))
	// Postfix's at once, since they sleep for a second before they fail; but
	// postsuper by itself: it would clear away what postdrop is writing.
	for _, alone := range []bool{false, true} {
		var wg sync.WaitGroup
		for i, c := range cases {
			name, args := c.split()
			if alone == (name == "postsuper") {
				wg.Go(func() { wants[i] = pf.Run(c.stdin, name, args...) })
			}
		}
		wg.Wait()
	}
	for i := range wants {
		// sendmail ends postdrop, whose unfinished file pickup may meet.
		wants[i].Stderr = unfinished.ReplaceAllString(wants[i].Stderr, "")
	}
	for i, c := range cases {
		name, args := c.split()
		if diff := cmp.Diff(wants[i], w.run(c.stdin, name, args...)); diff != "" {
			t.Errorf("%s (- Postfix, + ours):\n%s", strings.ReplaceAll(c.line, "|", " "), diff)
		}
	}
}

// stateless are command lines whose outcome does not depend on messages.
func stateless() []invocation {
	var all []invocation
	for _, line := range []string{
		"postqueue", "postqueue|-x", "postqueue|-p|-f", "postqueue|-p|extra", "postqueue|-i", "postqueue|-i|bad!", "postqueue|-s|bad domain",
		"postqueue|-s|nosuch.example", "postqueue|-s|[127.0.0.1]", "postqueue|-pp", "postqueue|extra|-p", "postqueue|--|-p",
		"postqueue|-c|/nonexistent|-p", "postqueue|-c|relative|-p", "postqueue|-s|", "postqueue|-i|",
		"postsuper", "postsuper|-x", "postsuper|-d", "postsuper|-d|NOSUCHID", "postsuper|-d|bad id!", "postsuper|-d|../x", "postsuper|-d|ABCDEF0123",
		"postsuper|-d|ABCDEF0123|hold", "postsuper|-d|ALL|nosuchqueue", "postsuper|-d|ALL|bounce", "postsuper|-d|ALL|corrupt",
		"postsuper|-c|relative", "postsuper|-c|/nonexistent|-d|ALL", "postsuper|hold|-d|ALL", "postsuper|-dALL|-hALL|-HALL|-rALL|-eALL", "postsuper|-f|ALL",
		"postsuper|-h|ALL|-d|ALL|hold", "postsuper|-d|all", "postsuper|-s", "postsuper|-p", "postsuper|-S", "postsuper|-sp", "postsuper|-d|",
		"postcat|-x", "postcat|-q|NOSUCH", "postcat|-q|bad!", "postcat|-q", "postcat|/nonexistent/file", "postcat|/etc/passwd", "postcat|-s|x", "postcat",
		"sendmail|-Z", "sendmail|-V", "sendmail|-bx", "sendmail|-bt", "sendmail|-qSfoo", "sendmail|-q1h", "sendmail|-n", "sendmail|-bh", "sendmail|-B|x|a@b",
		"sendmail|-qR", "sendmail|-qI", "sendmail|-bp|extra", "sendmail|-q|extra", "sendmail|-bs|extra", "sendmail|-t|-bp", "sendmail|-oA", "sendmail|-Xq",
		"sendmail", "sendmail|-t", "sendmail|-f|s@x", "sendmail|-qRx.example|extra", "sendmail|-h", "sendmail|-d", "sendmail|-qR|-bp",
	} {
		all = append(all, invocation{line: line})
	}
	return append(all,
		invocation{"postsuper|-d|-", "ABCDEF0123\n\n  \nbad id\nZZZZZ\nlast"},
		invocation{"postsuper|-H|-|-h|NOSUCH", "NOSUCH\n"},
		invocation{"sendmail|-t", "Subject: x\n\nno recipients\n"},
	)
}

// TestAgainstStoppedPostfix compares with no server on either side.
func TestAgainstStoppedPostfix(t *testing.T) {
	t.Parallel()
	pf := oracle.New(t)
	w := newWorld(t)
	w.offline()
	against(t, pf, w, append(stateless(),
		invocation{line: "postqueue|-p"}, invocation{line: "postqueue|-j"}, invocation{line: "mailq"}, invocation{line: "sendmail|-bp"},
		invocation{line: "postqueue|-f"}, invocation{line: "postqueue|-i|ABCDEF0123"}, invocation{line: "sendmail|-q"}, invocation{line: "sendmail|-qIABCDEF0123"},
	))
}

// TestAgainstRunningPostfix compares with servers that have no mail.
func TestAgainstRunningPostfix(t *testing.T) {
	t.Parallel()
	pf := oracle.New(t, "relay_domains = relayed.example")
	pf.Start()
	w := newWorld(t, "relay_domains = relayed.example")
	w.serve()
	against(t, pf, w, append(stateless(),
		invocation{line: "postqueue|-p"}, invocation{line: "postqueue|-j"}, invocation{line: "mailq"}, invocation{line: "sendmail|-bp"},
		invocation{line: "postqueue|-f"}, invocation{line: "postqueue|-i|ABCDEF0123"}, invocation{line: "sendmail|-q"}, invocation{line: "sendmail|-qIABCDEF0123"},
		invocation{line: "postqueue|-s|relayed.example"}, invocation{line: "postqueue|-s|sub.relayed.example"}, invocation{line: "sendmail|-qRrelayed.example"}))
}

// maildrop returns the one file in a maildrop and removes it.
func maildrop(t *testing.T, spool string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(spool, "maildrop", "*"))
	if err != nil || len(files) != 1 {
		t.Fatalf("maildrop has %v (%v)", files, err)
	}
	info, err := os.Stat(files[0])
	if err != nil || info.Mode().Perm() != 0o744 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	data, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(files[0]); err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestSendmailLeavesWhatPostfixLeaves compares the maildrop files byte by byte.
func TestSendmailLeavesWhatPostfixLeaves(t *testing.T) {
	t.Parallel()
	pf := oracle.New(t)
	w := newWorld(t)
	long := strings.Repeat("0123456789", 500)
	for i, c := range []invocation{
		{"sendmail|-f|s@x.example|r@y.example", "Subject: x\n\nbody\n"},
		{"sendmail|r@y.example,q@y.example|Some One <o@y.example>", "Subject: x\n\nbody\n.\nafter the dot\n"},
		{"sendmail|-i|-f|<>|r@y.example", "Subject: x\n\nbody\n.\nafter the dot\n"},
		{"sendmail|-oi|-f||r@y.example", "no header\n..\n.\n"},
		{"sendmail|-t|-f|s@x.example|-F|A Name", "To: a@y.example, \"B, C\" <b@y.example>\nCc: c@y.example,\n\td@y.example\nBcc: e@y.example\nSubject: x\n\nTo: no@y.example\n"},
		{"sendmail|-t|-f|s@x.example", "To: a@y.example\nResent-To: b@y.example\nResent-Cc: c@y.example\n\nbody\n"},
		{"sendmail|-t|-N|success,failure|-V|envid|-R|hdrs|-f|s@x.example|extra@y.example", "To: a@y.example\n\nbody\n"},
		{"sendmail|-N|never|-B|8BITMIME|-R|full|-f|s@x.example|r@y.example", "Subject: ünï\n\nbody\n"},
		{"sendmail|-G|-B|7BIT|-f|s@x.example|r@y.example", "From x@y Mon Jan\n>From again\nSubject: x\n\nFrom here\n"},
		{"sendmail|-f|s@x.example|r@y.example", "Subject: x\r\n\r\nbody\r\nbare\n"},
		{"sendmail|-f|s@x.example|r@y.example", "Subject: x\n\nbody\r\n"},
		{"sendmail|-f|s@x.example|r@y.example", long + "\n" + long},
		{"sendmail|-v|-f|s@x.example|r@y.example", "Subject: x\n\n"},
		{"sendmail|-f|s@x.example|\"quoted local\"@y.example|root", ""},
		{"sendmail|-f|\"a b\"@x.example|-N|nonsense|-R|nonsense|r@y.example", "x"},
	} {
		name, args := c.split()
		want, got := pf.Run(c.stdin, name, args...), w.run(c.stdin, name, args...)
		if diff := cmp.Diff(want, got); diff != "" || want.Status != 0 {
			t.Errorf("%d %s: %s", i, c.line, diff)
			continue
		}
		wantFile, gotFile := maildrop(t, pf.Spool), maildrop(t, w.spool)
		if diff := cmp.Diff(afterTime(wantFile), afterTime(gotFile)); diff != "" {
			t.Errorf("%d %s (- Postfix, + ours):\n%s", i, c.line, diff)
		}
	}
}

// afterTime cuts off the T record, whose data is the time.
func afterTime(file string) string {
	if len(file) < 2 || file[0] != 'T' || len(file) < 2+int(file[1]) {
		return fmt.Sprintf("no T record: %q", file)
	}
	return file[2+int(file[1]):]
}
