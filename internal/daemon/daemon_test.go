package daemon

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/smtp"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"posthouse/internal/operator"
	"posthouse/internal/spool"
	"posthouse/internal/testkit"
	"posthouse/internal/traffic/sink"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// relay is a running relay under test.
type relay struct {
	dir  string
	addr string
	stop func() error
	diag *syncBuffer

	daemon *Daemon
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func freePort(t *testing.T) string {
	t.Helper()
	p, err := testkit.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(p)
}

const baseMain = `
myhostname = mx.test.example
mynetworks = 127.0.0.0/8
mydestination =
inet_protocols = ipv4
compatibility_level = 3.6
smtp_host_lookup = native
smtp_dns_support_level = disabled
local_recipient_maps =
`

func startRelay(t *testing.T, extra string) *relay {
	t.Helper()
	dir := t.TempDir()
	port := freePort(t)
	r := &relay{dir: dir, addr: "127.0.0.1:" + port, diag: new(syncBuffer)}
	write(t, dir, "main.cf", baseMain+"queue_directory = "+dir+"/queue\nmaillog_file = "+dir+"/mail.log\n"+extra)
	// One line makes a relay: the delivery transports need no mention.
	write(t, dir, "master.cf", "127.0.0.1:"+port+" inet n - n - - smtpd\n")
	base, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	d, err := start(base, cancel, Program{Version: "test", Diag: r.diag}, dir)
	if err != nil {
		cancel()
		t.Fatalf("%v\n%s", err, r.diag)
	}
	r.daemon = d
	r.stop = sync.OnceValue(d.background(base, cancel))
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("log:\n%s", r.log(t))
		}
	})
	return r
}

func (r *relay) log(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(r.dir, "mail.log"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func (r *relay) waitLog(t *testing.T, text string) {
	t.Helper()
	err := testkit.Poll(t.Context(), 10*time.Second, func() error {
		if !strings.Contains(r.log(t), text) {
			return fmt.Errorf("%q is not in the log", text)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (r *relay) send(t *testing.T, from string, to ...string) {
	t.Helper()
	if err := smtp.SendMail(r.addr, nil, from, to, []byte("Subject: hello\r\n\r\nA message.\r\n")); err != nil {
		t.Fatal(err)
	}
}

func startSink(t *testing.T) (*sink.Server, string) {
	t.Helper()
	s, err := sink.New(sink.Config{})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go s.Serve(l, sink.Personality{})
	t.Cleanup(func() { _ = s.Close() })
	return s, l.Addr().String()
}

func TestRelaysToNextHop(t *testing.T) {
	_, addr := startSink(t)
	host, port, _ := net.SplitHostPort(addr)
	r := startRelay(t, "relayhost = ["+host+"]:"+port+"\n")
	r.send(t, "alice@a.example", "bob@b.example")
	r.waitLog(t, "status=sent")
	r.waitLog(t, ": removed")
}

// A bounce of a postmaster notice comes to double-bounce@us, and must end there.
func TestAnswerToDoubleBounceIsDiscarded(t *testing.T) {
	r := startRelay(t, "")
	r.send(t, "", "double-bounce@mx.test.example")
	r.waitLog(t, "status=sent (undeliverable postmaster notification discarded)")
	r.waitLog(t, ": removed")
}

func TestReloadRefusedKeepsTheOldConfiguration(t *testing.T) {
	sinkServer, addr := startSink(t)
	host, port, _ := net.SplitHostPort(addr)
	r := startRelay(t, "relayhost = ["+host+"]:"+port+"\n")
	good, err := os.ReadFile(filepath.Join(r.dir, "main.cf"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, r.dir, "main.cf", string(good)+"maximal_backoff_time = soon\n")
	if err := r.daemon.Reload(); err == nil || !strings.Contains(err.Error(), "maximal_backoff_time") {
		t.Errorf("reload of a malformed value: %v", err)
	}
	r.send(t, "alice@a.example", "bob@b.example")
	if err := sinkServer.WaitMessages(t.Context(), 1); err != nil {
		t.Error(err)
	}
	// Good again, with another destination: the new one counts.
	write(t, r.dir, "main.cf", strings.ReplaceAll(string(good), "relayhost =", "default_transport = discard:\n#"))
	if err := r.daemon.Reload(); err != nil {
		t.Error(err)
	}
	r.send(t, "alice@a.example", "carol@b.example")
	r.waitLog(t, "postfix/discard")
}

func TestStartErrorsSayWhatToDo(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, c := range []struct{ name, main, master, want string }{
		{"port in use", "", taken.Addr().String() + " inet n - n - - smtpd\n", "change the service's address in master.cf"},
		{"malformed value", "hopcount_limit = many\n", "", "hopcount_limit"},
		{"no such parent", "queue_directory = /nonexistent/deep/queue\n", "", "does not exist; create it"},
		{"relay for the world", "mynetworks = 10.0.0.1/8\n", "", "perhaps it should be 10.0.0.0/8"},
		{"TLS without certificate", "smtpd_tls_security_level = encrypt\n", "127.0.0.1:0 inet n - n - - smtpd\n", "a certificate is needed"},
		{"TLS beyond us", "smtp_tls_security_level = dane-only\n", "", "not supported yet"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, "main.cf", baseMain+"queue_directory = "+dir+"/queue\nmaillog_file = "+dir+"/mail.log\n"+c.main)
			write(t, dir, "master.cf", c.master)
			stop, err := Start(t.Context(), Program{Version: "test", Diag: new(syncBuffer)}, dir)
			if err == nil {
				t.Fatal("started", stop())
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %q does not say %q", err, c.want)
			}
		})
	}
}

func TestOfflineListsWhatARelayLeft(t *testing.T) {
	r := startRelay(t, "relayhost = [127.0.0.1]:1\n")
	r.send(t, "alice@a.example", "bob@b.example")
	r.waitLog(t, "status=deferred")
	if _, _, err := Offline(Program{Diag: new(syncBuffer)}, r.dir); !errors.Is(err, spool.ErrLocked) {
		t.Errorf("opened the spool of a running relay: %v", err)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	op, closeSpool, err := Offline(Program{Diag: new(syncBuffer)}, r.dir)
	if err != nil {
		t.Fatal(err)
	}
	var reasons []string
	err = op.List(t.Context(), func(v *operator.View) bool {
		reasons = append(reasons, v.Recipients[0].Reason)
		return true
	})
	if err != nil || len(reasons) != 1 || !strings.Contains(reasons[0], "Connection refused") {
		t.Errorf("offline listing: %q, %v", reasons, err)
	}
	if err := closeSpool(); err != nil {
		t.Error(err)
	}
}

// Content of any shape and in pieces of any size makes the same records.
func TestLineRecordsKeepContent(t *testing.T) {
	text := "Subject: x\r\n\r\n" + strings.Repeat("y", 5000) + "\r\nlast\r\n" + strings.Repeat("z", 2048) + "\r\n"
	var want []byte
	for _, size := range []int{1, 2, 7, 2047, 2048, 2049, len(text)} {
		var out bytes.Buffer
		w := bufio.NewWriter(&out)
		l := lineRecords{out: w, left: int64(len(text))}
		for rest := text; rest != ""; {
			n := min(size, len(rest))
			l.Write([]byte(rest[:n]))
			rest = rest[n:]
		}
		l.end()
		w.Flush()
		if l.err != nil {
			t.Fatal(l.err)
		}
		if want == nil {
			want = out.Bytes()
		} else if !bytes.Equal(out.Bytes(), want) {
			t.Errorf("in pieces of %d: other records than byte by byte", size)
		}
	}
}

// Programs pipe lines that end in LF alone into sendmail -bs.
func TestStandaloneSMTPTakesUnixLineEnds(t *testing.T) {
	r := startRelay(t, "default_transport = discard:\n")
	for _, end := range []string{"\n", "\r\n"} {
		lines := []string{"HELO x", "MAIL FROM:<a@a.example>", "RCPT TO:<b@b.example>", "DATA", "Subject: x", "", "text", ".", "QUIT", ""}
		var out bytes.Buffer
		if err := StandaloneSMTP(t.Context(), r.dir, strings.NewReader(strings.Join(lines, end)), &out); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(out.String(), "250 2.0.0 Ok: queued as") {
			t.Errorf("with line ends %q:\n%s", end, &out)
		}
	}
}
