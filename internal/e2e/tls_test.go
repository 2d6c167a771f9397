package e2e_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"posthouse/internal/testkit"
	"posthouse/internal/testkit/dialogue"
	"posthouse/internal/testkit/program"
	"posthouse/internal/traffic/sink"
)

// selfSigned makes a certificate for names, and files with it and its key.
func selfSigned(t *testing.T, names ...string) (cert tls.Certificate, certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: names[0]}, DNSNames: names,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
	for file, text := range map[string][]byte{certFile: certPEM, keyFile: keyPEM} {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if cert, err = tls.X509KeyPair(certPEM, keyPEM); err != nil {
		t.Fatal(err)
	}
	return cert, certFile, keyFile
}

// TestStartTLSBothWays: in over STARTTLS, out over STARTTLS; with "secure" the
// wrong certificate is not trusted, and nothing goes out in the clear.
func TestStartTLSBothWays(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cert, certFile, keyFile := selfSigned(t, "mx.test.example")
	theirs, caFile, _ := selfSigned(t, "mx2.example")
	crypt := w.host(sink.Config{TLS: &tls.Config{Certificates: []tls.Certificate{theirs}}}, "crypt.example")
	plain := w.host(sink.Config{}, "plain.example")
	foreign := w.host(sink.Config{TLS: &tls.Config{Certificates: []tls.Certificate{cert}}}, "foreign.example")
	keys := fmt.Sprintf("smtpd_tls_security_level = may\nsmtpd_tls_loglevel = 1\nsmtpd_tls_received_header = yes\nsmtp_tls_loglevel = 1\nsmtpd_tls_cert_file = %s\nsmtpd_tls_key_file = %s\n", certFile, keyFile)
	p := w.relay(keys + "smtp_tls_security_level = may\n")
	dialogue.Run(t, p.Addr(), `
		S: 220 ...
		C: EHLO client.example
		S: 250-mx.test.example
		S: ...
		S: 250-STARTTLS
		S: ...
		S: 250 CHUNKING
		C: STARTTLS
		S: 220 2.0.0 Ready to start TLS
		C# starttls
		C: MAIL FROM:<a@sender.example>
		S: {503 5\.5\.1|250 2\.1\.0} ...
		C: EHLO client.example
		S: ...
		C: MAIL FROM:<a@sender.example>
		S: 250 2.1.0 Ok
		C: RCPT TO:<x@crypt.example>
		S: 250 2.1.5 Ok
		C: RCPT TO:<y@plain.example>
		S: 250 2.1.5 Ok
		C: DATA
		S: 354 ...
		C: Subject: secret
		C: .
		S: 250 2.0.0 Ok: queued as ...
		C: QUIT
		S: 221 2.0.0 Bye
		S# closes
	`)
	d := crypt.wait(t, 1)[0]
	if !d.TLS {
		t.Error("went out in the clear")
	}
	contains(t, string(d.Content), "(using TLSv1.3", "with ESMTPS id ")
	if plain.wait(t, 1)[0].TLS {
		t.Error("no TLS was offered")
	}
	p.WaitLog(t, `smtpd\[\d+\]: Anonymous TLS connection established from localhost\[127\.0\.0\.1\]: TLSv1\.3 with cipher TLS_`)
	p.WaitLog(t, `smtp\[\d+\]: Untrusted TLS connection established to mx2\.example\[127\.0\.0\.2\]:\d+: TLSv1\.3`)

	if err := p.WriteMain(w.options(keys + "smtp_tls_security_level = secure\nsmtp_tls_CAfile = " + caFile + "\n").Main); err != nil {
		t.Fatal(err)
	}
	run(t, p, "reload")
	send(t, p, "a@sender.example", "x@crypt.example", "y@plain.example", "z@foreign.example")
	p.WaitLog(t, `to=<y@plain\.example>, .*dsn=4\.7\.\d+, status=deferred \(.*TLS`)
	p.WaitLog(t, `to=<z@foreign\.example>, .*dsn=4\.7\.\d+, status=deferred \(.*ertificate`)
	if n := plain.Counters().Messages; n != 1 {
		t.Errorf("%d messages in the clear", n)
	}
	if n := foreign.Counters().Messages; n != 0 {
		t.Errorf("%d messages to an impostor", n)
	}
}

// TestSTARTTLSInjection: commands sent in the clear behind STARTTLS are not
// obeyed inside TLS (CVE-2011-0411).
func TestSTARTTLSInjection(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, certFile, keyFile := selfSigned(t, "mx.test.example")
	p := w.relay(fmt.Sprintf("smtpd_tls_security_level = may\nsmtpd_tls_cert_file = %s\nsmtpd_tls_key_file = %s\n", certFile, keyFile))
	c := dial(t, p.Addr())
	c.say("EHLO client.example\r\n", "250")
	c.say("STARTTLS\r\nMAIL FROM:<evil@sender.example>\r\nRCPT TO:<x@dest.example>\r\n", "")
	line, err := c.in.ReadString('\n')
	if err == nil && strings.HasPrefix(line, "220") {
		// It may go on only when it forgets what came in the clear.
		tc := tls.Client(c.Conn, &tls.Config{InsecureSkipVerify: true})
		if err := tc.Handshake(); err == nil {
			fmt.Fprintf(tc, "NOOP\r\n")
			b := make([]byte, 512)
			n, _ := tc.Read(b)
			if !strings.HasPrefix(string(b[:n]), "250 2.0.0 Ok\r\n") || strings.Count(string(b[:n]), "\r\n") != 1 {
				t.Errorf("after the handshake: %q", b[:n])
			}
		}
	}
	if strings.Contains(p.Log.Text(), "evil@") {
		t.Error("the injected command was obeyed")
	}
}

// TestSubmissionAndSMTPS: three services, each with its own rules and name.
func TestSubmissionAndSMTPS(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, certFile, keyFile := selfSigned(t, "mx.test.example")
	h := w.host(sink.Config{}, "dest.example")
	var addr [2]string
	for i := range addr {
		port, err := testkit.FreePort()
		if err != nil {
			t.Fatal(err)
		}
		addr[i] = fmt.Sprintf("127.0.0.1:%d", port)
	}
	opt := w.options(fmt.Sprintf("smtpd_tls_security_level = may\nsmtpd_tls_cert_file = %s\nsmtpd_tls_key_file = %s\n", certFile, keyFile))
	opt.Master += addr[0] + " inet n - n - - smtpd\n  -o syslog_name=postfix/submission\n  -o smtpd_tls_security_level=encrypt\n" +
		addr[1] + " inet n - n - - smtpd\n  -o syslog_name=postfix/smtps\n  -o smtpd_tls_wrappermode=yes\n"
	p := program.New(t, opt)
	p.MustStart(t)
	dialogue.Run(t, addr[0], `
		S: 220 mx.test.example ESMTP ...
		C: EHLO client.example
		S: ...
		C: MAIL FROM:<a@sender.example>
		S: 530 5.7.0 Must issue a STARTTLS command first
		C: STARTTLS
		S: 220 2.0.0 Ready to start TLS
		C# starttls
		C: EHLO client.example
		S: ...
		C: MAIL FROM:<a@sender.example>
		S: 250 2.1.0 Ok
		C: RCPT TO:<x@dest.example>
		S: 250 2.1.5 Ok
		C: DATA
		S: 354 ...
		C: Subject: submitted
		C: .
		S: 250 2.0.0 Ok: queued as ...
		C: QUIT
		S: 221 2.0.0 Bye
	`)
	h.wait(t, 1)
	p.WaitLog(t, `postfix/submission/smtpd\[\d+\]: \w+: client=localhost\[127\.0\.0\.1\]`)

	script, err := dialogue.Parse("smtps", strings.ReplaceAll(`
		S: 220 mx.test.example ESMTP ...
		C: EHLO client.example
		S: ...
		C: MAIL FROM:<a@sender.example>
		S: 250 2.1.0 Ok
		C: RCPT TO:<x@dest.example>
		S: 250 2.1.5 Ok
		C: DATA
		S: 354 ...
		C: Subject: smtps
		C: .
		S: 250 2.0.0 Ok: queued as ...
		C: QUIT
		S: 221 2.0.0 Bye
	`, "\t", ""))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", addr[1], &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := script.Play(conn, dialogue.Options{}); err != nil {
		t.Fatal(err)
	}
	h.wait(t, 2)
	p.WaitLog(t, `postfix/smtps/smtpd\[\d+\]: \w+: client=localhost\[127\.0\.0\.1\]`)
}
