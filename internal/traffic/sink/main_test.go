package sink_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"

	"posthouse/internal/testkit"
	"posthouse/internal/testkit/dialogue"
	"posthouse/internal/traffic/sink"
)

func TestMainUsage(t *testing.T) {
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"--help", 0, "Exit status"},
		{"", 2, "no address"},
		{"--no-such-flag 127.0.0.1:0", 2, "unknown flag"},
		{"-f nowhere 127.0.0.1:0", 2, "unknown stage"},
		{"--domain x 127.0.0.1:0", 2, "DOMAIN=BEHAVIOUR"},
		{"--domain x=y 127.0.0.1:0", 2, "bad personality"},
		{"--behave y 127.0.0.1:0", 2, "bad personality"},
		{"--tls-cert /none --tls-key /none 127.0.0.1:0", 2, "no such file"},
		{"192.0.2.1:1", 1, "192.0.2.1"},
	} {
		var out, errs bytes.Buffer
		code := sink.Main(t.Context(), strings.Fields(c.args), &out, &errs)
		if code != c.code || !strings.Contains(out.String()+errs.String(), c.want) {
			t.Errorf("%q: exit status %d\n%s%s", c.args, code, &out, &errs)
		}
	}
}

func TestMainServes(t *testing.T) {
	port, err := testkit.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out, errs testkit.Locked
	code := make(chan int)
	go func() {
		code <- sink.Main(ctx, []string{
			"-c", "-u", "nobody", "-M", "1", "-r", "noop", "-f", "vrfy", "-Q", "rset", "--domain", "Soft.example=4xx@rcpt", "inet:" + addr, "128",
		}, &out, &errs)
	}()
	ready := func() error { return testkit.Greets(addr) }
	if err := testkit.Poll(ctx, 10e9, ready); err != nil {
		t.Fatal(err, errs.String())
	}
	dialogue.Run(t, addr, hello+"C: VRFY x\nC: NOOP\nC: RSET\nS: 550 ...\nS: 450 ...\nS: 421 ...\nS# closes\n")
	dialogue.Run(t, addr, hello+"C: MAIL FROM:<>\nC: RCPT TO:<x@soft.example>\nC: RSET\nS: 250 ...\nS: 450 ...\nS: 421 ...\nS# closes\n")
	dialogue.Run(t, addr, hello+one)
	if c := <-code; c != 0 || !strings.Contains(out.String(), "messages 1 ") {
		t.Errorf("exit status %d\n%s%s", c, out.String(), errs.String())
	}
}
