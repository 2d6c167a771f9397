package daemon

import (
	"bytes"
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
	stop, err := Start(t.Context(), Program{Version: "test", Diag: r.diag}, dir)
	if err != nil {
		t.Fatalf("%v\n%s", err, r.diag)
	}
	r.stop = sync.OnceValue(stop)
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

