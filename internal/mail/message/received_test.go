package message

import (
	"testing"
	"time"

	"posthouse/internal/mail"
)

func TestTrace(t *testing.T) {
	date := time.Date(2026, 11, 22, 15, 34, 41, 0, time.UTC)
	client := func(change func(*mail.Client)) *mail.Client {
		c := &mail.Client{Name: "localhost", Addr: "127.0.0.1", Helo: "client.test", Protocol: "ESMTP"}
		change(c)
		return c
	}
	same := func(*mail.Client) {}
	for _, c := range []struct {
		name string
		tr   Trace
		want string
	}{
		{"one recipient", Trace{Client: client(same), For: "one@keep.example"}, "Received: from client.test (localhost [127.0.0.1])\n\tby mx.test.local (Postfix) with ESMTP id 037B1984802\n\tfor <one@keep.example>; Sun, 22 Nov 2026 15:34:41 +0000 (UTC)\n"},
		{"quoted recipient", Trace{Client: client(same), For: `"o ne"@keep.example`}, "Received: from client.test (localhost [127.0.0.1])\n\tby mx.test.local (Postfix) with ESMTP id 037B1984802\n\tfor <\"o ne\"@keep.example>; Sun, 22 Nov 2026 15:34:41 +0000 (UTC)\n"},
		{"several recipients, HELO", Trace{Client: client(func(c *mail.Client) { c.Protocol = "SMTP" })}, "Received: from client.test (localhost [127.0.0.1])\n\tby mx.test.local (Postfix) with SMTP id 037B1984802;\n\tSun, 22 Nov 2026 15:34:41 +0000 (UTC)\n"},
		{"no HELO", Trace{Client: client(func(c *mail.Client) { c.Protocol, c.Helo = "SMTP", "" }), For: "one@keep.example"}, "Received: from localhost (localhost [127.0.0.1])\n\tby mx.test.local (Postfix) with SMTP id 037B1984802\n\tfor <one@keep.example>; Sun, 22 Nov 2026 15:34:41 +0000 (UTC)\n"},
		{"authenticated", Trace{Client: client(func(c *mail.Client) { c.SASLUser = "joe" }), For: "one@mx.test.local"}, "Received: from client.test (localhost [127.0.0.1])\n\tby mx.test.local (Postfix) with ESMTPA id 037B1984802\n\tfor <one@mx.test.local>; Sun, 22 Nov 2026 15:34:41 +0000 (UTC)\n"},
		{"authenticated over TLS, told", Trace{Auth: true, Client: client(func(c *mail.Client) { c.SASLUser, c.TLS, c.Helo = "joe@x.example", "TLSv1.3", "c2" })}, "Received: from c2 (localhost [127.0.0.1])\n\t(Authenticated sender: joe@x.example)\n\tby mx.test.local (Postfix) with ESMTPSA id 037B1984802;\n\tSun, 22 Nov 2026 15:34:41 +0000 (UTC)\n"},
		{"TLS, told", Trace{TLS: true, Client: client(func(c *mail.Client) { c.TLS = "TLSv1.3" })}, "Received: from client.test (localhost [127.0.0.1])\n\t(using TLSv1.3)\n\tby mx.test.local (Postfix) with ESMTPS id 037B1984802;\n\tSun, 22 Nov 2026 15:34:41 +0000 (UTC)\n"},
		{"IPv6, internationalised", Trace{SMTPUTF8: true, Client: client(func(c *mail.Client) { c.Addr, c.Name, c.TLS = "2001:db8::1", "unknown", "TLSv1.2" }), For: "üser@keep.example"}, "Received: from client.test (unknown [IPv6:2001:db8::1])\n\tby mx.test.local (Postfix) with UTF8SMTPS id 037B1984802\n\tfor <üser@keep.example>; Sun, 22 Nov 2026 15:34:41 +0000 (UTC)\n"},
		{"local", Trace{Origin: mail.FromLocal, Client: &mail.Client{UID: 0}}, "Received: by mx.test.local (Postfix, from userid 0)\n\tid 037B1984802; Sun, 22 Nov 2026 15:34:41 +0000 (UTC)\n"},
		{"notice", Trace{Origin: mail.FromBounce}, "Received: by mx.test.local (Postfix)\n\tid 037B1984802; Sun, 22 Nov 2026 15:34:41 +0000 (UTC)\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.tr.Host, c.tr.MailName, c.tr.ID, c.tr.Date = "mx.test.local", "Postfix", "037B1984802", date
			if c.tr.Origin == 0 {
				c.tr.Origin = mail.FromSMTP
			}
			if got := string(c.tr.Append(nil)); got != crlf(c.want) {
				t.Errorf("got\n%q\nwant\n%q", got, crlf(c.want))
			}
		})
	}
}

func TestAppendDate(t *testing.T) {
	zone := time.FixedZone("CET", 3600)
	if got := string(AppendDate(nil, time.Date(2026, 3, 4, 5, 6, 7, 0, zone))); got != "Wed,  4 Mar 2026 05:06:07 +0100 (CET)" {
		t.Error(got)
	}
}

func TestAppendMessageID(t *testing.T) {
	at := time.Date(2026, 11, 22, 7, 36, 26, 0, time.UTC)
	id, err := mail.ParseQueueID("0A1B2C3D4E5F")
	if err != nil {
		t.Fatal(err)
	}
	if got := string(AppendMessageID(nil, mail.ShortIDs, id, "mx.test.local", at)); got != "<20261122073626."+id.Short()+"@mx.test.local>" {
		t.Error(got)
	}
	if got := string(AppendMessageID(nil, mail.LongIDs, id, "mx.test.local", at)); got != "<"+id.Long()+"@mx.test.local>" {
		t.Error(got)
	}
}

func TestAppendFrom(t *testing.T) {
	for _, c := range []struct {
		sender     mail.Address
		name, want string
	}{
		{"alice@x.example", "root", "root <alice@x.example>"},
		{"alice@x.example", "John Smith", "John Smith <alice@x.example>"},
		{"alice@x.example", "O'Neil", "O'Neil <alice@x.example>"},
		{"alice@x.example", "  sp  ", "sp <alice@x.example>"},
		{"alice@x.example", `Joe "Q." Public`, `"Joe \"Q.\" Public" <alice@x.example>`},
		{"alice@x.example", "J. P", `"J. P" <alice@x.example>`},
		{"alice@x.example", "a@b", `"a@b" <alice@x.example>`},
		{"alice@x.example", "evil\r\nBcc: x", `"evil??Bcc: x" <alice@x.example>`},
		{"alice@x.example", "", "alice@x.example"},
		{`"al ice"@x.example`, "", `"al ice"@x.example`},
		{"", "root", "MAILER-DAEMON"},
	} {
		if got := string(AppendFrom(nil, c.sender, c.name)); got != c.want {
			t.Errorf("From of %q, %q = %q, want %q", c.sender, c.name, got, c.want)
		}
	}
}
