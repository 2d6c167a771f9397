package testkit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Process is a daemon started here, the leader of a process group of its own
// so that its children can be found and ended with it, and nothing else.
type Process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has exited and been waited for
	err  error         // of Wait; read after done
}

// StartProcess starts cmd in a new process group.
func StartProcess(cmd *exec.Cmd) (*Process, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &Process{cmd: cmd, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// Pid is the process ID, and the ID of its group.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err is how it ended; good once Done is closed.
func (p *Process) Err() error { return p.err }

// Signal sends sig to the process alone.
func (p *Process) Signal(sig os.Signal) error { return p.cmd.Process.Signal(sig) }

// Stop sends SIGTERM and waits for the process and its group to be gone;
// after the limit it kills the group and says so.
func (p *Process) Stop(limit time.Duration) error {
	if err := p.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-p.done:
	case <-t.C:
		return errors.Join(fmt.Errorf("process %d did not stop within %v", p.Pid(), limit), p.Kill())
	}
	// Children end a moment after their parent.
	if err := Poll(context.Background(), limit, p.groupGone); err != nil {
		return errors.Join(err, p.Kill())
	}
	return nil
}

// Kill ends the process and its group at once and waits for it (kill -9).
func (p *Process) Kill() error {
	err := syscall.Kill(-p.Pid(), syscall.SIGKILL)
	if errors.Is(err, syscall.ESRCH) {
		err = nil
	}
	<-p.done
	return errors.Join(err, Poll(context.Background(), 10*time.Second, p.groupGone))
}

// groupGone is nil when no process of the group is left. Zombies that init
// has not reaped yet still count for kill(2), so look at their state.
func (p *Process) groupGone() error {
	if err := syscall.Kill(-p.Pid(), 0); errors.Is(err, syscall.ESRCH) {
		return nil
	}
	for _, st := range Group(p.Pid()) {
		if st.State != "Z" {
			return fmt.Errorf("process %d (%s) is still there", st.Pid, st.Name)
		}
	}
	return nil
}

// Output is what a command wrote and how it ended.
type Output struct {
	Stdout string
	Stderr string
	Code   int // exit status; -1 when it could not be run or was killed
}

// Exec runs cmd to its end with stdin as its input. Only a command that could
// not be run is an error; an exit status other than zero is not.
func Exec(cmd *exec.Cmd, stdin string) (Output, error) {
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		err = nil
	}
	code := -1
	if cmd.ProcessState != nil {
		code = cmd.ProcessState.ExitCode()
	}
	return Output{Stdout: out.String(), Stderr: errs.String(), Code: code}, err
}

// LogFile watches a file that another process appends to.
type LogFile struct {
	Path string
}

// Text is all of the file, "" while there is none.
func (l LogFile) Text() string {
	b, err := os.ReadFile(l.Path)
	if err != nil {
		return ""
	}
	return string(b)
}

// Wait returns the submatches of the first match of pattern in the file, as
// soon as there is one.
func (l LogFile) Wait(ctx context.Context, limit time.Duration, pattern string) ([]string, error) {
	return l.WaitN(ctx, limit, pattern, 1)
}

// WaitN waits for n matches and returns the last one's submatches.
func (l LogFile) WaitN(ctx context.Context, limit time.Duration, pattern string, n int) (m []string, err error) {
	re, err := regexp.Compile("(?m)" + pattern)
	if err != nil {
		return nil, err
	}
	var size int64 = -1
	err = Poll(ctx, limit, func() error {
		// Reading a big log again and again would be felt: look only when it grew.
		if st, err := os.Stat(l.Path); err == nil && st.Size() == size {
			return fmt.Errorf("no %d lines with %q in %s", n, pattern, l.Path)
		} else if err == nil {
			size = st.Size()
		}
		all := re.FindAllStringSubmatch(l.Text(), n)
		if len(all) < n {
			return fmt.Errorf("%d of %d lines with %q in %s", len(all), n, pattern, l.Path)
		}
		m = all[n-1]
		return nil
	})
	return m, err
}

// Tail is the last lines of the file, for messages.
func (l LogFile) Tail(lines int) string {
	all := strings.Split(strings.TrimRight(l.Text(), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// Locked is a buffer that a process can write to while a test reads it.
type Locked struct {
	mu sync.Mutex
	b  bytes.Buffer
}

var _ io.Writer = (*Locked)(nil)

// Write appends.
func (l *Locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// String is everything written so far.
func (l *Locked) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
