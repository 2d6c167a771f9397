package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"posthouse/internal/cli/getopt"
	"posthouse/internal/operator/control"
	"posthouse/internal/postfix/config"
)

const postfixVerbs = "start (or stop, reload, abort, flush, check, status, start-fg)"

// pollEvery is how often a waiting command looks whether the server came or went.
const pollEvery = 25 * time.Millisecond

// patience bounds how long start and stop wait for the server. Recovering a
// large spool takes a while, and so does finishing deliveries under way.
const patience = 2 * time.Minute

// postfixRun is one run of postfix(1).
type postfixRun struct {
	*process
	s *settings
}

// runPostfix is postfix(1): start and stop the server, and the like. Its
// messages carry the name of Postfix's script and go to standard error.
func runPostfix(p *process, args []string) int {
	var dir string
	opt := getopt.New("c:Dv", args)
	for opt.Next() {
		switch opt.Opt {
		case 'c':
			if !filepath.IsAbs(opt.Arg) {
				return p.fatal(1, "-c requires absolute pathname")
			}
			dir = opt.Arg
		case 'D', 'v':
		default:
			p.info("%s", opt.Complaint)
			return p.fatal(1, "usage: postfix [-c config_dir] [-Dv] command")
		}
	}
	s := p.settings(dir)
	if s == nil {
		return 1
	}
	if !p.mayAdminister(s) {
		p.errorf("to submit mail, use the Postfix sendmail command")
		return p.fatal(1, "the postfix command is reserved for the superuser")
	}
	p.name = "postfix/postfix-script"
	r := &postfixRun{process: p, s: s}
	verb := ""
	if len(opt.Operands()) > 0 {
		verb = opt.Operands()[0]
	}
	return r.verb(verb)
}

func (r *postfixRun) verb(verb string) int {
	switch verb {
	case "start":
		return r.start()
	case "start-fg":
		if r.running() {
			return r.fatal(1, "the Postfix mail system is already running")
		}
		return r.serve(r.s.dir)
	case "stop", "quick-stop", "drain", "abort":
		return r.stop(verb)
	case "reload":
		return r.reload()
	case "status":
		return r.status()
	case "flush":
		r.name = "postqueue"
		return runPostqueue(r.process, []string{"-c", r.s.dir, "-f"})
	case "check":
		return r.check()
	default:
		return r.fatal(1, "unknown command: '%s'. Usage: postfix %s", verb, postfixVerbs)
	}
}

// serve runs the server in this process.
func (p *process) serve(dir string) int {
	if p.prog.Serve == nil {
		return p.fatal(1, "this build has no server")
	}
	return p.prog.Serve(p.ctx, dir, p.std)
}

func (r *postfixRun) running() bool {
	_, err := r.s.client().Counts(r.ctx)
	return !errors.Is(err, control.ErrUnreachable)
}

// start runs the server in the background and waits until it answers.
func (r *postfixRun) start() int {
	if r.running() {
		return r.fatal(1, "the Postfix mail system is already running")
	}
	if status := r.check(); status != 0 {
		return status
	}
	self, err := os.Executable()
	if err != nil {
		return r.fatal(1, "%v", err)
	}
	r.info("starting the Postfix mail system")
	cmd := exec.Command(self, "serve", "-c", r.s.dir)
	cmd.Args[0] = "posthouse" // whatever name this command was started under
	cmd.Env = r.env
	// Until it has its log, the server has nowhere else to complain than here.
	// But it must not hold our standard error: whoever reads that through a
	// pipe (ssh, cron, a test) would wait for the server's end.
	complaints, err := os.CreateTemp("", "posthouse-start-")
	if err != nil {
		return r.fatal(1, "%v", err)
	}
	defer func() {
		_, _ = complaints.Seek(0, io.SeekStart)
		_, _ = io.Copy(r.std.Err, complaints) // what cannot be shown is lost either way
		_ = complaints.Close()
	}()
	if err := os.Remove(complaints.Name()); err != nil {
		return r.fatal(1, "%v", err)
	}
	cmd.Stderr = complaints
	// A session of its own: it outlives the terminal.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return r.fatal(1, "start the mail system: %v", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	ctx, cancel := context.WithTimeout(r.ctx, patience)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		select {
		case err := <-ended:
			return r.fatal(1, "mail system startup failed: %v", err)
		case <-ctx.Done():
			return r.fatal(1, "the mail system does not answer yet; see its log")
		case <-tick.C:
			if r.running() {
				return 0
			}
		}
	}
}

// stop ends the server and waits until it is gone.
func (r *postfixRun) stop(verb string) int {
	if !r.running() {
		return r.fatal(1, "the Postfix mail system is not running")
	}
	if verb == "abort" {
		r.info("aborting the Postfix mail system")
	} else {
		r.info("stopping the Postfix mail system")
	}
	if err := r.end(r.s); err != nil {
		return r.fatal(1, "%v", err)
	}
	return 0
}

// end stops the server and waits until its process is gone: it answers no
// more some time before it has closed the spool, and who asked for its end
// may want the spool next.
func (p *process) end(s *settings) error {
	st, err := s.client().Status(p.ctx)
	if err != nil {
		return err
	}
	if err := s.client().Stop(p.ctx, p.actor()); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		_, err := s.client().Counts(ctx)
		if errors.Is(err, control.ErrUnreachable) && errors.Is(syscall.Kill(st.PID, 0), syscall.ESRCH) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the mail system is still stopping: %w", ctx.Err())
		case <-tick.C:
		}
	}
}

func (r *postfixRun) reload() int {
	if !r.running() {
		return r.fatal(1, "the Postfix mail system is not running")
	}
	r.info("refreshing the Postfix mail system")
	if err := r.s.client().Reload(r.ctx, r.actor()); err != nil {
		return r.fatal(1, "%v", err)
	}
	return 0
}

func (r *postfixRun) status() int {
	s, err := r.s.client().Status(r.ctx)
	switch {
	case errors.Is(err, control.ErrUnreachable):
		r.info("the Postfix mail system is not running")
		return 1
	case err != nil:
		return r.fatal(1, "%v", err)
	}
	r.info("the Postfix mail system is running: PID: %d", s.PID)
	return 0
}

// check reads the configuration and tells what is wrong with it.
func (r *postfixRun) check() int {
	_, problems, err := config.Load(r.s.dir)
	for _, p := range problems {
		if p.Severity == config.Error {
			r.errorf("%s", p)
		} else {
			r.warn("%s", p)
		}
	}
	if errors.Is(err, config.ErrInvalid) { // its words are those above
		return r.fatal(1, "%v in %s", config.ErrInvalid, r.s.dir)
	} else if err != nil {
		return r.fatal(1, "%v", err)
	}
	return 0
}
