package fakedns_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"

	"posthouse/internal/testkit/fakedns"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T) *fakedns.Server {
	t.Helper()
	s, err := fakedns.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func ask(t *testing.T, s *fakedns.Server, network, name string, rrtype uint16) *dns.Msg {
	t.Helper()
	m := new(dns.Msg)
	m.SetQuestion(dns.Fqdn(name), rrtype)
	c := dns.Client{Net: network, Timeout: 5 * time.Second}
	r, _, err := c.Exchange(m, s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestAnswers(t *testing.T) {
	s := start(t)
	s.MX("Example.com", 10, "mx.example.com")
	s.A("mx.example.com", "127.0.0.2")
	s.A("mx.example.com", "::1")
	s.NullMX("nomail.example")
	s.CNAME("alias.example", "example.com")
	s.TXT("t.example", "v=spf1 -all")
	s.Fault("broken.example", fakedns.ServFail)
	s.Fault("refused.example", fakedns.Refused)
	s.MX("gone.example", 1, "mx.example.com")
	s.Fault("gone.example", fakedns.NXDomain)
	if err := s.PTR("192.0.2.1", "client.example"); err != nil {
		t.Fatal(err)
	}
	if err := s.Add("zone.example MX 5 other.example."); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		rrtype  uint16
		rcode   int
		answers int
	}{
		{"example.com", dns.TypeMX, dns.RcodeSuccess, 1},
		{"EXAMPLE.com", dns.TypeMX, dns.RcodeSuccess, 1},
		{"mx.example.com", dns.TypeA, dns.RcodeSuccess, 1},
		{"mx.example.com", dns.TypeAAAA, dns.RcodeSuccess, 1},
		{"mx.example.com", dns.TypeMX, dns.RcodeSuccess, 0},
		{"nomail.example", dns.TypeMX, dns.RcodeSuccess, 1},
		{"alias.example", dns.TypeMX, dns.RcodeSuccess, 2},
		{"t.example", dns.TypeTXT, dns.RcodeSuccess, 1},
		{"com", dns.TypeMX, dns.RcodeSuccess, 0},
		{"nowhere.example", dns.TypeMX, dns.RcodeNameError, 0},
		{"broken.example", dns.TypeMX, dns.RcodeServerFailure, 0},
		{"refused.example", dns.TypeMX, dns.RcodeRefused, 0},
		{"gone.example", dns.TypeMX, dns.RcodeNameError, 0},
		{"1.2.0.192.in-addr.arpa", dns.TypePTR, dns.RcodeSuccess, 1},
		{"zone.example", dns.TypeMX, dns.RcodeSuccess, 1},
	} {
		for _, network := range []string{"udp", "tcp"} {
			r := ask(t, s, network, c.name, c.rrtype)
			if r.Rcode != c.rcode || len(r.Answer) != c.answers {
				t.Errorf("%s %s over %s: %s", c.name, dns.TypeToString[c.rrtype], network, r)
			}
			if c.answers == 0 && c.rcode != dns.RcodeServerFailure && c.rcode != dns.RcodeRefused && len(r.Ns) != 1 {
				t.Errorf("%s: no SOA", c.name)
			}
		}
	}
	if n := s.Queries("example.com", "MX"); n != 4 {
		t.Errorf("counted %d queries", n)
	}
	s.Remove("example.com")
	if r := ask(t, s, "udp", "example.com", dns.TypeMX); len(r.Answer) != 0 {
		t.Errorf("after Remove: %s", r)
	}
	if err := s.Add("not a record"); err == nil {
		t.Error("took a bad record")
	}
}

func TestTruncation(t *testing.T) {
	s := start(t)
	for i := range 100 {
		s.MX("big.example", uint16(i), fmt.Sprintf("mx%d.a-rather-long-name.big.example", i))
	}
	s.Fault("cut.example", fakedns.Truncate)
	s.A("cut.example", "127.0.0.1")
	if r := ask(t, s, "udp", "big.example", dns.TypeMX); !r.Truncated || len(r.Answer) == 100 {
		t.Errorf("%d answers over UDP, truncated %v", len(r.Answer), r.Truncated)
	}
	if r := ask(t, s, "tcp", "big.example", dns.TypeMX); r.Truncated || len(r.Answer) != 100 {
		t.Errorf("%d answers over TCP", len(r.Answer))
	}
	if r := ask(t, s, "udp", "cut.example", dns.TypeA); !r.Truncated || len(r.Answer) != 0 {
		t.Errorf("not truncated: %s", r)
	}
}

func TestSilence(t *testing.T) {
	s := start(t)
	s.Fault("quiet.example", fakedns.Silent)
	s.Delay("slow.example", time.Hour)
	for _, name := range []string{"quiet.example", "slow.example"} {
		m := new(dns.Msg)
		m.SetQuestion(dns.Fqdn(name), dns.TypeA)
		c := dns.Client{Timeout: 50 * time.Millisecond}
		if r, _, err := c.Exchange(m, s.Addr()); err == nil {
			t.Errorf("%s answered: %s", name, r)
		}
	}
}

func TestStandardResolver(t *testing.T) {
	s := start(t)
	s.MX("example.com", 10, "mx.example.com")
	r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, s.Addr())
	}}
	mx, err := r.LookupMX(t.Context(), "example.com.")
	if err != nil || len(mx) != 1 || mx[0].Host != "mx.example.com." {
		t.Fatalf("%v, %v", mx, err)
	}
	var de *net.DNSError
	if _, err := r.LookupHost(t.Context(), "none.example."); !errors.As(err, &de) || !de.IsNotFound {
		t.Fatalf("error %v", err)
	}
}
