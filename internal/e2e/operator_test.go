package e2e_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"posthouse/internal/testkit"
	"posthouse/internal/testkit/program"
	"posthouse/internal/traffic/sink"
	"posthouse/internal/traffic/source"
)

// load sends messages in the background until stop is called; stop returns
// what came of it and fails the test on any refusal or lost connection.
func load(t *testing.T, cfg source.Config) (stop func() source.Result) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	type outcome struct {
		source.Result
		error
	}
	done := make(chan outcome, 1)
	go func() {
		r, err := source.Run(ctx, cfg)
		done <- outcome{r, err}
	}()
	t.Cleanup(cancel)
	return func() source.Result {
		t.Helper()
		cancel()
		o := <-done
		if o.error != nil || o.Refused > 0 || o.Lost > 0 {
			t.Errorf("%v: %v", o.error, o.Result)
		}
		return o.Result
	}
}

// TestOperatorActionsUnderLoad holds, releases, requeues and deletes chosen
// messages by their IDs while other mail flows; each is delivered once or, if
// deleted, not at all.
func TestOperatorActionsUnderLoad(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	flow := w.host(sink.Config{}, "flow.example")
	addr := w.address("dest.example")
	p := w.relay("minimal_backoff_time = 1h\nmaximal_backoff_time = 1h\n")
	stop := load(t, source.Config{Address: p.Addr(), Sessions: 3, Rate: 300, Persistent: true, From: "b@sender.example", To: "u%d@flow.example", Length: 500})
	ids := map[string]string{}
	for _, what := range []string{"kept", "held", "released", "deleted", "requeued"} {
		ids[what] = send(t, p, "a@sender.example", what+"@dest.example")
		p.WaitLog(t, ids[what]+`: .*status=deferred`)
	}
	contains(t, run(t, p, "postsuper", "-h", ids["held"], "-h", ids["released"]),
		"postsuper: "+ids["held"]+": placed on hold\n", "postsuper: Placed on hold: 2 messages\n")
	contains(t, run(t, p, "mailq"), ids["held"]+"!", ids["released"]+"!")
	contains(t, run(t, p, "postsuper", "-H", ids["released"]), "postsuper: "+ids["released"]+": released from hold\n", "postsuper: Released from hold: 1 message\n")
	contains(t, run(t, p, "postsuper", "-d", ids["deleted"]), "postsuper: "+ids["deleted"]+": removed\n", "postsuper: Deleted: 1 message\n")
	contains(t, run(t, p, "postsuper", "-r", ids["requeued"]), "postsuper: "+ids["requeued"]+": requeued\n", "postsuper: Requeued: 1 message\n")
	p.WaitLog(t, `: uid=\d+ from=<a@sender\.example> orig_id=`+ids["requeued"]+`$`)
	p.WaitLog(t, `: to=<requeued@dest\.example>, .*status=deferred`)

	h := listen(t, addr, sink.Config{})
	run(t, p, "postqueue", "-f")
	h.wait(t, 3)
	r := stop()
	flow.wait(t, int(r.Accepted))
	var got []string
	for _, d := range h.deliveries() {
		got = append(got, d.Recipients...)
	}
	slices.Sort(got)
	if fmt.Sprint(got) != "[kept@dest.example released@dest.example requeued@dest.example]" {
		t.Errorf("delivered %v", got)
	}
	err := testkit.Poll(t.Context(), patience, func() error {
		if out := run(t, p, "mailq"); !strings.HasSuffix(out, "in 1 Request.\n") {
			return fmt.Errorf("queue:\n%s", out)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if n := flow.Counters().Messages; n != r.Accepted {
		t.Errorf("%d of %d messages of the flow came", n, r.Accepted)
	}
	run(t, p, "postsuper", "-d", "ALL")
	waitEmpty(t, p)
}

// TestHoldAllAndReleaseAllUnderLoad: whatever moment an action meets a
// message at, nothing is lost and nothing comes twice.
func TestHoldAllAndReleaseAllUnderLoad(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	flow := w.host(sink.Config{Default: sink.Personality{}.With(sink.End, sink.Action{Delay: 2 * time.Millisecond})}, "flow.example")
	p := w.relay("")
	stop := load(t, source.Config{Address: p.Addr(), Sessions: 4, Rate: 500, Persistent: true, From: "b@sender.example", To: "u%d@flow.example", Length: 500})
	for i := range 6 {
		flow.wait(t, (i+1)*50)
		run(t, p, "postsuper", "-h", "ALL")
		run(t, p, "postsuper", "-r", "ALL", "deferred")
		run(t, p, "postsuper", "-H", "ALL")
		run(t, p, "postqueue", "-f")
	}
	r := stop()
	run(t, p, "postsuper", "-H", "ALL")
	run(t, p, "postqueue", "-f")
	flow.wait(t, int(r.Accepted))
	waitEmpty(t, p)
	once(t, flow, r.Accepted)
}

// once fails the test unless n messages came, all different.
func once(t *testing.T, h *host, n int64) {
	t.Helper()
	seen := map[string]int{}
	for _, d := range h.deliveries() {
		seen[d.MessageID]++
	}
	if got := h.Counters().Messages; got != n || int64(len(seen)) != n {
		t.Errorf("%d deliveries of %d different messages, want %d", got, len(seen), n)
	}
}

// client is one SMTP session driven by hand, a step at a time.
type client struct {
	t *testing.T
	net.Conn
	in *bufio.Reader
}

func dial(t *testing.T, addr string) *client {
	t.Helper()
	c, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(2 * patience)); err != nil {
		t.Fatal(err)
	}
	cl := &client{t: t, Conn: c, in: bufio.NewReader(c)}
	cl.expect("220")
	return cl
}

// say sends bytes, and expects a reply if there is one to expect.
func (c *client) say(text, want string) {
	c.t.Helper()
	if _, err := c.Write([]byte(text)); err != nil {
		c.t.Fatal(err)
	}
	if want != "" {
		c.expect(want)
	}
}

// expect reads one reply.
func (c *client) expect(want string) {
	c.t.Helper()
	for {
		line, err := c.in.ReadString('\n')
		if err != nil {
			c.t.Fatalf("want %q: %v", want, err)
		}
		if len(line) > 3 && line[3] == '-' {
			continue
		}
		if !strings.HasPrefix(line, want) {
			c.t.Fatalf("got %q, want %q", line, want)
		}
		return
	}
}

// begin goes as far as the first line of the body.
func (c *client) begin(to string) {
	c.t.Helper()
	c.say("EHLO client.example\r\n", "250")
	c.say("MAIL FROM:<a@sender.example>\r\n", "250")
	c.say("RCPT TO:<"+to+">\r\n", "250")
	c.say("DATA\r\n", "354")
	c.say("Subject: slow\r\n\r\nfirst half\r\n", "")
}

// TestReloadDisturbsNothing reloads in every way while a session is in the
// middle of DATA, a delivery waits for the answer to its final dot, and mail
// flows; and the new configuration counts afterwards.
func TestReloadDisturbsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	flow := w.host(sink.Config{}, "flow.example")
	slow := w.host(sink.Config{Default: sink.Personality{}.With(sink.End, sink.Action{Delay: 2 * time.Second})}, "slow.example")
	p := w.relay("")
	send(t, p, "a@sender.example", "x@slow.example") // past its dot during all of this
	stop := load(t, source.Config{Address: p.Addr(), Sessions: 3, Rate: 300, Persistent: true, From: "b@sender.example", To: "u%d@flow.example", Length: 500})
	c := dial(t, p.Addr())
	c.begin("half@flow.example")
	flow.wait(t, 20)

	if err := p.Reload(); err != nil {
		t.Fatal(err)
	}
	p.WaitLog(t, `postfix/master\[\d+\]: reload -- version`)
	run(t, p, "reload")
	contains(t, run(t, p, "postfix", "reload"), "postfix/postfix-script: refreshing the Postfix mail system\n")
	if err := p.WriteMain(w.options("message_size_limit = 77777\nsmtpd_banner = $myhostname changed\n").Main); err != nil {
		t.Fatal(err)
	}
	run(t, p, "postfix", "reload")
	n := flow.Counters().Messages
	flow.wait(t, int(n)+20)

	c.say("second half\r\n.\r\n", "250 2.0.0 Ok: queued as")
	c.say("QUIT\r\n", "221")
	late := dial(t, p.Addr())
	late.say("EHLO client.example\r\n", "250")
	late.say("MAIL FROM:<a@sender.example> SIZE=77778\r\n", "552")
	late.say("QUIT\r\n", "221")
	r := stop()
	slow.wait(t, 1)
	flow.wait(t, int(r.Accepted)+1)
	waitEmpty(t, p)
	if n := flow.Counters().Messages; n != r.Accepted+1 {
		t.Errorf("%d messages, want %d", n, r.Accepted+1)
	}
	if n := slow.Counters().Messages; n != 1 {
		t.Errorf("%d messages to the slow host: the reload broke a delivery", n)
	}
	if strings.Contains(p.Log.Text(), "status=deferred") {
		t.Error("a delivery was deferred")
	}
}

// TestBadConfigurationIsNotLoaded: a reload that cannot be used says why, in
// the log or at the terminal, and changes nothing.
func TestBadConfigurationIsNotLoaded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.host(sink.Config{}, "dest.example")
	p := w.relay("")
	pid := p.Pid()
	if err := p.WriteMain(w.options("maximal_queue_lifetime = soon\n").Main); err != nil {
		t.Fatal(err)
	}
	contains(t, fails(t, p, 1, "reload"), "main.cf", "maximal_queue_lifetime = soon")
	contains(t, fails(t, p, 1, "postfix", "reload"), "maximal_queue_lifetime = soon")
	if err := p.Reload(); err != nil {
		t.Fatal(err)
	}
	p.WaitLog(t, `maximal_queue_lifetime = soon`)
	send(t, p, "a@sender.example", "x@dest.example")
	h.wait(t, 1)
	if p.Pid() != pid {
		t.Error("another process")
	}
	// A master.cf that wants a port that is taken is refused whole.
	if err := p.WriteMain(w.options("").Main); err != nil {
		t.Fatal(err)
	}
	if err := p.WriteMaster(master + h.addr + " inet n - n - - smtpd\n"); err != nil {
		t.Fatal(err)
	}
	contains(t, fails(t, p, 1, "reload"), h.addr, "address already in use")
	send(t, p, "a@sender.example", "y@dest.example")
	h.wait(t, 2)
}

// TestReloadMovesListeners: a port that master.cf no longer has is closed, a
// new one opened, and a session on the old one may finish.
func TestReloadMovesListeners(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.host(sink.Config{}, "dest.example")
	p := w.relay("")
	c := dial(t, p.Addr())
	c.begin("x@dest.example")
	port, err := testkit.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	moved := fmt.Sprintf("127.0.0.1:%d", port)
	if err := p.WriteMaster(strings.Replace(master, "127.0.0.1:$PORT", moved, 1)); err != nil {
		t.Fatal(err)
	}
	run(t, p, "reload")
	if err := testkit.Greets(moved); err != nil {
		t.Error(err)
	}
	c.say("second half\r\n.\r\n", "250 2.0.0 Ok: queued as")
	h.wait(t, 1)
	err = testkit.Poll(t.Context(), patience, func() error {
		if old, err := net.DialTimeout("tcp", p.Addr(), patience); err == nil {
			old.Close()
			return fmt.Errorf("%s is still open", p.Addr())
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// TestLifeThroughCommands: postfix start, status, stop.
func TestLifeThroughCommands(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.host(sink.Config{}, "dest.example")
	p := program.New(t, w.options(""))
	contains(t, fails(t, p, 1, "postfix", "status"), "postfix/postfix-script: the Postfix mail system is not running\n")
	contains(t, fails(t, p, 6, "status"), "no server answers", "posthouse serve")
	contains(t, fails(t, p, 6, "reload"), "no server answers")
	if out := fails(t, p, 0, "mailq"); !strings.Contains(out, "Mail queue is empty") && !strings.Contains(out, "mail system is down") {
		t.Errorf("mailq says %q", out)
	}
	t.Cleanup(func() {
		// Should the test end early: this server is not the harness's child.
		_, _ = p.Run(context.Background(), "postfix", "stop")
	})
	contains(t, run(t, p, "postfix", "start"), "postfix/postfix-script: starting the Postfix mail system\n")
	if err := testkit.Greets(p.Addr()); err != nil {
		t.Fatal(err)
	}
	contains(t, run(t, p, "postfix", "status"), "the Postfix mail system is running: PID: ")
	contains(t, fails(t, p, 1, "postfix", "start"), "the Postfix mail system is already running")
	pid, err := os.ReadFile(filepath.Join(p.QueueDir(), "pid", "master.pid"))
	if err != nil || strings.TrimSpace(string(pid)) == "" {
		t.Errorf("pid file %q, %v", pid, err)
	}
	send(t, p, "a@sender.example", "x@dest.example")
	p.WaitLog(t, "status=sent")
	contains(t, run(t, p, "postfix", "stop"), "stopping the Postfix mail system\n")
	if err := testkit.Greets(p.Addr()); err == nil {
		t.Error("the port is still open")
	}
	contains(t, fails(t, p, 1, "postfix", "stop"), "the Postfix mail system is not running")
}
