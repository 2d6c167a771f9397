package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"posthouse/internal/spool"
	"posthouse/internal/testkit"
	"posthouse/internal/testkit/program"
	"posthouse/internal/traffic/sink"
	"posthouse/internal/traffic/source"
)

// fill sends n messages, which must all be taken, and returns their Message-IDs.
func fill(t *testing.T, p *program.Instance, n, length int) []string {
	t.Helper()
	var ids []string
	r, err := source.Run(t.Context(), source.Config{
		Address: p.Addr(), Messages: int64(n), Persistent: true, From: "a@sender.example", To: "u%d@dest.example", Length: length,
		Acked: func(id, _ string) { ids = append(ids, id) },
	})
	if err != nil || r.Accepted != int64(n) {
		t.Fatalf("%v: %v", err, r)
	}
	return ids
}

// queues is the number of messages by queue, as `posthouse status` has it.
func queues(t *testing.T, p *program.Instance) map[string]int {
	t.Helper()
	var status struct {
		Queues []struct {
			Name     string
			Messages int
		}
	}
	out := run(t, p, "status", "-o", "json")
	if err := json.Unmarshal([]byte(out), &status); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	m := map[string]int{}
	for _, q := range status.Queues {
		m[q.Name] = q.Messages
	}
	return m
}

// patient is a relay whose only destination is down and which does not try again by itself.
const patient = "minimal_backoff_time = 1h\nmaximal_backoff_time = 1h\n"

// segments are the files of a spool's log, oldest first.
func segments(t *testing.T, p *program.Instance) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(spoolDir(p), "log", "*.seg"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no log segments: %v", err)
	}
	return files
}

// damage changes the segment that holds text, at an offset from it.
func damage(t *testing.T, p *program.Instance, text string, offset int, change func(b []byte, at int) []byte) {
	t.Helper()
	for _, f := range segments(t, p) {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if at := bytes.Index(b, []byte(text)); at >= 0 {
			if err := os.WriteFile(f, change(b, at+offset), 0o600); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatalf("%q is in no segment", text)
}

func flip(b []byte, at int) []byte {
	b[at] ^= 0x10
	return b
}

func cut(b []byte, at int) []byte { return b[:at] }

// TestDamagedSpool: with a part of the log damaged the relay starts, says so,
// delivers what is sound, and counts the rest as corrupt: none disappears.
func TestDamagedSpool(t *testing.T) {
	t.Parallel()
	const n = 20
	for name, c := range map[string]struct {
		kill   bool // before the damage, so that the log has to be read again
		offset int  // from the Message-ID of the eighth message
		change func([]byte, int) []byte
		sound  int // at least so many are delivered
	}{
		"content after a stop":     {false, 1000, flip, n - 1},
		"content after a kill":     {true, 1000, flip, n - 1},
		"envelope after a kill":    {true, -500, flip, n - 2},
		"file cut after a stop":    {false, 1000, cut, 7},
		"header line after a stop": {false, 3, flip, n - 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			addr := w.address("dest.example")
			p := w.relay(patient)
			ids := fill(t, p, n, 4000)
			end := p.Stop
			if c.kill {
				end = p.Kill
			}
			if err := end(); err != nil {
				t.Fatal(err)
			}
			damage(t, p, ids[7], c.offset, c.change)
			h := listen(t, addr, sink.Config{})
			p.MustStart(t)
			run(t, p, "postqueue", "-f")
			var last map[string]int
			err := testkit.Poll(t.Context(), patience, func() error {
				last = queues(t, p)
				if got := int(h.Counters().Messages) + last["corrupt"]; got != n || last["active"]+last["deferred"]+last["incoming"] > 0 {
					return fmt.Errorf("%d delivered, queues %v", h.Counters().Messages, last)
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			delivered := int(h.Counters().Messages)
			if delivered < c.sound || last["corrupt"] == 0 {
				t.Errorf("%d delivered, queues %v", delivered, last)
			}
			for _, d := range h.deliveries() {
				if !regexp.MustCompile(`^(X+\r\n)+$`).Match(d.Content[bytes.Index(d.Content, []byte("\r\n\r\n"))+4:]) {
					t.Errorf("damaged content was delivered: %s", d.MessageID)
				}
			}
			p.WaitLog(t, `(warning|error): .*corrupt`)
			// A further start knows of it too.
			if err := p.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
			if again := queues(t, p); again["corrupt"] != last["corrupt"] {
				t.Errorf("corrupt: %d, after a restart %d", last["corrupt"], again["corrupt"])
			}
			send(t, p, "a@sender.example", "new@dest.example")
			h.wait(t, delivered+1)
		})
	}
}

// TestNoSpaceByConfiguration: with less free than queue_minfree no mail is
// taken, and what waits goes out.
func TestNoSpaceByConfiguration(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	addr := w.address("dest.example")
	p := w.relay(patient)
	fill(t, p, 10, 1000)
	if err := p.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := p.WriteMain(w.options(patient + "queue_minfree = 900000000000000\n").Main); err != nil {
		t.Fatal(err)
	}
	p.MustStart(t)
	refusesMail(t, p)
	contains(t, run(t, p, "mailq"), "10 Requests")
	h := listen(t, addr, sink.Config{})
	run(t, p, "postqueue", "-f")
	h.wait(t, 10)
	waitEmpty(t, p)
	p.WaitLog(t, `NOQUEUE: reject: MAIL from localhost\[127\.0\.0\.1\]: 452 4\.3\.1 Insufficient system storage`)
}

func refusesMail(t *testing.T, p *program.Instance) {
	t.Helper()
	c := dial(t, p.Addr())
	c.say("EHLO client.example\r\n", "250")
	c.say("MAIL FROM:<a@sender.example>\r\n", "452 4.3.1 Insufficient system storage")
	c.say("QUIT\r\n", "221")
}

// takesMail is nil when a MAIL command is accepted.
func takesMail(t *testing.T, p *program.Instance) error {
	t.Helper()
	c := dial(t, p.Addr())
	defer c.Close()
	c.say("EHLO client.example\r\n", "250")
	c.say("MAIL FROM:<a@sender.example>\r\n", "")
	line, err := c.in.ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "250") {
		return fmt.Errorf("%q, %w", line, err)
	}
	c.say("QUIT\r\n", "221")
	return nil
}

// onSmallDisk mounts a file system of its own below queue_directory; only root can.
func onSmallDisk(t *testing.T, p *program.Instance, size string) {
	t.Helper()
	if err := syscall.Mount("tmpfs", p.QueueDir(), "tmpfs", 0, "size="+size); err != nil {
		t.Fatalf("mount -t tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
		// Detached even if something is still open there.
		if err := syscall.Unmount(p.QueueDir(), syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// TestFullDisk: a real file system runs full. While it does mail is refused
// with 452; what was acknowledged goes out once, and then mail is taken again.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Log("only root can mount a file system: TestNoSpaceByConfiguration has to do")
		return
	}
	for name, hog := range map[string]bool{"with mail": false, "with other files": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			addr := w.address("dest.example")
			p := program.New(t, w.options(patient+"message_size_limit = 1000000\nspool_segment_size = 2M\n"))
			onSmallDisk(t, p, "32m")
			p.MustStart(t)
			var acked []string
			filler := filepath.Join(p.QueueDir(), "filler")
			if hog {
				acked = fill(t, p, 10, 100000)
				// All there is, to the last byte: the reserve is gone as well.
				if err := os.WriteFile(filler, make([]byte, 64<<20), 0o600); err == nil {
					t.Fatal("the disk is not full")
				}
			} else {
				acked = fillUp(t, p)
			}
			err := testkit.Poll(t.Context(), patience, func() error {
				if takesMail(t, p) == nil {
					return errors.New("takes mail on a full disk")
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			refusesMail(t, p)
			if hog {
				contains(t, run(t, p, "mailq"), "10 Requests")
				if err := os.Remove(filler); err != nil {
					t.Fatal(err)
				}
			}
			h := listen(t, addr, sink.Config{})
			run(t, p, "postqueue", "-f")
			h.wait(t, len(acked))
			waitEmpty(t, p)
			once(t, h, int64(len(acked)))
			err = testkit.Poll(t.Context(), patience, func() error { return takesMail(t, p) })
			if err != nil {
				t.Fatal(err)
			}
			if err := p.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
			if q := queues(t, p); q["corrupt"]+q["deferred"]+q["active"] > 0 {
				t.Errorf("after a restart: %v", q)
			}
		})
	}
}

// fillUp sends until the relay refuses mail at MAIL already, and returns the
// Message-IDs it took. The first refusals may come later in a transaction:
// between two looks at the disk its free space is an estimate.
func fillUp(t *testing.T, p *program.Instance) (acked []string) {
	t.Helper()
	for takesMail(t, p) == nil {
		before := len(acked)
		r, err := source.Run(t.Context(), source.Config{
			Address: p.Addr(), Messages: 1000, Persistent: true, From: "a@sender.example", To: "u%d@dest.example", Length: 100000,
			Acked: func(id, _ string) { acked = append(acked, id) },
		})
		if err == nil || !strings.Contains(err.Error(), "452 4.3.1 Insufficient system storage") || before == 0 && len(acked) < 20 {
			t.Fatalf("%v: %v", err, r)
		}
	}
	return acked
}

// TestStartsThatMustFail: each says what is wrong and what to do, with status
// 1, and leaves the spool as it was.
func TestStartsThatMustFail(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		prepare func(t *testing.T, w *world, p *program.Instance)
		want    []string
	}{
		"spool of the future": {func(t *testing.T, _ *world, p *program.Instance) {
			rewrite(t, filepath.Join(spoolDir(p), "FORMAT"), func(b []byte) []byte { return bytes.Replace(b, []byte("spool 1"), []byte("spool 99"), 1) })
		}, []string{spool.ErrFormat.Error(), "has version 99", "use the program that wrote it, or a newer one"}},
		"format file is garbage": {func(t *testing.T, _ *world, p *program.Instance) {
			rewrite(t, filepath.Join(spoolDir(p), "FORMAT"), func([]byte) []byte { return []byte("\x00\x01") })
		}, []string{spool.ErrFormat.Error(), "FORMAT is not the format file of a spool"}},
		"not a spool": {func(t *testing.T, _ *world, p *program.Instance) {
			if err := os.Remove(filepath.Join(spoolDir(p), "FORMAT")); err != nil {
				t.Fatal(err)
			}
		}, []string{spool.ErrFormat.Error(), "is not empty", "has no FORMAT file"}},
		"port in use": {func(t *testing.T, _ *world, p *program.Instance) {
			listen(t, p.Addr(), sink.Config{})
		}, []string{"address already in use", "stop that one, or change the service's address in master.cf"}},
		"queue directory is a file": {func(t *testing.T, w *world, p *program.Instance) {
			file := filepath.Join(p.Dir, "file")
			if err := os.WriteFile(file, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := p.WriteMain(w.options("queue_directory = " + file + "/queue\n").Main); err != nil {
				t.Fatal(err)
			}
		}, []string{"/file", "not a directory"}},
		"second daemon": {func(t *testing.T, w *world, p *program.Instance) {
			first := program.New(t, w.options(""))
			if err := first.WriteMain(w.options("queue_directory = " + p.QueueDir() + "\n").Main); err != nil {
				t.Fatal(err)
			}
			first.MustStart(t)
		}, []string{spool.ErrLocked.Error(), "/queue/spool"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			p := w.installed("")
			c.prepare(t, w, p)
			if err := p.Launch(); err != nil {
				t.Fatal(err)
			}
			if code := exits(t, p); code != 1 {
				t.Errorf("status %d", code)
			}
			contains(t, p.Output(), append(c.want, "posthouse: fatal: ")...)
			if n := strings.Count(p.Output(), "fatal"); n != 1 || strings.Contains(p.Output(), "goroutine") {
				t.Errorf("output:\n%s", p.Output())
			}
		})
	}
}

func rewrite(t *testing.T, path string, change func([]byte) []byte) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, change(b), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestMissingQueueDirectory: it is made, with what is needed in it.
func TestMissingQueueDirectory(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.host(sink.Config{}, "dest.example")
	p := program.New(t, w.options(""))
	if err := os.Remove(p.QueueDir()); err != nil {
		t.Fatal(err)
	}
	p.MustStart(t)
	send(t, p, "a@sender.example", "x@dest.example")
	h.wait(t, 1)
}

// TestUnprivileged: as a user who may not write there the relay says so, and
// as one who may it works.
func TestUnprivileged(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Log("only root can become another user")
		return
	}
	const nobody = 65534
	w := newWorld(t)
	h := w.host(sink.Config{}, "dest.example")
	p := w.installed("")
	reachable(t, p)
	cmd := p.Command(t.Context(), "serve", "-c", p.ConfigDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := testkit.Exec(cmd, "")
	if err != nil || out.Code != 1 {
		t.Fatalf("%v, %+v", err, out)
	}
	contains(t, out.Stderr, "posthouse: fatal: queue_directory = "+p.QueueDir(), "start as the user that it belongs to, or change queue_directory in main.cf")
	if !regexp.MustCompile("permission denied|operation not permitted").MatchString(out.Stderr) {
		t.Errorf("%s", out.Stderr)
	}

	err = filepath.WalkDir(p.Dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, nobody, nobody)
	})
	if err != nil {
		t.Fatal(err)
	}
	cmd = p.Command(context.WithoutCancel(t.Context()), "serve", "-c", p.ConfigDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	var said testkit.Locked
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		if err := <-ended; err != nil {
			t.Errorf("%v\n%s", err, said.String())
		}
	})
	if err := testkit.Poll(t.Context(), patience, func() error { return testkit.Greets(p.Addr()) }); err != nil {
		t.Fatalf("%v\n%s", err, said.String())
	}
	send(t, p, "a@sender.example", "x@dest.example")
	h.wait(t, 1)
}

// reachable lets other users get at an instance's directory and the binary.
func reachable(t *testing.T, p *program.Instance) {
	t.Helper()
	for _, dir := range []string{p.Dir, filepath.Dir(program.Binary(t))} {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}
