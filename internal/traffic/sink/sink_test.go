package sink_test

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"posthouse/internal/testkit/dialogue"
	"posthouse/internal/testkit/memnet"
	"posthouse/internal/traffic/sink"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start serves cfg on an address in memory.
func start(t *testing.T, cfg sink.Config) (*sink.Server, *memnet.Network) {
	t.Helper()
	srv, err := sink.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	n := memnet.New()
	l, err := n.Listen("tcp", "192.0.2.1:25")
	if err != nil {
		t.Fatal(err)
	}
	if err := srv.Serve(l, cfg.Default); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { srv.Close() })
	return srv, n
}

func play(t *testing.T, n *memnet.Network, text string) {
	t.Helper()
	if err := try(t, n, text); err != nil {
		t.Fatal(err)
	}
}

func try(t *testing.T, n *memnet.Network, text string) error {
	t.Helper()
	c, err := n.Dial("tcp", "192.0.2.1:25")
	if err != nil {
		t.Fatal(err)
	}
	s, err := dialogue.Parse(t.Name(), text)
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Play(c, dialogue.Options{Timeout: time.Hour})
	return err
}

const hello = "S: 220 sink.example ESMTP\nC: EHLO me\nS: ...\n"

const one = `C: MAIL FROM:<a@b.example>
C: RCPT TO:<c@d.example>
C: DATA
S: 250 2.1.0 Ok
S: 250 2.1.5 Ok
S: 354 ...
C: hi
C: .
S: 250 2.0.0 Ok
`

func TestLedger(t *testing.T) {
	var got []sink.Delivery
	srv, n := start(t, sink.Config{
		Extensions: sink.AllExtensions, KeepContent: true,
		Ledger: func(d sink.Delivery) { got = append(got, d) },
	})
	play(t, n, `
S: 220 sink.example ESMTP
C: EHLO me.example
S: 250-sink.example
S: 250-PIPELINING
S: 250-SIZE
S: 250-8BITMIME
S: 250-SMTPUTF8
S: 250-DSN
S: 250 ENHANCEDSTATUSCODES
C: mail from:<"a>b"@b.example> RET=HDRS
C: RCPT TO:<c@d.example> NOTIFY=NEVER
C: rcpt to:<e@f.example>
C: data
S: 250 2.1.0 Ok
S: 250 2.1.5 Ok
S: 250 2.1.5 Ok
S: 354 ...
C: Subject: x
C: message-id: <1@x>
C: X-TEST:  seven 
C:
C: ..stuffed
C> .\n
C> bare\n.\nlines
C:
C: .
C: NOOP
C: QUIT
S: 250 2.0.0 Ok
S: 250 2.0.0 Ok
S: 221 2.0.0 Bye
S# closes
`)
	content := "Subject: x\r\nmessage-id: <1@x>\r\nX-TEST:  seven \r\n\r\n.stuffed\r\n\nbare\n.\nlines\r\n"
	if len(got) != 1 {
		t.Fatalf("%d deliveries", len(got))
	}
	d := got[0]
	if string(d.Content) != content || d.Hash != sha256.Sum256([]byte(content)) || d.Size != int64(len(content)) {
		t.Errorf("content %q", d.Content)
	}
	if d.Sender != `"a>b"@b.example` || strings.Join(d.Recipients, " ") != "c@d.example e@f.example" ||
		d.Rcpts[0] != "RCPT TO:<c@d.example> NOTIFY=NEVER" || !strings.HasSuffix(d.Mail, "RET=HDRS") {
		t.Errorf("envelope %+v", d)
	}
	if d.MessageID != "<1@x>" || d.Test != "seven" || !d.BareNL || d.Helo != "me.example" || d.TLS {
		t.Errorf("delivery %+v", d)
	}
	want := sink.Counts{Connections: 1, Transactions: 1, Messages: 1, Recipients: 2, Bytes: srv.Counters().Bytes}
	if c := srv.Counters(); c != want && c.Open != 1 {
		t.Errorf("counts %v", c)
	}
}

// TestDotsAcrossReads sends the end of the content cut at every place: it must
// be found however it arrives, and nothing else must be taken for it.
func TestDotsAcrossReads(t *testing.T) {
	for _, content := range []string{".\r\n", "a\r\n.\r\n", "a\n.\n\r.\r..\r\n.x\r\n\r\n.\r\n"} {
		for cut := range len(content) {
			_, n := start(t, sink.Config{})
			play(t, n, fmt.Sprintf("S: 220 ...\nC: EHLO x\nS: ...\nC: MAIL FROM:<>\nS: 250 Ok\nC: RCPT TO:<a@b>\nS: 250 Ok\nC: DATA\nS: 354 ...\n"+
				"C> %s\nC> %sQUIT\\r\\n\nS: 250 Ok\nS: 221 Bye\nS# closes\n", escape(content[:cut]), escape(content[cut:])))
		}
	}
}

func escape(s string) string { return strings.NewReplacer("\r", `\r`, "\n", `\n`).Replace(s) }

func TestOrderOfCommands(t *testing.T) {
	_, n := start(t, sink.Config{MaxSize: 1000, Extensions: sink.Size})
	play(t, n, `
S: 220 ...
C: EHLO x
S: 250-sink.example
S: 250 SIZE 1000
C: DATA
C: RCPT TO:<a@b>
C: MAIL FROM a@b
C: MAIL FROM:<a@b> SIZE=1001
C: MAIL FROM:<a@b> SIZE=1000
C: MAIL FROM:<a@b>
C: DATA
C: RCPT TO:<>
C: RSET
C: LHLO x
C: STARTTLS
C: VRFY a
C: WHAT
S: 503 Error: need MAIL command
S: 503 Error: need MAIL command
S: 501 ...
S: 552 ...
S: 250 Ok
S: 503 Error: nested MAIL command
S: 554 ...
S: 501 ...
S: 250 Ok
S: 502 ...
S: 502 ...
S: 252 ...
S: 502 ...
`)
}

func TestPersonalities(t *testing.T) {
	for spec, script := range map[string]string{
		"4xx@connect":                     "S: 450 4.3.0 Error: command failed\n",
		"421 4.3.2 go away@connect":       "S: 421 4.3.2 go away\nS# closes\n",
		"drop@connect":                    "S# closes\n",
		"5xx@helo":                        "S: 220 ...\nC: EHLO x\nS: 550 5.3.0 Error: command failed\n",
		"554 no@mail":                     hello + "C: MAIL FROM:<a@b>\nS: 554 no\n",
		"452 4.2.2 full@rcpt":             hello + "C: MAIL FROM:<a@b>\nC: RCPT TO:<a@b>\nS: 250 2.1.0 Ok\nS: 452 4.2.2 full\n",
		"4xx@data":                        hello + "C: MAIL FROM:<a@b>\nC: RCPT TO:<a@b>\nC: DATA\nS: 250 ...\nS: 250 ...\nS: 450 ...\n",
		"552@end":                         hello + strings.Replace(one, "S: 250 2.0.0 Ok", "S: 552 refused by test personality", 1),
		"drop@end":                        hello + strings.Replace(one, "S: 250 2.0.0 Ok", "S# closes", 1),
		"4xx@rset,5xx@noop,drop@quit":     hello + "C: RSET\nC: NOOP\nC: QUIT\nS: 450 ...\nS: 550 ...\nS# closes\n",
		"accept":                          hello + one,
		"rate=1/1m":                       hello + one + "C: MAIL FROM:<a@b>\nS: 421 4.7.0 Too many messages, try again later\nS# closes\n",
		"conns=1":                         hello + one,
		"greylist=5m":                     hello + "C: MAIL FROM:<a@b>\nC: RCPT TO:<a@b>\nC: RCPT TO:<a@b>\nS: 250 ...\nS: 450 4.2.0 ...\nS: 450 4.2.0 ...\n",
		"slow@helo=1s,slow=2s,accept":     hello + one,
		"drop@mail=1s":                    hello + "C: MAIL FROM:<a@b>\nS# closes\n",
		"451 4.7.1 a comma is not@rcpt":   hello + "C: MAIL FROM:<a@b>\nC: RCPT TO:<a@b>\nS: 250 ...\nS: 451 4.7.1 a comma is not\n",
		"550 5.1.1 <user@host>: no@rcpt":  hello + "C: MAIL FROM:<a@b>\nC: RCPT TO:<a@b>\nS: 250 ...\nS: 550 5.1.1 <user@host>: no\n",
		"450 4.2.1 busy@end,slow@data=1s": hello + strings.Replace(one, "S: 250 2.0.0 Ok", "S: 450 4.2.1 busy", 1),
	} {
		t.Run(spec, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, err := sink.ParsePersonality("test", spec)
				if err != nil {
					t.Fatal(err)
				}
				srv, n := start(t, sink.Config{Default: p, Extensions: sink.AllExtensions})
				play(t, n, script)
				if c := srv.ByPersonality()["test"]; c.Connections != 1 {
					t.Errorf("counts %v", c)
				}
			})
		})
	}
}

func TestDelaysAndGreylistingTakeTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, err := sink.ParsePersonality("slow", "slow=10s,greylist=5m")
		if err != nil {
			t.Fatal(err)
		}
		_, n := start(t, sink.Config{Default: p, Extensions: sink.AllExtensions})
		began := time.Now()
		play(t, n, hello+"C: MAIL FROM:<a@b.example>\nC: RCPT TO:<c@D.example>\nS: 250 ...\nS: 450 ...\n")
		if d := time.Since(began); d != 40*time.Second {
			t.Errorf("four slow replies took %v", d)
		}
		time.Sleep(5 * time.Minute)
		play(t, n, hello+one)
	})
}

func TestHangUntilThePeerLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, n := start(t, sink.Config{Default: sink.Personality{}.With(sink.Mail, sink.Action{Kind: sink.HangMute})})
		began := time.Now()
		if err := try(t, n, "S: ...\nC: EHLO x\nS: ...\nC: MAIL FROM:<a@b>\nS: 250 Ok\n"); err == nil || time.Since(began) != time.Hour {
			t.Fatalf("%v after %v", err, time.Since(began))
		}
		synctest.Wait()
		if c := srv.Counters(); c.Open != 0 || c.Refused != 1 {
			t.Errorf("counts %v", c)
		}
	})
}

func TestTooManyConnections(t *testing.T) {
	_, n := start(t, sink.Config{Default: sink.Personality{MaxConnections: 1}})
	first, err := n.Dial("tcp", "192.0.2.1:25")
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if _, err := io.ReadFull(first, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	play(t, n, "S: 421 4.7.0 Too many connections, try again later\nS# closes\n")
}

func TestDomains(t *testing.T) {
	hard, err := sink.ParsePersonality("", "550 5.1.1 no@rcpt")
	if err != nil {
		t.Fatal(err)
	}
	early, err := sink.ParsePersonality("early", "454 4.1.1 early@helo")
	if err != nil {
		t.Fatal(err)
	}
	late, err := sink.ParsePersonality("late", "552 5.2.2 late@end")
	if err != nil {
		t.Fatal(err)
	}
	srv, n := start(t, sink.Config{Extensions: sink.AllExtensions, Domains: map[string]sink.Personality{
		"hard.example": hard, ".sub.example": early, "late.example": late,
	}})
	play(t, n, hello+`C: MAIL FROM:<a@b.example>
C: RCPT TO:<x@HARD.example>
C: RCPT TO:<x@a.sub.example>
C: RCPT TO:<x@sub.example>
C: RCPT TO:<x@ok.example>
C: RCPT TO:<x@late.example>
C: DATA
S: 250 2.1.0 Ok
S: 550 5.1.1 no
S: 454 4.1.1 early
S: 454 4.1.1 early
S: 250 2.1.5 Ok
S: 250 2.1.5 Ok
S: 354 ...
C: .
S: 552 5.2.2 late
`)
	by := srv.ByPersonality()
	if by["hard.example"].Refused != 1 || by["early"].Refused != 2 || by["late"].Refused != 1 || srv.Counters().Messages != 0 {
		t.Errorf("counts %v", by)
	}
	if _, err := sink.New(sink.Config{Domains: map[string]sink.Personality{"UPPER": {}}}); err == nil {
		t.Error("took a domain in upper case")
	}
}

func TestLMTP(t *testing.T) {
	var got []sink.Delivery
	full := sink.Personality{}.With(sink.End, sink.Action{Kind: sink.Refuse, Reply: "452 4.2.2 full"})
	_, n := start(t, sink.Config{
		LMTP: true, Extensions: sink.AllExtensions, Domains: map[string]sink.Personality{"full.example": full},
		Ledger: func(d sink.Delivery) { got = append(got, d) },
	})
	play(t, n, `
S: 220 ...
C: EHLO x
S: 502 ...
C: LHLO x
S: ...
C: MAIL FROM:<a@b.example>
C: RCPT TO:<a@d.example>
C: RCPT TO:<b@full.example>
C: RCPT TO:<c@d.example>
C: DATA
S: 250 2.1.0 Ok
S: 250 2.1.5 Ok
S: 250 2.1.5 Ok
S: 250 2.1.5 Ok
S: 354 ...
C: .
S: 250 2.0.0 Ok
S: 452 4.2.2 full
S: 250 2.0.0 Ok
C: NOOP
S: 250 2.0.0 Ok
`)
	if len(got) != 1 || strings.Join(got[0].Recipients, " ") != "a@d.example c@d.example" {
		t.Errorf("deliveries %+v", got)
	}
}

func TestWaitMessages(t *testing.T) {
	srv, n := start(t, sink.Config{Extensions: sink.AllExtensions})
	done := make(chan error, 2)
	for _, k := range []int64{2, 3} {
		go func() { done <- srv.WaitMessages(t.Context(), k) }()
	}
	play(t, n, hello+one+one)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	play(t, n, hello+one)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestCloseCutsConnections(t *testing.T) {
	srv, n := start(t, sink.Config{Default: sink.Personality{}.With(sink.Connect, sink.Action{Delay: time.Hour})})
	c, err := n.Dial("tcp", "192.0.2.1:25")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := srv.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("still open")
	}
	if _, err := srv.Listen("127.0.0.1:0"); err == nil {
		t.Error("a closed server listens")
	}
	if srv.Close() == nil {
		t.Error("closed twice without a word")
	}
}

func TestUnixSocket(t *testing.T) {
	srv, _ := start(t, sink.Config{})
	dir, err := os.MkdirTemp("", "sink")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if _, err := srv.Listen("unix:" + dir + "/s"); err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("unix", dir+"/s")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if b := make([]byte, 3); func() error { _, err := io.ReadFull(c, b); return err }() != nil || string(b) != "220" {
		t.Fatalf("greeting %q", b)
	}
}
