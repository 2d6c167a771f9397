package dns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"

	"posthouse/internal/testkit/fakedns"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func server(t *testing.T, records ...string) *fakedns.Server {
	t.Helper()
	s, err := fakedns.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	if err := s.Add(records...); err != nil {
		t.Fatal(err)
	}
	return s
}

func resolver(t *testing.T, cfg Config) *Resolver {
	t.Helper()
	if cfg.Timeout == 0 {
		cfg.Timeout = 2 * time.Second
	}
	r, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestLookups(t *testing.T) {
	s := server(t,
		"ok.test MX 10 a.test", "ok.test MX 20 B.test.", "bad.test MX 10 bad!host.test", "num.test MX 10 192.0.2.1",
		"some.test MX 10 bad!host.test", "some.test MX 20 a.test",
		"a.test A 192.0.2.1", "a.test A 192.0.2.2", "a.test AAAA 2001:db8::1", "aonly.test A 192.0.2.3",
		"xn--bcher-kva.test A 192.0.2.9", "half.test MX 0 .", "half.test MX 10 a.test")
	s.NullMX("null.test")
	s.CNAME("alias.test", "a.test")
	s.CNAME("loop1.test", "loop2.test")
	s.CNAME("loop2.test", "loop1.test")
	s.MX("cut.test", 5, "a.test")
	s.Fault("cut.test", fakedns.Truncate)
	s.Fault("fail.test", fakedns.ServFail)
	s.Fault("refused.test", fakedns.Refused)
	r := resolver(t, Config{Servers: []string{s.Addr()}})
	for _, c := range []struct{ kind, name, want string }{
		{"MX", "ok.test", "[{10 a.test} {20 B.test}]"},
		{"MX", "OK.test.", "[{10 a.test} {20 B.test}]"},
		{"MX", "cut.test", "[{5 a.test}]"},
		{"MX", "some.test", "[{20 a.test}]"},
		{"MX", "num.test", "[{10 192.0.2.1}]"},
		{"MX", "half.test", "[{10 a.test}]"},
		{"MX", "null.test", "Domain null.test does not accept mail (nullMX)"},
		{"MX", "bad.test", "Name service error for name=bad.test type=MX: Malformed or unexpected name server reply"},
		{"MX", "aonly.test", "Host or domain name not found. Name service error for name=aonly.test type=MX: Host found but no data record of requested type"},
		{"MX", "gone.test", "Host or domain name not found. Name service error for name=gone.test type=MX: Host not found"},
		{"MX", "fail.test", "Host or domain name not found. Name service error for name=fail.test type=MX: Host not found, try again"},
		{"A", "refused.test", "Host or domain name not found. Name service error for name=refused.test type=A: Host not found, try again"},
		{"A", "a.test", "[192.0.2.1 192.0.2.2]"},
		{"A", "alias.test", "[192.0.2.1 192.0.2.2]"},
		{"A", "bücher.test", "[192.0.2.9]"},
		{"AAAA", "a.test", "[2001:db8::1]"},
		{"AAAA", "aonly.test", "Host or domain name not found. Name service error for name=aonly.test type=AAAA: Host found but no data record of requested type"},
		{"A", "no host", "Name service error for no host: invalid host or domain name"},
		{"A", "192.0.2.1", "Name service error for 192.0.2.1: invalid host or domain name"},
		{"A", "", "Name service error for : invalid host or domain name"},
	} {
		if got := ask(r, c.kind, c.name); got != c.want {
			t.Errorf("%s %s:\n got %s\nwant %s", c.kind, c.name, got, c.want)
		}
	}
	if _, err := r.A(t.Context(), "loop1.test"); err == nil {
		t.Error("a CNAME loop has an address")
	}
}

func ask(r *Resolver, kind, name string) string {
	var v any
	var err error
	switch kind {
	case "MX":
		var mx []MX
		mx, err = r.MX(context.Background(), name)
		slices.SortFunc(mx, func(a, b MX) int { return int(a.Preference) - int(b.Preference) })
		v = mx
	case "A":
		v, err = r.A(context.Background(), name)
	default:
		v, err = r.AAAA(context.Background(), name)
	}
	if err != nil {
		return err.Error()
	}
	return fmt.Sprint(v)
}

func TestSilentServerIsPassedOver(t *testing.T) {
	dead, live := server(t), server(t, "a.test A 192.0.2.1")
	dead.Fault("a.test", fakedns.Silent)
	r := resolver(t, Config{Servers: []string{dead.Addr(), live.Addr()}, Timeout: 50 * time.Millisecond})
	if got := ask(r, "A", "a.test"); got != "[192.0.2.1]" {
		t.Error(got)
	}
	r = resolver(t, Config{Servers: []string{dead.Addr()}, Timeout: 20 * time.Millisecond})
	if _, err := r.A(t.Context(), "a.test"); !errors.Is(err, ErrTemporary) {
		t.Error(err)
	}
	if n := dead.Queries("a.test", "A"); n < 3 {
		t.Errorf("%d queries: tried only once?", n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.A(ctx, "a.test"); !errors.Is(err, ErrTemporary) {
		t.Error(err)
	}
}

func TestCache(t *testing.T) {
	s := server(t, "a.test A 192.0.2.1", "b.test A 192.0.2.2")
	s.Fault("f.test", fakedns.ServFail)
	now := time.Unix(1e9, 0)
	r := resolver(t, Config{Servers: []string{s.Addr()}, Attempts: 1, Now: func() time.Time { return now }, MinTTL: 10 * time.Second})
	for range 3 {
		ask(r, "A", "a.test")
		ask(r, "A", "gone.test")
		ask(r, "A", "f.test")
	}
	if a, g, f := s.Queries("a.test", "A"), s.Queries("gone.test", "A"), s.Queries("f.test", "A"); a != 1 || g != 1 || f != 3 {
		t.Errorf("queries: %d, %d, %d; want 1, 1 and 3 (failures are not kept)", a, g, f)
	}
	now = now.Add(10 * time.Second)
	ask(r, "A", "a.test")
	if n := s.Queries("a.test", "A"); n != 2 {
		t.Errorf("%d queries after expiry, want 2", n)
	}
}

func TestCacheIsBounded(t *testing.T) {
	now := time.Unix(1e9, 0)
	c := newCache(100)
	for i := range 10000 {
		c.put(question{fmt.Sprint(i), dns.TypeA}, answer{expires: now.Add(time.Duration(i) * time.Millisecond)}, now)
		if len(c.entries) > 100 {
			t.Fatalf("%d entries", len(c.entries))
		}
	}
	if len(c.entries) < 90 {
		t.Errorf("only %d entries are kept", len(c.entries))
	}
	off := newCache(-1)
	off.put(question{"a", dns.TypeA}, answer{expires: now.Add(time.Hour)}, now)
	if _, ok := off.get(question{"a", dns.TypeA}, now); ok {
		t.Error("a cache that is off keeps things")
	}
}

func TestHosts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hosts")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("127.0.0.1 localhost Here # not this\n::1 localhost\nrubbish line\n\n192.0.2.7\n")
	now := time.Unix(1e9, 0)
	r := resolver(t, Config{Servers: []string{"127.0.0.1:1"}, HostsFile: path, Now: func() time.Time { return now }})
	for name, want := range map[string]string{"localhost": "[127.0.0.1 ::1]", "HERE.": "[127.0.0.1]", "this": "[]", "line": "[]"} {
		if got := fmt.Sprint(r.Hosts(name)); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	write("192.0.2.1 localhost other.name\n")
	now = now.Add(time.Minute)
	if got := fmt.Sprint(r.Hosts("localhost")); got != "[192.0.2.1]" {
		t.Errorf("after a change: %s", got)
	}
	os.Remove(path)
	now = now.Add(time.Minute)
	if got := r.Hosts("localhost"); len(got) != 0 {
		t.Errorf("without file: %v", got)
	}
}

func TestSystemServers(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "resolv.conf")
	os.WriteFile(path, []byte("nameserver 192.0.2.53\nnameserver 2001:db8::53\n"), 0o644)
	got, err := systemServers(path)
	if err != nil || strings.Join(got, " ") != "192.0.2.53:53 [2001:db8::53]:53" {
		t.Error(got, err)
	}
	got, err = systemServers(filepath.Join(dir, "none"))
	if err != nil || strings.Join(got, " ") != "127.0.0.1:53" {
		t.Error(got, err)
	}
	got, err = systemServers(dir)
	if err != nil || strings.Join(got, " ") != "127.0.0.1:53" {
		t.Error("nothing to read:", got, err)
	}
}

func FuzzRead(f *testing.F) {
	m := new(dns.Msg)
	m.SetQuestion("a.test.", dns.TypeMX)
	m.Answer = append(m.Answer, &dns.MX{Hdr: dns.RR_Header{Name: "a.test.", Rrtype: dns.TypeMX, Class: dns.ClassINET, Ttl: 5}, Preference: 1, Mx: "b.test."})
	seed, err := m.Pack()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed, uint16(dns.TypeMX))
	f.Add(seed, uint16(dns.TypeA))
	f.Fuzz(func(t *testing.T, packet []byte, qtype uint16) {
		var m dns.Msg
		if m.Unpack(packet) != nil {
			return
		}
		a, alias, ttl := read(&m, "a.test.", qtype)
		if alias == "" && a.err == nil && len(a.mx) == 0 && len(a.addrs) == 0 {
			t.Error("neither records nor error")
		}
		if ttl < 0 {
			t.Error(ttl)
		}
		for _, mx := range a.mx {
			if _, err := netip.ParseAddr(mx.Host); err != nil && !validHost(mx.Host) {
				t.Errorf("host %q", mx.Host)
			}
		}
	})
}

func BenchmarkCached(b *testing.B) {
	r := &Resolver{cfg: Config{Now: time.Now}, cache: newCache(10)}
	r.cache.put(question{"a.test.", dns.TypeA}, answer{addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, expires: time.Now().Add(time.Hour)}, time.Now())
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.A(context.Background(), "a.test"); err != nil {
			b.Fatal(err)
		}
	}
}
