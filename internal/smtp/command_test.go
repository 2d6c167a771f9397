package smtp

import (
	"testing"

	"posthouse/internal/mail"
)

var allArgs = ArgOptions{EightBitMIME: true, SMTPUTF8: true, DSN: true}

func TestParseCommand(t *testing.T) {
	for _, c := range []struct {
		in         string
		verb       Verb
		word, args string
	}{
		{"QUIT", QUIT, "QUIT", ""},
		{" quit ", QUIT, "quit", ""},
		{"mAiL FROM:<a@b>", MAIL, "mAiL", "FROM:<a@b>"},
		{"RCPT\tTO:<a@b>", RCPT, "RCPT", "TO:<a@b>"},
		{"BDAT 10 LAST", BDAT, "BDAT", "10 LAST"},
		{"STARTTLS", STARTTLS, "STARTTLS", ""},
		{"XFORWARD A=b", XFORWARD, "XFORWARD", "A=b"},
		{"MAILX", VerbUnknown, "MAILX", ""},
		{"Subject: x", VerbUnknown, "Subject:", "x"},
		{"", VerbUnknown, "", ""},
		{" \t ", VerbUnknown, "", ""},
		{"QUI\x00", VerbUnknown, "QUI\x00", ""},
	} {
		v, w, a := ParseCommand([]byte(c.in))
		if v != c.verb || string(w) != c.word || string(a) != c.args {
			t.Errorf("ParseCommand(%q) = %v, %q, %q", c.in, v, w, a)
		}
	}
	for v := range VerbUnknown {
		if got, _, _ := ParseCommand([]byte(v.String())); got != v {
			t.Errorf("%v reads as %v", v, got)
		}
	}
	if VerbUnknown.String() != "UNKNOWN" || NumVerbs != 17 {
		t.Error("the last verb is not UNKNOWN")
	}
}

func TestLooksLikeHeader(t *testing.T) {
	for in, want := range map[string]bool{"Subject:": true, "X-Foo:bar": true, ":": false, "FOO": false, "a\x01b:": false, "": false} {
		if LooksLikeHeader([]byte(in)) != want {
			t.Errorf("LooksLikeHeader(%q) = %v", in, !want)
		}
	}
}

func TestParseMail(t *testing.T) {
	for _, c := range []struct {
		in   string
		want MailArgs
		err  string
	}{
		{"FROM:<a@b.c>", MailArgs{From: "a@b.c"}, ""},
		{"from: <a@b.c> size=100 body=8bitmime", MailArgs{From: "a@b.c", Size: 100, Body8Bit: true}, ""},
		{"FROM:<> SMTPUTF8 RET=hdrs ENVID=a+2Bb", MailArgs{SMTPUTF8: true, Ret: mail.RetHeaders, EnvelopeID: "a+b"}, ""},
		{"FROM:a@b.c\tSIZE=0  BODY=7BIT ", MailArgs{From: "a@b.c"}, ""},
		{"FROM:<a@b.c> AUTH=<>", MailArgs{From: "a@b.c", Auth: "<>"}, ""},
		{"FROM:<a@b.c> AUTH=e+3Dmc2@example.com", MailArgs{From: "a@b.c", Auth: "e=mc2@example.com"}, ""},
		{"FROM:<ä@b.c> SMTPUTF8", MailArgs{From: "ä@b.c", SMTPUTF8: true}, ""},
		{"FROM:<ä@b.c>", MailArgs{}, "553 5.6.7 Must declare SMTPUTF8 to send unicode address"},
		{"FROM:<a@b.c> FOO=BAR", MailArgs{}, "555 5.5.4 Unsupported option: FOO=BAR"},
		{"FROM:<a@b.c> (comment)", MailArgs{}, "555 5.5.4 Unsupported option: (comment)"},
		{`FROM:"Joe" <a@b.c>`, MailArgs{}, "555 5.5.4 Unsupported option: <a@b.c>"},
		{"FROM:<a@b.c> BODY=BINARYMIME", MailArgs{}, "555 5.5.4 Unsupported option: BODY=BINARYMIME"},
		{"FROM:<a@b.c> BODY=", MailArgs{}, "555 5.5.4 Unsupported option: BODY="},
		{"FROM:<a@b.c> SMTPUTF8=1", MailArgs{}, "555 5.5.4 Unsupported option: SMTPUTF8=1"},
		{"FROM:<a@b.c> SIZE", MailArgs{}, "555 5.5.4 Unsupported option: SIZE"},
		{"FROM:<a@b.c> SIZE=abc", MailArgs{}, "501 5.5.4 Bad message size syntax"},
		{"FROM:<a@b.c> SIZE=", MailArgs{}, "501 5.5.4 Bad message size syntax"},
		{"FROM:<a@b.c> SIZE=-1", MailArgs{}, "501 5.5.4 Bad message size syntax"},
		{"FROM:<a@b.c> SIZE=+1", MailArgs{}, "501 5.5.4 Bad message size syntax"},
		{"FROM:<a@b.c> SIZE=99999999999999999999", MailArgs{}, "501 5.5.4 Bad message size syntax"},
		{"FROM:<a@b.c> RET=FOO", MailArgs{}, "501 5.5.4 Bad RET parameter syntax"},
		{"FROM:<a@b.c> RET=FULL RET=HDRS", MailArgs{}, "501 5.5.4 Bad RET parameter syntax"},
		{"FROM:<a@b.c> ENVID=a+ZZ", MailArgs{}, "501 5.5.4 Bad ENVID parameter syntax"},
		{"FROM:<a@b.c> ENVID=a+0Ab", MailArgs{}, "501 5.5.4 Bad ENVID parameter syntax"},
		{"FROM:<a@b.c> ENVID=x ENVID=y", MailArgs{}, "501 5.5.4 Bad ENVID parameter syntax"},
		{"FROM:<a@b.c> AUTH=a AUTH=b", MailArgs{}, "503 5.5.4 Error: multiple AUTH= options"},
		{"", MailArgs{}, "501 5.5.4 Syntax: MAIL FROM:<address>"},
		{"FROM", MailArgs{}, "501 5.5.4 Syntax: MAIL FROM:<address>"},
		{"FROM:", MailArgs{}, "501 5.5.4 Syntax: MAIL FROM:<address>"},
		{"FROM: ", MailArgs{}, "501 5.5.4 Syntax: MAIL FROM:<address>"},
		{"FROM : <x@y>", MailArgs{}, "501 5.5.4 Syntax: MAIL FROM:<address>"},
		{"TO:<x>", MailArgs{}, "501 5.5.4 Syntax: MAIL FROM:<address>"},
		{"FROM:<a@b.c", MailArgs{}, "501 5.1.7 Bad sender address syntax"},
		{"FROM:<a b@c>", MailArgs{}, "501 5.1.7 Bad sender address syntax"},
	} {
		var got MailArgs
		r := ParseMail(c.in, allArgs, &got)
		checkArgs(t, c.in, r, c.err, got == c.want, got)
	}
	var a MailArgs
	if r := ParseMail("FROM:a@b", ArgOptions{Strict: true}, &a); r == nil || !IsBadAddress(r) {
		t.Errorf("strict: %v", r)
	}
	for _, p := range []string{"BODY=7BIT", "SMTPUTF8", "RET=FULL", "ENVID=x"} {
		if r := ParseMail("FROM:<a@b> "+p, ArgOptions{}, &a); r == nil || r.Code != 555 {
			t.Errorf("%s not offered: %v", p, r)
		}
	}
}

func TestParseRcpt(t *testing.T) {
	for _, c := range []struct {
		in   string
		want RcptArgs
		err  string
	}{
		{"TO:<x@y.z>", RcptArgs{To: "x@y.z"}, ""},
		{"to: x@y.z", RcptArgs{To: "x@y.z"}, ""},
		{"TO:<postmaster>", RcptArgs{To: "postmaster"}, ""},
		{"TO:<x@y.z> NOTIFY=NEVER", RcptArgs{To: "x@y.z", Notify: mail.NotifyNever}, ""},
		{"TO:<x@y.z> NOTIFY=success,DELAY,FAILURE ORCPT=rfc822;a+2Bb@c", RcptArgs{
			To:     "x@y.z",
			Notify: mail.NotifySuccess | mail.NotifyDelay | mail.NotifyFailure, DSNOriginal: "rfc822;a+b@c",
		}, ""},
		{"TO:<x@y.z> ORCPT=rfc822;", RcptArgs{To: "x@y.z", DSNOriginal: "rfc822;"}, ""},
		{"TO:<x@y.z> ORCPT=utf-8;a\\x{e4}@b", RcptArgs{To: "x@y.z", DSNOriginal: "utf-8;a\\x{e4}@b"}, ""},
		{"TO:<x@y.z> NOTIFY=NEVER,SUCCESS", RcptArgs{}, "501 5.5.4 Error: Bad NOTIFY parameter syntax"},
		{"TO:<x@y.z> NOTIFY=FOO", RcptArgs{}, "501 5.5.4 Error: Bad NOTIFY parameter syntax"},
		{"TO:<x@y.z> NOTIFY=", RcptArgs{}, "501 5.5.4 Error: Bad NOTIFY parameter syntax"},
		{"TO:<x@y.z> NOTIFY=NEVER NOTIFY=SUCCESS", RcptArgs{}, "501 5.5.4 Error: Bad NOTIFY parameter syntax"},
		{"TO:<x@y.z> ORCPT=foo", RcptArgs{}, "501 5.5.4 Error: Bad ORCPT parameter syntax"},
		{"TO:<x@y.z> ORCPT=;x", RcptArgs{}, "501 5.5.4 Error: Bad ORCPT parameter syntax"},
		{"TO:<x@y.z> ORCPT=rfc822;a+zz", RcptArgs{}, "501 5.5.4 Error: Bad ORCPT parameter syntax"},
		{"TO:<x@y.z> ORCPT=rfc822;a+0D+0Ab", RcptArgs{}, "501 5.5.4 Error: Bad ORCPT parameter syntax"},
		{"TO:<x@y.z> FOO", RcptArgs{}, "555 5.5.4 Unsupported option: FOO"},
		{"TO:<>", RcptArgs{}, "501 5.1.3 Bad recipient address syntax"},
		{`TO:<"">`, RcptArgs{}, "501 5.1.3 Bad recipient address syntax"},
		{"TO:<x@y.z", RcptArgs{}, "501 5.1.3 Bad recipient address syntax"},
		{"TO:", RcptArgs{}, "501 5.5.4 Syntax: RCPT TO:<address>"},
		{"FROM:<a>", RcptArgs{}, "501 5.5.4 Syntax: RCPT TO:<address>"},
	} {
		var got RcptArgs
		r := ParseRcpt(c.in, allArgs, false, &got)
		checkArgs(t, c.in, r, c.err, got == c.want, got)
	}
}

func checkArgs(t *testing.T, in string, r *Reply, want string, same bool, got any) {
	t.Helper()
	switch {
	case r == nil && want != "":
		t.Errorf("%q: accepted as %+v, want %s", in, got, want)
	case r == nil && !same:
		t.Errorf("%q: %+v", in, got)
	case r != nil && r.String() != want:
		t.Errorf("%q: %s, want %q", in, r, want)
	}
}

func TestXtext(t *testing.T) {
	for _, s := range []string{"", "plain", "a+b=c", "with space", "\x00\r\nä"} {
		if got, ok := DecodeXtext(string(AppendXtext(nil, s))); !ok || got != s {
			t.Errorf("%q came back as %q, %v", s, got, ok)
		}
	}
	for _, s := range []string{"+", "+4", "+4g", "+2b", "a b", "a=b", "ä"} {
		if got, ok := DecodeXtext(s); ok {
			t.Errorf("DecodeXtext(%q) = %q", s, got)
		}
	}
	for _, s := range []string{"rfc822;a+b@c", "utf-8;a\\x{e4}@b", "rfc822;"} {
		if got, ok := parseORCPT(string(AppendORCPT(nil, s))); !ok || got != s {
			t.Errorf("ORCPT %q came back as %q, %v", s, got, ok)
		}
	}
	if got := string(AppendNotify(nil, mail.NotifySuccess|mail.NotifyDelay)); got != "SUCCESS,DELAY" {
		t.Errorf("AppendNotify: %q", got)
	}
}

func FuzzCommandLine(f *testing.F) {
	for _, s := range []string{
		"MAIL FROM:<a@b.c> SIZE=1 BODY=8BITMIME", "RCPT TO:<a@b.c> NOTIFY=NEVER ORCPT=rfc822;a+2Bb", "EHLO x", " \t", "MAIL FROM:\"", `RCPT TO:<"a b`,
		"MAIL FROM:<a\\", "BDAT 1 LAST", "rcpt to:<@a:b@c> notify=success,failure",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		v, word, args := ParseCommand(line)
		if len(word)+len(args) > len(line) || v != VerbUnknown && len(word) != len(v.String()) {
			t.Fatalf("%v %q %q", v, word, args)
		}
		var m MailArgs
		if r := ParseMail(string(args), allArgs, &m); r == nil {
			if !printable(m.EnvelopeID) || !printable(m.Auth) || m.Size < 0 {
				t.Fatalf("%+v", m)
			}
		} else if r.Code < 500 || len(r.Lines) != 1 {
			t.Fatalf("%v", r)
		}
		var rc RcptArgs
		if r := ParseRcpt(string(args), allArgs, true, &rc); r == nil {
			if rc.To == "" || !printable(rc.DSNOriginal) {
				t.Fatalf("%+v", rc)
			}
			o := string(AppendORCPT(nil, rc.DSNOriginal))
			if back, ok := parseORCPT(o); rc.DSNOriginal != "" && (!ok || back != rc.DSNOriginal) {
				t.Fatalf("ORCPT %q -> %q -> %q", rc.DSNOriginal, o, back)
			}
		}
	})
}
