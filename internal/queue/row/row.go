// Package row is what the queue manager keeps of a message in memory: a few
// hundred bytes that answer every question about the queue and that hold the
// message's whole state. The envelope is a cache of what the spool has.
//
// It promises compactness and exact conversion: a Message put together from a
// row and its envelope equals the one that the spool would give. It assumes
// that its owner guards it; nothing here locks. Which changes are legal is
// the owner's business too.
package row

import (
	"strings"
	"time"
	"unique"

	"posthouse/internal/mail"
)

// Row is a message in memory.
type Row struct {
	ID      mail.QueueID
	Arrival int64 // Unix nanoseconds
	Created int64 // start of the retry and lifetime clocks
	Size    int64
	Sender  unique.Handle[mail.Address]
	User    unique.Handle[string] // SASL user
	Env     *mail.Envelope        // nil when it has to be read from the spool
	Rcpts   []Rcpt
	Extra   *Extra // nil when all of it is zero
	Groups  uint32 // first delivery of the message
	Job     uint32 // the notice, resubmission or purge that waits or runs; 0: none
	Live    int32  // deliveries that are due or running, the job included
	Flags   Flag
	Origin  mail.Origin
	Place   Place // the queue it is counted in
}

// Extra is state that few messages have.
type Extra struct {
	HoldReason string
	DeletedAt  int64
	DeletedBy  string
	Corrupt    string
}

// Flag is a set of facts about a message.
type Flag uint16

// The facts. The first six are mail.State; the others live in memory only.
const (
	Held        Flag = 1 << iota // State.Hold
	ForceExpire                  // State.ForceExpire
	Requeued                     // State.Requeue
	Warned                       // State.Warned
	Trashed                      // State.DeletedAt is set
	Corrupt                      // State.Corrupt is set
	Activated                    // "queue active" was logged in this round
	Tried                        // a recipient was deferred in this round
	ExpiredNow                   // a recipient expired in this round: to be logged at its end
	WarnNow                      // the delay notice is due
	Removing                     // its removal is on the way: nothing may touch it any more
	Silent                       // its removal is not logged
	OwnStrings                   // the recipients' strings are not parts of larger ones
)

// Parked is the set that keeps deliveries from being scheduled.
const Parked = Held | Requeued | Trashed | Corrupt | Removing

// Is tells whether any of the facts holds.
func (r *Row) Is(f Flag) bool { return r.Flags&f != 0 }

func (r *Row) set(f Flag, on bool) {
	if on {
		r.Flags |= f
	}
}

// Rcpt is a recipient in memory.
type Rcpt struct {
	Addr        mail.Address
	Orig        mail.Address
	last        unique.Handle[mail.Status] // zero before the first attempt
	LastAttempt int64                      // Unix nanoseconds; 0: never
	NextAttempt int64                      // Unix nanoseconds; 0: at once
	Attempts    uint32
	Group       uint32 // its delivery, while pending
	Next        int32  // index of the next recipient of the same delivery, -1 at the end
	Phase       mail.Phase
	Notified    bool
}

// Nanos is a time as rows keep it; 0 stands for the zero time.
func Nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

// Time undoes Nanos.
func Time(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n)
}

// New is a row for a message. share tells that the message's strings may be
// kept as they are; otherwise they are copied, since a decoder's strings hold
// on to the whole record.
func New(m *mail.Message, share bool) Row {
	r := Row{
		ID: m.ID, Arrival: Nanos(m.Arrival), Created: Nanos(m.State.Created), Size: m.Size, Origin: m.Origin,
		Sender: unique.Make(m.Sender), User: unique.Make(m.Client.SASLUser), Rcpts: make([]Rcpt, len(m.Recipients)),
	}
	for i := range m.Recipients {
		x := &r.Rcpts[i]
		x.Addr, x.Orig, x.Next = m.Recipients[i].Address, m.Recipients[i].OrigAddress, -1
		if i < len(m.RcptState) {
			x.load(&m.RcptState[i])
		}
	}
	if !share {
		r.Own()
	}
	r.load(&m.State)
	if len(r.Rcpts) == 0 && !r.Is(Corrupt) {
		r.More().Corrupt = "no recipients"
		r.Flags |= Corrupt
	}
	return r
}

// Own makes copies of the recipients' strings, once, which may be parts of
// larger ones.
func (r *Row) Own() {
	if r.Is(OwnStrings) {
		return
	}
	r.Flags |= OwnStrings
	for i := range r.Rcpts {
		x := &r.Rcpts[i]
		x.Addr, x.Orig = mail.Address(strings.Clone(string(x.Addr))), mail.Address(strings.Clone(string(x.Orig)))
	}
}

// More is Extra, made when there is none.
func (r *Row) More() *Extra {
	if r.Extra == nil {
		r.Extra = new(Extra)
	}
	return r.Extra
}

func (r *Row) load(s *mail.State) {
	r.set(Held, s.Hold)
	r.set(ForceExpire, s.ForceExpire)
	r.set(Requeued, s.Requeue)
	r.set(Warned, s.Warned)
	r.set(Trashed, s.Trashed())
	r.set(Corrupt, s.Corrupt != "")
	if s.HoldReason != "" || s.Trashed() || s.Corrupt != "" {
		r.Extra = &Extra{HoldReason: s.HoldReason, DeletedAt: Nanos(s.DeletedAt), DeletedBy: s.DeletedBy, Corrupt: s.Corrupt}
	}
}

// State is the message's state as the spool keeps it.
func (r *Row) State() mail.State {
	s := mail.State{
		Created: Time(r.Created), Hold: r.Is(Held), ForceExpire: r.Is(ForceExpire),
		Requeue: r.Is(Requeued), Warned: r.Is(Warned),
	}
	if x := r.Extra; x != nil {
		s.HoldReason, s.DeletedAt, s.DeletedBy, s.Corrupt = x.HoldReason, Time(x.DeletedAt), x.DeletedBy, x.Corrupt
	}
	return s
}

func (x *Rcpt) load(s *mail.RecipientState) {
	x.Phase, x.Notified, x.Attempts = s.Phase, s.Notified, s.Attempts
	x.LastAttempt, x.NextAttempt = Nanos(s.LastAttempt), Nanos(s.NextAttempt)
	x.SetLast(s.Last)
}

// State is the recipient's state as the spool keeps it.
func (x *Rcpt) State() mail.RecipientState {
	return mail.RecipientState{
		Phase: x.Phase, Notified: x.Notified, Attempts: x.Attempts,
		LastAttempt: Time(x.LastAttempt), NextAttempt: Time(x.NextAttempt), Last: x.Last(),
	}
}

// SetLast keeps the status of an attempt. Statuses repeat across thousands of
// messages to the same destination, so each is kept once.
func (x *Rcpt) SetLast(s mail.Status) {
	if s == (mail.Status{}) {
		x.last = unique.Handle[mail.Status]{}
		return
	}
	x.last = unique.Make(s)
}

// Last is the status of the last attempt, zero before it.
func (x *Rcpt) Last() mail.Status {
	if x.last == (unique.Handle[mail.Status]{}) {
		return mail.Status{}
	}
	return x.last.Value()
}

// Owed tells whether a notice is still to be made for a recipient. One who
// was sent to and about whom nobody asked counts as notified.
func (x *Rcpt) Owed() bool { return x.Phase.Final() && x.Phase != mail.Canceled && !x.Notified }

// Pending is how many recipients are not final.
func (r *Row) Pending() (n int) {
	for i := range r.Rcpts {
		if r.Rcpts[i].Phase == mail.Pending {
			n++
		}
	}
	return n
}

// AnyOwed tells whether a notice is owed for any recipient.
func (r *Row) AnyOwed() bool {
	for i := range r.Rcpts {
		if r.Rcpts[i].Owed() {
			return true
		}
	}
	return false
}

// Attempts is the largest number of attempts among the recipients.
func (r *Row) Attempts() (n uint32) {
	for i := range r.Rcpts {
		n = max(n, r.Rcpts[i].Attempts)
	}
	return n
}

// Untried tells whether no delivery was ever attempted or suspended.
func (r *Row) Untried() bool {
	for i := range r.Rcpts {
		if x := &r.Rcpts[i]; x.LastAttempt != 0 || x.NextAttempt != 0 {
			return false
		}
	}
	return true
}

// Message puts a message together from its envelope and its row.
func (r *Row) Message(env *mail.Envelope) *mail.Message {
	m := &mail.Message{Envelope: *env, State: r.State(), RcptState: make([]mail.RecipientState, len(r.Rcpts))}
	for i := range r.Rcpts {
		m.RcptState[i] = r.Rcpts[i].State()
	}
	return m
}
