// Package program runs the real posthouse binary for whole-program tests.
//
// # What it promises
//
// The binary is built once per test process. Each Instance has a directory of
// its own with main.cf, master.cf, spool and mail log, and one SMTP port on
// 127.0.0.1. Start returns when the server greets; Stop, Kill (kill -9) and
// Reload signal the process started here and no other. Commands run under
// their Postfix names through argv[0], or as `posthouse NAME`. Methods have
// the same names as those of package testkit/postfix, so that one test can do
// the same things to both.
//
// # Use
//
//	func TestMain(m *testing.M) { os.Exit(program.Main(m)) }
//
//	func TestRelay(t *testing.T) {
//		p := program.New(t, program.Options{Main: "relayhost = [127.0.0.1]:" + port})
//		p.MustStart(t)
//		dialogue.Run(t, p.Addr(), "S: 220 ...\n…")
//		p.WaitLog(t, `status=sent`)
//	}
//
// In the environment, POSTHOUSE_BINARY names a binary to test instead of
// building one, and POSTHOUSE_BUILD_FLAGS adds flags to the build ("-race").
package program

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"posthouse/internal/testkit"
)

// Options are how an instance differs from the default one.
type Options struct {
	Main    string        // main.cf lines, behind the default ones
	Master  string        // whole master.cf; "" means one smtpd on Port. $PORT stands for the port
	Port    int           // SMTP port on 127.0.0.1; 0 picks one
	Env     []string      // added to the environment of server and commands
	Timeout time.Duration // for start and stop; 0 means 20 s
}

// Instance is one Posthouse with its directory.
type Instance struct {
	Dir     string // everything is below it
	Port    int
	Log     testkit.LogFile
	opt     Options
	binary  string
	output  testkit.Locked
	process *testkit.Process
}

// commands are the names the binary answers to by argv[0].
func commands() []string {
	return []string{"postfix", "postqueue", "mailq", "postsuper", "postcat", "postconf", "sendmail", "qshape", "newaliases", "postlog", "postmap"}
}

// build makes the binary once; its directory is removed by Main.
var build = sync.OnceValues(func() (string, error) {
	if b := os.Getenv("POSTHOUSE_BINARY"); b != "" {
		return filepath.Abs(b)
	}
	dir, err := os.MkdirTemp("", "posthouse-build-")
	if err != nil {
		return "", err
	}
	out := filepath.Join(dir, "posthouse")
	return out, Build(out)
})

// Build compiles cmd/posthouse of this module to a file.
func Build(out string) error {
	args := append([]string{"build"}, strings.Fields(os.Getenv("POSTHOUSE_BUILD_FLAGS"))...)
	cmd := exec.Command("go", append(args, "-o", out, "posthouse/cmd/posthouse")...)
	var msg bytes.Buffer
	cmd.Stdout, cmd.Stderr = &msg, &msg
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("go build posthouse/cmd/posthouse: %w\n%s", err, &msg)
	}
	return nil
}

// Main runs the tests of a package that uses this one, and removes the binary
// they built. Without it the binary stays in the temporary directory.
func Main(m *testing.M) int {
	code := m.Run()
	if os.Getenv("POSTHOUSE_BINARY") == "" {
		if path, err := build(); err == nil {
			os.RemoveAll(filepath.Dir(path))
		}
	}
	return code
}

// Binary returns the path of the binary, building it first where needed.
func Binary(tb testing.TB) string {
	tb.Helper()
	path, err := build()
	if err != nil {
		tb.Fatal(err)
	}
	return path
}

// New makes a directory with configuration and command links. Nothing runs
// yet. At the test's end what runs is stopped, and the log shown if it failed.
func New(tb testing.TB, opt Options) *Instance {
	tb.Helper()
	binary := Binary(tb)
	dir, err := os.MkdirTemp("", "posthouse-test-")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			tb.Error(err)
		}
	})
	i, err := Create(dir, binary, opt)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		err := i.Stop()
		if err != nil {
			tb.Error(err)
		}
		if tb.Failed() {
			tb.Logf("output:\n%s\nmail log:\n%s", i.output.String(), i.Log.Tail(40))
		}
	})
	return i
}

// Create is New without a test: the caller stops it and removes dir.
func Create(dir, binary string, opt Options) (*Instance, error) {
	if opt.Timeout == 0 {
		opt.Timeout = 20 * time.Second
	}
	i := &Instance{Dir: dir, Port: opt.Port, opt: opt, binary: binary, Log: testkit.LogFile{Path: filepath.Join(dir, "maillog")}}
	if i.Port == 0 {
		var err error
		if i.Port, err = testkit.FreePort(); err != nil {
			return nil, err
		}
	}
	for _, d := range []string{i.ConfigDir(), i.QueueDir(), filepath.Join(dir, "data"), filepath.Join(dir, "bin")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return nil, err
		}
	}
	for _, name := range commands() {
		if err := os.Symlink(binary, filepath.Join(dir, "bin", name)); err != nil {
			return nil, err
		}
	}
	if err := i.WriteMain(opt.Main); err != nil {
		return nil, err
	}
	return i, i.WriteMaster(opt.Master)
}

// WriteMain writes main.cf anew: the default lines, then extra.
func (i *Instance) WriteMain(extra string) error {
	text := fmt.Sprintf(`compatibility_level = 3.6
queue_directory = %s
data_directory = %s
maillog_file = %s
myhostname = mx.test.example
mydomain = test.example
myorigin = $myhostname
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
smtp_tls_security_level = none
smtpd_tls_security_level = none
relayhost = [127.0.0.1]:1
http_listen =
`, i.QueueDir(), filepath.Join(i.Dir, "data"), i.Log.Path)
	return os.WriteFile(filepath.Join(i.ConfigDir(), "main.cf"), []byte(testkit.OnlyLast(text+extra+"\n")), 0o644)
}

// WriteMaster writes master.cf anew; "" means one smtpd on Port.
func (i *Instance) WriteMaster(text string) error {
	if text == "" {
		text = "127.0.0.1:$PORT inet n - n - - smtpd\n"
	}
	text = strings.ReplaceAll(text, "$PORT", strconv.Itoa(i.Port))
	return os.WriteFile(filepath.Join(i.ConfigDir(), "master.cf"), []byte(text), 0o644)
}

// ConfigDir holds main.cf and master.cf.
func (i *Instance) ConfigDir() string { return filepath.Join(i.Dir, "conf") }

// QueueDir is queue_directory.
func (i *Instance) QueueDir() string { return filepath.Join(i.Dir, "queue") }

// Addr is the SMTP address.
func (i *Instance) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(i.Port)) }

// Pid is the server's process ID and process group, 0 when it does not run.
func (i *Instance) Pid() int {
	if i.process == nil {
		return 0
	}
	return i.process.Pid()
}

// Output is what the server wrote to its standard output and error.
func (i *Instance) Output() string { return i.output.String() }

func (i *Instance) env() []string {
	return append(append(os.Environ(), "MAIL_CONFIG="+i.ConfigDir(), "LC_ALL=C", "TZ=UTC"), i.opt.Env...)
}

// Start runs `posthouse serve` and waits until it greets.
func (i *Instance) Start(ctx context.Context) error {
	if err := i.Launch(); err != nil {
		return err
	}
	var ended error
	err := testkit.Poll(ctx, i.opt.Timeout, func() error {
		select {
		case <-i.process.Done():
			ended = fmt.Errorf("posthouse serve ended: %w", i.process.Err())
			return nil
		default:
			return testkit.Greets(i.Addr())
		}
	})
	if ended != nil {
		i.process, err = nil, ended
	}
	if err != nil {
		return fmt.Errorf("%w\n%s\n%s", err, i.output.String(), i.Log.Tail(10))
	}
	return nil
}

// Launch starts the server and does not wait for it: for configurations that
// are meant to fail.
func (i *Instance) Launch() error {
	if i.process != nil {
		return errors.New("already running")
	}
	cmd := exec.Command(i.binary, "serve", "-c", i.ConfigDir())
	cmd.Env = i.env()
	cmd.Stdout, cmd.Stderr = &i.output, &i.output
	p, err := testkit.StartProcess(cmd)
	if err != nil {
		return err
	}
	i.process = p
	return nil
}

// WaitExit waits for the server to end by itself and returns its exit status.
func (i *Instance) WaitExit(ctx context.Context) (int, error) {
	if i.process == nil {
		return 0, errors.New("not running")
	}
	select {
	case <-i.process.Done():
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	err := i.process.Err()
	i.process = nil
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return exit.ExitCode(), nil
	}
	return 0, err
}

// Stop ends the server with SIGTERM; it may be started again.
func (i *Instance) Stop() error {
	if i.process == nil {
		return nil
	}
	err := i.process.Stop(i.opt.Timeout)
	i.process = nil
	return err
}

// Kill is kill -9.
func (i *Instance) Kill() error {
	if i.process == nil {
		return nil
	}
	err := i.process.Kill()
	i.process = nil
	return err
}

// Restart stops and starts.
func (i *Instance) Restart(ctx context.Context) error {
	if err := i.Stop(); err != nil {
		return err
	}
	return i.Start(ctx)
}

// Reload sends SIGHUP.
func (i *Instance) Reload() error {
	if i.process == nil {
		return errors.New("not running")
	}
	return i.process.Signal(syscall.SIGHUP)
}

// Command is a command of this instance, not yet run: a Postfix name through
// argv[0], any other name as `posthouse NAME`.
func (i *Instance) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	path := filepath.Join(i.Dir, "bin", name)
	if _, err := os.Lstat(path); err != nil {
		path, args = i.binary, append([]string{name}, args...)
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = i.env()
	return cmd
}

// Run runs a command of this instance: "postqueue", "-p".
func (i *Instance) Run(ctx context.Context, name string, args ...string) (testkit.Output, error) {
	return i.RunInput(ctx, "", name, args...)
}

// RunInput is Run with text on standard input.
func (i *Instance) RunInput(ctx context.Context, stdin, name string, args ...string) (testkit.Output, error) {
	return testkit.Exec(i.Command(ctx, name, args...), stdin)
}

// MustStart is Start for tests.
func (i *Instance) MustStart(tb testing.TB) {
	tb.Helper()
	if err := i.Start(context.Background()); err != nil {
		tb.Fatal(err)
	}
}

// WaitLog waits up to 20 s for a mail log line and returns its submatches.
func (i *Instance) WaitLog(tb testing.TB, pattern string) []string {
	tb.Helper()
	m, err := i.Log.Wait(context.Background(), 20*time.Second, pattern)
	if err != nil {
		tb.Fatal(err)
	}
	return m
}
