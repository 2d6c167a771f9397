package server

import (
	"context"
	"io"
	"time"

	"posthouse/internal/mail"
	"posthouse/internal/smtp"
)

// Peer is what is known of a session's client when an Acceptor is asked.
type Peer struct {
	mail.Client
	Service   string // the listener's name for logs: "smtpd", "submission/smtpd"
	Listener  string // Listener.Key of what the client came in through
	Connected time.Time
}

// Acceptor decides about mail and takes it. Package intake implements it.
//
// A reply that an Acceptor returns is sent as it is; nil stands for the
// usual positive reply. Arguments that are passed by pointer are reused by the
// session: MailArgs and RcptArgs are valid during the call, the Peer during
// the session, and changes only between transactions.
type Acceptor interface {
	// Mail begins a transaction. A reply refuses it.
	Mail(ctx context.Context, peer *Peer, args *smtp.MailArgs) (Transaction, *smtp.Reply)
}

// Transaction is one message on its way in, used by one session at a time.
// It ends with Commit or Abort.
type Transaction interface {
	// Rcpt offers a recipient. A reply of class 4 or 5 refuses it. The
	// Transaction logs its own refusals ("NOQUEUE: reject: RCPT from …").
	Rcpt(ctx context.Context, args *smtp.RcptArgs) *smtp.Reply
	// ID is the queue ID, 0 before the first accepted recipient.
	ID() mail.QueueID
	// Data begins the content: it is called after DATA or the first BDAT,
	// with at least one recipient accepted. What is written to the writer is wire format
	// content: CRLF line ends, dots unstuffed. The writer remembers its
	// first error and swallows the rest, so that a session can read on to
	// the end of the data; Commit then reports it.
	Data(ctx context.Context) (io.Writer, *smtp.Reply)
	// Commit is called at the end of the content. The reply is always
	// non-nil: "250 2.0.0 Ok: queued as ID" once the message is durable, or
	// why not.
	Commit(ctx context.Context) *smtp.Reply
	// Abort ends the transaction without a message. Harmless after Commit.
	Abort()
}
