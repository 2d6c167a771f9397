package remote

import (
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	gosmtp "github.com/emersion/go-smtp"

	"posthouse/internal/mail"
	"posthouse/internal/postfix/maillog"
	"posthouse/internal/queue"
	"posthouse/internal/spool"
)

// peer is a server by other hands, on a real socket.
type peer struct {
	mu       sync.Mutex
	messages []string // "from to,to content"
	sessions int
}

func (p *peer) NewSession(*gosmtp.Conn) (gosmtp.Session, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sessions++
	return &peerSession{p: p}, nil
}

type peerSession struct {
	p    *peer
	from string
	to   []string
}

func (s *peerSession) Mail(from string, _ *gosmtp.MailOptions) error { s.from = from; return nil }

func (s *peerSession) Rcpt(to string, _ *gosmtp.RcptOptions) error {
	if strings.HasPrefix(to, "no") {
		return &gosmtp.SMTPError{Code: 550, EnhancedCode: gosmtp.EnhancedCode{5, 1, 1}, Message: "no such user"}
	}
	s.to = append(s.to, to)
	return nil
}

func (s *peerSession) Data(r io.Reader) error {
	b, err := io.ReadAll(r)
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	s.p.messages = append(s.p.messages, s.from+" "+strings.Join(s.to, ",")+" "+string(b))
	return err
}
func (s *peerSession) Reset()        { s.from, s.to = "", nil }
func (s *peerSession) Logout() error { return nil }

func servePeer(t testing.TB) (*peer, string) {
	t.Helper()
	p := &peer{}
	s := gosmtp.NewServer(p)
	s.Domain = "peer.test"
	s.ErrorLog = quiet{}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { s.Close(); <-done })
	return p, fmt.Sprintf("[127.0.0.1]:%d", l.Addr().(*net.TCPAddr).Port)
}

type quiet struct{}

func (quiet) Printf(string, ...any) {}
func (quiet) Println(...any)        {}

type nowhere struct{}

func (nowhere) Log(string, maillog.Severity, maillog.Event) {}

func TestAnotherImplementation(t *testing.T) {
	p, site := servePeer(t)
	var log logger
	cfg := DefaultConfig("smtp", "oracle.test")
	a := New(cfg, Env{Log: &log, Resolver: &world{}})
	defer a.Close()
	large := "Subject: large\r\n\r\n" + strings.Repeat(".dots and more\r\n", 20000)
	for i, text := range []string{"Subject: 1\r\n\r\n.\r\n..\r\nend\r\n", large, "Subject: 3\r\n\r\n"} {
		d := delivery(site, "a@p.x", "no@p.x", "b@p.x")
		d.Backlog = 1
		d.Envelope.Size = int64(len(text))
		d.Open = func() (spool.Content, error) { return stored{text}, nil }
		if got := codes(a.Deliver(t.Context(), d)); got != "2.0.0, 5.1.1, 2.0.0" {
			t.Fatal(got)
		}
		p.mu.Lock()
		if got := p.messages[i]; got != "s@x.test a@p.x,b@p.x "+text {
			t.Errorf("message %d arrived as %.200q", i, got)
		}
		p.mu.Unlock()
	}
	if p.sessions != 1 {
		t.Errorf("%d connections", p.sessions)
	}
	d := delivery(site, "no@p.x")
	if got := codes(a.Deliver(t.Context(), d)); got != "5.1.1" {
		t.Error(got)
	}
}

// An idle connection that the server closed is noticed before it is used.
func TestClosedConnectionIsNoticed(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			accepted <- c
		}
	}()
	near, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	far := <-accepted
	if !alive(near) {
		t.Error("a quiet connection is taken for dead")
	}
	far.Close()
	for deadline := time.Now().Add(5 * time.Second); alive(near); {
		if time.Now().After(deadline) {
			t.Fatal("a closed connection is taken for alive")
		}
	}
}

func TestConcurrentDeliveries(t *testing.T) {
	p, site := servePeer(t)
	a := New(DefaultConfig("smtp", "oracle.test"), Env{Log: nowhere{}, Resolver: &world{}})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				d := delivery(site, "a@p.x")
				d.Backlog = 1
				if got := codes(a.Deliver(t.Context(), d)); got != "2.0.0" {
					t.Error(got)
				}
			}
		})
	}
	wg.Go(func() {
		for range 20 {
			a.Reconfigure(DefaultConfig("smtp", "oracle.test"))
		}
	})
	wg.Wait()
	a.Close()
	if len(p.messages) != 400 {
		t.Errorf("%d messages arrived", len(p.messages))
	}
}

// BenchmarkDeliver is the whole agent against a trivial server on loopback.
func BenchmarkDeliver(b *testing.B) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	w := &world{}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go w.talk(c, manners{})
		}
	}()
	site := fmt.Sprintf("[127.0.0.1]:%d", l.Addr().(*net.TCPAddr).Port)
	a := New(DefaultConfig("smtp", "oracle.test"), Env{Log: nowhere{}, Resolver: w})
	defer a.Close()
	body := stored{"Subject: x\r\n\r\n" + strings.Repeat(strings.Repeat("x", 78)+"\r\n", 50)}
	b.SetParallelism(10)
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			env := &mail.Envelope{ID: 1, Sender: "s@x.test", Size: body.Size(), Recipients: []mail.Recipient{{Address: "a@p.x"}}}
			d := queue.NewDelivery(mail.Destination{Transport: "smtp", NextHop: site}, env, []int{0}, func() (spool.Content, error) { return body, nil })
			d.Backlog = 1
			if res := a.Deliver(b.Context(), d); !res[0].Status.OK() {
				b.Fatal(res[0].Status)
			}
		}
	})
}
