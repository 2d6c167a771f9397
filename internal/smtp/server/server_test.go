package server

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	gosmtp "github.com/emersion/go-smtp"
)

func selfSigned(t testing.TB) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "h"}, DNSNames: []string{"h"}, NotAfter: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

func (p *testPeer) upgrade(cfg *tls.Config) error {
	tc := tls.Client(p.conn, cfg)
	if err := tc.Handshake(); err != nil {
		return err
	}
	p.conn, p.r = tc, bufio.NewReader(tc)
	return nil
}

func insecure(maxVersion uint16) *tls.Config {
	return &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: maxVersion} //nolint:gosec // a test's own certificate
}

func TestStartTLS(t *testing.T) {
	cfg := DefaultConfig("h")
	cfg.TLS, cfg.TLSConfig, cfg.TLSLog = TLSEncrypt, selfSigned(t), 1
	log, acc := &recorder{}, &memory{}
	p := connect(t, New(cfg, acc, Deps{Log: log}), "")
	p.talk("", "220", "EHLO x", "250 ", "MAIL FROM:<a@b.c>", "530 5.7.0")
	// What is injected behind STARTTLS in the clear must vanish.
	p.send("STARTTLS\r\nMAIL FROM:<injected@x>\r\n")
	p.expect("220 2.0.0 Ready to start TLS")
	if err := p.upgrade(insecure(0)); err != nil {
		t.Fatal(err)
	}
	p.talk("RCPT TO:<x@y.z>", "503 5.5.1 Error: need MAIL command", "EHLO y", "250 ", "STARTTLS", "554 5.5.1 Error: TLS already active")
	p.talk(append(toContent[4:], "hello\r\n.", "250", "QUIT", "221")...)
	p.eof()
	acc.check(t)
	if m := acc.messages; len(m) != 1 || m[0].peer.TLS != "TLSv1.3" || m[0].peer.Helo != "y" || m[0].args.From != "a@b.c" {
		t.Fatalf("%+v", m)
	}
	lines := log.all()
	if len(lines) != 3 || lines[1] != "smtpd: Anonymous TLS connection established from localhost[127.0.0.1]: TLSv1.3 with cipher TLS_AES_128_GCM_SHA256" {
		t.Errorf("%q", lines)
	}
	if !strings.Contains(lines[2], "ehlo=2 starttls=1/2 mail=1/2 rcpt=1/2 data=1 quit=1 commands=7/10") {
		t.Errorf("%q", lines[2])
	}
}

func TestStartTLSFails(t *testing.T) {
	cfg := DefaultConfig("h")
	cfg.TLS, cfg.TLSConfig = TLSMay, selfSigned(t)
	cfg.TLSConfig.MinVersion = tls.VersionTLS10
	log := &recorder{}
	srv := New(cfg, &memory{}, Deps{Log: log})
	p := connect(t, srv, "")
	p.talk("", "220", "EHLO x", "250 ", "STARTTLS", "220 ")
	if err := p.upgrade(insecure(tls.VersionTLS11)); err == nil {
		t.Error("TLS 1.1 was accepted")
	}
	p.close()
	lines := log.all()
	if len(lines) != 4 || !strings.HasPrefix(lines[1], "smtpd: SSL_accept error from localhost[127.0.0.1]: ") ||
		lines[2] != "smtpd: lost connection after STARTTLS from localhost[127.0.0.1]" {
		t.Errorf("%q", lines)
	}
}

func TestStalledHandshake(t *testing.T) {
	tc := selfSigned(t)
	synctest.Test(t, func(t *testing.T) {
		cfg := DefaultConfig("h")
		cfg.TLSConfig, cfg.ImplicitTLS = tc, true
		p := connect(t, New(cfg, &memory{}, Deps{Log: silent{}}), "")
		start := time.Now()
		<-p.done
		if d := time.Since(start); d != 300*time.Second {
			t.Errorf("after %v", d)
		}
		p.close()
	})
}

func TestImplicitTLS(t *testing.T) {
	cfg := DefaultConfig("h")
	cfg.ImplicitTLS, cfg.TLS, cfg.TLSConfig = true, TLSEncrypt, selfSigned(t)
	acc := &memory{}
	p := connect(t, New(cfg, acc, Deps{Log: silent{}}), "")
	if err := p.upgrade(insecure(tls.VersionTLS12)); err != nil {
		t.Fatal(err)
	}
	p.talk(append(toContent, ".", "250", "QUIT", "221")...)
	p.eof()
	if m := acc.messages; len(m) != 1 || m[0].peer.TLS != "TLSv1.2" {
		t.Fatalf("%+v", m)
	}
	cfg.TLSConfig = nil
	p = connect(t, New(cfg, acc, Deps{Log: silent{}}), "")
	p.eof()
}

// start serves on loopback and returns the address.
func start(t testing.TB, srv *Server) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(context.Background(), l, listener) }()
	t.Cleanup(func() {
		if err := srv.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

func TestEarlyTalker(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	log := &recorder{}
	srv := New(DefaultConfig("h"), &memory{}, Deps{Log: log})
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, "EHLO x\r\n"); err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(t.Context(), l, listener) }()
	got, err := io.ReadAll(conn)
	if err != nil || string(got) != "554 5.5.0 Error: SMTP protocol synchronization\r\n" {
		t.Errorf("%q, %v", got, err)
	}
	_ = conn.Close()
	if err := srv.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	if lines := log.all(); len(lines) != 3 || lines[1] != `smtpd: improper command pipelining after CONNECT from unknown[127.0.0.1]: EHLO x\r\n` {
		t.Errorf("%q", lines)
	}
}

// An independent client must be content with us.
func TestForeignClient(t *testing.T) {
	cfg := DefaultConfig("h")
	cfg.TLS, cfg.TLSConfig = TLSMay, selfSigned(t)
	acc := &memory{}
	addr := start(t, New(cfg, acc, Deps{Log: silent{}}))
	c, err := gosmtp.DialStartTLS(addr, insecure(0))
	if err != nil {
		t.Fatal(err)
	}
	if ok, size := c.Extension("SIZE"); !ok || size != "10240000" {
		t.Errorf("SIZE %v %q", ok, size)
	}
	body := "Subject: x\r\n\r\n.dot\r\n..\r\nend\r\n"
	if err := c.SendMail("a@b.c", []string{"x@y.z", "z@y.z"}, strings.NewReader(body)); err != nil {
		t.Fatal(err)
	}
	err = c.SendMail("a@b.c", []string{"refuse@y.z"}, strings.NewReader(body))
	var se *gosmtp.SMTPError
	if !errors.As(err, &se) || se.Code != 550 || se.EnhancedCode != (gosmtp.EnhancedCode{5, 1, 1}) {
		t.Errorf("%v", err)
	}
	if err := c.Reset(); err != nil {
		t.Error(err)
	}
	if err := c.Noop(); err != nil {
		t.Error(err)
	}
	if err := c.Quit(); err != nil {
		t.Error(err)
	}
	if m := acc.messages; len(m) != 1 || m[0].content.String() != body || len(m[0].rcpts) != 2 {
		t.Errorf("%+v", m)
	}
}

func TestShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		acc := &memory{commit: make(chan struct{})}
		srv := New(DefaultConfig("h"), acc, Deps{Log: silent{}})
		idle, inMail, inData := connect(t, srv, ""), connect(t, srv, ""), connect(t, srv, "")
		idle.talk("", "220")
		inMail.talk(toContent[:6]...)
		inData.talk(toContent...)
		synctest.Wait()
		result := make(chan error, 1)
		go func() { result <- srv.Shutdown(context.Background()) }()
		idle.expect("421 4.3.2 h Service shutting down")
		idle.eof()
		inMail.expect("421 4.3.2 h Service shutting down")
		inMail.eof()
		synctest.Wait()
		if srv.Sessions() != 1 {
			t.Errorf("%d sessions", srv.Sessions())
		}
		inData.send("hello\r\n.\r\n")
		synctest.Wait()
		close(acc.commit)
		inData.expect("250 2.0.0 Ok: queued")
		inData.expect("421 4.3.2 h Service shutting down")
		inData.eof()
		if err := <-result; err != nil {
			t.Error(err)
		}
		late := connect(t, srv, "")
		late.expect("220")
		late.expect("421")
		late.eof()
		acc.check(t)
	})
}

func TestShutdownCutsOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := New(DefaultConfig("h"), &memory{}, Deps{Log: silent{}})
		p := connect(t, srv, "")
		p.talk(toContent...)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		start := time.Now()
		if err := srv.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 10*time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		p.eof()
	})
}

func TestReconfigure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := New(DefaultConfig("old"), &memory{}, Deps{Log: silent{}})
		a := connect(t, srv, "")
		a.talk("", "220 old")
		srv.Reconfigure(DefaultConfig("new"))
		b := connect(t, srv, "")
		b.talk("", "220 new")
		a.talk("HELO x", "250 old")
		a.close()
		b.close()
	})
}

func TestServeConnCanceled(t *testing.T) {
	srv := New(DefaultConfig("h"), &memory{}, Deps{Log: silent{}})
	client, conn := net.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { srv.ServeConn(ctx, conn, listener); close(done) }()
	if _, err := bufio.NewReader(client).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	cancel()
	<-done
	_ = client.Close()
}

func TestMaxSessions(t *testing.T) {
	cfg := DefaultConfig("h")
	cfg.MaxSessions = 1
	srv := New(cfg, &memory{}, Deps{Log: silent{}})
	addr := start(t, srv)
	dial := func() (net.Conn, *bufio.Reader) {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		return c, bufio.NewReader(c)
	}
	a, ar := dial()
	if _, err := ar.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	b, br := dial() // waits in the kernel
	if n := srv.Sessions(); n != 1 {
		t.Errorf("%d sessions", n)
	}
	_ = a.Close()
	if line, err := br.ReadString('\n'); err != nil || !strings.HasPrefix(line, "220") {
		t.Errorf("%q, %v", line, err)
	}
	cfg.MaxSessions = 2
	srv.Reconfigure(cfg) // wakes the listener
	c, cr := dial()
	if line, err := cr.ReadString('\n'); err != nil || !strings.HasPrefix(line, "220") {
		t.Errorf("%q, %v", line, err)
	}
	_ = b.Close()
	_ = c.Close()
}

// flaky is a listener with a bad day.
type flaky struct {
	net.Listener
	errs []error
}

func (f *flaky) Accept() (net.Conn, error) {
	if len(f.errs) == 0 {
		return f.Listener.Accept()
	}
	err := f.errs[0]
	f.errs = f.errs[1:]
	return nil, err
}

func TestAcceptErrors(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	bad := errors.New("broken for good")
	log := &recorder{}
	srv := New(DefaultConfig("h"), &memory{}, Deps{Log: log})
	temp := &net.OpError{Op: "accept", Err: errors.New("too many open files")}
	if err := srv.Serve(t.Context(), &flaky{l, []error{temp, bad}}, listener); !errors.Is(err, bad) {
		t.Errorf("%v", err)
	}
	if lines := log.all(); len(lines) != 1 || lines[0] != "smtpd: warning: accept connection: accept: too many open files" {
		t.Errorf("%q", lines)
	}
}
