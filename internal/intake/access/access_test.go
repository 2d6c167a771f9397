package access

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"posthouse/internal/mail"
	"posthouse/internal/smtp"
	"posthouse/internal/smtp/server"
)

func checker(change ...func(*Config)) *Checker {
	cfg := Config{
		MyNetworks:     []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::ffff:10.1.0.0/112"), netip.MustParsePrefix("2001:db8:1::/48")},
		Interfaces:     []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::ffff:192.0.2.1"), netip.MustParseAddr("2001:db8::25")},
		MyDestination:  Domains([]string{"mx.test.local", "LocalHost", "dotted.example."}, false),
		RelayDomains:   Domains([]string{"relayed.example", ".below.example"}, true),
		VirtualDomains: Domains([]string{"virtual.example"}, false),
	}
	for _, f := range change {
		f(&cfg)
	}
	return New(cfg)
}

// ask sends what a client writes after RCPT TO: through the parser and the
// checker, as a server does.
func ask(c *Checker, peer *server.Peer, path string) (string, error) {
	to, err := smtp.ParsePath(path, true)
	if err != nil {
		return "", err
	}
	full := to
	if full.Domain() == "" {
		full += "@mx.test.local"
	}
	if r := c.Rcpt(context.Background(), peer, "s@c.example", full, to); r != nil {
		return r.String(), nil
	}
	return "ok", nil
}

func from(addr string) *server.Peer {
	return &server.Peer{Client: mail.Client{Name: "mail.remote.example", Addr: addr, Protocol: "ESMTP", Helo: "foo.remote"}}
}

// TestStrangers: what the real Postfix answered to the same commands, from a
// client outside mynetworks.
func TestStrangers(t *testing.T) {
	c := checker()
	for _, tc := range []struct{ path, want string }{
		{"<x@other.example>", "554 5.7.1 <x@other.example>: Relay access denied"},
		{`<"x y"@other.example>`, "554 5.7.1 <x y@other.example>: Relay access denied"},
		{"<a%other.example@mx.test.local>", "554 5.7.1 <a%other.example@mx.test.local>: Relay access denied"},
		{"<@a.example:b@mx.test.local>", "ok"}, // the route is dropped, not followed
		{"<@mx.test.local:x@other.example>", "554 5.7.1 <x@other.example>: Relay access denied"},
		{"<@mx.test.local,@relayed.example:x@other.example>", "554 5.7.1 <x@other.example>: Relay access denied"},
		{"<a!b@mx.test.local>", "554 5.7.1 <a!b@mx.test.local>: Relay access denied"},
		{`<"a@other.example"@mx.test.local>`, "554 5.7.1 <a@other.example@mx.test.local>: Relay access denied"},
		{"<a@other.example@mx.test.local>", "554 5.7.1 <a@other.example@mx.test.local>: Relay access denied"},
		{"<ok@MX.Test.Local>", "ok"},
		{"<x@localhost>", "ok"},
		{"<x@[127.0.0.1]>", "ok"},
		{"<x@[192.0.2.9]>", "554 5.7.1 <x@[192.0.2.9]>: Relay access denied"},
		{"<x@sub.relayed.example>", "ok"},
		{"<x@a.sub.relayed.example>", "ok"},
		{"<x@relayed.example>", "ok"},
		{"<x@notrelayed.example>", "554 5.7.1 <x@notrelayed.example>: Relay access denied"},
		{"<x@relayed.example.evil>", "554 5.7.1 <x@relayed.example.evil>: Relay access denied"},
		{"<postmaster>", "ok"},
		{"<bare>", "ok"},
		{"<a%b>", "554 5.7.1 <a%b>: Relay access denied"},
		{"<%a>", "554 5.7.1 <%a>: Relay access denied"},
		{"<other.example!x>", "554 5.7.1 <other.example!x>: Relay access denied"},
		{"<a%other.example@relayed.example>", "554 5.7.1 <a%other.example@relayed.example>: Relay access denied"},
		{"<a!b@relayed.example>", "554 5.7.1 <a!b@relayed.example>: Relay access denied"},
		{`<"a%other"@relayed.example>`, "554 5.7.1 <a%other@relayed.example>: Relay access denied"},
		{`<"other.example!x"@mx.test.local>`, "554 5.7.1 <other.example!x@mx.test.local>: Relay access denied"},
		// beyond the capture
		{"<x@below.example>", "554 5.7.1 <x@below.example>: Relay access denied"},
		{"<x@a.below.example>", "ok"},
		{"<x@virtual.example>", "ok"},
		{"<x@sub.virtual.example>", "554 5.7.1 <x@sub.virtual.example>: Relay access denied"},
		{"<x@sub.mx.test.local>", "554 5.7.1 <x@sub.mx.test.local>: Relay access denied"},
		{"<x@test.local>", "554 5.7.1 <x@test.local>: Relay access denied"},
		{"<x@dotted.example>", "ok"},
		{"<x@[192.0.2.1]>", "ok"},
		{"<x@[IPv6:2001:db8::25]>", "ok"},
		{"<x@[IPv6:2001:db8::26]>", "554 5.7.1 <x@[IPv6:2001:db8::26]>: Relay access denied"},
		{`<"a\@other.example"@mx.test.local>`, "554 5.7.1 <a@other.example@mx.test.local>: Relay access denied"},
		{`<"a\%other"@mx.test.local>`, "554 5.7.1 <a%other@mx.test.local>: Relay access denied"},
	} {
		got, err := ask(c, from("192.0.2.7"), tc.path)
		if err != nil {
			t.Errorf("%s: %v", tc.path, err)
		} else if got != tc.want {
			t.Errorf("%s:\n got %s\nwant %s", tc.path, got, tc.want)
		}
	}
}

// TestOddDomains calls the checker with what no parser should let through:
// it must hold by itself.
func TestOddDomains(t *testing.T) {
	c := checker()
	for _, a := range []mail.Address{
		"x@", "x", "", "@", "x@.", "x@..", "x@mx.test.local..", "x@.mx.test.local", "x@[]", "x@[", "x@]", "x@[IPv6:]",
		"x@[IPv6:127.0.0.1]", "x@[::ffff:127.0.0.1]", "x@[2001:db8::25]", "x@[127.0.0.1%lo]", "x@[127.0.0.1", "x@127.0.0.1]",
		"x@mx.test.local\x00.other.example", "x@mx.test.local other.example", "x@.relayed.example.", "x@relayed.example@other.example",
		"mx.test.local@other.example", `"x@mx.test.local"`, "@mx.test.local:x@other.example",
	} {
		if r := c.Rcpt(t.Context(), from("192.0.2.7"), "", a, a); r == nil && a != "x@.relayed.example." {
			t.Errorf("%q was accepted from a stranger", a)
		}
	}
	for _, a := range []mail.Address{"x@mx.test.local.", "x@[127.0.0.1]", "x@[IPv6:::ffff:127.0.0.1]"} {
		if r := c.Rcpt(t.Context(), from("192.0.2.7"), "", a, a); r != nil {
			t.Errorf("%q was refused: %s", a, r)
		}
	}
}

func TestWhoMayRelay(t *testing.T) {
	for _, tc := range []struct {
		addr, user string
		ok         bool
	}{
		{"127.0.0.1", "", true},
		{"127.255.255.254", "", true},
		{"::ffff:127.0.0.1", "", true},
		{"::ffff:7f00:1", "", true},
		{"10.1.2.3", "", true},
		{"::ffff:10.1.2.3", "", true},
		{"10.2.0.1", "", false},
		{"2001:db8:1::99", "", true},
		{"2001:db8:1::99%eth0", "", true},
		{"2001:db8:2::99", "", false},
		{"128.0.0.1", "", false},
		{"::127.0.0.1", "", false}, // IPv4-compatible is not IPv4-mapped
		{"::1", "", false},
		{"64:ff9b::127.0.0.1", "", false},
		{"", "", false},
		{"unknown", "", false},
		{"localhost", "", false},
		{"127.1", "", false},
		{"0127.0.0.1", "", false},
		{"127.0.0.1 ", "", false},
		{"192.0.2.7", "joe", true},
		{"", "joe", true},
	} {
		p := from(tc.addr)
		p.SASLUser = tc.user
		got, err := ask(checker(), p, "<x@other.example>")
		if err != nil {
			t.Fatal(err)
		}
		if (got == "ok") != tc.ok {
			t.Errorf("client %q user %q: %s", tc.addr, tc.user, got)
		}
	}
}

func TestNothingConfiguredRelaysNothing(t *testing.T) {
	c := New(Config{})
	for _, path := range []string{"<x@other.example>", "<postmaster>", "<x@[127.0.0.1]>"} {
		if got, err := ask(c, from("127.0.0.1"), path); err != nil || !strings.HasSuffix(got, "Relay access denied") {
			t.Errorf("%s: %s, %v", path, got, err)
		}
	}
}

// TestNeverRelaysForStrangers: whatever the address, a stranger's mail leaves
// only for a domain of ours and without a route in it.
func TestNeverRelaysForStrangers(t *testing.T) {
	c := checker()
	piece := rapid.SampledFrom([]string{"a", "@", "%", "!", ".", "\"", "\\", "[", "]", ":", ",", "<", ">", " ", "127.0.0.1", "mx.test.local", "MX.TEST.LOCAL", "relayed.example", "other.example", "IPv6:", "::1", "é"})
	rapid.Check(t, func(t *rapid.T) {
		to := mail.Address(strings.Join(rapid.SliceOfN(piece, 1, 8).Draw(t, "pieces"), ""))
		if c.Rcpt(context.Background(), from("192.0.2.7"), "", to, to) != nil {
			return
		}
		local, domain := to.Split()
		domain = strings.TrimSuffix(strings.ToLower(domain), ".")
		ours := domain == "mx.test.local" || domain == "relayed.example" || strings.HasSuffix(domain, ".relayed.example") || domain == "[127.0.0.1]"
		if !ours || strings.ContainsAny(local, "@%!") {
			t.Fatalf("%q was accepted", to)
		}
	})
}

func TestUnknownUsers(t *testing.T) {
	users := func(_ context.Context, a mail.Address) (bool, error) {
		if a.Local() == "table" {
			return false, errors.New("table is gone")
		}
		return strings.EqualFold(a.Local(), "alice"), nil
	}
	c := checker(func(cfg *Config) { cfg.LocalUsers = users })
	for _, tc := range []struct{ client, path, want string }{
		{"192.0.2.7", "<alice@mx.test.local>", "ok"},
		{"192.0.2.7", "<bob@mx.test.local>", "550 5.1.1 <bob@mx.test.local>: Recipient address rejected: User unknown in local recipient table"},
		{"127.0.0.1", "<bob@mx.test.local>", "550 5.1.1 <bob@mx.test.local>: Recipient address rejected: User unknown in local recipient table"},
		{"127.0.0.1", "<bob>", "550 5.1.1 <bob>: Recipient address rejected: User unknown in local recipient table"},
		{"192.0.2.7", "<bob@[127.0.0.1]>", "550 5.1.1 <bob@[127.0.0.1]>: Recipient address rejected: User unknown in local recipient table"},
		{"192.0.2.7", "<bob@relayed.example>", "ok"},
		{"127.0.0.1", "<bob@other.example>", "ok"},
		{"192.0.2.7", "<bob@other.example>", "554 5.7.1 <bob@other.example>: Relay access denied"},
		{"192.0.2.7", "<table@mx.test.local>", "451 4.3.0 <table@mx.test.local>: Temporary lookup failure"},
	} {
		if got, err := ask(c, from(tc.client), tc.path); err != nil || got != tc.want {
			t.Errorf("%s from %s:\n got %s, %v\nwant %s", tc.path, tc.client, got, err, tc.want)
		}
	}
}

func TestTableFailureIsNeverYes(t *testing.T) {
	gone := func(context.Context, string) (bool, error) { return true, errors.New("table is gone") }
	for name, change := range map[string]func(*Config){
		"mydestination": func(c *Config) { c.MyDestination = gone },
		"relay":         func(c *Config) { c.RelayDomains = gone },
		"virtual":       func(c *Config) { c.VirtualDomains = gone },
	} {
		if got, err := ask(checker(change), from("192.0.2.7"), "<x@other.example>"); err != nil || got != "451 4.3.0 <x@other.example>: Temporary lookup failure" {
			t.Errorf("%s: %s, %v", name, got, err)
		}
	}
}

func TestReconfigure(t *testing.T) {
	c := New(Config{})
	c.Reconfigure(Config{MyDestination: Domains([]string{"new.example"}, false)})
	if got, err := ask(c, from("192.0.2.7"), "<x@new.example>"); err != nil || got != "ok" {
		t.Errorf("%s, %v", got, err)
	}
}

func FuzzRcpt(f *testing.F) {
	for _, s := range []string{"<a@b>", "<@x:a@b>", `<"a@b"@mx.test.local>`, "<x@[127.0.0.1]>", "<x@mx.test.local.>"} {
		f.Add(s)
	}
	c := checker()
	f.Fuzz(func(t *testing.T, path string) {
		to, err := smtp.ParsePath(path, true)
		if err != nil {
			return
		}
		if c.Rcpt(context.Background(), from("192.0.2.7"), "", to, to) == nil {
			if local, _ := to.Split(); strings.ContainsAny(local, "@%!") {
				t.Fatalf("%q was accepted", to)
			}
		}
	})
}

// TestListenerWithNetworksOfItsOwn: clients of one listener are judged by its
// networks, those of the others by everyone's.
func TestListenerWithNetworksOfItsOwn(t *testing.T) {
	c := checker(func(cfg *Config) {
		cfg.Listeners = map[string][]netip.Prefix{"closed": nil, "other": {netip.MustParsePrefix("::ffff:192.0.2.0/120")}}
	})
	for _, tc := range []struct {
		listener, addr string
		relays         bool
	}{
		{"", "127.0.0.1", true},
		{"smtp", "127.0.0.1", true},
		{"smtp", "192.0.2.7", false},
		{"closed", "127.0.0.1", false},
		{"closed", "10.1.0.1", false},
		{"other", "192.0.2.7", true},
		{"other", "127.0.0.1", false},
	} {
		p := from(tc.addr)
		p.Listener = tc.listener
		if got, err := ask(c, p, "<x@other.example>"); err != nil || (got == "ok") != tc.relays {
			t.Errorf("%+v: %s, %v", tc, got, err)
		}
	}
}
