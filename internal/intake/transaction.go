package intake

import (
	"context"
	"errors"
	"io"

	"posthouse/internal/mail"
	"posthouse/internal/mail/message"
	"posthouse/internal/postfix/maillog"
	"posthouse/internal/smtp"
	"posthouse/internal/smtp/server"
)

// Mail begins an SMTP transaction; see server.Acceptor.
func (in *Intake) Mail(_ context.Context, peer *server.Peer, args *smtp.MailArgs) (server.Transaction, *smtp.Reply) {
	c := in.cfg.Load()
	if !in.hasSpace(c, peer.Service) {
		r := &reject{stage: "MAIL", reply: noSpace()}
		in.logReject(peer, r)
		return nil, r.reply
	}
	if c.MaxMessageSize > 0 && args.Size > c.MaxMessageSize {
		r := &reject{
			stage: "MAIL", hasFrom: true, from: args.From,
			reply: smtp.NewReply(552, "5.3.4", "Message size exceeds fixed limit"),
		}
		in.logReject(peer, r)
		return nil, r.reply
	}
	t := &transaction{peer: peer, size: args.Size, from: args.From}
	t.b = builder{in: in, cfg: c, addMissing: c.AlwaysAddMissingHeaders || c.isLocal(peer.Addr)}
	env := &t.b.env
	env.Sender = c.qualify(args.From)
	env.Origin = mail.FromSMTP
	env.Client = peer.Client
	if args.Auth != "<>" {
		env.Client.SASLSender = args.Auth
	}
	env.Body8Bit, env.SMTPUTF8 = args.Body8Bit, args.SMTPUTF8
	env.EnvelopeID, env.Ret = args.EnvelopeID, args.Ret
	return t, nil
}

// transaction is one message on its way in over SMTP.
type transaction struct {
	b        builder
	peer     *server.Peer
	size     int64        // announced
	from     mail.Address // as given
	accepted int          // recipients accepted, duplicates included
	ended    bool
}

// Rcpt offers a recipient; see server.Transaction.
func (t *transaction) Rcpt(ctx context.Context, args *smtp.RcptArgs) *smtp.Reply {
	c := t.b.cfg
	if c.MaxRecipients > 0 && t.accepted >= c.MaxRecipients {
		return smtp.NewReply(452, "4.5.3", "Error: too many recipients")
	}
	to := c.qualify(args.To)
	if reply := t.b.in.deps.Access.Rcpt(ctx, t.peer, t.b.env.Sender, to, args.To); reply != nil {
		t.b.in.logReject(t.peer, &reject{
			id: t.b.env.ID, stage: "RCPT", reply: reply,
			hasFrom: true, from: t.from, hasTo: true, to: args.To,
		})
		return reply
	}
	if t.b.env.ID == 0 {
		t.b.env.ID = t.b.in.deps.IDs.Next()
		t.b.env.Arrival = t.b.in.deps.Now()
		t.b.in.logQueued(t.peer.Service, maillog.Info, t.b.env.ID, "client", clientText(&t.b.env.Client))
	}
	t.accepted++
	r := mail.Recipient{Address: to, DSNOriginal: args.DSNOriginal, Notify: args.Notify}
	if to != args.To {
		r.OrigAddress = args.To
	}
	t.b.addRecipient(r)
	return nil
}

// ID is the queue ID; see server.Transaction.
func (t *transaction) ID() mail.QueueID { return t.b.env.ID }

// Data begins the content; see server.Transaction.
func (t *transaction) Data(context.Context) (io.Writer, *smtp.Reply) {
	trace := message.Trace{
		Origin: mail.FromSMTP, Client: &t.b.env.Client, Date: t.b.env.Arrival,
		SMTPUTF8: t.b.env.SMTPUTF8, TLS: t.b.cfg.ReceivedTLS, Auth: t.b.cfg.ReceivedAuth,
	}
	if t.accepted == 1 {
		trace.For = t.b.env.Recipients[0].Address
		if orig := t.b.env.Recipients[0].OrigAddress; orig != "" {
			trace.For = orig
		}
	}
	if err := t.b.begin(t.size, &trace, message.Options{}); err != nil {
		t.b.discard()
		return nil, t.failed(err)
	}
	return &t.b, nil
}

// Commit ends the content; see server.Transaction.
func (t *transaction) Commit(ctx context.Context) *smtp.Reply {
	if t.ended {
		return smtp.NewReply(451, "4.3.0", "Error: internal protocol error")
	}
	t.ended = true
	err := t.b.finish(ctx)
	if err != nil {
		t.b.discard()
		return t.failed(err)
	}
	reply := &smtp.Reply{
		Code: 250, Enhanced: mail.EnhancedCode{2, 0, 0},
		Lines: []string{"Ok: queued as " + t.b.cfg.IDs.Format(t.b.env.ID)},
	}
	t.b.in.deps.Queue.Enqueue(mail.NewMessage(t.b.env))
	return reply
}

// Abort ends the transaction without a message; see server.Transaction.
func (t *transaction) Abort() {
	t.ended = true
	t.b.discard()
}

// failed is the reply for an error of the content, with its log line.
func (t *transaction) failed(err error) *smtp.Reply {
	id := t.b.env.ID
	switch {
	case errors.Is(err, ErrTooBig):
		t.b.in.logQueued(t.peer.Service, maillog.Warning, id, "size", "queue file size limit exceeded")
		return tooBig()
	case errors.Is(err, ErrTooManyHops):
		return smtp.NewReply(554, "5.4.0", "Error: too many hops")
	}
	t.b.in.logQueued(serviceCleanup, maillog.Warning, id, "write-error", "queue file write error: "+err.Error())
	return refusal(err)
}
