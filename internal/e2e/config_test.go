package e2e_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"posthouse/internal/testkit/program"
	"posthouse/internal/traffic/sink"
)

// TestConfigurationsThatCannotBeUsed: each mistake is named with its file and
// line, and what was probably meant; the status is 1 and nothing is touched.
func TestConfigurationsThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		main   string // behind the usual lines
		master string // behind the usual services
		want   []string
	}{
		"time":           {"maximal_queue_lifetime = soon\n", "", []string{"main.cf", "maximal_queue_lifetime = soon"}},
		"number":         {"smtpd_recipient_limit = many\n", "", []string{"main.cf", "smtpd_recipient_limit = many"}},
		"size":           {"message_size_limit = 10Q\n", "", []string{"main.cf", "message_size_limit = 10Q"}},
		"yes or no":      {"smtpd_helo_required = perhaps\n", "", []string{"main.cf", "smtpd_helo_required = perhaps"}},
		"no equals sign": {"relayhost mail.example\n", "", []string{"main.cf", "missing '='", "relayhost mail.example"}},
		"network":        {"mynetworks = 10.0.0.0/33\n", "", []string{"main.cf", "mynetworks", "10.0.0.0/33"}},
		"host bits":      {"mynetworks = 10.0.0.1/8\n", "", []string{"main.cf", "mynetworks", "10.0.0.1/8", "10.0.0.0/8"}},
		"table type":     {"transport_maps = hesiod:x\n", "", []string{"main.cf", "transport_maps", "hesiod:x", "known types are"}},
		"certificate":    {"smtpd_tls_security_level = may\nsmtpd_tls_cert_file = /nonexistent/cert.pem\n", "", []string{"main.cf", "smtpd_tls_cert_file = /nonexistent/cert.pem", "no such file"}},
		"TLS without":    {"smtpd_tls_security_level = encrypt\n", "", []string{"smtpd_tls_cert_file", "a certificate is needed"}},
		"TLS level":      {"smtp_tls_security_level = strong\n", "", []string{"main.cf", "smtp_tls_security_level = strong", "none, may, encrypt"}},
		"loop":           {"relayhost = $relayhost\n", "", []string{"main.cf", "relayhost"}},
		"fields":         {"", "smtp inet n - n\n", []string{"master.cf", "bad field count"}},
		"type":           {"", "x tcp n - n - - smtpd\n", []string{"master.cf", `invalid type field "tcp"`}},
		"service twice":  {"", "smtp unix - - n - - smtp\n", []string{"master.cf", "smtp/unix is already defined in line"}},
		"override":       {"", "127.0.0.1:2 inet n - n - - smtpd\n  -o smtpd_timeout=never\n", []string{"master.cf", "smtpd_timeout = never"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			opt := w.options(c.main)
			opt.Master += c.master
			p := program.New(t, opt)
			if err := p.Launch(); err != nil {
				t.Fatal(err)
			}
			if code := exits(t, p); code != 1 {
				t.Errorf("status %d", code)
			}
			out := p.Output()
			contains(t, out, append(c.want, "posthouse: fatal: ")...)
			if strings.Contains(out, "goroutine") {
				t.Errorf("output:\n%s", out)
			}
			if c.want[0] != "smtpd_tls_cert_file" {
				line := 0
				for i, l := range strings.Split(readFile(t, filepath.Join(p.ConfigDir(), c.want[0])), "\n") {
					if added := strings.Split(c.main+c.master, "\n"); l == added[0] || name == "certificate" && l == added[1] {
						line = i + 1
					}
				}
				contains(t, out, c.want[0]+", line "+strconv.Itoa(line))
			}
			left, err := os.ReadDir(p.QueueDir())
			if err != nil || len(left) > 0 {
				t.Errorf("left in the queue directory: %v, %v", left, err)
			}
		})
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestUnknownParameter: it is only a warning, as in Postfix, but one that
// names what was probably meant.
func TestUnknownParameter(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.host(sink.Config{}, "dest.example")
	p := w.relay("smtpd_recipent_limit = 5\n")
	contains(t, p.Output(), "warning: ", "main.cf", `unknown parameter "smtpd_recipent_limit": did you mean smtpd_recipient_limit?`)
	send(t, p, "a@sender.example", "x@dest.example")
	h.wait(t, 1)
}

// TestMissingTable: the relay starts, as Postfix does, and mail whose way the
// table would tell waits, with the reason in the log.
func TestMissingTable(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.host(sink.Config{}, "dest.example")
	p := program.New(t, w.options(""))
	table := filepath.Join(p.ConfigDir(), "transport")
	if err := p.WriteMain(w.options("transport_maps = texthash:" + table + "\n").Main); err != nil {
		t.Fatal(err)
	}
	p.MustStart(t)
	id := send(t, p, "a@sender.example", "x@dest.example")
	p.WaitLog(t, `(warning|error): .*`+regexp.QuoteMeta(table))
	p.WaitLog(t, id+`: to=<x@dest\.example>, .*dsn=4\.3\.\d, status=deferred`)
	if err := os.WriteFile(table, []byte("other.example :\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	h.wait(t, 1)
}

// TestNoConfiguration: a directory without main.cf, and none at all.
func TestNoConfiguration(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := program.New(t, w.options(""))
	if err := os.Remove(filepath.Join(p.ConfigDir(), "main.cf")); err != nil {
		t.Fatal(err)
	}
	contains(t, fails(t, p, 1, "serve", "-c", p.ConfigDir()), "posthouse: fatal: no main.cf in "+p.ConfigDir())
	contains(t, fails(t, p, 1, "serve", "-c", "/nonexistent"), "posthouse: fatal: no main.cf in /nonexistent; say where it is with -c DIR or MAIL_CONFIG")
	contains(t, fails(t, p, 2, "serve", "--wrong"), "unknown flag: --wrong", "posthouse serve --help")
}
