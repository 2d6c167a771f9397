package queue

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"posthouse/internal/mail"
	"posthouse/internal/queue/row"
	"posthouse/internal/queue/schedule"
)

// viewsPerLock bounds how long a listing keeps deliveries waiting.
const viewsPerLock = 256

// listed are the queues of a listing that names none, in their order.
func listed() []mail.QueueName {
	return []mail.QueueName{mail.Maildrop, mail.Active, mail.Incoming, mail.Deferred, mail.Hold}
}

// whereabouts derives the queue a message is in.
func (q *Queue) whereabouts(r *row.Row) row.Place {
	switch {
	case r.Is(row.Corrupt):
		return row.SetAside
	case r.Is(row.Trashed):
		return row.Trash
	case r.Is(row.Held):
		return row.Hold
	case r.Is(row.Requeued):
		return row.Maildrop
	case r.Live > 0, r.Is(row.Removing), r.Job != 0 && q.groups.At(r.Job).state == recording:
		return row.Active
	case !q.open && r.Untried():
		return row.Incoming
	default:
		return row.Deferred
	}
}

// replace moves a message to the queue it is in now, for the counts.
func (q *Queue) replace(r *row.Row) {
	at := q.whereabouts(r)
	if at == r.Place {
		return
	}
	q.uncount(r)
	r.Place = at
	q.counts[at].messages++
	q.counts[at].bytes += r.Size
}

func (q *Queue) uncount(r *row.Row) {
	if r.Place == row.Nowhere {
		return
	}
	q.counts[r.Place].messages--
	q.counts[r.Place].bytes -= r.Size
	r.Place = row.Nowhere
}

// Counts are the sizes of all queues, trash and corrupt included.
func (q *Queue) Counts() Counts {
	q.mu.Lock()
	defer q.mu.Unlock()
	c := Counts{Messages: make(map[mail.QueueName]int, row.Places), Bytes: make(map[mail.QueueName]int64, row.Places)}
	for i := range row.Places {
		c.Messages[i.Name()], c.Bytes[i.Name()] = q.counts[i].messages, q.counts[i].bytes
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
	for ids := range slices.Chunk(q.ids(queues), viewsPerLock) {
		// Made anew for each chunk: the caller may keep a View.
		views := make([]View, 0, len(ids))
		room := make([]RecipientView, len(ids)*5/4)
		q.mu.Lock()
		for _, id := range ids {
			if ri, ok := q.byID[id]; ok {
				v, used := q.view(q.rows.At(ri), room)
				views, room = append(views, v), room[used:]
			}
		}
		q.mu.Unlock()
		for i := range views {
			if !each(&views[i]) {
				return
			}
		}
	}
}

// ids are the messages of some queues (nil: all) in listing order.
func (q *Queue) ids(queues []mail.QueueName) []mail.QueueID {
	type place struct {
		at row.Place
		id mail.QueueID
	}
	var want [row.Places]bool
	for i := range row.Places {
		want[i] = queues == nil || slices.Contains(queues, i.Name())
	}
	q.mu.Lock()
	found := make([]place, 0, len(q.byID))
	q.mu.Unlock()
	for from := uint32(1); ; from += row.ChunkLen {
		q.mu.Lock()
		end := min(from+row.ChunkLen-1, q.rows.Len())
		for i := from; i <= end; i++ {
			if r := q.rows.At(i); r.ID != 0 && want[r.Place] {
				found = append(found, place{r.Place, r.ID})
			}
		}
		more := end < q.rows.Len()
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

// view is a copy of a message for listings. Its recipients are put into the
// room that is given, of which it tells how much it used.
func (q *Queue) view(r *row.Row, room []RecipientView) (View, int) {
	v := View{
		Queue: r.Place.Name(), ID: r.ID, Arrival: row.Time(r.Arrival), Size: r.Size, Sender: r.Sender.Value(),
		ForceExpire: r.Is(row.ForceExpire), Origin: r.Origin, User: r.User.Value(),
		Expires: q.cfg.Expires(row.Time(r.Created), r.Sender.Value()), Attempts: r.Attempts(),
	}
	n := r.Pending()
	fits := len(room) >= n
	if fits {
		v.Recipients = room[:0:n]
	} else {
		v.Recipients = make([]RecipientView, 0, n)
	}
	for i := range r.Rcpts {
		x := &r.Rcpts[i]
		if x.Phase.Final() {
			continue
		}
		rv := RecipientView{Address: x.Addr, OrigAddress: x.Orig, Reason: x.Last().Text, NextAttempt: row.Time(x.NextAttempt)}
		if x.Group != 0 {
			if rv.Destination = q.sched.Destination(q.groups.At(x.Group).dest); isInternal(rv.Destination) {
				rv.Destination = mail.Destination{}
			}
		}
		if len(v.Recipients) == 0 || rv.NextAttempt.Before(v.NextAttempt) {
			v.NextAttempt = rv.NextAttempt
		}
		v.Recipients = append(v.Recipients, rv)
	}
	if r.Live > 0 {
		v.NextAttempt = time.Time{}
	}
	if !fits {
		return v, 0
	}
	return v, n
}

// Message is a message with its current state, read back from the spool where
// memory does not have all of it. The error wraps spool.ErrNotFound when there
// is none.
func (q *Queue) Message(id mail.QueueID) (*mail.Message, mail.QueueName, error) {
	q.mu.Lock()
	if ri, ok := q.byID[id]; ok && q.rows.At(ri).Env != nil {
		r := q.rows.At(ri)
		defer q.mu.Unlock()
		return r.Message(r.Env), r.Place.Name(), nil
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
	r := q.rows.At(ri)
	if len(m.Recipients) != len(r.Rcpts) {
		return m, r.Place.Name(), nil
	}
	return r.Message(&m.Envelope), r.Place.Name(), nil
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
