package remote

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"posthouse/internal/mail"
	"posthouse/internal/spool"
)

func TestEachRecipientItsOwn(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.serve("127.0.0.1:3000", manners{rcpt: []string{"550 5.1.1 nope", "250 ok", "450 4.2.1 later"}})
		a := w.agent(nil)
		defer a.Close()
		res := a.Deliver(t.Context(), delivery("[127.0.0.1]:3000", "a@p.x", "b@p.x", "c@p.x"))
		if got := codes(res); got != "5.1.1, 2.0.0, 4.2.1" {
			t.Error(got)
		}
		const pre = ">, relay=127.0.0.1[127.0.0.1]:3000, dsn="
		compare(t, w.log.take(),
			"smtp: ID: to=<a@p.x"+pre+"5.1.1, status=bounced (host 127.0.0.1[127.0.0.1] said: 550 5.1.1 nope (in reply to RCPT TO command))",
			"smtp: ID: to=<b@p.x"+pre+"2.0.0, status=sent (250 2.0.0 Ok: queued as F)",
			"smtp: ID: to=<c@p.x"+pre+"4.2.1, status=deferred (host 127.0.0.1[127.0.0.1] said: 450 4.2.1 later (in reply to RCPT TO command))")
	})
}

// The second host gets those whom the first neither took nor refused.
func TestNextHostGetsTheUndecided(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.names("d.test MX 1 h1.test", "d.test MX 2 h2.test", "h1.test A 127.0.2.1", "h2.test A 127.0.2.2")
		w.serve("127.0.2.1:25", manners{rcpt: []string{"550 5.1.1 nope", "250 ok", "450 4.2.1 later"}})
		w.serve("127.0.2.2:25", manners{})
		a := w.agent(nil)
		defer a.Close()
		res := a.Deliver(t.Context(), delivery("d.test", "a@d.test", "b@d.test", "c@d.test"))
		if got := codes(res); got != "5.1.1, 2.0.0, 2.0.0" {
			t.Error(got)
		}
		if res[1].Status.RemoteMTA != "h1.test" || res[2].Status.RemoteMTA != "h2.test" {
			t.Error(res[1].Status.RemoteMTA, res[2].Status.RemoteMTA)
		}
		if n := w.said("RCPT TO:<c@d.test>"); n != 2 {
			t.Errorf("c was offered %d times", n)
		}
		if n := w.said("RCPT TO:<a@d.test>") + w.said("RCPT TO:<b@d.test>"); n != 2 {
			t.Errorf("a and b were offered %d times", n)
		}
	})
}

func TestLimits(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		for i := range 9 {
			w.names(fmt.Sprintf("many.test MX 1 h%d.test", i), fmt.Sprintf("h%d.test A 127.0.3.%d", i, i))
			w.names(fmt.Sprintf("soft.test MX 1 s%d.test", i), fmt.Sprintf("s%d.test A 127.0.4.%d", i, i))
			w.serve(fmt.Sprintf("127.0.4.%d:25", i), manners{mail: "450 no"})
		}
		a := w.agent(nil)
		defer a.Close()
		a.Deliver(t.Context(), delivery("many.test", "a@many.test"))
		if n := len(w.log.take()); n != 6 {
			t.Errorf("%d lines: want 5 addresses and the result", n)
		}
		a.Deliver(t.Context(), delivery("soft.test", "a@soft.test"))
		if n := w.said("MAIL"); n != 2 {
			t.Errorf("%d sessions, want 2", n)
		}
		begun := time.Now()
		w.net.Blackhole("127.0.3.0:25", true)
		a.Deliver(t.Context(), delivery("h0.test", "a@h0.test"))
		if time.Since(begun) != 30*time.Second || !strings.Contains(strings.Join(w.log.take(), ""), "connect to h0.test[127.0.3.0]:25: Connection timed out") {
			t.Error(time.Since(begun))
		}
	})
}

func TestReuse(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.serve("127.0.0.1:3000", manners{})
		a := w.agent(nil)
		defer a.Close()
		deliver := func(backlog int) string {
			d := delivery("[127.0.0.1]:3000", "a@p.x")
			d.Backlog = backlog
			a.Deliver(t.Context(), d)
			return strings.Join(w.log.take(), "\n")
		}
		for i := 1; i <= 4; i++ {
			use := ""
			if i > 1 {
				use = fmt.Sprintf("conn_use=%d, ", i)
			}
			if got := deliver(1); !strings.Contains(got, "]:3000, "+use+"dsn=2.0.0") {
				t.Errorf("delivery %d: %s", i, got)
			}
		}
		if n := w.said("EHLO"); n != 1 {
			t.Errorf("%d connections", n)
		}
		// Idle too long: goodbye after 2 s, a new one for the next.
		time.Sleep(1999 * time.Millisecond)
		synctest.Wait()
		if w.said("QUIT") != 0 {
			t.Error("gave up too early")
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if w.said("QUIT") != 1 {
			t.Error("no goodbye")
		}
		got := deliver(0)
		synctest.Wait()
		if strings.Contains(got, "conn_use") || w.said("EHLO") != 2 || w.said("QUIT") != 2 {
			t.Errorf("alone: %s, %d EHLO, %d QUIT", got, w.said("EHLO"), w.said("QUIT"))
		}
		// Back to back, without a known backlog.
		deliver(0)
		if got := deliver(0); !strings.Contains(got, "conn_use=2") {
			t.Error(got)
		}
		a.Close()
		synctest.Wait()
		if w.said("QUIT") != w.said("EHLO") {
			t.Errorf("%d connections, %d goodbyes", w.said("EHLO"), w.said("QUIT"))
		}
		deliver(1)
		synctest.Wait()
		if w.said("QUIT") != w.said("EHLO") {
			t.Error("a closed agent keeps connections")
		}
	})
}

func TestReuseEndsInTime(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.serve("127.0.0.1:3000", manners{})
		a := w.agent(nil)
		defer a.Close()
		for range 400 {
			d := delivery("[127.0.0.1]:3000", "a@p.x")
			d.Backlog = 1
			a.Deliver(t.Context(), d)
			time.Sleep(time.Second)
		}
		if n := w.said("EHLO"); n != 2 {
			t.Errorf("%d connections in 400 s, want 2", n)
		}
	})
}

// Connections that the server ended are replaced without a word.
func TestStaleConnection(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.serve("127.0.0.1:3000", manners{noQPC: true})
		a := w.agent(nil)
		defer a.Close()
		for range 3 {
			d := delivery("[127.0.0.1]:3000", "a@p.x")
			d.Backlog = 1
			if got := codes(a.Deliver(t.Context(), d)); got != "2.0.0" {
				t.Error(got)
			}
			compare(t, w.log.take(), "smtp: ID: to=<a@p.x>, relay=127.0.0.1[127.0.0.1]:3000, dsn=2.0.0, status=sent (250 2.0.0 Ok: queued as F)")
		}
	})
}

// A connection is found by address when another next hop leads to it.
// What the only host puts off over a kept connection is put off: the host is
// not asked a second time over a new one.
func TestReuseIsFinal(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.serve("127.0.0.1:3000", manners{rcpt: []string{"", "450 4.2.0 later"}})
		a := w.agent(nil)
		defer a.Close()
		for _, to := range []mail.Address{"a@p.x", "soft@p.x"} {
			d := delivery("[127.0.0.1]:3000", to)
			d.Backlog = 1
			a.Deliver(t.Context(), d)
		}
		got := strings.Join(w.log.take(), "\n")
		if w.said("EHLO") != 1 || w.said("RCPT") != 2 || strings.Contains(got, ": host ") || !strings.Contains(got, "conn_use=2, dsn=4.2.0") {
			t.Errorf("%d connections, %d recipients named:\n%s", w.said("EHLO"), w.said("RCPT"), got)
		}
	})
}

func TestReuseByAddress(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.names("d1.test MX 1 h.test", "d2.test MX 1 h.test", "h.test A 127.0.2.1")
		w.serve("127.0.2.1:25", manners{})
		a := w.agent(nil)
		defer a.Close()
		for _, name := range []string{"d1.test", "d2.test"} {
			d := delivery(name, mail.Address("a@"+name))
			d.Backlog = 1
			a.Deliver(t.Context(), d)
		}
		if n := w.said("EHLO"); n != 1 {
			t.Errorf("%d connections", n)
		}
	})
}

func TestCanceled(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.serve("127.0.0.1:3000", manners{})
		w.serve("127.0.0.1:3001", manners{mail: "HANG"})
		a := w.agent(nil)
		defer a.Close()
		d := delivery("[127.0.0.1]:3001", "a@p.x")
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(5*time.Second, cancel)
		begun := time.Now()
		res := a.Deliver(ctx, d)
		if got := codes(res); got != "4.3.2" || time.Since(begun) != 5*time.Second {
			t.Error(got, time.Since(begun))
		}
		compare(t, w.log.take(), "smtp: ID: to=<a@p.x>, relay=none, dsn=4.3.2, status=deferred (delivery canceled)")
		res = a.Deliver(ctx, delivery("[127.0.0.1]:3000", "a@p.x"))
		if got := codes(res); got != "4.3.2" || w.said("DATA") != 0 {
			t.Error(got)
		}
	})
}

// The server ends while the final dot is unanswered: nobody is told a lie.
func TestCanceledTooLate(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.serve("127.0.0.1:3000", manners{dot: []string{"HANG"}})
		a := w.agent(nil)
		defer a.Close()
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		a.Deliver(ctx, delivery("[127.0.0.1]:3000", "a@p.x"))
		compare(t, w.log.take(), "smtp: ID: to=<a@p.x>, relay=127.0.0.1[127.0.0.1]:3000, dsn=4.4.2, status=deferred (conversation with 127.0.0.1[127.0.0.1] timed out while sending end of data -- message may be sent more than once)")
	})
}

func TestNewSettingsNewConnections(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.serve("127.0.0.1:3000", manners{})
		a := w.agent(nil)
		defer a.Close()
		for range 2 {
			d := delivery("[127.0.0.1]:3000", "a@p.x")
			d.Backlog = 1
			a.Deliver(t.Context(), d)
			a.store(*a.cfg.Load()) // as when a delivery ends just after Reconfigure
		}
		if n := w.said("EHLO"); n != 2 {
			t.Errorf("%d connections", n)
		}
	})
}

func TestContentThatCannotBeRead(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.serve("127.0.0.1:3000", manners{})
		a := w.agent(nil)
		defer a.Close()
		d := delivery("[127.0.0.1]:3000", "a@p.x")
		d.Open = func() (spool.Content, error) { return nil, spool.ErrCorrupt }
		if got := codes(a.Deliver(t.Context(), d)); got != "4.3.0" {
			t.Error(got)
		}
		d.Open = func() (spool.Content, error) { return broken{}, nil }
		if got := codes(a.Deliver(t.Context(), d)); got != "4.3.0" {
			t.Error(got)
		}
		if n := w.said("."); n != 0 {
			t.Error("half a message was completed")
		}
	})
}

// broken is content that ends too early.
type broken struct{ stored }

func (broken) ReadAt([]byte, int64) (int, error) { return 0, errors.New("disk on fire") }
func (broken) Bytes() []byte                     { return nil }
func (broken) Size() int64                       { return 1000 }

func TestOurOwnMistakesDefer(t *testing.T) {
	for name, c := range map[string]struct {
		nextHop string
		change  func(*Config)
		want    string
	}{
		"relayhost":   {"gone.test", func(c *Config) { c.Relayhost = "Gone.test" }, "4.3.5 down"},
		"fallback":    {"gone.test", func(c *Config) { c.Fallback = []string{"gone2.test"} }, "4.3.5 down"},
		"bracket":     {"[gone.test", nil, "4.3.5 down"},
		"port":        {"[127.0.0.1]:nosuchport", nil, "4.3.5 down"},
		"nothing":     {"", nil, "4.3.0 down"},
		"no protocol": {"a4.test", func(c *Config) { c.IPv4 = false }, "5.4.4"},
		"no lookups":  {"a4.test", func(c *Config) { c.HostLookup = nil }, "4.3.5 down"},
	} {
		t.Run(name, func(t *testing.T) {
			in(t, func(t *testing.T, w *world) {
				w.names("a4.test A 127.0.2.1")
				a := w.agent(c.change)
				defer a.Close()
				res := a.Deliver(t.Context(), delivery(c.nextHop, "a@p.x"))
				if got := codes(res); got != c.want {
					t.Errorf("%s (%s), want %s", got, res[0].Status.Text, c.want)
				}
			})
		})
	}
}

func TestFallback(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		pretendInternet(w)
		w.serve("127.0.5.1:25", manners{})
		w.names("fb.test A 127.0.5.1")
		a := w.agent(func(c *Config) { c.Fallback = []string{"[fb.test]"} })
		defer a.Close()
		for name, want := range map[string]string{
			"nxdomain.test": "2.0.0", "down.test": "2.0.0", "later.test": "2.0.0", "servfail.test": "2.0.0",
			"self.test": "5.4.6", "[127.0.1.4]": "5.1.1", "ok.test": "2.0.0",
		} {
			if got := codes(a.Deliver(t.Context(), delivery(name, "a@b"))); got != want {
				t.Errorf("%s: %s, want %s", name, got, want)
			}
		}
		w.log.take()
		// A list of next hops is tried in order.
		a.Deliver(t.Context(), delivery("[127.0.1.2], [127.0.1.1]:25", "a@b"))
		compare(t, w.log.take(), "smtp: ID: host 127.0.1.2[127.0.1.2] refused to talk to me: 421 4.3.2 busy",
			"smtp: ID: to=<a@b>, relay=127.0.1.1[127.0.1.1]:25, dsn=2.0.0, status=sent (250 2.0.0 Ok: queued as F)")
	})
}

func TestNativeLookup(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.serve("127.0.2.1:25", manners{})
		w.hosts["inhosts"] = []netip.Addr{netip.MustParseAddr("127.0.2.1")}
		w.names("indns.test A 127.0.2.1", "indns.test MX 1 other.test")
		w.fail["later.test/A"] = errTemporary()
		a := w.agent(func(c *Config) { c.DisableDNS = true })
		defer a.Close()
		for name, want := range map[string]string{
			"inhosts":    "2.0.0 250 2.0.0 Ok: queued as F",
			"indns.test": "2.0.0 250 2.0.0 Ok: queued as F",
			"gone.test":  "5.4.4 unable to look up host gone.test: Name or service not known",
			"later.test": "4.4.3 unable to look up host later.test: Temporary failure in name resolution",
		} {
			if got := a.Deliver(t.Context(), delivery(name, "a@b"))[0].Status.Error(); got != want {
				t.Errorf("%s: %s, want %s", name, got, want)
			}
		}
	})
}

func TestLMTP(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.serve("127.0.0.1:24", manners{dot: []string{"250 2.0.0 one", "452 4.2.2 full"}})
		w.names("lmtp.test A 127.0.0.1")
		a := New(DefaultLMTPConfig("lmtp", "oracle.test"), w.env())
		defer a.Close()
		d := delivery("inet:lmtp.test", "a@p.x", "b@p.x")
		d.Envelope.Recipients[0].Notify = mail.NotifySuccess
		res := a.Deliver(t.Context(), d)
		if got := codes(res); got != "2.0.0, 4.2.2" || res[0].Action != "delivered" {
			t.Error(got, res[0].Action)
		}
		w.log.take()
		a.Deliver(t.Context(), delivery("unix:/nonexistent/sock", "a@p.x"))
		const why = "connect to oracle.test[/nonexistent/sock]: No such file or directory"
		compare(t, w.log.take(), "lmtp: "+why, "lmtp: ID: to=<a@p.x>, relay=none, dsn=4.4.1, status=deferred ("+why+")")
	})
}

func TestNotices(t *testing.T) {
	for name, c := range map[string]struct {
		caps []string
		want string
	}{
		"host tells": {[]string{"DSN"}, ""},
		"we tell":    {nil, "relayed"},
	} {
		in(t, func(t *testing.T, w *world) {
			w.serve("127.0.0.1:3000", manners{caps: c.caps})
			a := w.agent(nil)
			defer a.Close()
			d := delivery("[127.0.0.1]:3000", "a@p.x", "b@p.x")
			d.Envelope.Recipients[0].Notify = mail.NotifySuccess
			d.Envelope.Recipients[1].OrigAddress = "old+b@p.x"
			res := a.Deliver(t.Context(), d)
			if res[0].Action != c.want || res[1].Action != "" {
				t.Errorf("%s: %q %q", name, res[0].Action, res[1].Action)
			}
			if c.caps != nil && (w.said("RCPT TO:<a@p.x> ORCPT=rfc822;a@p.x NOTIFY=SUCCESS") != 1 || w.said("RCPT TO:<b@p.x> ORCPT=rfc822;old+2Bb@p.x") != 1) {
				t.Error(w.wire)
			}
		})
	}
}

func TestSMTPUTF8(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.serve("127.0.0.1:3000", manners{})
		a := w.agent(nil)
		defer a.Close()
		d := delivery("[127.0.0.1]:3000", "ü@p.x")
		d.Envelope.SMTPUTF8 = true
		if got := a.Deliver(t.Context(), d)[0].Status.Error(); got != "5.6.7 SMTPUTF8 is required, but was not offered by host 127.0.0.1[127.0.0.1]" {
			t.Error(got)
		}
	})
}

func TestMyOwnName(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.serve("127.0.0.1:3000", manners{ehlo: "250-ORACLE.test hi\r\n250 PIPELINING"})
		a := w.agent(nil)
		defer a.Close()
		a.Deliver(t.Context(), delivery("[127.0.0.1]:3000", "a@p.x"))
		compare(t, w.log.take(), "smtp: warning: host 127.0.0.1[127.0.0.1]:3000 replied to HELO/EHLO with my own hostname oracle.test",
			"smtp: ID: to=<a@p.x>, relay=127.0.0.1[127.0.0.1]:3000, dsn=5.4.6, status=bounced (mail for [127.0.0.1]:3000 loops back to myself)")
	})
}

func TestDelays(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.serve("127.0.0.1:3000", manners{greet: "HANG"})
		a := w.agent(nil)
		defer a.Close()
		d := delivery("[127.0.0.1]:3000", "a@p.x")
		d.Envelope.Arrival = time.Now().Add(-20 * time.Second)
		d.Due, d.Started = d.Envelope.Arrival.Add(13*time.Second), time.Now()
		a.Deliver(t.Context(), d)
		if got := strings.Join(w.log.lines, "\n"); !strings.Contains(got, "delay=320, delays=13/7/300/0,") {
			t.Error(got)
		}
	})
}

func TestBalance(t *testing.T) {
	addr := func(s string) candidate { return candidate{ip: netip.MustParseAddr(s)} }
	six := []candidate{addr("2001:db8::1"), addr("2001:db8::2"), addr("2001:db8::3"), addr("2001:db8::4"), addr("2001:db8::5"), addr("2001:db8::6")}
	four := []candidate{addr("192.0.2.1"), addr("192.0.2.2"), addr("192.0.2.3")}
	cfg := DefaultConfig("smtp", "x")
	f := finder{cfg: &cfg}
	got := f.balance(append(append([]candidate{}, six...), four...))
	var names []string
	for i := range got {
		names = append(names, got[i].ip.String())
	}
	if s := strings.Join(names, " "); s != "2001:db8::1 2001:db8::2 2001:db8::3 192.0.2.1 192.0.2.2" {
		t.Error(s)
	}
	if got := f.balance(append(append([]candidate{}, six...), four[0])); len(got) != 5 || got[4].ip != four[0].ip {
		t.Error(got)
	}
	if got := f.balance(six); len(got) != 5 {
		t.Error(got)
	}
}

func TestTargets(t *testing.T) {
	smtp, lmtp := DefaultConfig("smtp", "x"), DefaultLMTPConfig("lmtp", "x")
	for _, c := range []struct {
		cfg        *Config
		site, want string
	}{
		{&smtp, "example.com", "example.com 25 true"},
		{&smtp, "example.com:2525", "example.com 2525 true"},
		{&smtp, "[example.com]:submission", "example.com 587 false"},
		{&smtp, "[192.0.2.1]", "192.0.2.1 25 false"},
		{&smtp, "192.0.2.1:26", "192.0.2.1 26 false"},
		{&smtp, "[ipv6:2001:DB8::1]:26", "2001:db8::1 26 false"},
		{&smtp, "[2001:db8::1]", "2001:db8::1 25 false"},
		{&smtp, "2001:db8::1", "2001:db8::1 25 false"},
		{&lmtp, "inet:host.example:2003", "host.example 2003 false"},
		{&lmtp, "host.example", "host.example 24 false"},
		{&lmtp, "unix:/var/run/x", "/var/run/x"},
		{&smtp, "[example.com", "error"},
		{&smtp, "[a]b", "error"},
		{&smtp, ":25", "error"},
		{&smtp, "a:0", "error"},
		{&smtp, "a:70000", "error"},
		{&smtp, "", "error"},
	} {
		tgt, err := parseTarget(c.site, c.cfg)
		got := fmt.Sprintf("%s %d %v", tgt.host, tgt.port, tgt.mx)
		if tgt.path != "" {
			got = tgt.path
		}
		if err != nil {
			got = "error"
			if !errors.Is(err, errTarget) {
				t.Error(err)
			}
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", c.site, got, c.want)
		}
	}
}

// certificate is a self-made one for a name, and a pool that trusts it.
func certificate(t *testing.T, name string) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

func TestTLS(t *testing.T) {
	const h = "h.test[127.0.2.1]"
	sent := "smtp: ID: to=<a@p.x>, relay=" + h + ":25, dsn=2.0.0, status=sent (250 2.0.0 Ok: queued as F)"
	deferred := func(dsn, text string) string {
		return "smtp: ID: to=<a@p.x>, relay=" + h + ":25, dsn=" + dsn + ", status=deferred (" + text + ")"
	}
	established := func(trust string) string {
		return "smtp: " + trust + " TLS connection established to " + h + ":25: TLSv1.3 with cipher TLS_AES_128_GCM_SHA256 (128/128 bits)"
	}
	in(t, func(t *testing.T, w *world) {
		w.names("h.test A 127.0.2.1", "d.test MX 1 h.test")
		cert, pool := certificate(t, "h.test")
		works := manners{caps: []string{"STARTTLS"}, tls: &tls.Config{Certificates: []tls.Certificate{cert}}}
		refuses := manners{caps: []string{"STARTTLS"}, starttls: "454 4.7.0 no tls now"}
		breaks := manners{caps: []string{"STARTTLS"}}
		for _, c := range []struct {
			name  string
			m     manners
			level Level
			roots *x509.CertPool
			want  []string
		}{
			{"may", works, TLSMay, nil, []string{established("Untrusted"), sent}},
			{"may, trusted", works, TLSMay, pool, []string{established("Trusted"), sent}},
			{"none", works, TLSNone, nil, []string{sent}},
			{"may, refused", refuses, TLSMay, nil, []string{sent}},
			{"may, broken", breaks, TLSMay, nil, []string{"SSL", "smtp: ID: Cannot start TLS: handshake failure", sent}},
			{"may, not offered", manners{}, TLSMay, nil, []string{sent}},
			{"encrypt, refused", refuses, TLSEncrypt, nil, []string{deferred("4.7.0", "TLS is required, but host "+h+" refused to start TLS: 454 4.7.0 no tls now")}},
			{"encrypt, broken", breaks, TLSEncrypt, nil, []string{"SSL", deferred("4.7.5", "Cannot start TLS: handshake failure")}},
			{"encrypt, not offered", manners{}, TLSEncrypt, nil, []string{deferred("4.7.4", "TLS is required, but was not offered by host "+h)}},
			{"verify", works, TLSVerify, pool, []string{established("Verified"), sent}},
			{"verify, untrusted", works, TLSVerify, nil, []string{"SSL", deferred("4.7.5", "Server certificate not trusted")}},
			{"secure, other name", works, TLSSecure, pool, []string{"SSL", deferred("4.7.5", "Server certificate not verified")}},
		} {
			w.serve("127.0.2.1:25", c.m)
			a := w.agent(func(cfg *Config) { cfg.TLS.Level, cfg.TLS.Roots, cfg.TLS.LogLevel = c.level, c.roots, 1 })
			a.Deliver(t.Context(), delivery("d.test", "a@p.x"))
			a.Close()
			got := w.log.take()
			for i := range got {
				if strings.HasPrefix(got[i], "smtp: SSL_connect error to "+h+":25: ") {
					got[i] = "SSL"
				}
				got[i] = strings.NewReplacer("TLS_AES_256_GCM_SHA384 (256/256", "TLS_AES_128_GCM_SHA256 (128/128", "TLS_CHACHA20_POLY1305_SHA256 (256/256", "TLS_AES_128_GCM_SHA256 (128/128").Replace(got[i])
			}
			t.Log(c.name)
			compare(t, got, c.want...)
			w.close()
		}
	})
}

func TestCipherNames(t *testing.T) {
	for id, want := range map[uint16]string{
		tls.TLS_AES_256_GCM_SHA384:                        "TLS_AES_256_GCM_SHA384 256",
		tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256:         "ECDHE-RSA-AES128-GCM-SHA256 128",
		tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384:       "ECDHE-ECDSA-AES256-GCM-SHA384 256",
		tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256:   "ECDHE-RSA-CHACHA20-POLY1305 256",
		tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256: "ECDHE-ECDSA-CHACHA20-POLY1305 256",
		tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA:            "ECDHE-RSA-AES128-SHA 128",
		tls.TLS_RSA_WITH_AES_256_GCM_SHA384:               "AES256-GCM-SHA384 256",
	} {
		if name, bits := opensslName(id); fmt.Sprintf("%s %d", name, bits) != want {
			t.Errorf("%s %d, want %s", name, bits, want)
		}
	}
}

func TestPoolIsBounded(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		a := w.agent(func(c *Config) { c.CacheSize = 3 })
		defer a.Close()
		for i := range 10 {
			w.serve(fmt.Sprintf("127.0.0.1:%d", 3000+i), manners{})
			d := delivery(fmt.Sprintf("[127.0.0.1]:%d", 3000+i), "a@p.x")
			d.Backlog = 1
			a.Deliver(t.Context(), d)
		}
		synctest.Wait()
		if n := w.said("QUIT"); n != 7 {
			t.Errorf("%d goodbyes, want 7", n)
		}
	})
	p := newPool()
	now := time.Unix(0, 0)
	for i := range 3 * rememberSites {
		p.finished(fmt.Sprint(i), now.Add(time.Duration(i)*time.Millisecond))
	}
	if len(p.last) > rememberSites {
		t.Error(len(p.last))
	}
}
