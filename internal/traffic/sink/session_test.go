package sink_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"testing"

	"posthouse/internal/testkit/memnet"
	"posthouse/internal/traffic/sink"
)

func selfSigned(t *testing.T) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1)}, &x509.Certificate{SerialNumber: big.NewInt(1)}, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{cert}, PrivateKey: key}}, MinVersion: tls.VersionTLS12}
}

func TestStartTLS(t *testing.T) {
	var got []sink.Delivery
	_, n := start(t, sink.Config{TLS: selfSigned(t), Extensions: sink.AllExtensions, Ledger: func(d sink.Delivery) { got = append(got, d) }})
	play(t, n, `
S: 220 ...
C: EHLO x
S: ...
S: 250 STARTTLS
C: STARTTLS
S: 220 2.0.0 Ready to start TLS
C# starttls
C: EHLO x
S: ...
S: 250 ENHANCEDSTATUSCODES
`+one)
	if len(got) != 1 || !got[0].TLS {
		t.Errorf("deliveries %+v", got)
	}
}

// FuzzSession sends whatever comes: the session must end when the peer leaves,
// and never count more than it was asked to.
func FuzzSession(f *testing.F) {
	f.Add([]byte("EHLO x\r\nMAIL FROM:<a@b> SIZE=1\r\nRCPT TO:<c@d>\r\nDATA\r\nx\r\n.\r\nQUIT\r\n"), true)
	f.Add([]byte("MAIL FROM:<\"\\\">\r\nRCPT TO:x\r\nDATA\r\n.\r\nMAIL FROM:<>\n"), false)
	f.Fuzz(func(t *testing.T, input []byte, keep bool) {
		cfg := sink.Config{Extensions: sink.AllExtensions}
		if keep {
			cfg.Ledger = func(sink.Delivery) {}
		}
		srv, err := sink.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		n := memnet.New()
		l, err := n.Listen("tcp", "192.0.2.1:25")
		if err != nil {
			t.Fatal(err)
		}
		if err := srv.Serve(l, sink.Personality{}); err != nil {
			t.Fatal(err)
		}
		c, err := n.Dial("tcp", "192.0.2.1:25")
		if err != nil {
			t.Fatal(err)
		}
		drained := make(chan struct{})
		go func() {
			defer close(drained)
			for b := make([]byte, 4096); ; {
				if _, err := c.Read(b); err != nil {
					return
				}
			}
		}()
		c.Write(input)
		c.(*memnet.Conn).CloseWrite()
		<-drained
		c.Close()
		srv.Close()
		if got := srv.Counters(); got.Messages > got.Transactions || got.Messages > got.Recipients {
			t.Fatalf("counts %v", got)
		}
	})
}
