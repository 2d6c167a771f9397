package listing

import (
	"time"

	"posthouse/internal/mail"
)

// Entry is one message as a listing shows it.
type Entry struct {
	Queue        mail.QueueName
	ID           string // in the form it is shown in
	Arrival      time.Time
	Size         int64 // bytes
	ForcedExpire bool
	Sender       mail.Address // empty: shown as MAILER-DAEMON
	Recipients   []Recipient  // those not done with; may be empty
}

// Recipient is a waiting recipient of an Entry.
type Recipient struct {
	Address mail.Address
	Reason  string // why it was deferred; "" when it was not
}

// nullSender is what Postfix shows for the empty sender
// (empty_address_recipient); a listing cannot tell it from a real address of
// that name.
const nullSender = "MAILER-DAEMON"

// QueueOrder is the order in which Postfix walks the queues.
func QueueOrder() []mail.QueueName {
	return []mail.QueueName{mail.Maildrop, mail.Active, mail.Incoming, mail.Deferred, mail.Hold}
}

// inOrder calls each for the recipients that have a reason, then for the
// others: Postfix reads the log of deferrals first and the envelope second.
//
// Recipients with the same reason come together, at the place of the first of
// them. That log is written by deliveries, each of which has the recipients
// of one destination, so this is its order whatever the order of the
// envelope; and a reason is shown once for all who share it.
func inOrder(rcpts []Recipient, each func(*Recipient)) {
	if !mixed(rcpts) {
		for i := range rcpts {
			each(&rcpts[i])
		}
		return
	}
	at := map[string]int{}
	var groups [][]int
	for i := range rcpts {
		if rcpts[i].Reason == "" {
			continue
		}
		n, ok := at[rcpts[i].Reason]
		if !ok {
			n = len(groups)
			at[rcpts[i].Reason] = n
			groups = append(groups, nil)
		}
		groups[n] = append(groups[n], i)
	}
	for _, g := range groups {
		for _, i := range g {
			each(&rcpts[i])
		}
	}
	for i := range rcpts {
		if rcpts[i].Reason == "" {
			each(&rcpts[i])
		}
	}
}

// mixed tells whether recipients have different reasons: most messages have
// one destination, and are listed without any sorting.
func mixed(rcpts []Recipient) bool {
	for i := range rcpts {
		if rcpts[i].Reason != rcpts[0].Reason {
			return true
		}
	}
	return false
}
