package local

import (
	"errors"
	"fmt"
	"sort"

	"posthouse/internal/mail"
	"posthouse/internal/spool"
	"posthouse/internal/spool/local/contents"
	"posthouse/internal/spool/local/rows"
	"posthouse/internal/spool/local/seglog"
)

// entry is what the index knows of a live message. It has no pointers, so that
// the garbage collector does not look at a million of them.
type entry struct {
	at    seglog.Location
	head  uint32 // length of the record's head
	body  uint32 // length of its body
	rcpts uint32 // recipients
	flags uint32
}

// Flags of an entry.
const (
	isLarge  = 1 << iota // the content has its own file
	hasRow               // Pebble may hold its envelope row,
	hasState             // its state row,
	hasRcpts             // recipient rows
)

func (e *entry) recordLen() int64 { return seglog.RecordLen(int64(e.head), int64(e.body)) }

// generation collects the changes between two checkpoints.
type generation struct {
	fresh []mail.QueueID // envelope rows to write: new messages, and moved ones
	dirty map[mail.QueueID]*rows.States
	gone  []goneRows
	bytes int64 // memory taken, roughly
}

// goneRows names rows of a removed message.
type goneRows struct {
	id    mail.QueueID
	rcpts uint32
	flags uint32
}

// Rough costs in memory, for generation.bytes.
const (
	costFresh   = 8
	costGone    = 16
	costChanges = 120
	costRcpt    = 48
)

func newGeneration() *generation {
	return &generation{dirty: make(map[mail.QueueID]*rows.States)}
}

func (g *generation) change(id mail.QueueID) *rows.States {
	c := g.dirty[id]
	if c == nil {
		c = &rows.States{}
		g.dirty[id] = c
		g.bytes += costChanges
	}
	return c
}

func (g *generation) setState(id mail.QueueID, s *mail.State) {
	c := g.change(id)
	g.bytes -= int64(len(c.State))
	c.State = spool.AppendState(make([]byte, 0, 24+len(s.HoldReason)+len(s.DeletedBy)+len(s.Corrupt)), s)
	g.bytes += int64(len(c.State))
}

func (g *generation) setRecipient(id mail.QueueID, index uint32, s *mail.RecipientState) {
	c := g.change(id)
	enc := spool.AppendRecipientState(make([]byte, 0, 48+len(s.Last.Text)+len(s.Last.RemoteMTA)+len(s.Last.DiagType)+len(s.Last.DiagText)), s)
	g.bytes += setRecipient(c, index, enc)
}

// setRecipient records one recipient's state and returns the memory that took.
func setRecipient(c *rows.States, index uint32, enc []byte) int64 {
	i := len(c.Recipients)
	if i > 0 && c.Recipients[i-1].Index >= index {
		i = sort.Search(i, func(i int) bool { return c.Recipients[i].Index >= index })
	}
	if i < len(c.Recipients) && c.Recipients[i].Index == index {
		delta := len(enc) - len(c.Recipients[i].Enc)
		c.Recipients[i].Enc = enc
		return int64(delta)
	}
	c.Recipients = append(c.Recipients, rows.Recipient{})
	copy(c.Recipients[i+1:], c.Recipients[i:])
	c.Recipients[i] = rows.Recipient{Index: index, Enc: enc}
	return int64(costRcpt + len(enc))
}

// drop forgets the changes of a removed message.
func (g *generation) drop(id mail.QueueID) {
	if _, ok := g.dirty[id]; ok {
		delete(g.dirty, id)
		g.bytes -= costChanges
	}
}

// request is a log record on its way, with what the index is to know of it.
type request struct {
	log     seglog.Request
	content *contents.Buffer // of a new message; the request holds it
	rcpts   int              // its recipients
	size    int64            // of a large content
	ops     *spool.Batch     // of a batch
	from    seglog.Location  // of a copy: where the message was
}

// sink is the Store as the log's committer sees it.
type sink struct{ st *Store }

// Refused implements seglog.Sink.
func (k sink) Refused(r *seglog.Request) {
	if own := r.Owner.(*request); own.content != nil {
		k.st.pool.Release(own.content)
		own.content = nil
	}
}

// Apply implements seglog.Sink.
func (k sink) Apply(reqs []*seglog.Request, end seglog.Position) error {
	st := k.st
	kv := st.rows.NewKV()
	for _, r := range reqs {
		if r.Kind == seglog.Batch {
			kv.Add(r.Owner.(*request).ops)
		}
	}
	if err := kv.Write(); err != nil {
		return err
	}
	var room [16]*contents.Buffer
	release := room[:0]
	st.mu.Lock()
	for _, r := range reqs {
		st.logged += r.Len()
		switch own := r.Owner.(*request); {
		case r.Kind == seglog.Batch:
			release = st.applyOps(own.ops, release)
		case r.Copied:
			st.applyCopy(own)
		default:
			release = st.applyMessage(own, release)
		}
	}
	st.end = end
	due := st.checkpointDue()
	if due {
		st.beginCheckpoint()
	}
	st.mu.Unlock()
	for _, b := range release {
		st.pool.Release(b)
	}
	if due {
		st.wakeJanitor()
	}
	return nil
}

func (st *Store) applyMessage(r *request, release []*contents.Buffer) []*contents.Buffer {
	e := entry{at: r.log.At, head: uint32(len(r.log.Head)), body: uint32(len(r.log.Body)), rcpts: uint32(r.rcpts)}
	if r.log.Kind == seglog.Large {
		e.flags |= isLarge
		st.large[r.log.ID] = r.size
		st.largeBytes += r.size
	}
	st.place(r.log.ID, e)
	if r.content != nil {
		release = st.cache.Add(r.log.ID, r.content, release)
		r.content = nil
	}
	return release
}

// place puts a message into the index, at a place of the log that no row knows.
func (st *Store) place(id mail.QueueID, e entry) {
	st.index[id] = e
	st.log.Link(e.at.Seg, e.recordLen())
	st.lastID = max(st.lastID, id)
	st.gen.fresh = append(st.gen.fresh, id)
	st.gen.bytes += costFresh
}

// applyCopy moves a message to the copy of its record, unless it has been
// removed or moved since the copy was made.
func (st *Store) applyCopy(r *request) {
	e, ok := st.index[r.log.ID]
	if !ok || e.at != r.from {
		return
	}
	st.unlink(e)
	e.at = r.log.At
	st.place(r.log.ID, e)
}

// unlink takes a message's record out of its segment's account.
func (st *Store) unlink(e entry) {
	if st.log.Unlink(e.at.Seg, e.recordLen()) < copyUsual {
		st.wakeJanitor()
	}
}

// applyOps applies a batch's changes to messages. Changes of messages that are
// not there are ignored.
func (st *Store) applyOps(b *spool.Batch, release []*contents.Buffer) []*contents.Buffer {
	for _, op := range b.Ops {
		switch op := op.(type) {
		case spool.SetState:
			if _, ok := st.index[op.ID]; ok {
				st.gen.setState(op.ID, &op.State)
			}
		case spool.SetRecipients:
			e, ok := st.index[op.ID]
			for i := range op.Changes {
				if c := &op.Changes[i]; ok && uint32(c.Index) < e.rcpts {
					st.gen.setRecipient(op.ID, uint32(c.Index), &c.State)
				}
			}
		case spool.Remove:
			if e, ok := st.index[op.ID]; ok {
				release = st.applyRemove(op.ID, e, release)
			}
		}
	}
	return release
}

func (st *Store) applyRemove(id mail.QueueID, e entry, release []*contents.Buffer) []*contents.Buffer {
	delete(st.index, id)
	st.unlink(e)
	st.gen.drop(id)
	if rows := e.flags & (hasRow | hasState | hasRcpts); rows != 0 {
		st.gen.gone = append(st.gen.gone, goneRows{id, e.rcpts, rows})
		st.gen.bytes += costGone
	}
	if e.flags&isLarge != 0 {
		st.largeBytes -= st.large[id]
		delete(st.large, id)
		st.largeGone = append(st.largeGone, id)
		st.wakeJanitor()
	}
	if b := st.cache.Remove(id); b != nil {
		release = append(release, b)
	}
	return release
}

// current returns the states of a message that Pebble does not have yet,
// newer ones first. The Store's mutex is held; what is encoded is never
// changed in place, so it may be used after it.
func (st *Store) current(id mail.QueueID) (list []rows.States) {
	for _, g := range []*generation{st.gen, st.frozen} {
		if g == nil {
			continue
		}
		if c := g.dirty[id]; c != nil {
			list = append(list, rows.States{State: c.State, Recipients: append([]rows.Recipient(nil), c.Recipients...)})
		}
	}
	return list
}

// overlay sets m's states from a list, the first of which is the newest. One
// that is damaged marks m corrupt. Damage to the envelope stays: no state that
// was recorded knows of it. The error is spool.ErrFormat.
func overlay(m *mail.Message, list []rows.States) error {
	damage := m.State.Corrupt
	note := func(what string, err error) error {
		if !errors.Is(err, spool.ErrCorrupt) {
			return fmt.Errorf("message %s: %s: %w", m.ID.Short(), what, err)
		}
		damage = what + ": " + err.Error()
		return nil
	}
	for i := len(list) - 1; i >= 0; i-- {
		if list[i].State != nil {
			s, err := spool.DecodeState(list[i].State)
			if err == nil {
				m.State = s
			} else if err = note("state", err); err != nil {
				return err
			}
		}
		for _, r := range list[i].Recipients {
			if int(r.Index) >= len(m.RcptState) {
				continue
			}
			s, err := spool.DecodeRecipientState(r.Enc)
			if err == nil {
				m.RcptState[r.Index] = s
			} else if err = note("recipient state", err); err != nil {
				return err
			}
		}
	}
	if damage != "" {
		m.State.Corrupt = damage
	}
	return nil
}
