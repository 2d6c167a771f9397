package mail

import "time"

// Origin says how a message came in.
type Origin uint8

// The ways in. The numbers are stored: only append.
const (
	FromSMTP   Origin = 1 // over the network
	FromLocal  Origin = 2 // sendmail, through the maildrop
	FromBounce Origin = 3 // composed here: bounces, delay notices, postmaster copies
)

// Client is the peer or local user that handed a message in.
type Client struct {
	Name        string // verified host name, "unknown" when there is none; "localhost" for local mail
	ReverseName string // unverified PTR name, "unknown" when there is none
	Addr        string // IP address without brackets; "" for local mail
	Port        uint16 // 0 when not known
	Helo        string // as given, not verified
	Protocol    string // "SMTP", "ESMTP", "LMTP"; "" for local mail
	TLS         string // protocol version, "" in the clear
	ServerAddr  string // our end's address
	ServerPort  uint16 // our end's port
	SASLMethod  string // "" when not authenticated
	SASLUser    string
	SASLSender  string // MAIL FROM's AUTH= value
	UID         int    // local submission only; -1 otherwise
}

// Notify is a set of DSN NOTIFY values (RFC 3461 §4.1). Zero means none was
// given, which asks for failure and, where configured, delay notices.
type Notify uint8

// NOTIFY keywords.
const (
	NotifyNever Notify = 1 << iota // excludes the others
	NotifySuccess
	NotifyFailure
	NotifyDelay
)

// WantsFailure tells whether this recipient's failure is to be reported.
func (n Notify) WantsFailure() bool { return n == 0 || n&NotifyFailure != 0 }

// WantsDelay tells whether this recipient's delay may be reported.
func (n Notify) WantsDelay() bool { return n == 0 || n&NotifyDelay != 0 }

// WantsSuccess tells whether success is to be reported.
func (n Notify) WantsSuccess() bool { return n&NotifySuccess != 0 }

// Ret is the DSN RET value (RFC 3461 §4.3): how much of the message a failure
// notice returns.
type Ret uint8

// RET values; RetUnset leaves it to the configuration.
const (
	RetUnset Ret = iota
	RetFull
	RetHeaders
)

// Envelope is everything about a message but its content and its state. It
// never changes after Commit.
type Envelope struct {
	ID        QueueID
	Arrival   time.Time // when it first came in; survives a requeue; listings, delay= and DSNs show it
	Sender    Address
	Size      int64  // bytes of content with CRLF line ends, as stored
	MessageID string // of the header, with its angle brackets; "" when there is none
	Origin    Origin
	Client    Client
	FullName  string  // GECOS name of a local submitter
	OrigID    QueueID // the ID before a requeue; 0 otherwise

	Body8Bit   bool   // MAIL BODY=8BITMIME, or 8-bit content from a local program
	SMTPUTF8   bool   // the envelope or header needs SMTPUTF8 (RFC 6531)
	EnvelopeID string // DSN ENVID, decoded from xtext; "" when not given
	Ret        Ret

	Recipients []Recipient // at least one; the order is the client's; the index names a recipient for ever
}

// Recipient is one envelope recipient. It never changes after Commit.
type Recipient struct {
	Address     Address // where it goes, after rewriting
	OrigAddress Address // as the client gave it; "" when the same
	DSNOriginal string  // "rfc822;addr" of ORCPT, decoded; "" when not given
	Notify      Notify
}

// Phase is where a recipient is in its life; see the package comment.
type Phase uint8

// The phases. The numbers are stored: only append.
const (
	Pending  Phase = 0 // to be delivered, now or later
	Sent     Phase = 1 // final: the next hop took responsibility
	Bounced  Phase = 2 // final: refused for good; the sender is told
	Expired  Phase = 3 // final: the lifetime ran out; the sender is told
	Canceled Phase = 4 // final: an operator deleted it; nobody is told
)

// Final tells whether a recipient in this phase is done with.
func (p Phase) Final() bool { return p != Pending }

// RecipientState is what changes about a recipient.
type RecipientState struct {
	Phase       Phase
	Attempts    uint32    // deliveries tried, those without a connection included
	LastAttempt time.Time // zero before the first
	NextAttempt time.Time // while Pending: not before this time; zero means at once
	Last        Status    // of the last attempt; zero before it
	Notified    bool      // final and reportable, and the notice owed for it has been committed
}

// State is what changes about a message as a whole.
type State struct {
	// Created is when the retry and lifetime clocks started: the arrival,
	// until a requeue starts them anew.
	Created     time.Time
	Hold        bool      // parked: no attempts, no expiry
	HoldReason  string    // who or what held it, in words; "" when unknown
	ForceExpire bool      // postsuper -e: return to the sender at the next occasion
	Requeue     bool      // postsuper -r: waits in "maildrop" to pass intake anew under a new ID
	Warned      bool      // the one delay notice has been sent, or is not wanted
	DeletedAt   time.Time // in the trash since then; zero when not
	DeletedBy   string    // who deleted it, in words
	Corrupt     string    // why the message cannot be delivered as stored; "" when sound
}

// Trashed tells whether the message has been deleted and could still be undone.
func (s *State) Trashed() bool { return !s.DeletedAt.IsZero() }

// Message is a live message: envelope, state, and one RecipientState for each
// of Envelope.Recipients.
type Message struct {
	Envelope
	State     State
	RcptState []RecipientState
}

// NewMessage returns the message that an envelope begins as.
func NewMessage(env Envelope) *Message {
	return &Message{Envelope: env, State: State{Created: env.Arrival}, RcptState: make([]RecipientState, len(env.Recipients))}
}

// PendingCount is how many recipients are still to be delivered.
func (m *Message) PendingCount() int {
	n := 0
	for i := range m.RcptState {
		if m.RcptState[i].Phase == Pending {
			n++
		}
	}
	return n
}

// QueueName is one of the queues that listings speak of.
type QueueName string

// The queues, with Postfix's meaning; trash is ours.
const (
	Maildrop QueueName = "maildrop" // submitted or requeued, waiting for intake
	Incoming QueueName = "incoming" // committed, not yet seen by the queue manager
	Active   QueueName = "active"   // has a delivery due or running
	Deferred QueueName = "deferred" // every delivery waits for a later time
	Hold     QueueName = "hold"     // parked by an operator or a check
	Corrupt  QueueName = "corrupt"  // cannot be read as stored; set aside
	Trash    QueueName = "trash"    // deleted, can be undone
)
