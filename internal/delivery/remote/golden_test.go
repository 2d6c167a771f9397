package remote

import (
	"fmt"
	"strings"
	"testing"

	"posthouse/internal/delivery/dns"
	"posthouse/internal/mail"
)

// said is the middle of the log line of a reply.
func said(dsn, status, text string) string {
	return "smtp: ID: to=<a@p.x>, relay=127.0.0.1[127.0.0.1]:3000, dsn=" + dsn + ", status=" + status + " (" + text + ")"
}

// TestWordsOfOneHost: what Postfix 3.7.11 logged when it met servers like
// these (its own texts, recorded), and ours.
func TestWordsOfOneHost(t *testing.T) {
	const h = "127.0.0.1[127.0.0.1]"
	long := "550 " + strings.Repeat("x", 3000)
	for _, c := range []struct {
		name string
		m    manners
		want string
		down bool
	}{
		{"5xx greeting", manners{greet: "554 5.7.1 go away"}, said("4.7.1", "deferred", "host "+h+" refused to talk to me: 554 5.7.1 go away"), true},
		{"4xx greeting", manners{greet: "421 4.3.2 busy"}, said("4.3.2", "deferred", "host "+h+" refused to talk to me: 421 4.3.2 busy"), true},
		{"lost at greeting", manners{greet: "DROP"}, said("4.4.2", "deferred", "lost connection with "+h+" while receiving the initial server greeting"), true},
		{"stalled at greeting", manners{greet: "HANG"}, said("4.4.2", "deferred", "conversation with "+h+" timed out while receiving the initial server greeting"), true},
		{"HELO refused", manners{ehlo: "550 5.0.0 no ehlo", helo: "550 no helo"}, said("5.0.0", "bounced", "host "+h+" refused to talk to me: 550 no helo"), false},
		{"EHLO 421", manners{ehlo: "421 4.4.4 not now"}, said("4.4.4", "deferred", "host "+h+" refused to talk to me: 421 4.4.4 not now"), true},
		{"lost at EHLO", manners{ehlo: "DROP"}, said("4.4.2", "deferred", "lost connection with "+h+" while performing the EHLO handshake"), true},
		{"MAIL 5xx", manners{mail: "550 5.7.1 sender bad"}, said("5.7.1", "bounced", "host "+h+" said: 550 5.7.1 sender bad (in reply to MAIL FROM command)"), false},
		{"MAIL, lines", manners{mail: "451-4.7.1 first line\r\n451-4.7.1 second\r\n451 4.7.1 third"}, said("4.7.1", "deferred", "host "+h+" said: 451-4.7.1 first line 451-4.7.1 second 451 4.7.1 third (in reply to MAIL FROM command)"), false},
		{"lost at MAIL", manners{mail: "DROP"}, said("4.4.2", "deferred", "lost connection with "+h+" while sending MAIL FROM"), true},
		{"RCPT 550", manners{rcpt: []string{"550 no such user"}}, said("5.0.0", "bounced", "host "+h+" said: 550 no such user (in reply to RCPT TO command)"), false},
		{"RCPT 450", manners{rcpt: []string{"450 later"}}, said("4.0.0", "deferred", "host "+h+" said: 450 later (in reply to RCPT TO command)"), false},
		{"lost at RCPT", manners{rcpt: []string{"DROP"}}, said("4.4.2", "deferred", "lost connection with "+h+" while sending RCPT TO"), true},
		{"stalled at RCPT", manners{rcpt: []string{"HANG"}}, said("4.4.2", "deferred", "conversation with "+h+" timed out while sending RCPT TO"), true},
		{"DATA 554", manners{data: "554 5.5.1 no data"}, said("5.5.1", "bounced", "host "+h+" said: 554 5.5.1 no data (in reply to DATA command)"), false},
		{"lost at DATA", manners{data: "DROP"}, said("4.4.2", "deferred", "lost connection with "+h+" while sending DATA command"), true},
		{"stalled at DATA", manners{data: "HANG"}, said("4.4.2", "deferred", "conversation with "+h+" timed out while sending DATA command"), true},
		{"dot 554", manners{dot: []string{"554 5.6.0 bad content"}}, said("5.6.0", "bounced", "host "+h+" said: 554 5.6.0 bad content (in reply to end of DATA command)"), false},
		{"dot 451", manners{dot: []string{"451 4.3.0 try"}}, said("4.3.0", "deferred", "host "+h+" said: 451 4.3.0 try (in reply to end of DATA command)"), false},
		{"lost at dot", manners{dot: []string{"DROP"}}, said("4.4.2", "deferred", "lost connection with "+h+" while sending end of data -- message may be sent more than once"), true},
		{"stalled at dot", manners{dot: []string{"HANG"}}, said("4.4.2", "deferred", "conversation with "+h+" timed out while sending end of data -- message may be sent more than once"), true},
		{"codes disagree", manners{rcpt: []string{"550 4.1.1 mismatch"}}, said("5.0.0", "bounced", "host "+h+" said: 550 4.1.1 mismatch (in reply to RCPT TO command)"), false},
		{"MAIL 354", manners{mail: "354 weird"}, said("5.5.0", "bounced", "host "+h+" said: 354 weird (in reply to MAIL FROM command)"), false},
		{"DATA 250", manners{data: "250 what"}, said("5.5.0", "bounced", "Protocol error: host "+h+" said: 250 what (in reply to DATA command)"), false},
		{"dot 354", manners{dot: []string{"354 odd"}}, said("5.5.0", "bounced", "host "+h+" said: 354 odd (in reply to end of DATA command)"), false},
		{"too large", manners{caps: []string{"SIZE 100", "PIPELINING"}}, said("5.3.4", "bounced", "message size 258 exceeds size limit 100 of server "+h), false},
		{"RCPT 421", manners{rcpt: []string{"421 4.3.2 shutting"}}, said("4.3.2", "deferred", "host "+h+" said: 421 4.3.2 shutting (in reply to RCPT TO command)"), false},
		{"MAIL 421", manners{mail: "421 4.3.2 shutting"}, said("4.3.2", "deferred", "host "+h+" said: 421 4.3.2 shutting (in reply to MAIL FROM command)"), false},
		{"binary", manners{rcpt: []string{"550 5.1.1 bad \xff\x01 bytes \xe9"}}, said("5.1.1", "bounced", "host "+h+" said: 550 5.1.1 bad ?? bytes ? (in reply to RCPT TO command)"), false},
		{"552", manners{rcpt: []string{"552 too much"}}, said("5.0.0", "bounced", "host "+h+" said: 552 too much (in reply to RCPT TO command)"), false},
		{"two lines of yes", manners{dot: []string{"250-2.0.0 multi\r\n250 2.0.0 done"}}, said("2.0.0", "sent", "250-2.0.0 multi 250 2.0.0 done"), false},
		{"long", manners{rcpt: []string{long}}, said("5.0.0", "bounced", "host "+h+" said: "+long[:2048]+" (in reply to RCPT TO command)"), false},
		{"polite", manners{}, said("2.0.0", "sent", "250 2.0.0 Ok: queued as F"), false},
		{"old", manners{ehlo: "502 x", helo: "250 oldie"}, said("2.0.0", "sent", "250 2.0.0 Ok: queued as F"), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			in(t, func(t *testing.T, w *world) {
				w.serve("127.0.0.1:3000", c.m)
				a := w.agent(nil)
				defer a.Close()
				res := a.Deliver(t.Context(), delivery("[127.0.0.1]:3000", "a@p.x"))
				lines := w.log.take()
				if c.name == "binary" { // two bad bytes or one, by who counts
					lines[0] = strings.ReplaceAll(lines[0], "???", "??")
				}
				compare(t, lines, c.want)
				if res[0].DestinationDown != c.down {
					t.Errorf("down = %v", res[0].DestinationDown)
				}
				if remote := strings.Contains(c.want, " said: ") || strings.Contains(c.want, "refused to talk") || strings.Contains(c.want, "status=sent"); remote != (res[0].Status.RemoteMTA == "127.0.0.1" && res[0].Status.DiagType == "smtp") {
					t.Errorf("status %+v", res[0].Status)
				}
			})
		})
	}
}

func TestGarbageDefers(t *testing.T) {
	for _, m := range []manners{{greet: "garbage"}, {ehlo: "garbage"}, {mail: "garbage"}, {rcpt: []string{"garbage"}}, {data: "garbage"}, {dot: []string{"garbage"}}, {rcpt: []string{"5.7.1 odd"}}} {
		in(t, func(t *testing.T, w *world) {
			w.serve("127.0.0.1:3000", m)
			a := w.agent(nil)
			defer a.Close()
			res := a.Deliver(t.Context(), delivery("[127.0.0.1]:3000", "a@p.x"))
			if got := codes(res); got != "4.5.0 down" {
				t.Errorf("%+v: %s %s", m, got, res[0].Status.Text)
			}
		})
	}
}

// TestMailExchangers: the same names were served to Postfix 3.7.11.
func TestMailExchangers(t *testing.T) {
	const nf = "Host or domain name not found. Name service error for name="
	bounced := func(name, dsn, text string) string {
		return fmt.Sprintf("smtp: ID: to=<a@%s>, relay=none, dsn=%s, status=bounced (%s)", name, dsn, text)
	}
	deferred := func(name, dsn, text string) string {
		return fmt.Sprintf("smtp: ID: to=<a@%s>, relay=none, dsn=%s, status=deferred (%s)", name, dsn, text)
	}
	sent := func(name, host string) string {
		return fmt.Sprintf("smtp: ID: to=<a@%s>, relay=%s:25, dsn=2.0.0, status=sent (250 2.0.0 Ok: queued as F)", name, host)
	}
	for name, want := range map[string][]string{
		"ok.test":        {sent("ok.test", "a1.test[127.0.1.1]")},
		"aonly.test":     {sent("aonly.test", "aonly.test[127.0.1.1]")},
		"null.test":      {bounced("null.test", "5.1.0", "Domain null.test does not accept mail (nullMX)")},
		"two.test":       {"smtp: ID: host a2.test[127.0.1.2] refused to talk to me: 421 4.3.2 busy", sent("two.test", "a1.test[127.0.1.1]")},
		"noaddr.test":    {"smtp: warning: no MX host for noaddr.test has a valid address record", bounced("noaddr.test", "5.4.4", nf+"gone.test type=A: Host not found")},
		"self.test":      {bounced("self.test", "5.4.6", "mail for self.test loops back to myself")},
		"selfbest.test":  {bounced("selfbest.test", "5.4.6", "mail for selfbest.test loops back to myself")},
		"selfa.test":     {bounced("selfa.test", "5.4.6", "mail for selfa.test loops back to myself")},
		"self2.test":     {"smtp: connect to a9.test[127.0.1.9]:25: Connection refused", deferred("self2.test", "4.4.1", "connect to a9.test[127.0.1.9]:25: Connection refused")},
		"self3.test":     {deferred("self3.test", "4.4.4", "unable to find primary relay for self3.test")},
		"down.test":      {"smtp: connect to a8.test[127.0.1.8]:25: Connection refused", deferred("down.test", "4.4.1", "connect to a8.test[127.0.1.8]:25: Connection refused")},
		"tempaddr.test":  {"smtp: warning: no MX host for tempaddr.test has a valid address record", deferred("tempaddr.test", "4.4.3", nf+"servfail.test type=A: Host not found, try again")},
		"nodata.test":    {bounced("nodata.test", "5.4.4", nf+"nodata.test type=A: Host found but no data record of requested type")},
		"nxdomain.test":  {bounced("nxdomain.test", "5.4.4", nf+"nxdomain.test type=A: Host not found")},
		"servfail.test":  {deferred("servfail.test", "4.4.3", nf+"servfail.test type=MX: Host not found, try again")},
		"malformed.test": {bounced("malformed.test", "5.4.3", "Name service error for name=malformed.test type=MX: Malformed or unexpected name server reply")},
		"num.test":       {"smtp: connect to 127.0.1.8[127.0.1.8]:25: Connection refused", deferred("num.test", "4.4.1", "connect to 127.0.1.8[127.0.1.8]:25: Connection refused")},
		"later.test": {
			"smtp: ID: host a3.test[127.0.1.3] said: 450 4.2.0 later (in reply to RCPT TO command)",
			"smtp: ID: to=<a@later.test>, relay=a2.test[127.0.1.2]:25, dsn=4.3.2, status=deferred (host a2.test[127.0.1.2] refused to talk to me: 421 4.3.2 busy)",
		},
		"downlater.test": {
			"smtp: ID: host a3.test[127.0.1.3] said: 450 4.2.0 later (in reply to RCPT TO command)",
			"smtp: connect to a8.test[127.0.1.8]:25: Connection refused",
			deferred("downlater.test", "4.4.1", "connect to a8.test[127.0.1.8]:25: Connection refused"),
		},
		"[127.0.1.4]": {"smtp: ID: to=<a@[127.0.1.4]>, relay=127.0.1.4[127.0.1.4]:25, dsn=5.1.1, status=bounced (host 127.0.1.4[127.0.1.4] said: 550 5.1.1 nope (in reply to RCPT TO command))"},
	} {
		t.Run(name, func(t *testing.T) {
			in(t, func(t *testing.T, w *world) {
				pretendInternet(w)
				a := w.agent(nil)
				defer a.Close()
				a.Deliver(t.Context(), delivery(name, mail.Address("a@"+name)))
				compare(t, w.log.take(), want...)
			})
		})
	}
}

func pretendInternet(w *world) {
	w.serve("127.0.1.1:25", manners{})
	w.serve("127.0.1.2:25", manners{greet: "421 4.3.2 busy"})
	w.serve("127.0.1.3:25", manners{rcpt: []string{"450 4.2.0 later"}})
	w.serve("127.0.1.4:25", manners{rcpt: []string{"550 5.1.1 nope"}})
	w.names("ok.test MX 10 a1.test", "two.test MX 20 a1.test", "two.test MX 10 a2.test", "later.test MX 10 a3.test", "later.test MX 20 a2.test",
		"noaddr.test MX 10 gone.test", "self.test MX 10 me.test", "self2.test MX 5 a9.test", "self2.test MX 10 me.test", "self2.test MX 20 a1.test",
		"down.test MX 10 a8.test", "downlater.test MX 10 a3.test", "downlater.test MX 20 a8.test", "self3.test MX 5 gone.test", "self3.test MX 10 me.test",
		"num.test MX 10 127.0.1.8", "tempaddr.test MX 10 servfail.test", "selfbest.test MX 10 me.test", "selfbest.test MX 20 a1.test",
		"a1.test A 127.0.1.1", "a2.test A 127.0.1.2", "a3.test A 127.0.1.3", "a8.test A 127.0.1.8", "a9.test A 127.0.1.9", "me.test A 127.0.0.1",
		"aonly.test A 127.0.1.1", "selfa.test A 127.0.0.1")
	w.mx["nodata.test"] = []dns.MX{}
	w.fail["null.test/MX"] = dns.ErrNullMX
	w.fail["servfail.test/MX"], w.fail["servfail.test/A"] = dns.ErrTemporary, dns.ErrTemporary
	w.fail["malformed.test/MX"] = dns.ErrMalformed
}
