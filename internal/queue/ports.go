package queue

import (
	"context"
	"sync/atomic"
	"time"

	"posthouse/internal/mail"
	"posthouse/internal/spool"
)

// Router decides where a recipient goes. It looks at tables only, never at
// the network: DNS belongs to the agents. It is called for each pending
// recipient when a message enters memory and again before each attempt, so
// that a changed transport map takes effect, and must be quick.
type Router interface {
	// Route returns the destination. An error status (class 4 or 5) stands in
	// for a delivery: the recipient is deferred or bounced with it.
	Route(rcpt mail.Address, env *mail.Envelope) (mail.Destination, *mail.Status)
}

// Agent carries out deliveries for one kind of transport.
type Agent interface {
	// Deliver attempts d and returns one Result for each of d.Recipients, in
	// the same order. It logs each result itself (it knows relay and delays).
	// It returns soon after ctx ends or d is canceled; recipients not
	// decided by then get a class 4 status.
	Deliver(ctx context.Context, d *Delivery) []Result
}

// Result is what an attempt came to for one recipient.
type Result struct {
	Status mail.Status // class 2, 4 or 5
	// Relayed tells, for a success whose sender asked to be told
	// (NOTIFY=SUCCESS), that no one further on will tell: "relayed" or
	// "delivered". Empty: the next hop took the duty over, or no one asked.
	Action string
	// DestinationDown tells that the failure speaks of the destination, not
	// of the message (connect, greeting, TLS, lost connection): negative
	// concurrency feedback. MAIL, RCPT and DATA replies are not.
	DestinationDown bool
}

// Delivery is one message on its way to one destination: the unit of
// scheduling. An agent gets it for the length of one Deliver call.
type Delivery struct {
	Destination mail.Destination
	Envelope    *mail.Envelope // read only
	Recipients  []int          // indexes into Envelope.Recipients
	Attempt     uint32         // 1 for the first, the largest among the recipients
	Due         time.Time      // when this attempt became due
	Started     time.Time      // when it got its slot
	// Backlog tells how many more deliveries wait for this destination right
	// now; above zero a connection is worth keeping open.
	Backlog int

	// Open reads the message's content. The caller closes it.
	Open func() (spool.Content, error)

	point atomic.Uint32 // deliverRunning, deliverCanceled or deliverCommitted
	abort context.CancelFunc
}

// The points of a delivery. A running delivery becomes canceled or committed,
// once.
const (
	deliveryRunning uint32 = iota
	deliveryCanceled
	deliveryCommitted
)

// Commit marks the point of no return: the agent calls it right before it
// sends the final dot (or otherwise makes the remote side responsible). False
// means an operator canceled the delivery first: the agent must not send the
// dot, and drops the connection or resets the transaction.
func (d *Delivery) Commit() bool {
	return d.point.CompareAndSwap(deliveryRunning, deliveryCommitted) || d.point.Load() == deliveryCommitted
}

// Canceled tells whether an operator canceled the delivery.
func (d *Delivery) Canceled() bool { return d.point.Load() == deliveryCanceled }

// cancel stops the delivery if it has not reached Commit, and tells whether it did.
func (d *Delivery) cancel() bool {
	if !d.point.CompareAndSwap(deliveryRunning, deliveryCanceled) {
		return d.Canceled()
	}
	if d.abort != nil {
		d.abort()
	}
	return true
}

// NewDelivery makes a Delivery outside the queue: for tests of agents.
func NewDelivery(dest mail.Destination, env *mail.Envelope, rcpts []int, open func() (spool.Content, error)) *Delivery {
	return &Delivery{Destination: dest, Envelope: env, Recipients: rcpts, Attempt: 1, Due: env.Arrival, Started: env.Arrival, Open: open}
}

// Notice says which kind of report a Bouncer is to compose.
type Notice uint8

// The kinds of notice.
const (
	NoticeFailure Notice = iota // recipients bounced or expired
	NoticeDelay                 // recipients are late; once per message
	NoticeSuccess               // NOTIFY=SUCCESS
)

// Bouncer composes notices and hands them to intake.
type Bouncer interface {
	// Notify reports on the given recipients of m, whose states it reads. It
	// applies the rules of who is told (NOTIFY, null sender, double bounce)
	// and returns once the notice is durable, or nil when no one is to be
	// told. While it fails the queue keeps the message and asks again later.
	Notify(ctx context.Context, kind Notice, m *mail.Message, rcpts []int) error
}

// Resubmitter takes a message through intake anew (postsuper -r): new ID, one
// more Received header, recipients still pending only. It returns once the
// new message is durable.
type Resubmitter interface {
	Resubmit(ctx context.Context, m *mail.Message, content spool.Content) (mail.QueueID, error)
}
