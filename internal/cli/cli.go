package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"posthouse/internal/operator"
	"posthouse/internal/postfix/maillog"
)

// Stdio is what a command reads and writes.
type Stdio struct {
	In  io.Reader
	Out io.Writer
	Err io.Writer
}

// Programs are the parts of Posthouse that main wires in. A nil function is
// reported as a verb that this build does not have.
type Programs struct {
	// Version is what `posthouse version` prints after the name.
	Version string

	// Serve runs the server with the given configuration directory until ctx
	// ends or it is told to stop, and returns the exit status.
	Serve func(ctx context.Context, configDir string, std Stdio) int

	// Demo, Sink and Source run the demonstration, the test destination and
	// the load generator. They parse their own arguments, -h included.
	Demo   func(ctx context.Context, args []string, std Stdio) int
	Sink   func(ctx context.Context, args []string, std Stdio) int
	Source func(ctx context.Context, args []string, std Stdio) int

	// Offline opens the spool of a server that is not running, and returns
	// the verbs over it and how to close it. The error wraps
	// spool.ErrLocked while a server has it.
	Offline func(configDir string) (operator.Operator, func() error, error)

	// StandaloneSMTP is `sendmail -bs`: one SMTP session on std, for the
	// local user uid. It returns the exit status.
	StandaloneSMTP func(ctx context.Context, configDir string, uid int, std Stdio) int
}

// command is one program or verb: it runs with its arguments (without the
// program's name) and returns the exit status.
type command func(p *process, args []string) int

// process is what a command runs in.
type process struct {
	ctx  context.Context
	name string // what diagnostics begin with
	std  Stdio
	env  []string // KEY=value, as os.Environ
	uid  int      // the real user ID
	// borrowed tells that the program has rights that its user has not
	// (set-gid): it must not take its configuration from just anywhere.
	borrowed bool
	prog     *Programs
	log      journal // the mail log, for commands whose diagnostics go there too
}

// Main runs the command that args name and returns its exit status. args[0]
// is the name the program was started under; env is as os.Environ gives it;
// uid is the real user ID.
func Main(ctx context.Context, prog Programs, args, env []string, uid int, std Stdio) int {
	if len(args) == 0 {
		args = []string{"posthouse"}
	}
	p := &process{ctx: ctx, name: filepath.Base(args[0]), std: std, env: env, uid: uid, borrowed: os.Getegid() != os.Getgid(), prog: &prog}
	defer p.closeJournal()
	if run := postfixCommand(p.name); run != nil {
		// Postfix's commands have no --help: they would complain of it.
		if len(args) == 2 && args[1] == "--help" {
			return runNative(p, []string{"help", p.name})
		}
		return run(p, args[1:])
	}
	if len(args) > 1 {
		if run := postfixCommand(args[1]); run != nil {
			if len(args) == 3 && args[2] == "--help" {
				return runNative(p, []string{"help", args[1]})
			}
			p.name = args[1]
			return run(p, args[2:])
		}
	}
	return runNative(p, args[1:])
}

// postfixCommand finds the command that carries a name of Postfix's.
func postfixCommand(name string) command {
	switch name {
	case "postqueue":
		return runPostqueue
	case "mailq", "sendmail", "newaliases":
		return runSendmail
	case "postsuper":
		return runPostsuper
	case "postcat":
		return runPostcat
	case "postconf":
		return runPostconf
	case "postfix":
		return runPostfix
	case "postlog":
		return runPostlog
	default:
		return nil
	}
}

// getenv returns the value of an environment variable, "" when it is not set.
func (p *process) getenv(key string) string {
	for i := len(p.env) - 1; i >= 0; i-- {
		if k, v, ok := strings.Cut(p.env[i], "="); ok && k == key {
			return v
		}
	}
	return ""
}

// info, warn, errorf and fatal write one diagnostic line each, as Postfix's
// commands do: "postqueue: warning: …".
func (p *process) info(format string, args ...any)   { p.talk(maillog.Info, format, args) }
func (p *process) warn(format string, args ...any)   { p.talk(maillog.Warning, format, args) }
func (p *process) errorf(format string, args ...any) { p.talk(maillog.Error, format, args) }

// fatal also returns the status to exit with, so that a command can end with
// "return p.fatal(69, …)".
func (p *process) fatal(status int, format string, args ...any) int {
	p.talk(maillog.Fatal, format, args)
	return status
}

func (p *process) talk(sev maillog.Severity, format string, args []any) {
	text := fmt.Sprintf(format, args...)
	fmt.Fprintf(p.std.Err, "%s: %s%s\n", p.name, sev.Word(), text)
	p.record(sev, text)
}

// isBrokenPipe tells whether a reader of our output went away, as "head" does
// once it has seen enough: that is no failure of ours.
func isBrokenPipe(err error) bool { return errors.Is(err, syscall.EPIPE) }
