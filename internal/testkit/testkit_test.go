package testkit_test

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"posthouse/internal/testkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// recorder is a testing.TB that notes a failure instead of failing.
type recorder struct {
	testing.TB
	failure string
}

func (r *recorder) Helper()           {}
func (r *recorder) Fatal(args ...any) { r.failure = fmt.Sprint(args...) }

func TestRequireNamesThePackage(t *testing.T) {
	r := &recorder{TB: t}
	testkit.Require(r, "sh")
	if r.failure != "" {
		t.Fatalf("sh: %s", r.failure)
	}
	testkit.Require(r, "no-such-program-at-all")
	if !strings.Contains(r.failure, "Debian package") {
		t.Fatalf("message %q", r.failure)
	}
}

func TestPoll(t *testing.T) {
	boom := errors.New("boom")
	n := 0
	err := testkit.Poll(t.Context(), time.Minute, func() error {
		if n++; n < 3 {
			return boom
		}
		return nil
	})
	if err != nil || n != 3 {
		t.Fatalf("%v after %d calls", err, n)
	}
	if err := testkit.Poll(t.Context(), time.Millisecond, func() error { return boom }); !errors.Is(err, boom) {
		t.Fatalf("error %v", err)
	}
}

func TestStopEndsTheWholeGroup(t *testing.T) {
	p, err := testkit.StartProcess(exec.Command("sh", "-c", "sleep 300 & sleep 300 & wait"))
	if err != nil {
		t.Fatal(err)
	}
	err = testkit.Poll(t.Context(), 10*time.Second, func() error {
		if n := len(testkit.Group(p.Pid())); n != 3 {
			return fmt.Errorf("%d processes", n)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if testkit.GroupPSS(p.Pid()) == 0 {
		t.Error("no memory")
	}
	// The shell leaves its children behind: Stop says so, and kills them.
	if err := p.Stop(50 * time.Millisecond); err == nil {
		t.Error("children were left, and nobody said so")
	}
	if left := testkit.Group(p.Pid()); len(left) > 0 && left[0].State != "Z" {
		t.Errorf("left: %v", left)
	}
}

func TestGroupCPU(t *testing.T) {
	p, err := testkit.StartProcess(exec.Command("sh", "-c", "while :; do :; done"))
	if err != nil {
		t.Fatal(err)
	}
	err = testkit.Poll(t.Context(), 20*time.Second, func() error {
		if cpu := testkit.GroupCPU(p.Pid()); cpu < 20*time.Millisecond {
			return fmt.Errorf("%v of CPU", cpu)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if err := p.Kill(); err != nil {
		t.Error(err)
	}
}

func TestExec(t *testing.T) {
	out, err := testkit.Exec(exec.Command("sh", "-c", "cat; echo oops >&2; exit 3"), "hello")
	if err != nil || out != (testkit.Output{Stdout: "hello", Stderr: "oops\n", Code: 3}) {
		t.Fatalf("%+v, %v", out, err)
	}
	if out, err := testkit.Exec(exec.Command("/no/such/file"), ""); err == nil || out.Code != -1 {
		t.Fatalf("%+v, %v", out, err)
	}
}

func TestLogFile(t *testing.T) {
	l := testkit.LogFile{Path: filepath.Join(t.TempDir(), "log")}
	if _, err := l.Wait(t.Context(), time.Millisecond, "x"); err == nil {
		t.Fatal("found a line in no file")
	}
	if out, err := testkit.Exec(exec.Command("sh", "-c", `(echo one; echo id=7; echo id=8) > "$0"`, l.Path), ""); err != nil || out.Code != 0 {
		t.Fatal(out, err)
	}
	m, err := l.WaitN(context.Background(), time.Second, `^id=(\d)$`, 2)
	if err != nil || m[1] != "8" {
		t.Fatalf("%v, %v", m, err)
	}
	if l.Tail(1) != "id=8" {
		t.Fatalf("tail %q", l.Tail(1))
	}
}

func TestOnlyLast(t *testing.T) {
	got := testkit.OnlyLast("# a = 0\na = 1\nb = 2,\n  3\nc =\na = 4\nb = 5")
	if want := "# a = 0\nc =\na = 4\nb = 5"; got != want {
		t.Fatalf("%q", got)
	}
}
