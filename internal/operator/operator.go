// Package operator is what an operator can do to a running server, as one Go
// interface. The command line, the control socket and every later face say it
// in these words and no others; none of them touches the queue itself.
//
// # What it promises
//
// Every verb is an ordinary call: it returns when the thing is done (Reload,
// Stop and Pickup: when it is under way). List streams and reflects each
// message as it was at the moment it is shown, not one instant for all.
//
// # What it assumes
//
// Who asks is the face's business: it establishes the Actor and refuses what
// that actor may not do. What is called here is done.
//
// # What its errors mean
//
// ErrNotFound: no such message. ErrUnsupported: this operator cannot do that,
// as a spool that is open without a server cannot reload one. Others are those
// of the queue and the spool, wrapped.
package operator

import (
	"context"
	"errors"
	"io"
	"time"

	"posthouse/internal/mail"
	"posthouse/internal/queue"
)

// The vocabulary of the queue, for the faces.
type (
	// View is a message as listings show it.
	View = queue.View
	// RecipientView is a pending recipient as listings show it.
	RecipientView = queue.RecipientView
	// DestinationView is a destination as status shows it.
	DestinationView = queue.DestinationView
	// Counts are the sizes of the queues.
	Counts = queue.Counts
	// Verb is an action that changes messages.
	Verb = queue.Verb
	// Selection names the messages an action is for.
	Selection = queue.Selection
	// Actor is who asked.
	Actor = queue.Actor
	// Report is what an action came to.
	Report = queue.Report
	// Outcome is what an action did to one message.
	Outcome = queue.Outcome
)

// The verbs of Act.
const (
	Delete  = queue.VerbDelete
	Hold    = queue.VerbHold
	Release = queue.VerbRelease
	Requeue = queue.VerbRequeue
	Expire  = queue.VerbExpire
	Retry   = queue.VerbRetry
)

// Errors of an Operator; test with errors.Is.
var (
	ErrNotFound    = errors.New("no such message")
	ErrUnsupported = errors.New("not possible without a running server")
)

// Operator is the verbs. Implementations are safe for concurrent use.
type Operator interface {
	// List calls each for every live message until it returns false, in
	// Postfix's order of queues where that costs nothing. The View is only
	// valid during the call. each may be slow: it holds nothing up.
	List(ctx context.Context, each func(*View) bool) error
	// Counts are the sizes of the queues.
	Counts(ctx context.Context) (Counts, error)
	// Status is how the server stands.
	Status(ctx context.Context) (*Status, error)
	// Act applies a verb to the messages that sel names.
	Act(ctx context.Context, verb Verb, sel Selection, who Actor) (Report, error)
	// Message is one message with its current state and its content, which
	// the caller closes. ErrNotFound.
	Message(ctx context.Context, id mail.QueueID) (*Stored, error)
	// Pickup makes the server look into the maildrop now.
	Pickup(ctx context.Context) error
	// Reload reads the configuration again. An error means that it was
	// refused and the old one stays.
	Reload(ctx context.Context, who Actor) error
	// Stop begins an orderly end.
	Stop(ctx context.Context, who Actor) error
}

// Content is the stored content of a message, CRLF line ends.
type Content interface {
	io.ReaderAt
	io.Closer
	Size() int64
}

// Stored is a message and its content.
type Stored struct {
	Message *mail.Message
	Queue   mail.QueueName
	Content Content
}

// Status is how a server stands.
type Status struct {
	Version      string            // of the program
	PID          int               // of the server's process
	Started      time.Time         // when it began
	Uptime       time.Duration     // since then, by the server's own clock
	ConfigDir    string            // where its main.cf is
	Counts       Counts            // sizes of the queues
	Destinations []DestinationView // those with something waiting, running or dead
	Space        Space             // of the file system the spool is on
}

// Space is how the disk stands, in bytes.
type Space struct {
	Free    int64 // available
	Reserve int64 // below it nothing more is accepted
	Used    int64 // taken by contents, dead ones included
	Live    int64 // taken by contents of live messages
}
