package config

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// testHost has one public network of each family.
func testHost() Host {
	return Host{
		Hostname: "box", PID: 7, Process: "test",
		Interfaces: []netip.Prefix{
			netip.MustParsePrefix("127.0.0.1/8"), netip.MustParsePrefix("192.0.2.2/24"),
			netip.MustParsePrefix("::1/128"), netip.MustParsePrefix("2001:db8::2/64"),
		},
		Resolve: func(name string) ([]netip.Addr, error) {
			if name == "localhost" {
				return []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")}, nil
			}
			return nil, errors.New("no such host")
		},
	}
}

func load(t *testing.T, main, master string) (*Config, []Problem, error) {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, "main.cf", main)
	if master != "" {
		write(t, dir, "master.cf", master)
	}
	c, problems, err := LoadFor(dir, testHost())
	for i := range problems {
		problems[i].File = filepath.Base(problems[i].File)
	}
	return c, problems, err
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o640); err != nil {
		t.Fatal(err)
	}
}

func mustLoad(t *testing.T, main, master string) *Config {
	t.Helper()
	c, problems, err := load(t, main, master)
	if err != nil {
		t.Fatalf("%v: %v", err, problems)
	}
	return c
}

func TestEveryDefaultIsAValue(t *testing.T) {
	c := mustLoad(t, "", "")
	acts := 0
	for _, p := range Params() {
		value, err := c.Expand(c.Raw(p.Name))
		if p.Type == TypeRaw {
			continue
		}
		if err != nil {
			t.Errorf("%s: default %q: %v", p.Name, p.Default, err)
		}
		if err := checkValue(p, value); err != nil {
			t.Errorf("%s: default %q: %v", p.Name, p.Default, err)
		}
		if p.Meaning != "" {
			acts++
		}
	}
	if n := len(Params()); n < 830 || acts < 120 {
		t.Errorf("%d parameters, %d with a meaning", n, acts)
	}
	for _, ours := range []string{"retry_jitter", "trash_retention_time", "spool_segment_size", "dns_servers", "maillog_format"} {
		if p, ok := LookupParam(ours); !ok || p.Meaning == "" {
			t.Errorf("%s is not described", ours)
		}
	}
}

func TestTypedValues(t *testing.T) {
	c := mustLoad(t, `
# comment
myhostname = mx.example.org
delay_warning_time = 4
queue_run_delay = 5m
maximal_queue_lifetime=2d
message_size_limit = 20M
smtp_connect_timeout = ${stress?{1}:{45}}s
mydestination = $myhostname,
    localhost.$mydomain
# in between
  , {a b}
relayhost = ${nothing:$fall}
fall = [relay]:25
slow_destination_concurrency_limit = 3
soft_bounce = YES
retry_jitter = 25%
slow_destination_rate_delay = 2m
default_destination_concurrency_positive_feedback = 1/8
`, "slow unix - - n - 1 smtp\n  -o smtp_connect_timeout=9 -o syslog_name=postfix/$service_name\nsmtp inet n - n - - smtpd\n")
	for name, want := range map[string]string{
		"mydomain": "example.org", "relayhost": "[relay]:25", "myorigin": "mx.example.org", "smtpd_banner": "mx.example.org ESMTP Postfix",
		"mynetworks": "127.0.0.1/32 192.0.2.2/32 [::1]/128 [2001:db8::2]/128", "syslog_name": "postfix", "no_such": "",
		"local_transport": "local:mx.example.org", "process_id": "7", "process_name": "test",
	} {
		if got := c.String(name); got != want {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}
	for name, want := range map[string]time.Duration{
		"delay_warning_time": 4 * time.Hour, "queue_run_delay": 5 * time.Minute, "maximal_queue_lifetime": 48 * time.Hour,
		"smtp_connect_timeout": 45 * time.Second, "bounce_queue_lifetime": 120 * time.Hour, "smtpd_timeout": 300 * time.Second,
	} {
		if got := c.Duration(name); got != want {
			t.Errorf("%s = %v, want %v", name, got, want)
		}
	}
	if got := c.List("mydestination"); !slices.Equal(got, []string{"mx.example.org", "localhost.example.org", "{a b}"}) {
		t.Errorf("mydestination %q", got)
	}
	if c.Size("message_size_limit") != 20<<20 || c.Int("smtpd_hard_error_limit") != 20 || !c.Bool("soft_bounce") || c.Percent("retry_jitter") != 0.25 || c.Mode("maillog_file_permissions") != 0o600 {
		t.Error("typed values")
	}
	if c.TransportInt("slow", "destination_concurrency_limit") != 3 || c.TransportInt("smtp", "destination_concurrency_limit") != 20 ||
		c.TransportInt("local", "destination_concurrency_limit") != 2 || c.TransportInt("slow", "initial_destination_concurrency") != 5 ||
		c.TransportDuration("slow", "destination_rate_delay") != 2*time.Minute || c.TransportDuration("x", "destination_rate_delay") != 0 ||
		c.TransportFloat("slow", "destination_concurrency_positive_feedback") != 0.125 {
		t.Error("transport values")
	}
	if !c.IsSet("fall") || c.IsSet("mydomain") {
		t.Error("IsSet")
	}
	s, ok := c.Service("slow", "unix")
	v := s.View(c)
	if !ok || v.Duration("smtp_connect_timeout") != 9*time.Second || v.String("syslog_name") != "postfix/slow" || s.MaxProc != 1 || s.Line != 1 || c.Duration("smtp_connect_timeout") != 45*time.Second {
		t.Errorf("view: %+v", s)
	}
}

func TestProblemsAreReportedWhereTheyAre(t *testing.T) {
	_, problems, err := load(t, `relayhst = x
relayhost = a
relayhost = b
queue_run_delay = 5x
soft_bounce = maybe
message_size_limit = 10 M
smtp_tls_security_level = sometimes
mynetworks = 192.0.2.1/24
smtpd_recipient_limit = -1
mydestination = ${unclosed
inet_protocols = ipv5
user = 1
helo = $user
stray line
`, "smtp inet n - n - - smtpd\nsmtp inet n - n - - smtpd -o smtpd_timeout=soon -o nosuch=1\nx unix - - q - - y\nshort\n")
	if !errors.Is(err, ErrInvalid) {
		t.Fatalf("error %v", err)
	}
	var got []string
	for _, p := range problems {
		level := "warning: "
		if p.Severity == Error {
			level = "error: "
		}
		got = append(got, level+p.String())
	}
	all := strings.Join(got, "\n")
	for _, want := range []string{
		`warning: main.cf, line 1: unknown parameter "relayhst": did you mean relayhost?`,
		`warning: main.cf, line 3: overriding earlier entry: relayhost=a`,
		`error: main.cf, line 4: queue_run_delay = 5x: malformed value: expected a time: a number and one of s m h d w, as in 5m`,
		`error: main.cf, line 5: soft_bounce = maybe: malformed value: expected yes or no`,
		`error: main.cf, line 6: message_size_limit = 10 M: malformed value: expected a number of bytes`,
		`error: main.cf, line 7: smtp_tls_security_level = sometimes: malformed value: expected one of (nothing), none, may, encrypt`,
		`error: main.cf, line 8: mynetworks = 192.0.2.1/24: bad pattern: "192.0.2.1/24" has address bits beyond the mask, perhaps it should be 192.0.2.0/24`,
		`error: main.cf, line 9: smtpd_recipient_limit = -1: malformed value: expected a whole number, 0 or more`,
		`error: main.cf, line 10: mydestination = ${unclosed: truncated macro reference`,
		`error: main.cf, line 11: inet_protocols = ipv5: malformed value: expected all, ipv4, ipv6, not ipv5`,
		`warning: main.cf, line 13: unknown parameter "helo"`,
		`error: main.cf, line 14: missing '=' after attribute name: "stray line"`,
		`error: master.cf, line 2: service smtp/inet is already defined in line 1`,
		`error: master.cf, line 2: smtpd_timeout = soon: malformed value: expected a time`,
		`warning: master.cf, line 2: unknown parameter "nosuch"`,
		`error: master.cf, line 3: invalid chroot field "q" in "x unix - - q - - y"`,
		`error: master.cf, line 4: bad field count`,
	} {
		if !strings.Contains(all, want) {
			t.Errorf("missing %s", want)
		}
	}
	if strings.Contains(all, `"user"`) {
		t.Error("a name that another value refers to is not unknown")
	}
	if t.Failed() {
		t.Log(all)
	}
}

func TestMissingFiles(t *testing.T) {
	if _, _, err := Load(t.TempDir()); !errors.Is(err, ErrNoMain) || !strings.Contains(err.Error(), "-c DIR or MAIL_CONFIG") {
		t.Errorf("no main.cf: %v", err)
	}
	c, problems, err := load(t, "mynetworks = 127.0.0.0/8\n", "")
	if err != nil || len(problems) != 1 || problems[0].Severity != Warning {
		t.Errorf("no master.cf: %v, %v", err, problems)
	}
	listen, err := c.Addresses()
	if err != nil || len(listen) != 2 || listen[0].Address != "0.0.0.0:25" || listen[1].Address != "[::]:25" {
		t.Errorf("default listeners: %v, %v", listen, err)
	}
}

func TestUnknownNamesOfOldReleasesAndDatabases(t *testing.T) {
	_, problems, err := load(t, "fallback_relay = x\nvirtual_maps = hash:/x\nvirtual_alias_maps = ldap:acct proxy:mysql:db\nacct_server_host = h\ndb_hosts = x\nsmtpd_restriction_classes = mine\nmine = permit\nother_destination_rate_delay = 1s\n", "")
	if err != nil || len(problems) != 1 { // the one about master.cf
		t.Errorf("%v, %v", err, problems)
	}
}

func TestAddresses(t *testing.T) {
	for _, c := range []struct{ main, service, want string }{
		{"", "127.0.0.1:2525", "tcp4 127.0.0.1:2525"},
		{"", "[::1]:25", "tcp6 [::1]:25"},
		{"", "localhost:smtps", "tcp4 127.0.0.1:465 tcp6 [::1]:465"},
		{"inet_protocols = ipv4", "localhost:submission", "tcp4 127.0.0.1:587"},
		{"inet_interfaces = loopback-only", "smtp", "tcp4 127.0.0.1:25 tcp6 [::1]:25"},
		{"inet_interfaces = 192.0.2.2, localhost", "2525", "tcp4 192.0.2.2:2525 tcp4 127.0.0.1:2525 tcp6 [::1]:2525"},
		{"inet_protocols = ipv6", "24", "tcp6 [::]:24"},
	} {
		cfg := mustLoad(t, c.main+"\n", c.service+" inet n - n - - smtpd\nsmtp unix - - n - - smtp\n")
		listen, err := cfg.Addresses()
		var got []string
		for _, l := range listen {
			got = append(got, l.Network+" "+l.Address)
		}
		if strings.Join(got, " ") != c.want || err != nil {
			t.Errorf("%q, %s: %q, %v", c.main, c.service, got, err)
		}
	}
	cfg := mustLoad(t, "", "nosuchport inet n - n - - smtpd\n")
	if _, err := cfg.Addresses(); err == nil || !strings.Contains(err.Error(), "master.cf, line 1: service nosuchport: unknown port") {
		t.Errorf("unknown port: %v", err)
	}
	if _, _, err := load(t, "inet_interfaces = nowhere.example\n", ""); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "host not found: nowhere.example") {
		t.Errorf("unknown interface: %v", err)
	}
}

func TestComputedDefaults(t *testing.T) {
	for main, want := range map[string][3]string{
		"":                               {"box.localdomain", "localdomain", "127.0.0.1/32 192.0.2.2/32 [::1]/128 [2001:db8::2]/128"},
		"mydomain = a.example":           {"box.a.example", "a.example", "127.0.0.1/32 192.0.2.2/32 [::1]/128 [2001:db8::2]/128"},
		"myhostname = h.$mydomain":       {"h.localdomain", "localdomain", "127.0.0.1/32 192.0.2.2/32 [::1]/128 [2001:db8::2]/128"},
		"mynetworks_style = subnet":      {"box.localdomain", "localdomain", "127.0.0.0/8 192.0.2.0/24 [::1]/128 [2001:db8::]/64"},
		"mynetworks_style = class":       {"box.localdomain", "localdomain", "127.0.0.0/8 192.0.2.0/24 [::1]/128 [2001:db8::]/64"},
		"compatibility_level = 0":        {"box.localdomain", "localdomain", "127.0.0.0/8 192.0.2.0/24 [::1]/128 [2001:db8::]/64"},
		"inet_interfaces = 192.0.2.2":    {"box.localdomain", "localdomain", "192.0.2.2/32"},
		"inet_protocols = ipv6":          {"box.localdomain", "localdomain", "[::1]/128 [2001:db8::2]/128"},
		"inet_interfaces=loopback-only":  {"box.localdomain", "localdomain", "127.0.0.1/32 [::1]/128"},
		"mydomain = loop.of.$myhostname": {"box.localdomain", "loop.of.box.localdomain", "127.0.0.1/32 192.0.2.2/32 [::1]/128 [2001:db8::2]/128"},
	} {
		c := mustLoad(t, main+"\n", "")
		if got := [3]string{c.String("myhostname"), c.String("mydomain"), c.String("mynetworks")}; got != want {
			t.Errorf("%q: %q, want %q", main, got, want)
		}
	}
}

func TestEditingKeepsEverythingElse(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "main.cf", "# head\nrelayhost = a\n  b\n# kept\n  c\n\nother=1\nrelayhost = d\n")
	warnings, err := EditMain(dir, []Change{{Set, "relayhost", "[x]"}, {CommentOut, "other", ""}, {Set, "new", "1"}})
	if err != nil || len(warnings) != 1 {
		t.Fatal(warnings, err)
	}
	got, err := os.ReadFile(filepath.Join(dir, "main.cf"))
	if want := "# head\nrelayhost = [x]\n# kept\n\n#other=1\nrelayhost = [x]\nnew = 1\n"; string(got) != want || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	info, err := os.Stat(filepath.Join(dir, "main.cf"))
	if err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if _, err := EditMain(t.TempDir(), nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no main.cf: %v", err)
	}
}
