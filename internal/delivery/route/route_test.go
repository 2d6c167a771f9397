package route

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"posthouse/internal/mail"
	"posthouse/internal/postfix/lookup"
	"posthouse/internal/postfix/maillog"
)

type list []string

func (l list) Match(_ context.Context, domain string) (bool, error) {
	for _, d := range l {
		if d == "broken" {
			return false, errors.New("list is broken")
		}
		if d == domain {
			return true, nil
		}
	}
	return false, nil
}

// table is a lookup table that remembers what it was asked.
type table struct {
	values map[string]string
	asked  []string
}

func (t *table) Lookup(_ context.Context, key string) (string, bool, error) {
	t.asked = append(t.asked, key)
	v, ok := t.values[key]
	if v == "broken" {
		return "", false, errors.New("table is broken")
	}
	return v, ok, nil
}
func (t *table) String() string { return "test:table" }

type logger struct {
	mu    sync.Mutex
	lines []string
}

func (l *logger) Log(service string, sev maillog.Severity, ev maillog.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, service+": "+sev.Word()+string(ev.AppendText(nil, mail.ShortIDs)))
}

func router(cfg Config, log maillog.Logger) *Router {
	cfg.MyHostname = "Mx.example"
	return New(cfg, log, time.Now)
}

func route(r *Router, rcpt mail.Address) string {
	d, st := r.Route(rcpt, nil)
	if st != nil {
		return st.Error()
	}
	return d.String()
}

func TestClasses(t *testing.T) {
	base := Config{Local: list{"home.example"}, Relay: list{"inside.example"}, Own: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}}
	relayed := base
	relayed.Relayhost = "[Relay.Example]:587"
	named := relayed
	named.LocalTransport, named.RelayTransport, named.DefaultTransport = "lmtp:unix:/Run/Dovecot", "slow:[Internal]:2525", "bulk"
	for _, c := range []struct {
		cfg        *Config
		rcpt, want string
	}{
		{&base, "a@Home.Example", "local:mx.example"},
		{&base, "postmaster", "local:mx.example"},
		{&base, "a@[192.0.2.1]", "local:mx.example"},
		{&base, "a@[IPv6:2001:db8::1]", "local:mx.example"},
		{&base, "a@[192.0.2.2]", "smtp:[192.0.2.2]"},
		{&base, "a@inside.example", "relay:inside.example"},
		{&base, "a@Far.Example", "smtp:far.example"},
		{&base, `"x@y"@far.example`, "smtp:far.example"},
		{&base, "", "5.1.3 null recipient address"},
		{&relayed, "a@far.example", "smtp:[relay.example]:587"},
		{&relayed, "a@inside.example", "relay:[relay.example]:587"},
		{&relayed, "a@home.example", "local:mx.example"},
		{&named, "a@home.example", "lmtp:unix:/run/dovecot"},
		{&named, "a@inside.example", "slow:[internal]:2525"},
		{&named, "a@far.example", "bulk:[relay.example]:587"},
	} {
		if got := route(router(*c.cfg, &logger{}), mail.Address(c.rcpt)); got != c.want {
			t.Errorf("%s: %s, want %s", c.rcpt, got, c.want)
		}
	}
}

func TestTransportTable(t *testing.T) {
	tab := &table{values: map[string]string{
		"bob@far.example":   "lmtp:unix:/run/x",
		"amy+x@far.example": "discard:AMY Extra",
		"far.example":       "smtp:[mx.far.example]:26, other.example",
		".far.example":      ":[Gate]",
		"keep.example":      ":",
		"fresh.example":     "slow:",
		"err.example":       "error:5.1.2 Bad Domain HERE",
		"ret.example":       "retry:4.3.0 Later",
		"down.example":      "broken",
	}}
	for rcpt, want := range map[mail.Address]string{
		"Bob@Far.example":     "lmtp:unix:/run/x",
		"bob+tag@far.example": "lmtp:unix:/run/x",
		"amy+x@far.example":   "discard:AMY Extra",
		"amy+y@far.example":   "smtp:[mx.far.example]:26, other.example",
		"a@sub.far.example":   "smtp:[gate]",
		"a@x.sub.far.example": "smtp:[gate]",
		"a@keep.example":      "smtp:[relay]",
		"a@Fresh.example":     "slow:fresh.example",
		"a@err.example":       "error:5.1.2 Bad Domain HERE",
		"a@ret.example":       "retry:4.3.0 Later",
		"a@down.example":      "4.3.0 address resolver failure",
		"a@other.example":     "smtp:[relay]",
		"a@[192.0.2.9]":       "smtp:[relay]",
	} {
		r := router(Config{Relayhost: "[relay]", Transports: []lookup.Table{tab}, Delimiters: "+"}, &logger{})
		if got := route(r, rcpt); got != want {
			t.Errorf("%s: %s, want %s", rcpt, got, want)
		}
	}
	tab.asked = nil
	route(router(Config{Transports: []lookup.Table{tab}, Delimiters: "+-"}, &logger{}), "User-Ext+y@a.b.example")
	if got := strings.Join(tab.asked, " "); got != "user-ext+y@a.b.example user@a.b.example a.b.example .b.example .example *" {
		t.Error(got)
	}
}

// Postfix's own types of table: a star entry is the last resort, and patterns
// see whole addresses only.
func TestRealTables(t *testing.T) {
	open := func(spec string) lookup.Table {
		tab, err := lookup.Open(spec, lookup.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return tab
	}
	r := router(Config{Transports: []lookup.Table{open("inline:{ {*=smtp:[all]} {a.example=smtp:[one]} }")}}, &logger{})
	if a, b := route(r, "x@a.example"), route(r, "x@b.example"); a != "smtp:[one]" || b != "smtp:[all]" {
		t.Error(a, b)
	}
	r.Reconfigure(Config{MyHostname: "h", Transports: []lookup.Table{open("static:retry:4.0.0 closed")}})
	if a := route(r, "x@a.example"); a != "retry:4.0.0 closed" {
		t.Error(a)
	}
}

func TestUnusableTransports(t *testing.T) {
	var log logger
	now := time.Unix(1000, 0)
	r := New(Config{MyHostname: "h", Local: list{"h"}, Relay: list{"inside"}, Known: []string{"smtp", "relay"}, Defer: []string{"relay"}}, &log, func() time.Time { return now })
	for range 3 {
		if got := route(r, "a@h"); got != "4.3.0 mail transport unavailable" {
			t.Error(got)
		}
	}
	if got := route(r, "a@inside"); got != "4.3.2 deferred transport" {
		t.Error(got)
	}
	now = now.Add(time.Minute)
	route(r, "a@h")
	want := "qmgr: warning: connect to transport private/local: No such file or directory"
	if len(log.lines) != 2 || log.lines[0] != want {
		t.Errorf("%q", log.lines)
	}
}

func TestBrokenLists(t *testing.T) {
	for _, c := range []Config{{Local: list{"broken"}}, {Relay: list{"broken"}}} {
		var log logger
		if got := route(router(c, &log), "a@b"); got != "4.3.0 address resolver failure" || len(log.lines) != 1 {
			t.Error(got, log.lines)
		}
	}
}

func FuzzRoute(f *testing.F) {
	f.Add("a@b.example")
	f.Add("+x@.a..b.")
	f.Add("@")
	f.Add("a@[IPv6:")
	f.Fuzz(func(t *testing.T, rcpt string) {
		r := router(Config{Local: list{"x"}, Transports: []lookup.Table{&table{}}, Delimiters: "+-"}, &logger{})
		d, st := r.Route(mail.Address(rcpt), nil)
		if st == nil && d.Transport == "" {
			t.Error("no transport")
		}
	})
}

func BenchmarkRoute(b *testing.B) {
	tab, err := lookup.Open("inline:{ {a.example=smtp:[one]} }", lookup.Options{})
	if err != nil {
		b.Fatal(err)
	}
	r := router(Config{Local: list{"home"}, Transports: []lookup.Table{tab}}, &logger{})
	b.ReportAllocs()
	for b.Loop() {
		r.Route("someone@some.host.example", nil)
	}
}
