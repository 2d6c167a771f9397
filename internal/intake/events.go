package intake

import (
	"strconv"

	"posthouse/internal/mail"
	"posthouse/internal/postfix/maillog"
	"posthouse/internal/smtp"
	"posthouse/internal/smtp/server"
)

// serviceCleanup and servicePickup are the names that Postfix's programs log under.
const (
	serviceCleanup = "cleanup"
	servicePickup  = "pickup"
)

// reject is the record of a refused command:
//
//	NOQUEUE: reject: RCPT from NAME[IP]: 554 5.7.1 …; from=<…> to=<…> proto=ESMTP helo=<…>
type reject struct {
	id      mail.QueueID // 0 before there is one
	stage   string       // MAIL, RCPT, ...
	client  mail.Client
	reply   *smtp.Reply
	hasFrom bool // the sender is known: not at MAIL for reasons of our own
	from    mail.Address
	hasTo   bool
	to      mail.Address
}

// Kind is "reject".
func (*reject) Kind() string { return "reject" }

// AppendText writes the line.
func (r *reject) AppendText(b []byte, ids mail.IDForm) []byte {
	if r.id != 0 {
		b = append(b, ids.Format(r.id)...)
	} else {
		b = append(b, "NOQUEUE"...)
	}
	b = append(b, ": reject: "...)
	b = append(b, r.stage...)
	b = append(b, " from "...)
	b = appendClient(b, &r.client)
	b = append(b, ": "...)
	b = append(b, r.reply.String()...)
	b = append(b, ';')
	if r.hasFrom {
		b = append(append(append(b, " from=<"...), r.from...), '>')
	}
	if r.hasTo {
		b = append(append(append(b, " to=<"...), r.to...), '>')
	}
	b = append(append(b, " proto="...), r.client.Protocol...)
	if r.client.Helo != "" {
		b = append(append(append(b, " helo=<"...), r.client.Helo...), '>')
	}
	return b
}

// Fields lists the record.
func (r *reject) Fields(ids mail.IDForm, add func(string, any)) {
	if r.id != 0 {
		add("queue_id", ids.Format(r.id))
	}
	add("stage", r.stage)
	add("client_name", r.client.Name)
	add("client_address", r.client.Addr)
	add("reply", r.reply.String())
	if r.hasFrom {
		add("from", string(r.from))
	}
	if r.hasTo {
		add("to", string(r.to))
	}
	add("proto", r.client.Protocol)
	add("helo", r.client.Helo)
}

// appendClient writes "NAME[IP]".
func appendClient(b []byte, c *mail.Client) []byte {
	b = append(b, c.Name...)
	b = append(b, '[')
	b = append(b, c.Addr...)
	return append(b, ']')
}

// clientText is what follows "QID: " when a message gets its queue ID.
func clientText(c *mail.Client) string {
	b := make([]byte, 0, 64)
	b = append(b, "client="...)
	b = appendClient(b, c)
	if c.SASLMethod != "" {
		b = append(append(b, ", sasl_method="...), c.SASLMethod...)
	}
	if c.SASLUser != "" {
		b = append(append(b, ", sasl_username="...), c.SASLUser...)
	}
	if c.SASLSender != "" {
		b = append(append(b, ", sasl_sender="...), c.SASLSender...)
	}
	return string(b)
}

// logQueued writes "QID: text".
func (in *Intake) logQueued(service string, sev maillog.Severity, id mail.QueueID, what, text string) {
	in.deps.Log.Log(service, sev, &maillog.Queued{ID: id, What: what, Text: text})
}

func (in *Intake) logReject(peer *server.Peer, r *reject) {
	r.client = peer.Client
	in.deps.Log.Log(peer.Service, maillog.Info, r)
}

func lowSpace(free int64) maillog.Text {
	return maillog.Text("not enough free space in mail queue: " + strconv.FormatInt(free, 10) + " bytes < 1.5*message size limit")
}
