package postfix_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"posthouse/internal/testkit"
	"posthouse/internal/testkit/dialogue"
	"posthouse/internal/testkit/postfix"
	"posthouse/internal/traffic/sink"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const script = `
S: 220 mx.test.example ESMTP ...
C: EHLO client.example
S: 250-mx.test.example
S: ...
C: MAIL FROM:<a@b.example>
C: RCPT TO:<c@%s>
C: DATA
S: 250 2.1.0 Ok
S: 250 2.1.5 Ok
S: 354 ...
C: Subject: hello
C:
C: text
C: .
S: 250 2.0.0 Ok: queued as {id=[0-9A-F]+}
C: QUIT
S: 221 2.0.0 Bye
S# closes
`

// TestRelay runs two private instances side by side: each accepts mail and
// relays it to a sink, shows its own queue, and leaves nothing behind.
func TestRelay(t *testing.T) {
	got := make(chan sink.Delivery, 10)
	srv, err := sink.New(sink.Config{
		Extensions: sink.AllExtensions, Ledger: func(d sink.Delivery) { got <- d }, KeepContent: true,
		Domains: map[string]sink.Personality{"soft.example": sink.Personality{}.With(sink.Rcpt, sink.Action{Kind: sink.Refuse})},
	})
	if err != nil {
		t.Fatal(err)
	}
	addr, err := srv.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { srv.Close() })
	host, port, _ := strings.Cut(addr.String(), ":")
	for _, domain := range []string{"one.example", "two.example"} {
		t.Run(domain, func(t *testing.T) {
			t.Parallel()
			pf := postfix.New(t, postfix.Options{Main: fmt.Sprintf("relayhost = [%s]:%s", host, port)})
			id := dialogue.Run(t, pf.Addr(), fmt.Sprintf(script, domain))["id"]
			if _, err := pf.Log.Wait(context.Background(), 20*time.Second, id+": to=<c@"+domain+">.*status=sent"); err != nil {
				t.Fatal(err)
			}
			d := <-got
			if d.Sender != "a@b.example" || len(d.Recipients) != 1 || !strings.Contains(string(d.Content), "\r\n\r\ntext\r\n") {
				t.Errorf("delivered %+v\n%s", d, d.Content)
			}
			id = dialogue.Run(t, pf.Addr(), fmt.Sprintf(script, "soft.example"))["id"]
			if _, err := pf.Log.Wait(context.Background(), 20*time.Second, id+": to=<c@soft.example>.*status=deferred"); err != nil {
				t.Fatal(err)
			}
			out, err := pf.Run(context.Background(), "postqueue", "-p")
			if err != nil || !strings.Contains(out.Stdout, id) {
				t.Errorf("postqueue -p: %+v, %v", out, err)
			}
			pid := pf.Pid()
			if err := pf.Stop(); err != nil {
				t.Error(err)
			}
			for _, st := range testkit.Group(pid) {
				if st.State != "Z" {
					t.Errorf("left running: %+v", st)
				}
			}
			if err := pf.Remove(); err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(pf.Dir); !os.IsNotExist(err) {
				t.Errorf("left behind: %s", pf.Dir)
			}
		})
	}
}

func TestStartReportsBadConfiguration(t *testing.T) {
	testkit.Require(t, "postfix")
	pf, err := postfix.Create(postfix.Options{Master: "bogus service"})
	if err == nil {
		err = pf.Start(t.Context())
		pf.Kill()
		pf.Remove()
	}
	if err == nil || !strings.Contains(err.Error(), "fatal") {
		t.Fatalf("error %v", err)
	}
}
