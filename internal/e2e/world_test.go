package e2e_test

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"posthouse/internal/testkit"
	"posthouse/internal/testkit/dialogue"
	"posthouse/internal/testkit/fakedns"
	"posthouse/internal/testkit/program"
	"posthouse/internal/traffic/sink"
)

// patience bounds every wait for another process.
const patience = 30 * time.Second

// TestMain lets more tests run at a time than there are processors, since most
// of their time is back-off, and looks for goroutines left behind.
func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == fmt.Sprint(runtime.GOMAXPROCS(0)) {
		if err := f.Value.Set("6"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	code := program.Main(m)
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// world is what lies around a relay: names, and hosts that take mail.
type world struct {
	t    *testing.T
	dns  *fakedns.Server
	port int // of SMTP on every host
	next int // last number of the next host's address; .1 is the relay
}

func newWorld(t *testing.T) *world {
	t.Helper()
	dns, err := fakedns.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := dns.Close(); err != nil {
			t.Error(err)
		}
	})
	l, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return &world{t: t, dns: dns, port: l.Addr().(*net.TCPAddr).Port, next: 2}
}

// address reserves a host for domains, without anything that listens there.
func (w *world) address(domains ...string) string {
	ip := fmt.Sprintf("127.0.0.%d", w.next)
	name := fmt.Sprintf("mx%d.example", w.next)
	w.next++
	w.dns.A(name, ip)
	for _, d := range domains {
		w.dns.MX(d, 10, name)
	}
	return fmt.Sprintf("%s:%d", ip, w.port)
}

// host is a destination that remembers what it took.
type host struct {
	*sink.Server
	addr string
	mu   sync.Mutex
	got  []sink.Delivery
}

// host starts a destination for domains.
func (w *world) host(cfg sink.Config, domains ...string) *host {
	w.t.Helper()
	return listen(w.t, w.address(domains...), cfg)
}

// listen starts a destination at an address.
func listen(t *testing.T, address string, cfg sink.Config) *host {
	t.Helper()
	h := &host{addr: address}
	inner := cfg.Ledger
	cfg.KeepContent = true
	if cfg.Extensions == 0 {
		cfg.Extensions = sink.AllExtensions
	}
	cfg.Ledger = func(d sink.Delivery) {
		h.mu.Lock()
		h.got = append(h.got, d)
		h.mu.Unlock()
		if inner != nil {
			inner(d)
		}
	}
	srv, err := sink.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	a, err := srv.Listen(address)
	if err != nil {
		t.Fatal(err)
	}
	h.addr = a.String()
	h.Server = srv
	t.Cleanup(func() { _ = srv.Close() }) // a test may have closed it
	return h
}

// deliveries is what came so far.
func (h *host) deliveries() []sink.Delivery {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.got)
}

// wait returns the first n messages.
func (h *host) wait(t *testing.T, n int) []sink.Delivery {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := h.WaitMessages(ctx, int64(n)); err != nil {
		t.Fatalf("%d of %d messages came: %v", len(h.deliveries()), n, err)
	}
	return h.deliveries()[:n]
}

// master is a master.cf with the usual services.
const master = `127.0.0.1:$PORT inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
bounce unix - - n - 0 bounce
smtp unix - - n - - smtp
relay unix - - n - - smtp
lmtp unix - - n - - lmtp
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
`

// quick are settings that make a relay retry within a second or so.
const quick = `minimal_backoff_time = 1s
maximal_backoff_time = 1s
retry_jitter = 0%
smtp_connect_timeout = 5s
`

// options are those of a relay in this world: it asks our name server.
func (w *world) options(extra string) program.Options {
	return program.Options{
		Main:   fmt.Sprintf("relayhost =\ndns_servers = %s\nsmtp_tcp_port = %d\n", w.dns.Addr(), w.port) + quick + extra,
		Master: master,
	}
}

// relay starts a relay.
func (w *world) relay(extra string) *program.Instance {
	w.t.Helper()
	p := program.New(w.t, w.options(extra))
	p.MustStart(w.t)
	return p
}

// send hands a message to a relay and returns its queue ID.
func send(t *testing.T, p *program.Instance, from, to string, more ...string) string {
	t.Helper()
	text := "S: 220 ...\nC: EHLO client.example\nS: ...\nC: MAIL FROM:<" + from + ">\nS: 250 2.1.0 Ok\n"
	for i, r := range append([]string{to}, more...) {
		text += fmt.Sprintf("# recipient %d\nC: RCPT TO:%s\nS: 250 2.1.5 Ok\n", i, bracket(r))
	}
	text += "C: DATA\nS: 354 ...\nC: Subject: test\nC:\nC: A line of text.\nC: .\nS: 250 2.0.0 Ok: queued as {id=[0-9A-Z]+}\nC: QUIT\nS: 221 2.0.0 Bye\n"
	return dialogue.Run(t, p.Addr(), text)["id"]
}

// bracket puts an address in angle brackets; parameters may follow it.
func bracket(addr string) string {
	a, params, _ := strings.Cut(addr, " ")
	return strings.TrimSpace("<" + a + "> " + params)
}

// run runs a command of a relay, which must end with status 0, and returns its
// standard output.
func run(t *testing.T, p *program.Instance, name string, args ...string) string {
	t.Helper()
	out, err := p.Run(t.Context(), name, args...)
	if err != nil || out.Code != 0 {
		t.Fatalf("%s %q: %v, status %d\n%s%s", name, args, err, out.Code, out.Stdout, out.Stderr)
	}
	return out.Stdout + out.Stderr
}

// fails runs a command that must end with a status, and returns what it said.
func fails(t *testing.T, p *program.Instance, status int, name string, args ...string) string {
	t.Helper()
	out, err := p.Run(t.Context(), name, args...)
	if err != nil || out.Code != status {
		t.Fatalf("%s %q: %v, status %d, want %d\n%s%s", name, args, err, out.Code, status, out.Stdout, out.Stderr)
	}
	return out.Stdout + out.Stderr
}

// waitEmpty waits until a relay's queue has nothing in it.
func waitEmpty(t *testing.T, p *program.Instance) {
	t.Helper()
	var last string
	err := testkit.Poll(t.Context(), patience, func() error {
		if last = run(t, p, "mailq"); !strings.Contains(last, "Mail queue is empty") {
			return fmt.Errorf("the queue is not empty")
		}
		return nil
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, last)
	}
}

// contains fails the test when text lacks one of parts.
func contains(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%q is missing in:\n%s", part, text)
		}
	}
}

// exits waits until a relay that was launched ends, and returns its status.
func exits(t *testing.T, p *program.Instance) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	code, err := p.WaitExit(ctx)
	if err != nil {
		t.Fatalf("%v\n%s", err, p.Output())
	}
	return code
}

// spoolDir is where a relay keeps its spool.
func spoolDir(p *program.Instance) string { return filepath.Join(p.QueueDir(), "spool") }
