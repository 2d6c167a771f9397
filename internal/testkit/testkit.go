package testkit

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// packages names the Debian package of each program tests may need.
func packages(program string) string {
	switch program {
	case "postfix", "postqueue", "postsuper", "postcat", "postconf", "sendmail", "mailq", "qshape", "smtp-source", "smtp-sink", "postmap":
		return "postfix"
	case "openssl", "swaks", "strace", "socat":
		return program
	}
	return "that provides " + program
}

// Find returns the path of a program, looking beyond PATH where system
// programs live.
func Find(program string) (string, error) {
	if p, err := exec.LookPath(program); err == nil {
		return p, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin"} {
		p := filepath.Join(dir, program)
		if st, err := os.Stat(p); err == nil && st.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	return "", fmt.Errorf("%s is not installed: it is in the Debian package %s", program, packages(program))
}

// Require fails the test when a program it needs is missing, naming the
// Debian package to install. A test that quietly does nothing proves nothing,
// so this never skips.
func Require(tb testing.TB, programs ...string) {
	tb.Helper()
	for _, p := range programs {
		if _, err := Find(p); err != nil {
			tb.Fatal(err)
		}
	}
}

// Poll calls ready every few milliseconds until it returns nil, ctx ends, or
// the limit is over; then it returns the last error. It is for watching other
// processes, which cannot wake us.
func Poll(ctx context.Context, limit time.Duration, ready func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ready()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not within %v: %w", limit, err)
		case <-tick.C:
		}
	}
}

// FreePort returns a TCP port on 127.0.0.1 that was free a moment ago.
func FreePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// Greets is nil when an SMTP server answers at a TCP address with 220.
func Greets(address string) error {
	c, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	b := make([]byte, 512)
	n, err := c.Read(b)
	if err != nil {
		return err
	}
	if !strings.HasPrefix(string(b[:n]), "220") {
		return fmt.Errorf("%s answers %q", address, b[:n])
	}
	// A polite end keeps "lost connection" out of the log under test.
	if _, err := c.Write([]byte("QUIT\r\n")); err != nil {
		return err
	}
	_, err = c.Read(b)
	return err
}
