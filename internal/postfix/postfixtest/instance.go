// Package postfixtest runs a real Postfix beside the tests: a private instance
// with configuration and queue in a temporary directory, to compare with.
//
// It never touches the system's own instance. It needs Debian's postfix
// package (or another 3.7) and root, since Postfix's commands change user;
// without them the test that asks for it fails: a comparison that does not
// happen proves nothing.
package postfixtest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Instance is a private Postfix.
type Instance struct {
	t     testing.TB
	Dir   string // configuration directory
	Spool string // queue directory
}

// Output is what a command wrote and returned.
type Output struct {
	Stdout, Stderr string
	Status         int
}

const mainCf = `compatibility_level = 3.6
queue_directory = %[1]s/spool
data_directory = %[1]s/data
myhostname = mx.test.local
mydomain = test.local
myorigin = mx.test.local
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
alias_maps =
alias_database =
local_recipient_maps =
default_transport = retry:4.3.2 come back later
import_environment = MAIL_CONFIG TZ
maillog_file = %[1]s/mail.log
maillog_file_prefixes = %[1]s
`

// The services without a network listener that a queue needs.
const masterCf = `pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
flush unix n - n 1000? 0 flush
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
postlog unix-dgram n - n - 1 postlogd
`

// New makes a private instance that is not running. Its files are removed
// when the test ends.
func New(t testing.TB) *Instance {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("comparing with Postfix needs root: its commands change user")
	}
	// Not t.TempDir: every directory above must let Postfix's user through.
	dir, err := os.MkdirTemp("", "postfix")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	p := &Instance{t: t, Dir: filepath.Join(dir, "etc"), Spool: filepath.Join(dir, "spool")}
	for _, d := range []string{p.Dir, p.Spool, filepath.Join(dir, "data")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	owner, err := user.Lookup("postfix")
	if err != nil {
		t.Fatalf("the postfix package is not installed: %v", err)
	}
	uid, _ := strconv.Atoi(owner.Uid)
	if err := os.Chown(filepath.Join(dir, "data"), uid, -1); err != nil {
		t.Fatal(err)
	}
	p.write("main.cf", fmt.Sprintf(mainCf, dir))
	p.write("master.cf", masterCf)
	return p
}

func (p *Instance) write(name, text string) {
	p.t.Helper()
	if err := os.WriteFile(filepath.Join(p.Dir, name), []byte(text), 0o644); err != nil {
		p.t.Fatal(err)
	}
}

// Set adds lines to main.cf.
func (p *Instance) Set(lines ...string) {
	p.t.Helper()
	f, err := os.OpenFile(filepath.Join(p.Dir, "main.cf"), os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(strings.Join(lines, "\n") + "\n")
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		p.t.Fatal(err)
	}
}

// Check lets Postfix make its queue directories without starting.
func (p *Instance) Check() {
	p.t.Helper()
	if out := p.Run("", "postfix", "check"); out.Status != 0 {
		p.t.Fatalf("postfix check: %+v", out)
	}
}

// Start starts the instance and stops it when the test ends.
func (p *Instance) Start() {
	p.t.Helper()
	if out := p.Run("", "postfix", "start"); out.Status != 0 {
		p.t.Fatalf("postfix start: %+v", out)
	}
	p.t.Cleanup(func() { p.Run("", "postfix", "stop") })
	p.Wait("the listing service", func() bool {
		return p.Run("", "postqueue", "-p").Stderr == ""
	})
}

// Wait waits until done returns true, at most 30 seconds: a process of its
// own can only be asked again and again.
func (p *Instance) Wait(what string, done func() bool) {
	p.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	late := time.After(30 * time.Second)
	for !done() {
		select {
		case <-tick.C:
		case <-late:
			p.t.Fatalf("postfix: waited in vain for %s", what)
		}
	}
}

// Run runs one of Postfix's commands on the instance with the given input. It
// may be called from several goroutines.
func (p *Instance) Run(stdin, name string, args ...string) Output {
	p.t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		path = filepath.Join("/usr/sbin", name)
	}
	cmd := exec.Command(path, args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	cmd.Env = []string{"MAIL_CONFIG=" + p.Dir, "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "TZ=UTC"}
	err = cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		p.t.Errorf("%s: %v", name, err)
		return Output{Status: -1}
	}
	// Some of Postfix's diagnostics begin with the path it was started as.
	text := strings.ReplaceAll(errs.String(), path+": ", name+": ")
	return Output{Stdout: out.String(), Stderr: text, Status: cmd.ProcessState.ExitCode()}
}
