package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"posthouse/internal/mail"
	"posthouse/internal/testkit/dialogue"
	"posthouse/internal/testkit/memnet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// text is content in memory.
type text string

func (t text) ReadAt(p []byte, off int64) (int, error) {
	return strings.NewReader(string(t)).ReadAt(p, off)
}
func (t text) Size() int64   { return int64(len(t)) }
func (t text) Bytes() []byte { return []byte(t) }

// onDisk is content that has to be read.
type onDisk struct{ text }

func (onDisk) Bytes() []byte { return nil }

// message is a transaction with one short message.
func message(rcpts ...mail.Address) *Transaction {
	tx := &Transaction{From: "a@x.example", Content: text("Subject: t\r\n\r\nhello\r\n")}
	tx.Size = tx.Content.Size()
	for _, r := range rcpts {
		tx.Rcpts = append(tx.Rcpts, Rcpt{To: r})
	}
	return tx
}

// against runs f with a connection to a server that follows script.
func against(t *testing.T, script string, opt Options, f func(t *testing.T, c *Conn)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		near, far := memnet.Pipe()
		s, err := dialogue.Parse(t.Name(), script)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() {
			_, err := s.Play(far, dialogue.Options{Side: dialogue.Server, Timeout: 2 * time.Hour})
			done <- err
		}()
		c := New(near, opt)
		defer c.Close()
		f(t, c)
		c.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func open(t *testing.T, c *Conn) {
	t.Helper()
	if err := c.Greeting(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Hello(t.Context(), "me.example"); err != nil {
		t.Fatal(err)
	}
}

func send(t *testing.T, c *Conn, tx *Transaction) ([]Result, error) {
	t.Helper()
	res := make([]Result, len(tx.Rcpts))
	err := c.Send(t.Context(), tx, res)
	return res, err
}

// told is a short form of results: "RCPT TO 550" or "-".
func told(res []Result) string {
	var words []string
	for i := range res {
		if !res[i].Decided() {
			words = append(words, "-")
			continue
		}
		words = append(words, fmt.Sprintf("%v %d", res[i].Step, res[i].Reply.Code))
	}
	return strings.Join(words, ", ")
}

const hello = `
S: 220 mx.example ESMTP
C: EHLO me.example
S: 250-mx.example hi
S: 250-PIPELINING
S: 250-SIZE 1000000
S: 250-DSN
S: 250-SMTPUTF8
S: 250 8BITMIME
`

const plainHello = `
S: 220 mx.example ESMTP
C: EHLO me.example
S: 250 mx.example
`

func TestTransactions(t *testing.T) {
	one, two := mail.Address("b@y.example"), mail.Address("c@y.example")
	for name, c := range map[string]struct {
		script string
		opt    Options
		do     func(t *testing.T, c *Conn)
	}{
		"pipelined": {hello + `
C: MAIL FROM:<a@x.example> SIZE=21 BODY=8BITMIME SMTPUTF8 ENVID=QQ+2B1 RET=HDRS
C: RCPT TO:<b@y.example> ORCPT=rfc822;o+2Bb@y.example NOTIFY=SUCCESS,FAILURE
C: DATA
S: 250 2.1.0 Ok
S: 250 2.1.5 Ok
S: 354 go
C: Subject: t
C:
C: hello
C: .
S: 250 2.0.0 Ok: queued as X
C: QUIT
`, Options{}, func(t *testing.T, c *Conn) {
			tx := message(one)
			tx.Body8Bit, tx.SMTPUTF8, tx.EnvelopeID, tx.Ret = true, true, "QQ+1", mail.RetHeaders
			tx.Rcpts[0].Notify = mail.NotifySuccess | mail.NotifyFailure
			tx.Rcpts[0].DSNOriginal = "rfc822;o+b@y.example"
			expect(t, c, tx, "end of data 250")
			c.Quit()
		}},
		"one by one": {plainHello + `
C: MAIL FROM:<a@x.example>
S: 250 ok
C: RCPT TO:<b@y.example>
S: 550-5.1.1 no
S: 550 5.1.1 such user
C: RCPT TO:<c@y.example>
S: 250 ok
C: DATA
S: 354 go
C: Subject: t
C:
C: hello
C: .
S: 250 done
`, Options{}, func(t *testing.T, c *Conn) {
			res := expect(t, c, message(one, two), "RCPT TO 550, end of data 250")
			if got := res[0].Reply.String(); got != "550-5.1.1 no 550 5.1.1 such user" {
				t.Error(got)
			}
		}},
		"HELO": {`
S: 220 old
C: EHLO me.example
S: 502 what?
C: HELO me.example
S: 250 old.example
C: MAIL FROM:<a@x.example>
S: 451 4.7.1 later
C: RSET
S: 250 ok
C: MAIL FROM:<a@x.example>
S: 550 never
`, Options{}, func(t *testing.T, c *Conn) {
			if c.ESMTP() || c.ServerName() != "old.example" {
				t.Error(c.ESMTP(), c.ServerName())
			}
			expect(t, c, message(one, two), "MAIL FROM 451, MAIL FROM 451")
			c.needReset = true // as if MAIL had been taken
			expect(t, c, message(one), "MAIL FROM 550")
		}},
		"all refused, DATA taken, and again without RSET": {hello + `
C: MAIL FROM:<a@x.example> SIZE=21
C: RCPT TO:<b@y.example>
C: RCPT TO:<c@y.example>
C: DATA
S: 250 ok
S: 550 no
S: 450 later
S: 354 go
C: .
S: 554 no valid recipients
C: MAIL FROM:<a@x.example> SIZE=21
C: RCPT TO:<b@y.example>
C: DATA
S: 550 no
S: 503 MAIL first
S: 354 whatever
C: .
S: 554 no valid recipients
`, Options{}, func(t *testing.T, c *Conn) {
			expect(t, c, message(one, two), "RCPT TO 550, RCPT TO 450")
			expect(t, c, message(one), "MAIL FROM 550")
			if !c.Reusable() {
				t.Error("connection is lost")
			}
		}},
		"DATA refused, RSET goes along": {hello + `
C: MAIL FROM:<a@x.example> SIZE=21
C: RCPT TO:<b@y.example>
C: DATA
S: 250 ok
S: 250 ok
S: 451 4.3.0 no data
C: RSET
C: MAIL FROM:<a@x.example> SIZE=21
C: RCPT TO:<b@y.example>
C: DATA
S: 250 reset
S: 250 ok
S: 250 ok
S: 354 go
C: Subject: t
C:
C: hello
C: .
S: 451 4.3.0 sorry
`, Options{}, func(t *testing.T, c *Conn) {
			expect(t, c, message(one), "DATA 451")
			expect(t, c, message(one), "end of data 451")
			if c.Uses() != 2 {
				t.Error(c.Uses())
			}
		}},
		"LMTP": {`
S: 220 lmtp
C: LHLO me.example
S: 250-lmtp.example
S: 250 PIPELINING
C: MAIL FROM:<a@x.example>
C: RCPT TO:<b@y.example>
C: RCPT TO:<no@y.example>
C: RCPT TO:<c@y.example>
C: DATA
S: 250 ok
S: 250 ok
S: 550 no
S: 250 ok
S: 354 go
C: Subject: t
C:
C: hello
C: .
S: 250 2.0.0 b done
S: 452 4.2.2 c full
`, Options{LMTP: true}, func(t *testing.T, c *Conn) {
			expect(t, c, message(one, "no@y.example", two), "end of data 250, RCPT TO 550, end of data 452")
		}},
		"421 at RCPT": {plainHello + `
C: MAIL FROM:<a@x.example>
S: 250 ok
C: RCPT TO:<b@y.example>
S: 421 4.3.2 closing
`, Options{}, func(t *testing.T, c *Conn) {
			res, err := send(t, c, message(one, two))
			wantError(t, err, StepRcpt, Lost)
			if got := told(res); got != "RCPT TO 421, -" || c.Reusable() {
				t.Error(got, c.Reusable())
			}
		}},
		"canceled at the last moment": {hello + `
C: MAIL FROM:<a@x.example> SIZE=21
C: RCPT TO:<b@y.example>
C: DATA
S: 250 ok
S: 250 ok
S: 354 go
C# closes
`, Options{}, func(t *testing.T, c *Conn) {
			tx := message(one)
			tx.Commit = func() bool { return false }
			_, err := send(t, c, tx)
			wantError(t, err, StepBody, Canceled)
		}},
		"a reply to DATA that makes no sense": {hello + `
C: MAIL FROM:<a@x.example> SIZE=21
C: RCPT TO:<b@y.example>
C: DATA
S: 250 ok
S: 250 ok
S: 250 what
`, Options{}, func(t *testing.T, c *Conn) {
			expect(t, c, message(one), "DATA 250")
			if c.Reusable() {
				t.Error("still in use")
			}
		}},
		"an address that would be two commands": {plainHello + "C# closes", Options{}, func(t *testing.T, c *Conn) {
			_, err := send(t, c, message("b@y.example>\r\nRSET"))
			wantError(t, err, StepRcpt, BadContent)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			against(t, c.script, c.opt, func(t *testing.T, conn *Conn) {
				if !strings.HasPrefix(name, "an address") {
					open(t, conn)
					c.do(t, conn)
					return
				}
				open(t, conn)
				conn.ext.Pipelining = true // both commands are composed before any is sent
				c.do(t, conn)
			})
		})
	}
}

func expect(t *testing.T, c *Conn, tx *Transaction, want string) []Result {
	t.Helper()
	res, err := send(t, c, tx)
	if err != nil {
		t.Fatal(err)
	}
	if got := told(res); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	return res
}

func wantError(t *testing.T, err error, s Step, k Kind) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || e.Step != s || e.Kind != k {
		t.Errorf("got %v (%+v), want step %v kind %d", err, e, s, k)
	}
}

// stages are conversations cut off after each step, with the step that then
// hangs and its timeout.
func stages() []struct {
	name   string
	script string
	step   Step
	after  time.Duration
} {
	tx := "C: MAIL FROM:<a@x.example>\n"
	rcpt := tx + "S: 250 ok\nC: RCPT TO:<b@y.example>\n"
	data := rcpt + "S: 250 ok\nC: DATA\n"
	dot := data + "S: 354 go\nC: Subject: t\nC:\nC: hello\nC: .\n"
	return []struct {
		name   string
		script string
		step   Step
		after  time.Duration
	}{
		{"greeting", "S> 22", StepGreeting, 300 * time.Second},
		{"hello", "S: 220 hi\nC: EHLO me.example\nS: 250-mx\nS> 250 ", StepHello, 300 * time.Second},
		{"mail", plainHello + tx, StepMail, 300 * time.Second},
		{"rcpt", plainHello + rcpt, StepRcpt, 300 * time.Second},
		{"data", plainHello + data, StepData, 120 * time.Second},
		{"dot", plainHello + dot, StepDot, 600 * time.Second},
	}
}

func conversation(c *Conn, t *testing.T) error {
	ctx := t.Context()
	if err := c.Greeting(ctx); err != nil {
		return err
	}
	if err := c.Hello(ctx, "me.example"); err != nil {
		return err
	}
	return c.Send(ctx, message("b@y.example"), make([]Result, 1))
}

func TestStall(t *testing.T) {
	for _, s := range stages() {
		t.Run(s.name, func(t *testing.T) {
			against(t, s.script+"\nC# closes\n", Options{}, func(t *testing.T, c *Conn) {
				begun := time.Now()
				wantError(t, conversation(c, t), s.step, TimedOut)
				if got := time.Since(begun); got != s.after {
					t.Errorf("gave up after %v, want %v", got, s.after)
				}
			})
		})
	}
}

func TestLost(t *testing.T) {
	for _, s := range stages() {
		t.Run(s.name, func(t *testing.T) {
			against(t, s.script+"\nS# closes\n", Options{}, func(t *testing.T, c *Conn) {
				wantError(t, conversation(c, t), s.step, Lost)
			})
		})
	}
}

// A server that takes no content, and one that trickles it, both run into the
// transfer timeout only when nothing moves.
func TestBodyStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		link := memnet.NewLink(&net.TCPAddr{Port: 1}, &net.TCPAddr{Port: 2})
		go io.WriteString(link.Server, "220 hi\r\n250 mx\r\n250 ok\r\n250 ok\r\n354 go\r\n")
		c := New(link.Client, Options{})
		defer c.Close()
		tx := message("b@y.example")
		tx.Content = onDisk{text(strings.Repeat(strings.Repeat("x", 78)+"\r\n", 100000))}
		open(t, c)
		begun := time.Now()
		err := c.Send(t.Context(), tx, make([]Result, 1))
		wantError(t, err, StepBody, TimedOut)
		if got := time.Since(begun); got != 180*time.Second {
			t.Errorf("gave up after %v", got)
		}
	})
}

func TestContextEndsEverything(t *testing.T) {
	for _, s := range stages() {
		t.Run(s.name, func(t *testing.T) {
			against(t, s.script+"\nC# closes\n", Options{}, func(t *testing.T, c *Conn) {
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(time.Second, cancel)
				begun := time.Now()
				err := c.Greeting(ctx)
				if err == nil {
					err = c.Hello(ctx, "me.example")
				}
				if err == nil {
					err = c.Send(ctx, message("b@y.example"), make([]Result, 1))
				}
				kind, after := Canceled, time.Second
				if s.step == StepDot {
					kind, after = TimedOut, time.Second+dotGrace
				}
				wantError(t, err, s.step, kind)
				if time.Since(begun) != after || c.Reusable() {
					t.Error(time.Since(begun), c.Reusable())
				}
			})
		})
	}
}

// The answer to the final dot still counts when the context has ended.
func TestAnswerAfterTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := memnet.Pipe()
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			_, _ = io.WriteString(far, "250 ok\r\n250 ok\r\n354 go\r\n")
			time.Sleep(time.Second)
			cancel()
			time.Sleep(2 * time.Second)
			_, _ = io.WriteString(far, "250 done\r\n")
		}()
		c := New(near, Options{})
		c.ext.Pipelining = true
		res := make([]Result, 1)
		if err := c.Send(ctx, message("b@y.example"), res); err != nil || !res[0].Delivered() || c.Reusable() {
			t.Error(err, told(res), c.Reusable())
		}
		c.Close()
	})
}

func TestHostileReplies(t *testing.T) {
	endless := strings.Repeat("220-"+strings.Repeat("x", 500)+"\r\n", 20000)
	for name, c := range map[string]struct {
		bytes string
		kind  Kind
	}{
		"garbage":      {"hello there\r\n", OutOfStep},
		"NUL":          {"\x00\x00\x00\x00\r\n", OutOfStep},
		"binary":       {"\xff\xfe\r\n", OutOfStep},
		"endless":      {endless, OutOfStep},
		"endless line": {"220 " + strings.Repeat("y", 4<<20), OutOfStep},
		"wrong digits": {"999 hi\r\n", OutOfStep},
		"refusal":      {"554 5.7.1 go away\r\n", Refused},
		"empty":        {"\r\n", OutOfStep},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				near, far := memnet.Pipe()
				done := make(chan struct{})
				go func() { _, _ = io.WriteString(far, c.bytes); far.Close(); close(done) }()
				conn := New(near, Options{})
				wantError(t, conn.Greeting(t.Context()), StepGreeting, c.kind)
				conn.Close()
				<-done
			})
		})
	}
}

func TestStartTLSInjection(t *testing.T) {
	against(t, "S: 220 hi\nC: STARTTLS\nS> 220 go\\r\\n250 injected\\r\\n\n", Options{}, func(t *testing.T, c *Conn) {
		if err := c.Greeting(t.Context()); err != nil {
			t.Fatal(err)
		}
		err := c.StartTLS(t.Context(), &tls.Config{InsecureSkipVerify: true})
		if !errors.Is(err, errInjected) || c.Reusable() {
			t.Error(err, c.Reusable())
		}
	})
}

// counting counts writes.
type counting struct {
	net.Conn
	writes int
	sent   bytes.Buffer
}

func (c *counting) Write(p []byte) (int, error) {
	c.writes++
	c.sent.Write(p)
	return c.Conn.Write(p)
}

// answering is a connection whose peer has said everything in advance.
type answering struct {
	counting
	said io.Reader
}

func (a *answering) Read(p []byte) (int, error)       { return a.said.Read(p) }
func (a *answering) Write(p []byte) (int, error)      { a.writes++; return a.sent.Write(p) }
func (a *answering) Close() error                     { return nil }
func (a *answering) SetDeadline(time.Time) error      { return nil }
func (a *answering) SetReadDeadline(time.Time) error  { return nil }
func (a *answering) SetWriteDeadline(time.Time) error { return nil }

func ready(said string) (*Conn, *answering) {
	a := &answering{said: strings.NewReader(said)}
	c := New(a, Options{LineLimit: 998})
	c.ext.Pipelining, c.esmtp = true, true
	return c, a
}

func TestFewWrites(t *testing.T) {
	c, a := ready("250 ok\r\n250 ok\r\n354 go\r\n250 ok\r\n")
	tx := message("b@y.example")
	tx.Content = text("Subject: x\r\n\r\n" + strings.Repeat(strings.Repeat("x", 78)+"\r\n", 50))
	if _, err := send(t, c, tx); err != nil {
		t.Fatal(err)
	}
	if a.writes != 2 || !strings.HasSuffix(a.sent.String(), "x\r\n.\r\n") {
		t.Errorf("%d writes", a.writes)
	}
}

// However many recipients, no more than a batch is unanswered at any time.
func TestBatchesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := memnet.Pipe()
		rcpts := make([]mail.Address, 1000)
		for i := range rcpts {
			rcpts[i] = mail.Address(fmt.Sprintf("a-recipient-with-a-long-name-%d@y.example", i))
		}
		most := 0
		done := make(chan struct{})
		go func() {
			defer close(done)
			buf := make([]byte, 64<<10)
			for {
				time.Sleep(time.Second) // of the bubble: by then the client has written all it will
				n, err := far.Read(buf)
				if err != nil {
					return
				}
				most = max(most, n)
				for line := range bytes.Lines(buf[:n]) {
					switch {
					case bytes.HasPrefix(line, []byte("DATA")):
						_, _ = io.WriteString(far, "354 go\r\n")
					case bytes.HasPrefix(line, []byte("Subject")):
						_, _ = io.WriteString(far, "250 done\r\n")
					case bytes.HasPrefix(line, []byte("MAIL")), bytes.HasPrefix(line, []byte("RCPT")):
						_, _ = io.WriteString(far, "250 ok\r\n")
					}
				}
			}
		}()
		c := New(near, Options{})
		c.ext.Pipelining = true
		res, err := send(t, c, message(rcpts...))
		if err != nil || !res[999].Delivered() {
			t.Error(err)
		}
		if most > batchBytes || most < batchBytes/2 {
			t.Errorf("%d bytes in one batch", most)
		}
		c.Close()
		<-done
	})
}

// Whatever the content, the peer sees lines that end in CRLF, and one end.
func TestNothingIsSmuggledOut(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		parts := rapid.SliceOf(rapid.SampledFrom([]string{"\r", "\n", "\r\n", ".", "..", "a", "\n.\n", "\r.\r", "\r\n.\r", "\r\n.\r\n", "\x00", strings.Repeat("z", 997), strings.Repeat("w", 33000)})).Draw(rt, "parts")
		content := strings.Join(parts, "")
		c, a := ready("250 ok\r\n250 ok\r\n354 go\r\n250 ok\r\n")
		tx := message("b@y.example")
		tx.Content = text(content)
		if rapid.Bool().Draw(rt, "disk") {
			tx.Content = onDisk{text(content)}
		}
		if _, err := send(t, c, tx); err != nil {
			rt.Fatal(err)
		}
		_, body, _ := strings.Cut(a.sent.String(), "DATA\r\n")
		if strings.Index("\r\n"+body, "\r\n.\r\n") != len("\r\n"+body)-5 {
			rt.Fatal("the end of data is not at the end")
		}
		left := strings.ReplaceAll(body, "\r\n", "")
		if strings.ContainsAny(left, "\r\n") {
			rt.Fatal("a lone CR or LF")
		}
		for line := range strings.SplitSeq(body, "\r\n") {
			if len(line) > 999 { // and a dot
				rt.Fatalf("a line of %d bytes", len(line))
			}
		}
	})
}

// FuzzServer: whatever a server says, a conversation ends, and says for each
// recipient what became of it.
func FuzzServer(f *testing.F) {
	f.Add("220 hi\r\n250-mx\r\n250 PIPELINING\r\n250 ok\r\n250 ok\r\n550 no\r\n354 go\r\n250 ok\r\n", false)
	f.Add("220 hi\r\n250 mx\r\n250 ok\r\n450 x\r\n250 ok\r\n354 go\r\n250 ok\r\n", false)
	f.Add("220 hi\r\n250-mx\r\n250 PIPELINING\r\n250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n250 ok\r\n452 full\r\n", true)
	f.Add("220-\r\n220 \n500 x\n250 y\n354\n354\n354\n", false)
	f.Add("421\r\n", true)
	f.Fuzz(func(t *testing.T, said string, lmtp bool) {
		a := &answering{said: strings.NewReader(said)}
		c := New(a, Options{LMTP: lmtp})
		if c.Greeting(t.Context()) != nil || c.Hello(t.Context(), "me") != nil {
			return
		}
		commits := 0
		tx := message("b@y.example", "c@y.example")
		tx.Commit = func() bool { commits++; return true }
		res := make([]Result, 2)
		err := c.Send(t.Context(), tx, res)
		for i := range res {
			if err == nil && !res[i].Decided() {
				t.Errorf("recipient %d is not decided", i)
			}
			if res[i].Delivered() && commits != 1 {
				t.Errorf("delivered with %d commits", commits)
			}
		}
		var e *Error
		if err != nil && !errors.As(err, &e) {
			t.Errorf("%T", err)
		}
	})
}

func BenchmarkSend4K(b *testing.B) {
	body := text("Subject: x\r\n\r\n" + strings.Repeat(strings.Repeat("x", 78)+"\r\n", 50))
	var bufs Buffers
	a := &answering{}
	c := New(a, Options{LineLimit: 998, Buffers: &bufs})
	c.ext.Pipelining = true
	tx := message("b@y.example")
	tx.Content, tx.Size = body, body.Size()
	res := make([]Result, 1)
	said := strings.NewReader("")
	a.said = said
	b.ReportAllocs()
	for b.Loop() {
		said.Reset("250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n354 go\r\n250 2.0.0 Ok: queued as 123\r\n")
		a.sent.Reset()
		res[0] = Result{}
		if err := c.Send(context.Background(), tx, res); err != nil {
			b.Fatal(err)
		}
	}
}
