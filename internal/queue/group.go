package queue

import (
	"strings"

	"posthouse/internal/mail"
	"posthouse/internal/queue/schedule"
)

// group is a delivery, or one of the queue's own jobs, in any state: the thing
// that the scheduler knows as an Item.
type group struct {
	row   uint32
	next  uint32 // next group of the message
	first int32  // first recipient, -1: none
	count int32
	dest  schedule.DestID
	gen   uint32 // router generation it was routed with; 0: route before the attempt
	due   int64  // when the attempt became due
	run   *Delivery
	kind  kind
	state groupState
}

// kind is what a group is for.
type kind uint8

const (
	forDelivery kind = iota
	forNotice
	forResubmit
	forPurge
)

// groupState is where a group is.
//
//	idle ──► waiting ──► due ──► running ──► recording ──► waiting …
//	 ▲          │         │         │            │
//	 └──────────┴─────────┴─────────┴────────────┘  parked
type groupState uint8

const (
	idle      groupState = iota // not scheduled: parked, or before Run
	waiting                     // in the scheduler, for a later time
	due                         // in the scheduler, for a slot
	running                     // an agent or job goroutine has it
	recording                   // its outcome is on the way to the spool
)

// The destinations behind which the queue's own jobs wait, and the one of
// recipients that the router could not place. No table can name them.
func internalDest(name string) mail.Destination { return mail.Destination{Transport: "\x00" + name} }

var (
	noticeJobs   = internalDest("notice")
	resubmitJobs = internalDest("resubmit")
	purgeJobs    = internalDest("purge")
	unrouted     = internalDest("unrouted")
)

func isInternal(d mail.Destination) bool { return strings.HasPrefix(d.Transport, "\x00") }
