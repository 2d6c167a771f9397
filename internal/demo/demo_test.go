package demo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"

	"posthouse/internal/testkit"
	"posthouse/internal/testkit/dialogue"
	"posthouse/internal/traffic/sink"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func world(t *testing.T) *World {
	t.Helper()
	w, err := NewWorld(300)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

func lookup(t *testing.T, w *World, name string, rrtype uint16) *dns.Msg {
	t.Helper()
	m := new(dns.Msg)
	m.SetQuestion(dns.Fqdn(name), rrtype)
	r, err := dns.Exchange(m, w.DNSAddr())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestEveryDestinationIsWhatItSays follows each domain from its MX record to
// its host, as a relay would.
func TestEveryDestinationIsWhatItSays(t *testing.T) {
	w := world(t)
	if len(w.targets) != 300 {
		t.Fatalf("%d destinations", len(w.targets))
	}
	kinds, seen := map[kind]int{}, map[string]bool{}
	for _, d := range append(homes(), w.targets...) {
		kinds[d.kind]++
		if seen[d.domain] {
			t.Errorf("%s twice", d.domain)
		}
		seen[d.domain] = true
		r := lookup(t, w, d.domain, dns.TypeMX)
		wantCode := map[kind]int{noDomain: dns.RcodeNameError, noAnswer: dns.RcodeServerFailure}[d.kind]
		wantMX := map[kind]int{noDomain: 0, noAnswer: 0, backupOnly: 2}
		n, ok := wantMX[d.kind]
		if !ok {
			n = 1
		}
		if r.Rcode != wantCode || len(r.Answer) != n {
			t.Errorf("%s: %s", d.domain, r)
			continue
		}
		if n == 0 || d.kind == nullMX {
			continue
		}
		for i, rr := range r.Answer {
			a := lookup(t, w, rr.(*dns.MX).Mx, dns.TypeA)
			ip := a.Answer[0].(*dns.A).A
			if !ip.IsLoopback() {
				t.Fatalf("%s is at %s", d.domain, ip)
			}
			c, err := net.Dial("tcp", net.JoinHostPort(ip.String(), fmt.Sprint(w.SMTPPort())))
			open := d.kind != closed && (d.kind != backupOnly || i == 1)
			if (err == nil) != open {
				t.Errorf("%s at %s: %v", d.domain, ip, err)
			}
			if err == nil {
				c.Close()
			}
		}
	}
	if kinds[accepts] < 180 || len(kinds) != int(backupOnly)+1 {
		t.Errorf("kinds %v", kinds)
	}
}

func TestPersonalities(t *testing.T) {
	w := world(t)
	say := map[string]string{
		"bigmail.example":     "S: 220 ...\nC: EHLO x\nS: ...\nC: MAIL FROM:<a@b>\nS: 250 ...\nC: RCPT TO:<a@bigmail.example>\nS: 250 ...\n",
		"greylist.example":    "S: 220 ...\nC: EHLO x\nS: ...\nC: MAIL FROM:<a@b>\nS: 250 ...\nC: RCPT TO:<a@b>\nS: 450 ...\n",
		"full.example":        "S: 220 ...\nC: EHLO x\nS: ...\nC: MAIL FROM:<a@b>\nS: 250 ...\nC: RCPT TO:<a@b>\nS: 452 ...\n",
		"refusing.example":    "S: 220 ...\nC: EHLO x\nS: ...\nC: MAIL FROM:<a@b>\nS: 250 ...\nC: RCPT TO:<a@b>\nS: 550 5.1.1 ...\n",
		"blocklisted.example": "S: 554 5.7.1 ...\nS# closes\n",
	}
	for i, d := range append(homes(), w.targets...) {
		if text := say[d.domain]; text != "" {
			dialogue.Run(t, net.JoinHostPort(address(i), fmt.Sprint(w.SMTPPort())), text)
		}
	}
	if by := w.ByDomain(); by["refusing.example"].Refused != 1 || by["bigmail.example"].Connections != 1 {
		t.Errorf("counts %v", by["refusing.example"])
	}
}

func TestRecipientsFollowTheWeights(t *testing.T) {
	w := world(t)
	got := map[string]int{}
	for n := range uint64(20000) {
		r := string(w.recipient(nil, n, 1))
		_, domain, _ := strings.Cut(r, "@")
		got[domain]++
	}
	total := float64(w.weights[len(w.weights)-1])
	for _, d := range w.targets[:3] {
		want := float64(d.weight) / total
		if share := float64(got[d.domain]) / 20000; share < want*0.9 || share > want*1.1 {
			t.Errorf("%s gets %.3f of the mail, want %.3f", d.domain, share, want)
		}
	}
	if len(got) < 290 {
		t.Errorf("only %d of 300 domains get mail", len(got))
	}
	again := world(t)
	if a, b := string(w.recipient(nil, 5, 1)), string(again.recipient(nil, 5, 1)); a != b {
		t.Errorf("two worlds draw %s and %s", a, b)
	}
	if a, b := string(w.recipient(nil, 5, 1)), string(w.recipient(nil, 5, 2)); a == b {
		t.Errorf("two senders draw the same: %s", a)
	}
}

func TestHintsNameOnlyWhatExists(t *testing.T) {
	known := map[string]bool{"office.example": true}
	for _, d := range append(homes(), stars()...) {
		known[d.domain] = true
	}
	text := Hints("/dir", Options{Listen: "127.0.0.1:2525", Destinations: 300})
	for _, name := range regexp.MustCompile(`[a-z]+\.example`).FindAllString(text, -1) {
		if !known[name] {
			t.Errorf("%s does not exist", name)
		}
	}
	if strings.Contains(text, "%!") || strings.Count(text, "\n") > 50 {
		t.Errorf("not one page:\n%s", text)
	}
}

// TestRun plays the relay with a sink that reads its address from master.cf.
func TestRun(t *testing.T) {
	parent := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	enough := make(chan struct{}, 1000)
	stopped := false
	opt := Options{
		Parent: parent, Listen: "127.0.0.1:0", Rate: 500, Report: 20 * time.Millisecond,
		StartRelay: func(_ context.Context, dir string) (func() error, error) {
			main, err := os.ReadFile(filepath.Join(dir, "main.cf"))
			if err != nil || !strings.Contains(string(main), "dns_servers = 127.0.0.1:") || !strings.Contains(string(main), dir+"/queue") {
				t.Errorf("main.cf:\n%s", main)
			}
			for _, name := range programs() {
				if _, err := os.Stat(filepath.Join(dir, "bin", name)); err != nil {
					t.Error(err)
				}
			}
			master, err := os.ReadFile(filepath.Join(dir, "master.cf"))
			if err != nil {
				return nil, err
			}
			srv, err := sink.New(sink.Config{Extensions: sink.AllExtensions, Ledger: func(sink.Delivery) {
				select {
				case enough <- struct{}{}:
				default:
				}
			}})
			if err != nil {
				return nil, err
			}
			_, err = srv.Listen(strings.Fields(string(master))[0])
			return func() error { stopped = true; return srv.Close() }, err
		},
	}
	opt.Listen = freeOr(opt.Listen)
	var out testkit.Locked
	done := make(chan error)
	go func() { done <- Run(ctx, opt, &out) }()
	for range 50 {
		select {
		case <-enough:
		case err := <-done:
			t.Fatal(err)
		}
	}
	reported := func() error {
		if !strings.Contains(out.String(), "sent through the relay") {
			return errors.New("no report")
		}
		return nil
	}
	if err := testkit.Poll(ctx, 10*time.Second, reported); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(parent)
	if err != nil || len(left) != 0 || !stopped {
		t.Errorf("left behind: %v, %v; stopped %v", left, err, stopped)
	}
	if text := out.String(); !strings.HasSuffix(text, " is gone.\n") {
		t.Errorf("no farewell: %q", text)
	}
	if !strings.Contains(out.String(), "In another terminal") {
		t.Errorf("output:\n%s", out.String())
	}
}

func TestRunReportsARelayThatDoesNotStart(t *testing.T) {
	parent := t.TempDir()
	boom := errors.New("boom")
	err := Run(t.Context(), Options{Parent: parent, StartRelay: func(context.Context, string) (func() error, error) { return nil, boom }}, &testkit.Locked{})
	if !errors.Is(err, boom) {
		t.Fatalf("error %v", err)
	}
	if left, err := os.ReadDir(parent); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestWrongUsage(t *testing.T) {
	start := func(context.Context, string) (func() error, error) {
		t.Error("it started")
		return func() error { return nil }, nil
	}
	for args, want := range map[string]string{
		"x": "no arguments", "--rate -1": "negative", "--destinations -5": "negative", "--rate fast": "--rate", "--bogus": "unknown flag",
	} {
		var out, diag testkit.Locked
		if code := Main(t.Context(), strings.Fields(args), start, &out, &diag); code != 2 || out.String() != "" ||
			!strings.Contains(diag.String(), want) || !strings.Contains(diag.String(), "posthouse demo --help") {
			t.Errorf("%s: %d %q %q", args, code, out.String(), diag.String())
		}
	}
	var out, diag testkit.Locked
	if code := Main(t.Context(), []string{"--help"}, start, &out, &diag); code != 0 || !strings.Contains(out.String(), "Examples:") || !strings.Contains(out.String(), "Exit status:") {
		t.Errorf("--help: %d %q", code, out.String())
	}
}
