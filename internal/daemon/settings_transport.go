package daemon

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"posthouse/internal/delivery/remote"
	"posthouse/internal/postfix/config"
	"posthouse/internal/queue"
	"posthouse/internal/queue/schedule"
	"posthouse/internal/smtp/client"
)

// transport is a delivery service of master.cf.
type transport struct {
	name    string         // of the service: "smtp", "relay", "slow"
	command string         // smtp, lmtp, discard, error
	remote  *remote.Config // of smtp and lmtp
	process int            // deliveries at a time
}

// interfaces are this host's addresses with their networks; none when the
// system does not tell.
func interfaces() []netip.Prefix {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var list []netip.Prefix
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			list = append(list, p)
		}
	}
	return list
}

// transports are the services that deliveries can use. Agents that this
// version does not have are left out, so that mail to them waits as it would
// with a Postfix whose service is missing. The usual ones exist even when
// master.cf says nothing of them: a file with a single line for the port to
// listen on makes a whole relay.
func (t *translator) transports(own []netip.Addr) []transport {
	var list []transport
	services := t.cfg.Services()
	for _, usual := range [][2]string{{"smtp", "smtp"}, {"relay", "smtp"}, {"lmtp", "lmtp"}} {
		if _, ok := t.cfg.Service(usual[0], "unix"); !ok {
			services = append(services, config.Service{Name: usual[0], Type: "unix", MaxProc: -1, Command: usual[1]})
		}
	}
	for _, svc := range services {
		if svc.Type != "unix" {
			continue
		}
		tr := transport{name: svc.Name, command: svc.Command, process: t.processes(&svc)}
		switch svc.Command {
		case "smtp", "lmtp":
			c := t.remote(svc.View(t.cfg), svc.Name, svc.Command == "lmtp", own)
			tr.remote = &c
		case "discard", "error":
		default:
			continue
		}
		list = append(list, tr)
	}
	return list
}

func (t *translator) processes(svc *config.Service) int {
	if svc.MaxProc < 0 {
		return svc.View(t.cfg).Int("default_process_limit")
	}
	return svc.MaxProc
}

// remote are the settings of an smtp or lmtp service: parameters smtp_… or
// lmtp_…, as its command is.
func (t *translator) remote(c *config.Config, name string, lmtp bool, own []netip.Addr) remote.Config {
	hostname := c.String("myhostname")
	r, p := remote.DefaultConfig(name, hostname), "smtp_"
	if lmtp {
		r, p = remote.DefaultLMTPConfig(name, hostname), "lmtp_"
	}
	r.Own = own
	if helo := c.String(p + map[bool]string{false: "helo_name", true: "lhlo_name"}[lmtp]); helo != "" {
		r.HeloName = helo
	}
	port, err := config.LookupPort(c.String(p + "tcp_port"))
	t.fail(p+"tcp_port", err)
	r.Port = port
	r.IPv4, r.IPv6, err = c.Families()
	t.fail("inet_protocols", err)
	switch c.String(p + "address_preference") {
	case "ipv4":
		r.Preference = remote.PreferIPv4
	case "ipv6":
		r.Preference = remote.PreferIPv6
	}
	r.Balance = c.Bool(p + "balance_inet_protocols")
	r.Randomize = c.Bool(p + "randomize_addresses")
	r.Bind4 = t.address(c, p+"bind_address")
	r.Bind6 = t.address(c, p+"bind_address6")
	t.remoteHosts(c, p, &r)
	r.Timeouts = client.Timeouts{
		Connect: c.Duration(p + "connect_timeout"), Hello: c.Duration(p + map[bool]string{false: "helo_timeout", true: "lhlo_timeout"}[lmtp]),
		StartTLS: c.Duration(p + "starttls_timeout"), Mail: c.Duration(p + "mail_timeout"), Rcpt: c.Duration(p + "rcpt_timeout"),
		DataInit: c.Duration(p + "data_init_timeout"), DataXfer: c.Duration(p + "data_xfer_timeout"),
		DataDone: c.Duration(p + "data_done_timeout"), Reset: c.Duration(p + "rset_timeout"), Quit: c.Duration(p + "quit_timeout"),
	}.WithDefaults()
	r.LineLimit = int(c.Size(p + "line_length_limit"))
	r.Skip5xxHello = c.Bool(p + "skip_5xx_greeting")
	r.CacheIdle = c.Duration(p + "connection_cache_time_limit")
	r.CacheTotal = c.Duration(p + "connection_reuse_time_limit")
	r.CacheUses = c.Int(p + "connection_reuse_count_limit")
	r.CacheOnDemand = c.Bool(p + "connection_cache_on_demand")
	r.TLS = t.remoteTLS(c, p)
	return r
}

// remoteHosts is how the hosts of a next hop are found.
func (t *translator) remoteHosts(c *config.Config, p string, r *remote.Config) {
	r.DisableDNS = c.Bool("disable_dns_lookups") || c.String(p+"dns_support_level") == "disabled"
	r.HostLookup = nil
	for _, w := range c.List(p + "host_lookup") {
		if w == "native" {
			r.HostLookup = append(r.HostLookup, remote.LookupNative)
		} else {
			r.HostLookup = append(r.HostLookup, remote.LookupDNS)
		}
	}
	r.IgnoreMXErrors = c.Bool("ignore_mx_lookup_error")
	r.DeferNoMXAddr = c.Bool(p + "defer_if_no_mx_address_found")
	r.Relayhost = c.String("relayhost")
	r.Fallback = c.List(p + "fallback_relay")
	r.AddressLimit = c.Int(p + "mx_address_limit")
	r.SessionLimit = c.Int(p + "mx_session_limit")
}

func (t *translator) address(c *config.Config, param string) netip.Addr {
	text := c.String(param)
	if text == "" {
		return netip.Addr{}
	}
	a, err := netip.ParseAddr(strings.Trim(text, "[]"))
	t.fail(param, err)
	return a
}

func (t *translator) remoteTLS(c *config.Config, p string) remote.TLSConfig {
	level := c.String(p + "tls_security_level")
	out := remote.TLSConfig{MinVersion: tls.VersionTLS12, LogLevel: c.Int(p + "tls_loglevel")}
	switch level {
	case "", "none":
		out.Level = remote.TLSNone
		if level == "" && c.Bool(p+"use_tls") {
			out.Level = remote.TLSMay
		}
	case "may":
		out.Level = remote.TLSMay
	case "encrypt":
		out.Level = remote.TLSEncrypt
	case "verify":
		out.Level = remote.TLSVerify
	case "secure":
		out.Level = remote.TLSSecure
	default:
		// To deliver with less than was asked for would be to lie.
		t.fail(p+"tls_security_level", errors.New("not supported yet; choose none, may, encrypt, verify or secure"))
	}
	out.Certificates = t.certificates(c, p+"tls_cert_file", p+"tls_key_file")
	file := c.String(p + "tls_CAfile")
	switch {
	case file != "":
		pem, err := os.ReadFile(file)
		t.fail(p+"tls_CAfile", err)
		out.Roots = x509.NewCertPool()
		if err == nil && !out.Roots.AppendCertsFromPEM(pem) {
			t.fail(p+"tls_CAfile", errors.New("holds no certificate"))
		}
	case out.Level >= remote.TLSVerify:
		roots, err := x509.SystemCertPool()
		t.fail(p+"tls_security_level", err)
		out.Roots = roots
	}
	return out
}

func (t *translator) queue(transports []transport) queue.Config {
	c := t.cfg
	q := queue.DefaultConfig()
	q.MinBackoff, q.MaxBackoff = c.Duration("minimal_backoff_time"), c.Duration("maximal_backoff_time")
	q.Jitter = c.Percent("retry_jitter")
	q.MaxLifetime, q.BounceLifetime = c.Duration("maximal_queue_lifetime"), c.Duration("bounce_queue_lifetime")
	q.DelayWarning = c.Duration("delay_warning_time")
	q.ActiveLimit = c.Int("qmgr_message_active_limit")
	q.TrashRetention = c.Duration("trash_retention_time")
	q.Transports = make(map[string]queue.TransportConfig)
	for i := range transports {
		tr := &transports[i]
		q.Transports[tr.name] = t.limits(tr.name, tr.process)
	}
	for _, builtin := range []string{"error", "retry", "discard"} {
		if _, ok := q.Transports[builtin]; !ok {
			q.Transports[builtin] = t.limits(builtin, c.Int("default_process_limit"))
		}
	}
	return q
}

func (t *translator) limits(name string, processes int) queue.TransportConfig {
	c := t.cfg
	feedback := func(suffix string) schedule.Feedback {
		f, err := parseFeedback(c.TransportString(name, suffix))
		if err != nil {
			t.errs = append(t.errs, fmt.Errorf("%s_%s: %w", name, suffix, err))
		}
		return f
	}
	limit := c.TransportInt(name, "destination_concurrency_limit")
	initial := c.TransportInt(name, "initial_destination_concurrency")
	if limit > 0 {
		initial = min(initial, limit)
	}
	return queue.TransportConfig{
		Concurrency: limit, Initial: initial,
		Positive:    feedback("destination_concurrency_positive_feedback"),
		Negative:    feedback("destination_concurrency_negative_feedback"),
		CohortLimit: c.TransportFloat(name, "destination_concurrency_failed_cohort_limit"),
		Recipients:  c.TransportInt(name, "destination_recipient_limit"),
		RateDelay:   time.Duration(c.TransportDuration(name, "destination_rate_delay")),
		Processes:   processes,
	}
}

// parseFeedback reads "1", "0.5", "1/8", "1/concurrency" or "1/sqrt_concurrency".
func parseFeedback(text string) (schedule.Feedback, error) {
	num, den, divided := strings.Cut(strings.ReplaceAll(text, " ", ""), "/")
	v, err := strconv.ParseFloat(num, 64)
	if err != nil || v < 0 || v > 1 {
		return schedule.Feedback{Value: 1}, fmt.Errorf("%q is not a number from 0 to 1, nor one with /concurrency or /sqrt_concurrency", text)
	}
	switch {
	case !divided:
		return schedule.Feedback{Value: v}, nil
	case den == "concurrency":
		return schedule.Feedback{Value: v, By: schedule.PerConcurrency}, nil
	case den == "sqrt_concurrency":
		return schedule.Feedback{Value: v, By: schedule.PerSqrtConcurrency}, nil
	}
	d, err := strconv.ParseFloat(den, 64)
	if err != nil || d < 1 {
		return schedule.Feedback{Value: 1}, fmt.Errorf("%q: cannot divide by %q", text, den)
	}
	return schedule.Feedback{Value: v / d}, nil
}
