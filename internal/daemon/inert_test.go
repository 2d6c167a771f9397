package daemon

import (
	"strings"
	"testing"

	"posthouse/internal/postfix/config"
)

// TestWhatHasNoEffectIsSaid: whoever sets something that Posthouse does not
// do hears of it, and nobody else does.
func TestWhatHasNoEffectIsSaid(t *testing.T) {
	for _, c := range []struct {
		main, master string
		want         string // in the warnings; "" means that there are none
	}{
		{"soft_bounce = yes\n", "", "soft_bounce is set, but has no effect"},
		{"soft_bounce = no\n", "", ""},
		{"virtual_alias_maps = inline:{a=b}\n", "", "virtual_alias_maps is set"},
		{"smtpd_client_restrictions = reject\n", "", "smtpd_client_restrictions is set"},
		{"smtpd_recipient_restrictions = permit_mynetworks, reject_unauth_destination\n", "", ""},
		{"smtpd_recipient_restrictions = permit_mynetworks, permit\n", "", "smtpd_recipient_restrictions is set"},
		{"smtpd_relay_restrictions = permit_mynetworks permit_sasl_authenticated defer_unauth_destination\n", "", ""},
		{"queue_run_delay = 100s\n", "", ""},
		{"", "127.0.0.1:0 inet n - n - - smtpd\n  -o smtpd_sasl_auth_enable=yes\n", "master.cf line 1: -o smtpd_sasl_auth_enable"},
		{"", "127.0.0.1:0 inet n - n - - smtpd\n  -o smtpd_sasl_auth_enable=no\n", ""},
		{"", "old unix - n n - - pipe\n  -o soft_bounce=yes argv=/bin/true\n", ""},
	} {
		dir := t.TempDir()
		write(t, dir, "main.cf", "compatibility_level = 3.6\nmyhostname = mx.test.example\ninet_protocols = ipv4\n"+c.main)
		write(t, dir, "master.cf", c.master)
		cfg, problems, err := config.Load(dir)
		if err != nil {
			t.Errorf("%q: %v %v", c.main+c.master, err, problems)
			continue
		}
		var warnings []string
		if _, err := translate(cfg, func(text string) { warnings = append(warnings, text) }); err != nil {
			t.Errorf("%q: %v", c.main+c.master, err)
		}
		if all := strings.Join(warnings, "\n"); c.want == "" && all != "" || !strings.Contains(all, c.want) {
			t.Errorf("%q: warnings %q, want %q", c.main+c.master, all, c.want)
		}
	}
}

// TestErrorsAreSaidOnce: what stops a start is one line that names the
// parameter and repeats nothing.
func TestErrorsAreSaidOnce(t *testing.T) {
	for main, want := range map[string]string{
		"transport_maps = foo:/x\n":                      `transport_maps: unsupported lookup table type: "foo"`,
		"smtpd_tls_security_level = encrypt\n":           "smtpd_tls_cert_file = (empty): TLS is required",
		"mynetworks = client.example\nrelayhost = [a]\n": `mynetworks`,
		"maximal_queue_lifetime = 5x\nsoft_bounce = 2\n": "maximal_queue_lifetime = 5x",
		"maillog_file = /nonexistent/log\n":              "maillog_file",
	} {
		dir := t.TempDir()
		write(t, dir, "main.cf", "compatibility_level = 3.6\nmyhostname = mx.test.example\ninet_protocols = ipv4\nqueue_directory = "+dir+"/queue\n"+main)
		write(t, dir, "master.cf", "127.0.0.1:"+freePort(t)+" inet n - n - - smtpd\n")
		var diag syncBuffer
		err := Run(t.Context(), Program{Version: "test", Diag: &diag}, dir)
		if err == nil {
			t.Errorf("%q: it ran", main)
			continue
		}
		text := err.Error()
		if !strings.Contains(text, want) || strings.Contains(text, "\n") || strings.Contains(diag.String(), want) {
			t.Errorf("%q: %q, and at the terminal %q", main, text, diag.String())
		}
	}
}
