package e2e_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"posthouse/internal/testkit/dialogue"
	"posthouse/internal/traffic/sink"
)

func TestDeliversByMX(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one, two := w.host(sink.Config{}, "one.example"), w.host(sink.Config{}, "two.example")
	p := w.relay("")
	id := send(t, p, "a@sender.example", "x@one.example", "y@one.example", "z@two.example")
	first, second := one.wait(t, 1)[0], two.wait(t, 1)[0]
	if fmt.Sprint(first.Recipients) != "[x@one.example y@one.example]" || fmt.Sprint(second.Recipients) != "[z@two.example]" {
		t.Errorf("recipients %v, %v", first.Recipients, second.Recipients)
	}
	for _, d := range []sink.Delivery{first, second} {
		if d.Sender != "a@sender.example" || d.Helo != "mx.test.example" || d.BareNL {
			t.Errorf("%+v", d)
		}
		contains(t, string(d.Content), "Received: from client.example (", "by mx.test.example (Postfix) with ESMTP id "+id, "\r\n\r\nA line of text.\r\n")
	}
	p.WaitLog(t, id+": removed$")
	for _, to := range []string{"x@one", "y@one", "z@two"} {
		p.WaitLog(t, id+`: to=<`+to+`\.example>, relay=mx\d\.example\[127\.0\.0\.\d\]:\d+, delay=[\d.]+, delays=[\d./]+, dsn=2\.0\.0, status=sent \(250 2\.0\.0 Ok\)$`)
	}
	waitEmpty(t, p)
}

func TestSecondMXTakesOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.address("dest.example") // nobody there
	w.dns.MX("dest.example", 20, fmt.Sprintf("mx%d.example", w.next))
	h := w.host(sink.Config{})
	p := w.relay("")
	send(t, p, "a@sender.example", "x@dest.example")
	h.wait(t, 1)
	p.WaitLog(t, `connect to mx2\.example\[127\.0\.0\.2\]:\d+: Connection refused`)
	p.WaitLog(t, `relay=mx3\.example\[127\.0\.0\.3\]:\d+, .*status=sent`)
}

func TestGreylistedThenDelivered(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.host(sink.Config{Default: sink.Personality{Greylist: 1}}, "dest.example")
	p := w.relay("")
	id := send(t, p, "a@sender.example", "x@dest.example")
	p.WaitLog(t, id+`: to=<x@dest\.example>, .*dsn=4\.2\.0, status=deferred \(host mx2\.example\[127\.0\.0\.2\] said: 450 4\.2\.0 Greylisted, try again later \(in reply to RCPT TO command\)\)$`)
	h.wait(t, 1)
	p.WaitLog(t, id+": removed$")
	if n := len(h.deliveries()); n != 1 {
		t.Errorf("%d deliveries", n)
	}
}

// TestRefusedIsReturned: the notice has the three parts of RFC 3462 and goes
// to the sender from the null sender.
func TestRefusedIsReturned(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	back := w.host(sink.Config{}, "sender.example")
	bad := sink.Personality{}.With(sink.Rcpt, sink.Action{Kind: sink.Refuse, Reply: "550 5.1.1 No such user"})
	w.host(sink.Config{Default: bad}, "dest.example")
	p := w.relay("")
	id := send(t, p, "a@sender.example", "x@dest.example")
	d := back.wait(t, 1)[0]
	if d.Sender != "" || fmt.Sprint(d.Recipients) != "[a@sender.example]" {
		t.Errorf("from <%s> to %v", d.Sender, d.Recipients)
	}
	text := string(d.Content)
	contains(t, text,
		"From: Mail Delivery System <MAILER-DAEMON@mx.test.example>\r\n", "Subject: Undelivered Mail Returned to Sender\r\n",
		"Auto-Submitted: auto-replied\r\n", "Content-Type: multipart/report; report-type=delivery-status;",
		"Content-Description: Notification\r\n", "This is the mail system at host mx.test.example.",
		"<x@dest.example>: host mx3.example[127.0.0.3] said: 550 5.1.1 No such user",
		"Content-Type: message/delivery-status\r\n", "Reporting-MTA: dns; mx.test.example\r\n", "X-Postfix-Queue-ID: "+id+"\r\n",
		"X-Postfix-Sender: rfc822; a@sender.example\r\n", "Final-Recipient: rfc822; x@dest.example\r\n", "Action: failed\r\n", "Status: 5.1.1\r\n",
		"Remote-MTA: dns; mx3.example\r\n", "Diagnostic-Code: smtp; 550 5.1.1 No such user\r\n",
		"Content-Description: Undelivered Message\r\n", "Content-Type: message/rfc822\r\n", "Subject: test\r\n", "A line of text.\r\n")
	m := p.WaitLog(t, id+`: sender non-delivery notification: (\w+)$`)
	p.WaitLog(t, m[1]+`: from=<>, size=\d+, nrcpt=1 \(queue active\)$`)
	p.WaitLog(t, m[1]+`: removed$`)
	waitEmpty(t, p)
}

// TestNoticeThatCannotBeReturned: what is refused from the null sender does
// not come back once more.
func TestNoticeThatCannotBeReturned(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	bad := sink.Personality{}.With(sink.Rcpt, sink.Action{Kind: sink.Refuse, Reply: "550 5.1.1 No such user"})
	w.host(sink.Config{Default: bad}, "dest.example", "sender.example")
	p := w.relay("notify_classes =\n")
	id := send(t, p, "a@sender.example", "x@dest.example")
	m := p.WaitLog(t, id+`: sender non-delivery notification: (\w+)$`)
	p.WaitLog(t, m[1]+`: to=<a@sender\.example>, .*status=bounced`)
	p.WaitLog(t, m[1]+`: removed$`)
	waitEmpty(t, p)
}

func TestNextHopDownThenUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	addr := w.address("dest.example")
	p := w.relay("")
	id := send(t, p, "a@sender.example", "x@dest.example")
	p.WaitLog(t, id+`: to=<x@dest\.example>, relay=none, delay=[\d.]+, delays=[\d./]+, dsn=4\.4\.1, status=deferred \(connect to mx2\.example\[127\.0\.0\.2\]:\d+: Connection refused\)$`)
	contains(t, run(t, p, "mailq"), id, "(connect to mx2.example[127.0.0.2]:", "Connection refused)", "x@dest.example")
	h := listen(t, addr, sink.Config{})
	h.wait(t, 1)
	p.WaitLog(t, id+": removed$")
}

// TestDeadDestinationSuspended: after enough failures of the host itself mail
// waits without an attempt, a probe finds the host up again, and all goes out.
// Meanwhile mail for others is not held up.
func TestDeadDestinationSuspended(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	// The host thinks before it turns a client away, so that failures meet:
	// those of a destination with nothing else to do are forgotten.
	away := sink.Personality{}.With(sink.Connect, sink.Action{Kind: sink.HangUp, Reply: "421 4.3.2 Closed for lunch", Delay: 300 * time.Millisecond})
	h := w.host(sink.Config{Default: away}, "dest.example")
	other := w.host(sink.Config{}, "other.example")
	p := w.relay("minimal_backoff_time = 2s\nmaximal_backoff_time = 2s\n")
	for i := range 12 {
		send(t, p, "a@sender.example", fmt.Sprintf("x%d@dest.example", i))
	}
	p.WaitLog(t, `relay=none, .*status=deferred \(delivery temporarily suspended: host mx2\.example\[127\.0\.0\.2\] refused to talk to me: 421 4\.3\.2 Closed for lunch\)$`)
	send(t, p, "a@sender.example", "y@other.example")
	other.wait(t, 1)
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	h = listen(t, h.addr, sink.Config{})
	h.wait(t, 12)
	waitEmpty(t, p)
	if n := h.Counters().Messages; n != 12 {
		t.Errorf("%d messages came", n)
	}
}

func TestSuccessNotice(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	back := w.host(sink.Config{}, "sender.example")
	w.host(sink.Config{Extensions: sink.Pipelining | sink.EnhancedCodes}, "dest.example") // no DSN there: we report
	keen := w.host(sink.Config{}, "keen.example")
	p := w.relay("")
	send(t, p, "a@sender.example", "x@dest.example NOTIFY=SUCCESS ORCPT=rfc822;orig@dest.example")
	text := string(back.wait(t, 1)[0].Content)
	contains(t, text, "Subject: Successful Mail Delivery Report\r\n", "Original-Recipient: rfc822;orig@dest.example\r\n",
		"Final-Recipient: rfc822; x@dest.example\r\n", "Action: relayed\r\n", "Status: 2.0.0\r\n")
	send(t, p, "a@sender.example", "y@keen.example NOTIFY=SUCCESS")
	if d := keen.wait(t, 1)[0]; !strings.Contains(d.Rcpts[0], "NOTIFY=SUCCESS") {
		t.Errorf("passed on %q", d.Rcpts)
	}
	waitEmpty(t, p)
	if n := len(back.deliveries()); n != 1 {
		t.Errorf("%d notices", n)
	}
}

func TestNeverNotice(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	back := w.host(sink.Config{}, "sender.example")
	bad := sink.Personality{}.With(sink.Rcpt, sink.Action{Kind: sink.Refuse, Reply: "550 5.1.1 No such user"})
	w.host(sink.Config{Default: bad}, "dest.example")
	p := w.relay("")
	id := send(t, p, "a@sender.example", "x@dest.example NOTIFY=NEVER")
	p.WaitLog(t, id+`: to=<x@dest\.example>, .*status=bounced`)
	p.WaitLog(t, id+": removed$")
	waitEmpty(t, p)
	if d := back.deliveries(); len(d) != 0 {
		t.Errorf("%d notices", len(d))
	}
}

func TestDelayWarningThenExpiry(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	back := w.host(sink.Config{}, "sender.example")
	w.address("dest.example")
	p := w.relay("delay_warning_time = 1s\nmaximal_queue_lifetime = 4s\nbounce_queue_lifetime = 4s\n")
	id := send(t, p, "a@sender.example", "x@dest.example")
	got := back.wait(t, 2)
	contains(t, string(got[0].Content), "Subject: Delayed Mail (still being retried)\r\n", "THIS IS A WARNING ONLY.", "Action: delayed\r\n", "Status: 4.4.1\r\n", "Will-Retry-Until: ")
	contains(t, string(got[1].Content), "Subject: Undelivered Mail Returned to Sender\r\n", "Action: failed\r\n", "Connection refused")
	p.WaitLog(t, id+`: sender delay notification: \w+$`)
	p.WaitLog(t, id+`: from=<a@sender\.example>, status=expired, returned to sender$`)
	p.WaitLog(t, id+`: removed$`)
	waitEmpty(t, p)
	if n := len(back.deliveries()); n != 2 {
		t.Errorf("%d notices", n)
	}
}

// TestStopAndStartKeepTheQueue: what waits is there afterwards, unchanged and
// with its reason, and is delivered.
func TestStopAndStartKeepTheQueue(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	addr := w.address("dest.example")
	p := w.relay("minimal_backoff_time = 1h\nmaximal_backoff_time = 1h\n")
	var ids []string
	for i := range 5 {
		ids = append(ids, send(t, p, "a@sender.example", fmt.Sprintf("x%d@dest.example", i)))
	}
	for _, id := range ids {
		p.WaitLog(t, id+`: .*status=deferred`)
	}
	run(t, p, "postsuper", "-h", ids[0])
	before := run(t, p, "mailq")
	if err := p.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := run(t, p, "mailq"); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	h := listen(t, addr, sink.Config{})
	run(t, p, "postqueue", "-f")
	h.wait(t, 4)
	run(t, p, "postsuper", "-H", ids[0]) // keeps the time of its next attempt
	run(t, p, "postqueue", "-i", ids[0])
	h.wait(t, 5)
	waitEmpty(t, p)
}

// TestForeignClientMayNotRelay: the default relays for mynetworks alone.
func TestForeignClientMayNotRelay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.relay("mynetworks = 192.0.2.0/24\nrelay_domains = ours.example\n")
	h := w.host(sink.Config{}, "ours.example")
	dialogue.Run(t, p.Addr(), `
		S: 220 mx.test.example ESMTP ...
		C: EHLO client.example
		S: ...
		C: MAIL FROM:<a@sender.example>
		S: 250 2.1.0 Ok
		C: RCPT TO:<x@dest.example>
		S: 554 5.7.1 <x@dest.example>: Relay access denied
		C: RCPT TO:<x@ours.example>
		S: 250 2.1.5 Ok
		C: DATA
		S: 354 End data with <CR><LF>.<CR><LF>
		C: Subject: hello
		C: .
		S: 250 2.0.0 Ok: queued as ...
		C: QUIT
		S: 221 2.0.0 Bye
		S# closes
	`)
	if d := h.wait(t, 1)[0]; fmt.Sprint(d.Recipients) != "[x@ours.example]" {
		t.Errorf("%v", d.Recipients)
	}
}
