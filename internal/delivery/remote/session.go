package remote

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"

	"posthouse/internal/mail"
	"posthouse/internal/postfix/maillog"
	"posthouse/internal/smtp/client"
)

// trouble is why a host could not be used, before any mail was offered.
type trouble struct {
	status    mail.Status
	connected bool // the host answered: it is the delivery's relay
	inClear   bool // TLS failed, and the host may be tried once without
}

// opener makes sessions with one set of settings.
type opener struct {
	a      *Agent
	cfg    *Config
	target target
}

// connect makes a connection. The error is told in Postfix's words.
func (o *opener) connect(ctx context.Context, c candidate) (*client.Conn, *trouble) {
	network, address := c.address()
	dctx, cancel := context.WithTimeout(ctx, o.cfg.Timeouts.Connect)
	defer cancel()
	nc, err := o.a.env.Dial(dctx, network, address, o.local(c))
	if err != nil {
		where := c.relay()
		return nil, &trouble{status: mail.NewStatus("4.4.1", "connect to %s: %s", where, systemError(err))}
	}
	return client.New(nc, client.Options{
		Timeouts: o.cfg.Timeouts, LMTP: o.cfg.LMTP, LineLimit: o.cfg.LineLimit, Buffers: &o.a.buffers,
	}), nil
}

func (o *opener) local(c candidate) net.Addr {
	bind := o.cfg.Bind4
	if !c.ip.Is4() {
		bind = o.cfg.Bind6
	}
	if c.path != "" || !bind.IsValid() {
		return nil
	}
	return &net.TCPAddr{IP: bind.AsSlice()}
}

// systemError is a connect error as the C library words it.
func systemError(err error) string {
	var timeout net.Error
	var errno syscall.Errno
	switch {
	case errors.As(err, &errno):
		text := errno.Error()
		return strings.ToUpper(text[:1]) + text[1:]
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return "Connection timed out"
	default:
		return err.Error()
	}
}

// open connects and gets as far as MAIL. withTLS false leaves TLS out, for the
// second try where TLS is only preferred.
func (o *opener) open(ctx context.Context, c candidate, withTLS bool) (*session, *trouble) {
	conn, t := o.connect(ctx, c)
	if t != nil {
		return nil, t
	}
	s := &session{conn: conn, host: c, site: o.target.site, cfg: o.cfg, opened: o.a.env.Now()}
	if t := o.greet(ctx, s, withTLS); t != nil {
		t.connected = true
		conn.Quit()
		return nil, t
	}
	return s, nil
}

// greet does everything from the greeting to the last EHLO.
func (o *opener) greet(ctx context.Context, s *session, withTLS bool) *trouble {
	if err := s.conn.Greeting(ctx); err != nil {
		return o.handshakeTrouble(s, err)
	}
	if t := o.hello(ctx, s); t != nil {
		return t
	}
	level := o.cfg.TLS.Level
	if level == TLSNone || !withTLS {
		return nil
	}
	name := s.host.name()
	if !s.conn.Extensions().StartTLS {
		if level == TLSMay {
			return nil
		}
		return &trouble{status: mail.NewStatus("4.7.4", "TLS is required, but was not offered by host %s", name)}
	}
	err := s.conn.StartTLS(ctx, o.tlsConfig(s))
	var e *client.Error
	switch {
	case err == nil:
		o.logTLS(s)
		return o.hello(ctx, s)
	case errors.As(err, &e) && e.Kind == client.Refused && level == TLSMay && s.conn.Reusable():
		return nil
	case errors.As(err, &e) && e.Kind == client.Refused:
		st := replyStatus(s.host.host, e.Reply, "TLS is required, but host %s refused to start TLS: %s", name)
		return &trouble{status: soften(st)}
	case errors.As(err, &e) && e.Kind == client.Canceled:
		return &trouble{status: canceledStatus()}
	}
	o.a.logText(o.cfg, maillog.Info, fmt.Sprintf("SSL_connect error to %s: %v", s.host.relay(), errors.Unwrap(err)))
	st := mail.NewStatus("4.7.5", "Cannot start TLS: handshake failure")
	if errors.Is(err, errUntrusted) {
		st.Text = "Server certificate not trusted"
	} else if errors.Is(err, errUnverified) {
		st.Text = "Server certificate not verified"
	}
	return &trouble{status: st, inClear: level == TLSMay}
}

// hello introduces us, and recognises ourselves.
func (o *opener) hello(ctx context.Context, s *session) *trouble {
	helo := o.cfg.HeloName
	if helo == "" {
		helo = o.cfg.MyHostname
	}
	if err := s.conn.Hello(ctx, helo); err != nil {
		return o.handshakeTrouble(s, err)
	}
	if s.host.path != "" || o.cfg.LMTP || !strings.EqualFold(s.conn.ServerName(), o.cfg.MyHostname) {
		return nil
	}
	o.a.logText(o.cfg, maillog.Warning, fmt.Sprintf("host %s replied to HELO/EHLO with my own hostname %s", s.host.relay(), o.cfg.MyHostname))
	st := mail.NewStatus("4.4.6", "mail for %s loops back to myself", o.target.site)
	if s.host.best {
		st.Code[0] = 5
	}
	return &trouble{status: st}
}

// handshakeTrouble words a failure of the greeting or of EHLO.
func (o *opener) handshakeTrouble(s *session, err error) *trouble {
	var e *client.Error
	if errors.As(err, &e) && e.Kind == client.Refused {
		st := replyStatus(s.host.host, e.Reply, "host %s refused to talk to me: %s", s.host.name())
		if e.Step == client.StepGreeting && o.cfg.Skip5xxHello {
			st = soften(st)
		}
		return &trouble{status: st}
	}
	return &trouble{status: o.a.brokenStatus(s.host.name(), err, o.cfg.LMTP, s.conn.ESMTP())}
}

// soften makes a refusal one to retry.
func soften(st mail.Status) mail.Status {
	if st.Code[0] == 5 {
		st.Code[0] = 4
	}
	return st
}

var (
	errUntrusted  = errors.New("certificate is not trusted")
	errUnverified = errors.New("certificate is for another name")
)

// tlsConfig checks certificates itself, since how much they matter depends on
// the level.
func (o *opener) tlsConfig(s *session) *tls.Config {
	t := &o.cfg.TLS
	return &tls.Config{
		ServerName:         s.host.host,
		MinVersion:         t.MinVersion,
		Certificates:       t.Certificates,
		ClientSessionCache: o.a.tlsSessions,
		InsecureSkipVerify: true, //nolint:gosec // opportunistic TLS takes any certificate (RFC 7435); VerifyConnection checks where it matters
		VerifyConnection: func(cs tls.ConnectionState) error {
			if t.Level < TLSVerify {
				return nil
			}
			if !trusted(cs, t.Roots) {
				return errUntrusted
			}
			if !o.named(cs, s) {
				return errUnverified
			}
			return nil
		},
	}
}

// trusted tells whether the certificate's chain ends at one of roots.
func trusted(cs tls.ConnectionState, roots *x509.CertPool) bool {
	if roots == nil || len(cs.PeerCertificates) == 0 {
		return false
	}
	middle := x509.NewCertPool()
	for _, c := range cs.PeerCertificates[1:] {
		middle.AddCert(c)
	}
	_, err := cs.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: middle})
	return err == nil
}

// named tells whether the certificate is for the name that the level wants:
// the host's (smtp_tls_verify_cert_match = hostname), or the next hop's or
// one below it (smtp_tls_secure_cert_match = nexthop, dot-nexthop).
func (o *opener) named(cs tls.ConnectionState, s *session) bool {
	cert := cs.PeerCertificates[0]
	if o.cfg.TLS.Level == TLSVerify {
		return cert.VerifyHostname(s.host.host) == nil
	}
	if cert.VerifyHostname(o.target.host) == nil {
		return true
	}
	for _, name := range cert.DNSNames {
		if strings.HasSuffix(strings.ToLower(name), "."+strings.ToLower(o.target.host)) {
			return true
		}
	}
	return false
}

// logTLS writes the line of an established TLS connection.
func (o *opener) logTLS(s *session) {
	if o.cfg.TLS.LogLevel < 1 {
		return
	}
	cs := s.conn.TLS()
	trust := "Untrusted"
	switch {
	case o.cfg.TLS.Level >= TLSVerify:
		trust = "Verified"
	case trusted(*cs, o.cfg.TLS.Roots):
		trust = "Trusted"
	}
	cipher, bits := opensslName(cs.CipherSuite)
	o.a.logText(o.cfg, maillog.Info, fmt.Sprintf("%s TLS connection established to %s: %s with cipher %s (%d/%d bits)",
		trust, s.host.relay(), strings.Replace(tls.VersionName(cs.Version), "TLS 1.", "TLSv1.", 1), cipher, bits, bits))
}

// opensslName is a cipher's name as OpenSSL, and so every log parser, has it.
// TLS 1.3 names are the same everywhere.
func opensslName(id uint16) (name string, bits int) {
	name, bits = tls.CipherSuiteName(id), 256
	if strings.Contains(name, "AES_128") {
		bits = 128
	}
	if !strings.Contains(name, "_WITH_") {
		return name, bits
	}
	name = strings.TrimPrefix(strings.TrimPrefix(name, "TLS_"), "RSA_WITH_")
	if i := strings.Index(name, "_CBC_"); i >= 0 {
		name = name[:i] + name[i+len("_CBC"):]
	}
	name = strings.TrimSuffix(name, "POLY1305_SHA256")
	if strings.HasSuffix(name, "CHACHA20_") {
		name += "POLY1305"
	}
	name = strings.NewReplacer("_WITH_", "-", "AES_", "AES", "_", "-").Replace(name)
	return name, bits
}
