// Package postfix runs private instances of the real Postfix, as the oracle
// of differential tests and the other side of benchmarks.
//
// # What it promises
//
// An instance has its own configuration, queue and data directories under one
// temporary directory, a mail log file, and one SMTP port on 127.0.0.1. The
// system's /etc/postfix and /var/spool/postfix are read at most, never
// written, and a running system Postfix is not noticed. Several instances run
// side by side. Stop ends the instance's own master and returns when none of
// its processes is left. No mail leaves the machine unless the configuration
// given asks for it: everything goes to a closed loopback port by default.
//
// # What it assumes
//
// Root (Postfix changes user for its daemons), the users and groups postfix
// and postdrop, and the Debian package postfix.
package postfix

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"posthouse/internal/testkit"
)

// Options are how an instance differs from the default one.
type Options struct {
	Parent string // directory to create the instance's directory in; "" means the system's for temporary files
	Port   int    // SMTP port on 127.0.0.1; 0 picks one
	Main   string // main.cf lines that are added to, and win over, the default ones
	Master string // master.cf lines added to the default ones
}

// Instance is one private Postfix.
type Instance struct {
	Dir     string // everything is below it
	Port    int
	Log     testkit.LogFile
	process *testkit.Process
	output  testkit.Locked
}

// ErrNotRoot is returned by Create for a user who cannot run Postfix.
var ErrNotRoot = errors.New("the real Postfix can only be run by root")

// New creates and starts an instance for a test, and stops and removes it at
// the test's end. It fails the test when Postfix is not installed.
func New(tb testing.TB, opt Options) *Instance {
	tb.Helper()
	testkit.Require(tb, "postfix", "postconf", "postqueue", "postsuper")
	i, err := Create(opt)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if tb.Failed() {
			tb.Logf("postfix log:\n%s", i.Log.Tail(40))
		}
		if err := errors.Join(i.Stop(), i.Remove()); err != nil {
			tb.Error(err)
		}
	})
	if err := i.Start(context.Background()); err != nil {
		tb.Fatal(err)
	}
	return i
}

// Create makes the directories and the configuration; nothing runs yet.
func Create(opt Options) (*Instance, error) {
	if os.Geteuid() != 0 {
		return nil, ErrNotRoot
	}
	if _, err := testkit.Find("postfix"); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(opt.Parent, "postfix-")
	if err != nil {
		return nil, err
	}
	i := &Instance{Dir: dir, Port: opt.Port, Log: testkit.LogFile{Path: filepath.Join(dir, "maillog")}}
	if err := i.populate(opt); err != nil {
		return nil, errors.Join(err, i.Remove())
	}
	return i, nil
}

func (i *Instance) populate(opt Options) (err error) {
	if i.Port == 0 {
		if i.Port, err = testkit.FreePort(); err != nil {
			return err
		}
	}
	// Postfix's own user must get through to its directories.
	if err := os.Chmod(i.Dir, 0o755); err != nil {
		return err
	}
	for _, d := range []string{i.ConfigDir(), i.QueueDir(), i.dataDir()} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return err
		}
	}
	owner, err := user.Lookup("postfix")
	if err != nil {
		return err
	}
	uid, err := strconv.Atoi(owner.Uid)
	if err != nil {
		return err
	}
	if err := os.Chown(i.dataDir(), uid, -1); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(i.ConfigDir(), "master.cf"), []byte(i.masterCF()+opt.Master+"\n"), 0o644); err != nil {
		return err
	}
	if err := i.WriteMain(opt.Main); err != nil {
		return err
	}
	out, err := i.Run(context.Background(), "postfix", "check")
	if err == nil && out.Code != 0 {
		err = fmt.Errorf("postfix check: exit status %d: %s", out.Code, out.Stderr)
	}
	return err
}

// ConfigDir holds main.cf and master.cf.
func (i *Instance) ConfigDir() string { return filepath.Join(i.Dir, "conf") }

// QueueDir is queue_directory.
func (i *Instance) QueueDir() string { return filepath.Join(i.Dir, "queue") }

func (i *Instance) dataDir() string { return filepath.Join(i.Dir, "data") }

// Addr is the SMTP address.
func (i *Instance) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(i.Port)) }

// Pid is the master's process ID and process group, 0 when it does not run.
func (i *Instance) Pid() int {
	if i.process == nil {
		return 0
	}
	return i.process.Pid()
}

// WriteMain writes main.cf anew: the default lines, then extra.
func (i *Instance) WriteMain(extra string) error {
	text := fmt.Sprintf(`compatibility_level = 3.6
config_directory = %s
queue_directory = %s
data_directory = %s
maillog_file = %s
maillog_file_prefixes = %s
mail_owner = postfix
setgid_group = postdrop
myhostname = mx.test.example
mydomain = test.example
myorigin = $myhostname
mydestination =
local_recipient_maps =
alias_maps =
alias_database =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
biff = no
smtp_tls_security_level = none
smtpd_tls_security_level = none
smtp_dns_support_level = disabled
smtp_host_lookup = native
relayhost = [127.0.0.1]:1
`, i.ConfigDir(), i.QueueDir(), i.dataDir(), i.Log.Path, i.Dir)
	return os.WriteFile(filepath.Join(i.ConfigDir(), "main.cf"), []byte(testkit.OnlyLast(text+extra+"\n")), 0o644)
}

// masterCF is the stock list of services without chroot.
func (i *Instance) masterCF() string {
	return fmt.Sprintf(`127.0.0.1:%d inet n - n - - smtpd
pickup    unix  n  -  n  60    1  pickup
cleanup   unix  n  -  n  -     0  cleanup
qmgr      unix  n  -  n  300   1  qmgr
tlsmgr    unix  -  -  n  1000? 1  tlsmgr
rewrite   unix  -  -  n  -     -  trivial-rewrite
bounce    unix  -  -  n  -     0  bounce
defer     unix  -  -  n  -     0  bounce
trace     unix  -  -  n  -     0  bounce
verify    unix  -  -  n  -     1  verify
flush     unix  n  -  n  1000? 0  flush
proxymap  unix  -  -  n  -     -  proxymap
proxywrite unix -  -  n  -     1  proxymap
smtp      unix  -  -  n  -     -  smtp
relay     unix  -  -  n  -     -  smtp
showq     unix  n  -  n  -     -  showq
error     unix  -  -  n  -     -  error
retry     unix  -  -  n  -     -  error
discard   unix  -  -  n  -     -  discard
local     unix  -  n  n  -     -  local
virtual   unix  -  n  n  -     -  virtual
lmtp      unix  -  -  n  -     -  lmtp
anvil     unix  -  -  n  -     1  anvil
scache    unix  -  -  n  -     1  scache
postlog   unix-dgram n - n -   1  postlogd
`, i.Port)
}

// Start runs the master in the foreground and waits until it greets.
func (i *Instance) Start(ctx context.Context) error {
	dir, err := i.Run(ctx, "postconf", "-h", "daemon_directory")
	if err != nil {
		return err
	}
	cmd := exec.Command(filepath.Join(strings.TrimSpace(dir.Stdout), "master"), "-c", i.ConfigDir(), "-d")
	cmd.Env = i.env()
	cmd.Stdout, cmd.Stderr = &i.output, &i.output
	if i.process, err = testkit.StartProcess(cmd); err != nil {
		return err
	}
	err = testkit.Poll(ctx, 20*time.Second, func() error {
		select {
		case <-i.process.Done():
			return nil
		default:
		}
		return testkit.Greets(i.Addr())
	})
	select {
	case <-i.process.Done():
		err = fmt.Errorf("postfix ended at once: %w", i.process.Err())
		i.process = nil
	default:
	}
	if err != nil {
		return fmt.Errorf("%w\n%s\n%s", err, i.output.String(), i.Log.Tail(10))
	}
	return nil
}

// Stop ends all processes of the instance; it may be started again.
func (i *Instance) Stop() error {
	if i.process == nil {
		return nil
	}
	err := i.process.Stop(15 * time.Second)
	i.process = nil
	return err
}

// Kill ends all processes at once, as a crash would.
func (i *Instance) Kill() error {
	if i.process == nil {
		return nil
	}
	err := i.process.Kill()
	i.process = nil
	return err
}

// Remove deletes everything. Call it after Stop.
func (i *Instance) Remove() error { return os.RemoveAll(i.Dir) }

// Command is a Postfix command for this instance, not yet run.
func (i *Instance) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	path, err := testkit.Find(name)
	if err != nil {
		path = name
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = i.env()
	return cmd
}

// env is the environment of server and commands; the fixed time zone makes
// their output comparable.
func (i *Instance) env() []string {
	return append(os.Environ(), "MAIL_CONFIG="+i.ConfigDir(), "LC_ALL=C", "TZ=UTC")
}

// Run runs a Postfix command for this instance: "postqueue", "-p".
func (i *Instance) Run(ctx context.Context, name string, args ...string) (testkit.Output, error) {
	return i.RunInput(ctx, "", name, args...)
}

// RunInput is Run with text on standard input.
func (i *Instance) RunInput(ctx context.Context, stdin, name string, args ...string) (testkit.Output, error) {
	return testkit.Exec(i.Command(ctx, name, args...), stdin)
}
