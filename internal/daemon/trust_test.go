package daemon

import (
	"context"
	"testing"

	"posthouse/internal/intake/access"
	"posthouse/internal/mail"
	"posthouse/internal/postfix/config"
	"posthouse/internal/smtp/server"
)

// TestDoorMadeNarrower: settings of one smtpd service that trust fewer clients
// than main.cf does were passed over, and the door stayed open to all of
// mynetworks.
func TestDoorMadeNarrower(t *testing.T) {
	const networks = "mynetworks = 127.0.0.0/8 10.0.0.0/8\n"
	for _, c := range []struct {
		main, override string
		relays         bool // for 10.1.1.1 through the service with the override
		others         bool // and through the other one
	}{
		{networks, "", true, true},
		{networks, "-o mynetworks=127.0.0.0/8", false, true},
		{networks, "-o mynetworks=", false, true},
		{"mynetworks = 127.0.0.0/8\n", "-o mynetworks=10.1.0.0/16", true, false},
		{"inside = 10.0.0.0/8\nmynetworks = $inside\n", "-o inside=127.0.0.0/8", false, true},
		{networks, "-o smtpd_relay_restrictions=permit_sasl_authenticated,reject", false, true},
		{networks, "-o smtpd_relay_restrictions=permit_sasl_authenticated,reject_unauth_destination", false, true},
		{networks, "-o smtpd_recipient_restrictions=reject_unauth_destination,permit_mynetworks", false, true},
		{networks, "-o smtpd_relay_restrictions=permit_mynetworks,reject", true, true},
		{networks + "smtpd_relay_restrictions = permit_sasl_authenticated, reject_unauth_destination\n", "", false, false},
		{networks + "smtpd_relay_restrictions = permit_sasl_authenticated, defer_unauth_destination\n", "-o smtpd_relay_restrictions=permit_mynetworks,reject", true, false},
	} {
		dir := t.TempDir()
		write(t, dir, "main.cf", "compatibility_level = 3.6\nmyhostname = mx.test.example\ninet_protocols = ipv4\n"+c.main)
		write(t, dir, "master.cf", "127.0.0.1:2525 inet n - n - - smtpd\n  "+c.override+"\n127.0.0.1:2526 inet n - n - - smtpd\n")
		cfg, problems, err := config.Load(dir)
		if err != nil {
			t.Fatalf("%+v: %v %v", c, err, problems)
		}
		s, err := translate(cfg, func(string) {})
		if err != nil {
			t.Fatalf("%+v: %v", c, err)
		}
		checker := access.New(s.access)
		for listener, want := range map[string]bool{s.listeners[0].name.Key: c.relays, s.listeners[1].name.Key: c.others} {
			peer := &server.Peer{Client: mail.Client{Addr: "10.1.1.1"}, Listener: listener}
			refusal := checker.Rcpt(context.Background(), peer, "a@there.example", "x@elsewhere.example", "x@elsewhere.example")
			if (refusal == nil) != want {
				t.Errorf("%+v: through %s: %v, want %v", c, listener, refusal == nil, want)
			}
		}
	}
}
