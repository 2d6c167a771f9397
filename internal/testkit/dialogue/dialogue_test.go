package dialogue_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"posthouse/internal/testkit/dialogue"
	"posthouse/internal/testkit/memnet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const conversation = `
# what both agree on
S: 220 mx.example ESMTP
C: EHLO client.example
S: 250-mx.example
S: 250-SIZE {n=[0-9]{1,9}}
S: 250 PIPELINING
C: MAIL FROM:<a@b.example> SIZE=$n
C: RCPT TO:<c@d.example>
S: 250 2.1.0 Ok
S: 250 2.1.5 Ok
C> no line end\r\n
C: QUIT
S: 221 bye
S# closes
`

// both plays one script on each end of a connection.
func both(t *testing.T, client, server string) (clientErr, serverErr error) {
	t.Helper()
	c, err := dialogue.Parse("client", client)
	if err != nil {
		t.Fatal(err)
	}
	s, err := dialogue.Parse("server", server)
	if err != nil {
		t.Fatal(err)
	}
	near, far := memnet.Pipe()
	done := make(chan error)
	go func() {
		_, err := s.Play(far, dialogue.Options{Side: dialogue.Server})
		done <- err
	}()
	_, clientErr = c.Play(near, dialogue.Options{})
	return clientErr, <-done
}

func TestBothSidesOfOneScript(t *testing.T) {
	plain := strings.Replace(conversation, "{n=[0-9]{1,9}}", "1234567", 1)
	plain = strings.Replace(plain, "$n", "1234567", 1)
	if c, s := both(t, plain, plain); c != nil || s != nil {
		t.Fatalf("client: %v\nserver: %v", c, s)
	}
	if c, s := both(t, conversation, plain); c != nil || s != nil {
		t.Fatalf("with a pattern: client: %v\nserver: %v", c, s)
	}
}

func TestAnyLines(t *testing.T) {
	server := "S: 220 hello\nC: EHLO x\nS: 250-a\nS: 250-b\nS: 250-c\nS: 250 d\nC: QUIT\nS: 221 2.0.0 bye now\nS# closes\n"
	for _, client := range []string{
		"S: ...\nC: EHLO x\nS: ...\nC: QUIT\nS: 221 ...\n",
		"S: 220 ...\nC: EHLO x\nS: ...\nS: 250-c\nS: 250 d\nC: QUIT\nS: 221 2.0.0 {bye|ciao} now\nS# closes\n",
	} {
		if c, s := both(t, client, server); c != nil || s != nil {
			t.Errorf("client: %v\nserver: %v", c, s)
		}
	}
}

func TestMismatch(t *testing.T) {
	err, _ := both(t, "S: 220 hello\nC: HELO x\nS: 250 no such\n", "S: 220 hello\nC: HELO x\nS: 250 mx\n")
	if !errors.Is(err, dialogue.ErrMismatch) {
		t.Fatalf("error %v", err)
	}
	for _, want := range []string{"client:3", "want S: 250 no such", "got S: 250 mx", "  C: HELO x"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("message lacks %q:\n%v", want, err)
		}
	}
	err, _ = both(t, "S: 220 hello\nS# closes\n", "S: 220 hello\nS: surprise\n")
	if !errors.Is(err, dialogue.ErrMismatch) {
		t.Fatalf("not closed: %v", err)
	}
	err, _ = both(t, "S: 220 hello\n", "S> 220 hello\\n")
	if !errors.Is(err, dialogue.ErrMismatch) {
		t.Fatalf("bare LF: %v", err)
	}
}

func TestTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := dialogue.Parse("quiet", "S: 220 ...\n")
		if err != nil {
			t.Fatal(err)
		}
		near, far := memnet.Pipe()
		defer far.Close()
		start := time.Now()
		if _, err := s.Play(near, dialogue.Options{Timeout: time.Minute}); err == nil || time.Since(start) != time.Minute {
			t.Fatalf("%v after %v", err, time.Since(start))
		}
	})
}

func TestSyntax(t *testing.T) {
	for _, bad := range []string{"", "X: hello", "C", "C# sings", "C? what", `C> \q`, "S: {[}"} {
		if _, err := dialogue.Parse("bad", bad); !errors.Is(err, dialogue.ErrSyntax) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(conversation)
	f.Add("S: {a=b{1}}\nC> \\x00\n")
	f.Fuzz(func(t *testing.T, text string) {
		if _, err := dialogue.Parse("fuzz", text); err != nil && !errors.Is(err, dialogue.ErrSyntax) {
			t.Fatal(err)
		}
	})
}
