package daemon

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"

	"posthouse/internal/postfix/config"
	"posthouse/internal/smtp/server"
)

// listener is an smtpd service of master.cf at one address.
type listener struct {
	network string // "tcp4" or "tcp6"
	address string // "127.0.0.1:2525"
	name    server.Listener
	server  server.Config
}

// listeners are the inet services that run smtpd; other inet services are
// warned about, since someone may expect them to answer.
func (t *translator) listeners() []listener {
	addrs, err := t.cfg.Addresses()
	if err != nil {
		t.errs = append(t.errs, err)
	}
	var list []listener
	for i := range addrs {
		a := &addrs[i]
		if a.Service.Command != "smtpd" {
			t.warn(fmt.Sprintf("master.cf line %d: service %s runs %s, which Posthouse does not have: nothing listens on %s",
				a.Service.Line, a.Service.Name, a.Service.Command, a.Address))
			continue
		}
		view := a.Service.View(t.cfg)
		list = append(list, listener{
			network: a.Network, address: a.Address,
			name:   server.Listener{Service: serviceName(view), Name: a.Service.Name, Key: listenerKey(a.Network, a.Address)},
			server: t.smtpd(view, t.processes(&a.Service)),
		})
	}
	return list
}

// serviceName is what stands between syslog_name and the process ID in log
// lines: "smtpd", or "submission/smtpd" for "-o syslog_name=postfix/submission".
func serviceName(view *config.Config) string {
	const base = "postfix/"
	name := view.String("syslog_name")
	if len(name) > len(base) && name[:len(base)] == base {
		return name[len(base):] + "/smtpd"
	}
	return "smtpd"
}

// smtpd are the settings of one smtpd service.
func (t *translator) smtpd(c *config.Config, processes int) server.Config {
	s := server.DefaultConfig(c.String("myhostname"))
	s.Banner = c.String("smtpd_banner")
	s.MaxMessageSize = c.Size("message_size_limit")
	s.MaxRecipients = c.Int("smtpd_recipient_limit")
	s.RecipientOvershoot = c.Int("smtpd_recipient_overshoot_limit")
	s.Timeout = c.Duration("smtpd_timeout")
	s.TLSTimeout = c.Duration("smtpd_starttls_timeout")
	s.MinDataRate = c.Size("smtpd_min_data_rate")
	s.MaxLine = int(c.Size("line_length_limit"))
	s.ErrorSleep = c.Duration("smtpd_error_sleep_time")
	s.SoftErrorLimit = c.Int("smtpd_soft_error_limit")
	s.HardErrorLimit = c.Int("smtpd_hard_error_limit")
	s.JunkCommandLimit = c.Int("smtpd_junk_command_limit")
	s.MaxSessions = processes
	s.MaxPerClient = c.Int("smtpd_client_connection_count_limit")
	s.ExemptNets = t.exempt(c)
	s.LookupNames = c.Bool("smtpd_peername_lookup")
	s.DisableVRFY = c.Bool("disable_vrfy_command")
	s.RequireHELO = c.Bool("smtpd_helo_required")
	s.StrictPaths = c.Bool("strict_rfc821_envelopes")
	s.ForbidWords = c.List("smtpd_forbidden_commands")
	if c.String("smtpd_forbid_bare_newline") == "reject" {
		s.Newlines = server.RejectNewlines
	}
	t.smtpdTLS(c, &s)
	return s
}

// exempt are the clients without connection limits: mynetworks, unless
// smtpd_client_event_limit_exceptions says otherwise. Only networks are
// understood there; names are told.
func (t *translator) exempt(c *config.Config) (nets []netip.Prefix) {
	for _, word := range c.List("smtpd_client_event_limit_exceptions") {
		list, err := parseNetwork(word)
		if err != nil {
			if c.IsSet("smtpd_client_event_limit_exceptions") { // else it is mynetworks, and said there
				t.warn("smtpd_client_event_limit_exceptions: " + err.Error())
			}
			continue
		}
		nets = append(nets, list...)
	}
	return nets
}

func (t *translator) smtpdTLS(c *config.Config, s *server.Config) {
	level := c.String("smtpd_tls_security_level")
	switch level {
	case "", "none":
		if level == "" && c.Bool("smtpd_use_tls") {
			s.TLS = server.TLSMay
		}
	case "may":
		s.TLS = server.TLSMay
	case "encrypt":
		s.TLS = server.TLSEncrypt
	default:
		t.fail("smtpd_tls_security_level", errors.New("choose none, may or encrypt"))
	}
	if c.Bool("smtpd_enforce_tls") && level == "" {
		s.TLS = server.TLSEncrypt
	}
	s.ImplicitTLS = c.Bool("smtpd_tls_wrappermode")
	s.TLSLog = c.Int("smtpd_tls_loglevel")
	if s.TLS == server.TLSNone && !s.ImplicitTLS {
		return
	}
	certs := t.certificates(c, "smtpd_tls_cert_file", "smtpd_tls_key_file")
	if certs == nil {
		if s.ImplicitTLS || s.TLS == server.TLSEncrypt {
			t.fail("smtpd_tls_cert_file", errors.New("TLS is required, so a certificate is needed"))
		} else {
			t.warn("smtpd_tls_security_level is may, but there is no smtpd_tls_cert_file: STARTTLS is not offered")
			s.TLS = server.TLSNone
		}
		return
	}
	s.TLSConfig = &tls.Config{Certificates: certs, MinVersion: tls.VersionTLS12}
}
