// Package oracle asks a real Postfix what it would do: it runs Postfix's
// commands on a private instance (package testkit/postfix), for tests that
// hold ours against them.
//
// What cannot be asked fails the test. A comparison that does not happen
// proves nothing.
package oracle

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"posthouse/internal/testkit"
	"posthouse/internal/testkit/postfix"
)

// Instance is a private Postfix with every message deferred: its default
// transport is "retry".
type Instance struct {
	tb    testing.TB
	pf    *postfix.Instance
	Dir   string // configuration directory
	Spool string // queue directory
}

// Output is what a command wrote and returned.
type Output struct {
	Stdout, Stderr string
	Status         int
}

const mainCf = `default_transport = retry:4.3.2 come back later
relayhost =
import_environment = MAIL_CONFIG TZ LC_ALL
`

// New makes an instance that does not run; its directories exist. extra are
// further lines of main.cf. Everything is removed when the test ends.
func New(tb testing.TB, extra ...string) *Instance {
	tb.Helper()
	pf, err := postfix.Create(postfix.Options{Main: mainCf + strings.Join(extra, "\n")})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := errors.Join(pf.Stop(), pf.Remove()); err != nil {
			tb.Error(err)
		}
	})
	// postsuper writes to the log as Postfix's user when no server does.
	if err := os.Chmod(pf.Dir, 0o777); err != nil {
		tb.Fatal(err)
	}
	return &Instance{tb: tb, pf: pf, Dir: pf.ConfigDir(), Spool: pf.QueueDir()}
}

// Start runs the servers until the test ends.
func (i *Instance) Start() {
	i.tb.Helper()
	if err := i.pf.Start(context.Background()); err != nil {
		i.tb.Fatal(err)
	}
}

// Wait waits until done returns true: another process can only be asked again
// and again.
func (i *Instance) Wait(what string, done func() bool) {
	i.tb.Helper()
	err := testkit.Poll(context.Background(), 30*time.Second, func() error {
		if !done() {
			return errors.New("waited in vain for " + what)
		}
		return nil
	})
	if err != nil {
		i.tb.Fatal(err)
	}
}

// Run runs one of Postfix's commands on the instance with the given input. It
// may be called from several goroutines.
func (i *Instance) Run(stdin, name string, args ...string) Output {
	i.tb.Helper()
	cmd := i.pf.Command(context.Background(), name, args...)
	out, err := testkit.Exec(cmd, stdin)
	if err != nil {
		i.tb.Errorf("%s: %v", name, err)
	}
	// Some of Postfix's diagnostics have the path it was started as.
	return Output{Stdout: out.Stdout, Stderr: strings.ReplaceAll(out.Stderr, cmd.Path, name), Status: out.Code}
}
