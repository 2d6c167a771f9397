package source_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"posthouse/internal/testkit/memnet"
	"posthouse/internal/traffic/sink"
	"posthouse/internal/traffic/source"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair is a sink in memory with its ledger, and a source's way to it.
type pair struct {
	srv  *sink.Server
	net  *memnet.Network
	mu   sync.Mutex
	took map[string]sink.Delivery
	cfg  source.Config
	ids  map[string]string // acknowledged, with the reply
	lost []string
}

func newPair(t *testing.T, cfg sink.Config) *pair {
	t.Helper()
	p := &pair{took: map[string]sink.Delivery{}, ids: map[string]string{}, net: memnet.New()}
	cfg.KeepContent = true
	cfg.Ledger = func(d sink.Delivery) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.took[d.MessageID] = d
	}
	var err error
	if p.srv, err = sink.New(cfg); err != nil {
		t.Fatal(err)
	}
	l, err := p.net.Listen("tcp", "192.0.2.1:25")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.srv.Serve(l, cfg.Default); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.srv.Close() })
	p.cfg = source.Config{
		Dial: func(ctx context.Context) (net.Conn, error) { return p.net.DialContext(ctx, "tcp", "192.0.2.1:25") },
		From: "sender@s.example", To: "user%d@dom%3d.example", Length: 1000, LMTP: cfg.LMTP,
		Acked: func(id, reply string) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.ids[id] = reply
		},
		Unknown: func(id string) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.lost = append(p.lost, id)
		},
	}
	return p
}

func TestLedgersAgree(t *testing.T) {
	for _, lmtp := range []bool{false, true} {
		for _, persistent := range []bool{false, true} {
			for _, ext := range []sink.Extension{0, sink.AllExtensions, sink.NoESMTP} {
				if lmtp && ext == sink.NoESMTP {
					continue
				}
				t.Run(fmt.Sprint(lmtp, persistent, ext), func(t *testing.T) {
					p := newPair(t, sink.Config{Extensions: ext, LMTP: lmtp})
					p.cfg.Sessions, p.cfg.Messages, p.cfg.Recipients, p.cfg.Persistent = 4, 50, 3, persistent
					res, err := source.Run(t.Context(), p.cfg)
					if err != nil || res.Accepted != 50 || res.Recipients != 150 || res.Max == 0 || res.P50 > res.P99 {
						t.Fatalf("%+v, %v", res, err)
					}
					if len(p.took) != 50 || len(p.ids) != 50 {
						t.Fatalf("took %d, acknowledged %d", len(p.took), len(p.ids))
					}
					rcpts := map[string]bool{}
					for id := range p.ids {
						d, ok := p.took[id]
						if !ok {
							t.Fatalf("%s was acknowledged but not taken", id)
						}
						if _, body, _ := bytes.Cut(d.Content, []byte("\r\n\r\n")); len(body) != 1000 || d.BareNL {
							t.Fatalf("body of %d bytes:\n%s", len(body), d.Content)
						}
						for _, r := range d.Recipients {
							rcpts[r] = true
						}
					}
					if len(rcpts) != 150 || !rcpts["user149@dom2.example"] {
						t.Errorf("%d recipients", len(rcpts))
					}
					want := int64(4)
					if !persistent {
						want = 50
					}
					if n := p.srv.Counters().Connections; n > want {
						t.Errorf("%d connections", n)
					}
				})
			}
		}
	}
}

func TestRefusals(t *testing.T) {
	for _, spec := range []string{
		"4xx@connect", "5xx@helo", "5xx@mail", "4xx@rcpt", "5xx@data", "5xx@end", "421@mail", "drop@end", "drop@rcpt", "drop@connect",
	} {
		for _, pipelining := range []bool{true, false} {
			t.Run(fmt.Sprint(spec, pipelining), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					per, err := sink.ParsePersonality("p", spec)
					if err != nil {
						t.Fatal(err)
					}
					p := newPair(t, sink.Config{Extensions: sink.AllExtensions, Default: per})
					p.cfg.Messages, p.cfg.NoPipelining, p.cfg.Persistent = 3, !pipelining, true
					res, err := source.Run(t.Context(), p.cfg)
					if err == nil || res.Accepted != 0 {
						t.Fatalf("%+v, %v", res, err)
					}
					refused := !strings.HasPrefix(spec, "drop")
					if errors.Is(err, source.ErrRefused) != refused {
						t.Errorf("error %v", err)
					}
					p.cfg.Tolerate = true
					res, err = source.Run(t.Context(), p.cfg)
					if err != nil || res.Accepted != 0 || res.Refused+res.Lost != 3 || (res.Refused == 3) != refused {
						t.Errorf("%+v, %v", res, err)
					}
					if spec == "drop@end" && (len(p.lost) != 4 || len(p.took) != 0) {
						t.Errorf("%d unknown", len(p.lost))
					}
				})
			})
		}
	}
}

func TestSomeRecipientsRefused(t *testing.T) {
	for _, pipelining := range []bool{true, false} {
		hard := sink.Personality{}.With(sink.Rcpt, sink.Action{Kind: sink.Refuse})
		p := newPair(t, sink.Config{Extensions: sink.AllExtensions, Domains: map[string]sink.Personality{"dom1.example": hard}})
		p.cfg.Messages, p.cfg.Recipients, p.cfg.NoPipelining, p.cfg.Persistent = 3, 3, !pipelining, true
		res, err := source.Run(t.Context(), p.cfg)
		if err != nil || res.Accepted != 3 || res.Recipients != 6 {
			t.Errorf("%+v, %v", res, err)
		}
	}
}

// TestServerThatWantsContentAnyway answers 354 although no recipient is left.
func TestServerThatWantsContentAnyway(t *testing.T) {
	client, server := memnet.Pipe()
	defer server.Close()
	go func() {
		server.Write([]byte("220 x\r\n250-x\r\n250 PIPELINING\r\n550 a\r\n550 b\r\n354 c\r\n554 d\r\n221 e\r\n"))
	}()
	res, err := source.Run(t.Context(), source.Config{
		Dial: func(context.Context) (net.Conn, error) { return client, nil }, To: "a@b", Messages: 1,
	})
	if !errors.Is(err, source.ErrRefused) || !strings.Contains(err.Error(), "550 a") || res.Refused != 1 {
		t.Fatalf("%+v, %v", res, err)
	}
}

func TestRateAndDuration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, sink.Config{})
		p.cfg.Rate, p.cfg.Duration, p.cfg.Sessions, p.cfg.Persistent = 10, time.Minute, 3, true
		res, err := source.Run(t.Context(), p.cfg)
		if err != nil || res.Accepted < 600 || res.Accepted > 601 || res.Elapsed < 59*time.Second || res.Elapsed > 61*time.Second {
			t.Errorf("%v, %v", res, err)
		}
		p.cfg.Rate, p.cfg.Duration, p.cfg.Sessions, p.cfg.Messages, p.cfg.Wait = 0, 0, 1, 5, time.Minute
		if res, err := source.Run(t.Context(), p.cfg); err != nil || res.Elapsed < 4*time.Minute || res.Accepted != 5 {
			t.Errorf("%v, %v", res, err)
		}
	})
}

func TestEndOfContextIsNoError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, sink.Config{Default: sink.Personality{}.With(sink.Mail, sink.Action{Delay: time.Second})})
		p.cfg.Persistent = true
		ctx, cancel := context.WithTimeout(t.Context(), 10500*time.Millisecond)
		defer cancel()
		// The message under way is still finished.
		if res, err := source.Run(ctx, p.cfg); err != nil || res.Accepted != 11 {
			t.Errorf("%v, %v", res, err)
		}
		p.net.Blackhole("192.0.2.1:25", true)
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if res, err := source.Run(ctx, p.cfg); err != nil || res.Lost != 0 {
			t.Errorf("%v, %v", res, err)
		}
	})
}

func TestConfigErrors(t *testing.T) {
	for _, cfg := range []source.Config{
		{To: "a@b"}, {Address: "x:1"}, {Address: "x:1", To: "a%x"}, {Address: "x:1", To: "a@b", From: "%0d"}, {Address: "x:1", To: "a b"},
	} {
		if _, err := source.Run(t.Context(), cfg); err == nil {
			t.Errorf("took %+v", cfg)
		}
	}
}

func TestMainCommand(t *testing.T) {
	srv, err := sink.New(sink.Config{Extensions: sink.AllExtensions})
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	addr, err := srv.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refusing, err := srv.ListenAs("127.0.0.1:0", sink.Personality{}.With(sink.Mail, sink.Action{Kind: sink.Refuse}))
	if err != nil {
		t.Fatal(err)
	}
	ledger := filepath.Join(t.TempDir(), "ledger")
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"--help", 0, "Exit status"},
		{"", 2, "one address"},
		{"-m 0 x:1", 2, "--duration"},
		{"-t %x x:1", 2, "bad address pattern"},
		{"--what x:1", 2, "unknown flag"},
		{"-c -d -s 2 -m 10 -r 2 --ledger " + ledger + " inet:" + addr.String(), 0, "10 messages"},
		{"-m 1 -N " + addr.String(), 0, "1 messages"},
		{"-m 1 " + refusing.String(), 1, "refused"},
		{"-m 2 -A " + refusing.String(), 1, "refused 2"},
		{"-m 1 --ledger /no/such/dir/file " + addr.String(), 1, "no such file"},
	} {
		var out, errs bytes.Buffer
		code := source.Main(t.Context(), strings.Fields(c.args), &out, &errs)
		if code != c.code || !strings.Contains(out.String()+errs.String(), c.want) {
			t.Errorf("%q: exit status %d\n%s%s", c.args, code, &out, &errs)
		}
	}
	b, err := os.ReadFile(ledger)
	if err != nil || bytes.Count(b, []byte("@source.example>\n")) != 10 {
		t.Errorf("ledger %s, %v", b, err)
	}
}
