package queue

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"posthouse/internal/mail"
	"posthouse/internal/queue/schedule"
)

// viewsPerLock bounds how long a listing keeps deliveries waiting.
const viewsPerLock = 256

// queueIndex is a queue's place in listings.
type queueIndex uint8

const (
	inMaildrop queueIndex = iota
	inActive
	inIncoming
	inDeferred
	inHold
	inCorrupt
	inTrash
	queueCount
	noQueue = queueCount
)

// listed are the queues of a listing that names none, in their order.
func listed() []mail.QueueName {
	return []mail.QueueName{mail.Maildrop, mail.Active, mail.Incoming, mail.Deferred, mail.Hold}
}

func (i queueIndex) name() mail.QueueName {
	switch i {
	case inMaildrop:
		return mail.Maildrop
	case inActive:
		return mail.Active
	case inIncoming:
		return mail.Incoming
	case inHold:
		return mail.Hold
	case inCorrupt:
		return mail.Corrupt
	case inTrash:
		return mail.Trash
	default:
		return mail.Deferred
	}
}

// whereabouts derives the queue a message is in.
func (q *Queue) whereabouts(r *row) queueIndex {
	switch {
	case r.is(corrupt):
		return inCorrupt
	case r.is(trashed):
		return inTrash
	case r.is(held):
		return inHold
	case r.is(requeued):
		return inMaildrop
	case r.live > 0, r.is(removing), r.job != 0 && q.groups.at(r.job).state == recording:
		return inActive
	case !q.open && r.untried():
		return inIncoming
	default:
		return inDeferred
	}
}

func (r *row) untried() bool {
	for i := range r.rcpts {
		if x := &r.rcpts[i]; x.lastAttempt != 0 || x.nextAttempt != 0 {
			return false
		}
	}
	return true
}

// replace moves a message to the queue it is in now, for the counts.
func (q *Queue) replace(r *row) {
	at := q.whereabouts(r)
	if at == r.place {
		return
	}
	q.uncount(r)
	r.place = at
	q.counts[at].messages++
	q.counts[at].bytes += r.size
}

func (q *Queue) uncount(r *row) {
	if r.place == noQueue {
		return
	}
	q.counts[r.place].messages--
	q.counts[r.place].bytes -= r.size
	r.place = noQueue
}

// Counts are the sizes of all queues, trash and corrupt included.
func (q *Queue) Counts() Counts {
	q.mu.Lock()
	defer q.mu.Unlock()
	c := Counts{Messages: make(map[mail.QueueName]int, queueCount), Bytes: make(map[mail.QueueName]int64, queueCount)}
	for i := range queueCount {
		c.Messages[i.name()], c.Bytes[i.name()] = q.counts[i].messages, q.counts[i].bytes
	}
	return c
}

// List calls each for every message, in order of queues (maildrop, active,
// incoming, deferred, hold) and in them by ID, until it returns false. Trash
// and corrupt messages are left out. Each View is consistent in itself; the
// whole is not a snapshot: a message that moves meanwhile is shown where it is
// when its turn comes, one that ends meanwhile is not shown.
func (q *Queue) List(each func(*View) bool) { q.ListQueues(listed(), each) }

// ListQueues is List for the given queues, trash and corrupt included when
// they are named. The order is List's, then corrupt, then trash.
func (q *Queue) ListQueues(queues []mail.QueueName, each func(*View) bool) {
	views := make([]*View, 0, viewsPerLock)
	for ids := range slices.Chunk(q.ids(queues), viewsPerLock) {
		views = views[:0]
		q.mu.Lock()
		for _, id := range ids {
			if ri, ok := q.byID[id]; ok {
				views = append(views, q.view(q.rows.at(ri)))
			}
		}
		q.mu.Unlock()
		for _, v := range views {
			if !each(v) {
				return
			}
		}
	}
}

// ids are the messages of some queues (nil: all) in listing order.
func (q *Queue) ids(queues []mail.QueueName) []mail.QueueID {
	type place struct {
		at queueIndex
		id mail.QueueID
	}
	var want [queueCount]bool
	for i := range queueCount {
		want[i] = queues == nil || slices.Contains(queues, i.name())
	}
	q.mu.Lock()
	found := make([]place, 0, len(q.byID))
	q.mu.Unlock()
	for from := uint32(1); ; from += chunkLen {
		q.mu.Lock()
		end := min(from+chunkLen-1, q.rows.n)
		for i := from; i <= end; i++ {
			if r := q.rows.at(i); r.id != 0 && want[r.place] {
				found = append(found, place{r.place, r.id})
			}
		}
		more := end < q.rows.n
		q.mu.Unlock()
		if !more {
			break
		}
	}
	slices.SortFunc(found, func(a, b place) int {
		if c := cmp.Compare(a.at, b.at); c != 0 && queues != nil {
			return c
		}
		return cmp.Compare(a.id, b.id)
	})
	ids := make([]mail.QueueID, len(found))
	for i := range found {
		ids[i] = found[i].id
	}
	return ids
}

func (q *Queue) view(r *row) *View {
	v := &View{
		Queue: r.place.name(), ID: r.id, Arrival: fromNanos(r.arrival), Size: r.size, Sender: r.sender.Value(),
		ForceExpire: r.is(forceExpire), Origin: r.origin, User: r.user.Value(),
		Expires:    q.cfg.expires(fromNanos(r.created), r.sender.Value()),
		Attempts:   r.attempts(),
		Recipients: make([]RecipientView, 0, r.pending()),
	}
	for i := range r.rcpts {
		x := &r.rcpts[i]
		if x.phase.Final() {
			continue
		}
		rv := RecipientView{Address: x.addr, OrigAddress: x.orig, Reason: x.status().Text, NextAttempt: fromNanos(x.nextAttempt)}
		if x.group != 0 {
			if rv.Destination = q.sched.Destination(q.groups.at(x.group).dest); isInternal(rv.Destination) {
				rv.Destination = mail.Destination{}
			}
		}
		if v.NextAttempt.IsZero() || rv.NextAttempt.Before(v.NextAttempt) {
			v.NextAttempt = rv.NextAttempt
		}
		v.Recipients = append(v.Recipients, rv)
	}
	if r.live > 0 {
		v.NextAttempt = time.Time{}
	}
	return v
}

// Message is a message with its current state, read back from the spool where
// memory does not have all of it. The error wraps spool.ErrNotFound when there
// is none.
func (q *Queue) Message(id mail.QueueID) (*mail.Message, mail.QueueName, error) {
	q.mu.Lock()
	if ri, ok := q.byID[id]; ok && q.rows.at(ri).env != nil {
		r := q.rows.at(ri)
		defer q.mu.Unlock()
		return r.message(r.env), r.place.name(), nil
	}
	q.mu.Unlock()
	m, err := q.deps.Store.Message(id)
	if err != nil {
		return nil, "", fmt.Errorf("message %s: %w", id.Short(), err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	ri, ok := q.byID[id]
	if !ok {
		return m, mail.Incoming, nil
	}
	r := q.rows.at(ri)
	if len(m.Recipients) != len(r.rcpts) {
		return m, r.place.name(), nil
	}
	return r.message(&m.Envelope), r.place.name(), nil
}

// Destinations are the destinations that have deliveries or are remembered,
// in order of their names.
func (q *Queue) Destinations() []DestinationView {
	var out []DestinationView
	q.mu.Lock()
	q.sched.Views(func(v schedule.View) {
		if isInternal(v.Destination) {
			return
		}
		out = append(out, DestinationView{
			Destination: v.Destination, Waiting: v.Waiting, Running: v.Running, Deferred: v.Deferred,
			Window: v.Window, DeadUntil: v.DeadUntil, DeadReason: v.Reason.Text,
		})
	})
	q.mu.Unlock()
	slices.SortFunc(out, func(a, b DestinationView) int {
		return cmp.Or(cmp.Compare(a.Destination.Transport, b.Destination.Transport), cmp.Compare(a.Destination.NextHop, b.Destination.NextHop))
	})
	return out
}
