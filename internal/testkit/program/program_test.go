package program_test

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"posthouse/internal/testkit/program"
	"posthouse/internal/traffic/sink"
)

// TestMain lets this test binary stand in for posthouse, so that the harness
// is tested for itself: `serve` opens the port in master.cf, and every command
// says under which name and with which arguments it was called.
func TestMain(m *testing.M) {
	if os.Getenv("MAIL_CONFIG") == "" {
		goleak.VerifyTestMain(m)
		return
	}
	if len(os.Args) > 1 && os.Args[1] == "serve" {
		os.Exit(serve(os.Args[3]))
	}
	fmt.Println(filepath.Base(os.Args[0]), os.Args[1:], os.Getenv("MAIL_CONFIG"))
}

func serve(dir string) int {
	main, err := os.ReadFile(filepath.Join(dir, "main.cf"))
	if err != nil || strings.Contains(string(main), "broken") {
		fmt.Println("fatal: broken configuration")
		return 1
	}
	master, err := os.ReadFile(filepath.Join(dir, "master.cf"))
	if err != nil {
		return 1
	}
	srv, err := sink.New(sink.Config{})
	if err != nil {
		return 1
	}
	defer srv.Close()
	if _, err := srv.Listen(strings.Fields(string(master))[0]); err != nil {
		return 1
	}
	end, hup := make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM)
	signal.Notify(hup, syscall.SIGHUP)
	for {
		select {
		case <-end:
			return 0
		case <-hup:
			if err := os.WriteFile(filepath.Join(dir, "..", "maillog"), []byte("reload\n"), 0o644); err != nil {
				return 1
			}
		}
	}
}

func standIn(t *testing.T) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("POSTHOUSE_BINARY", self)
}

func TestLife(t *testing.T) {
	standIn(t)
	p := program.New(t, program.Options{Main: "relayhost = [127.0.0.1]:2"})
	p.MustStart(t)
	if err := p.Reload(); err != nil {
		t.Fatal(err)
	}
	p.WaitLog(t, "^reload$")
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	p.MustStart(t)
	pid := p.Pid()
	if err := p.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if p.Pid() == pid || p.Pid() == 0 {
		t.Errorf("process %d after a restart of %d", p.Pid(), pid)
	}
	for _, name := range []string{"postqueue", "status"} {
		out, err := p.Run(t.Context(), name, "-p")
		want := name + " [-p] " + p.ConfigDir()
		if name == "status" {
			want = filepath.Base(program.Binary(t)) + " [status -p] " + p.ConfigDir()
		}
		if err != nil || strings.TrimSpace(out.Stdout) != want {
			t.Errorf("%+v, %v", out, err)
		}
	}
	main, err := os.ReadFile(filepath.Join(p.ConfigDir(), "main.cf"))
	if err != nil || strings.Count(string(main), "relayhost") != 1 {
		t.Errorf("main.cf:\n%s", main)
	}
}

func TestStartThatFails(t *testing.T) {
	standIn(t)
	p := program.New(t, program.Options{Main: "broken = yes"})
	if err := p.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "broken configuration") {
		t.Fatalf("error %v", err)
	}
	if err := p.Launch(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if code, err := p.WaitExit(ctx); code != 1 || err != nil {
		t.Fatalf("exit status %d, %v", code, err)
	}
}
