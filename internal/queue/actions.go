package queue

import (
	"time"

	"posthouse/internal/mail"
)

// Selection names the messages an operator acts on: by ID, or all of some
// queues. It is Postfix's way of choosing; the filter language comes on top.
type Selection struct {
	IDs    []mail.QueueID
	All    bool             // every message of Queues; IDs is ignored
	Queues []mail.QueueName // only messages in these queues; empty means the action's own default
}

// Verb is an action that changes messages.
type Verb uint8

// The verbs, each with the queues it acts on by default.
const (
	VerbDelete  Verb = iota // maildrop incoming active deferred hold → trash
	VerbHold                // incoming active deferred → hold
	VerbRelease             // hold → active, due at once if it was due before
	VerbRequeue             // incoming active deferred hold → maildrop, then intake under a new ID
	VerbExpire              // incoming active deferred hold: return to the sender (hold: when released)
	VerbRetry               // incoming active deferred: attempt now, and forget dead destinations
)

// Interference says what an action did to a delivery that was running.
type Interference uint8

// The kinds of interference.
const (
	NotRunning       Interference = iota // no delivery was running
	DeliveryCanceled                     // it had not reached the final dot and was stopped
	DeliveryAwaited                      // it was past the final dot: the action waited for its result
)

// Outcome is what an action did to one message.
type Outcome struct {
	ID        mail.QueueID
	From      mail.QueueName // the queue it was in
	Delivery  Interference
	Delivered bool         // it was past the final dot and every recipient is done: nothing was left to act on
	NewID     mail.QueueID // VerbRequeue, when intake already gave one; else 0
}

// Report is what an action came to.
type Report struct {
	Outcomes []Outcome // one for each message acted on
	Missed   int       // IDs that named no message in the chosen queues
}

// Actor is who asked, for the audit trail and for State.HoldReason and
// State.DeletedBy.
type Actor struct {
	User string // "root", "alice", a token's or rule's name
	UID  int    // -1 when there is none
	Via  string // "postsuper", "api", "console", ...
}

// View is a message as listings show it: a consistent copy.
type View struct {
	Queue       mail.QueueName
	ID          mail.QueueID
	Arrival     time.Time
	Size        int64
	Sender      mail.Address
	ForceExpire bool
	Origin      mail.Origin
	User        string    // SASL user or ""
	NextAttempt time.Time // the earliest of its deliveries; zero when due or running
	Expires     time.Time // when the lifetime ends
	Attempts    uint32
	Recipients  []RecipientView // those not final
}

// RecipientView is a pending recipient as listings show it.
type RecipientView struct {
	Address     mail.Address
	OrigAddress mail.Address
	Reason      string // of the last attempt; "" before it
	NextAttempt time.Time
	Destination mail.Destination
}

// DestinationView is a destination as status shows it.
type DestinationView struct {
	Destination mail.Destination
	Waiting     int       // deliveries due and waiting for a slot
	Running     int       // deliveries under way
	Deferred    int       // deliveries waiting for a later time
	Window      int       // concurrency window now
	DeadUntil   time.Time // zero when alive
	DeadReason  string
}

// Counts are the sizes of the queues.
type Counts struct {
	Messages map[mail.QueueName]int
	Bytes    map[mail.QueueName]int64
}
