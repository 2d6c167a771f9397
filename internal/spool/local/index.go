package local

import (
	"fmt"
	"sort"

	"posthouse/internal/mail"
	"posthouse/internal/spool"
)

// location is where a record lies.
type location struct{ seg, off uint32 }

// position is a place in the log that everything before has been applied.
type position struct {
	seg   uint32
	off   uint32
	batch uint64 // the last one before it
}

// entry is what the index knows of a live message. It has no pointers, so that
// the garbage collector does not look at a million of them.
type entry struct {
	location
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

func (e *entry) recordLen() int64 { return recordLen(int64(e.head), int64(e.body)) }

// generation collects the changes between two checkpoints.
type generation struct {
	fresh []mail.QueueID // envelope rows to write: new messages, and moved ones
	dirty map[mail.QueueID]*changes
	gone  []goneRows
	bytes int64 // memory taken, roughly
}

// changes are the states of a message that were set since a checkpoint,
// encoded.
type changes struct {
	state []byte // nil: unchanged
	rcpts []rcptState
}

// rcptState is one recipient's state; a list of them is in order of index.
type rcptState struct {
	index uint32
	enc   []byte
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
	return &generation{dirty: make(map[mail.QueueID]*changes)}
}

func (g *generation) change(id mail.QueueID) *changes {
	c := g.dirty[id]
	if c == nil {
		c = &changes{}
		g.dirty[id] = c
		g.bytes += costChanges
	}
	return c
}

func (g *generation) setState(id mail.QueueID, s *mail.State) {
	c := g.change(id)
	g.bytes -= int64(len(c.state))
	c.state = spool.AppendState(make([]byte, 0, 24+len(s.HoldReason)+len(s.DeletedBy)+len(s.Corrupt)), s)
	g.bytes += int64(len(c.state))
}

func (g *generation) setRecipient(id mail.QueueID, index uint32, s *mail.RecipientState) {
	c := g.change(id)
	enc := spool.AppendRecipientState(make([]byte, 0, 48+len(s.Last.Text)+len(s.Last.RemoteMTA)+len(s.Last.DiagType)+len(s.Last.DiagText)), s)
	g.bytes += c.set(index, enc)
}

// set records one recipient's state and returns the memory that took.
func (c *changes) set(index uint32, enc []byte) int64 {
	i := len(c.rcpts)
	if i > 0 && c.rcpts[i-1].index >= index {
		i = sort.Search(i, func(i int) bool { return c.rcpts[i].index >= index })
	}
	if i < len(c.rcpts) && c.rcpts[i].index == index {
		delta := len(enc) - len(c.rcpts[i].enc)
		c.rcpts[i].enc = enc
		return int64(delta)
	}
	c.rcpts = append(c.rcpts, rcptState{})
	copy(c.rcpts[i+1:], c.rcpts[i:])
	c.rcpts[i] = rcptState{index: index, enc: enc}
	return int64(costRcpt + len(enc))
}

// drop forgets the changes of a removed message.
func (g *generation) drop(id mail.QueueID) {
	if _, ok := g.dirty[id]; ok {
		delete(g.dirty, id)
		g.bytes -= costChanges
	}
}

// applyBatch makes durable requests visible. end is where the log ends now.
func (st *Store) applyBatch(seg *segment, reqs []*request, end position) error {
	if err := st.applyKV(reqs); err != nil {
		return err
	}
	var evicted [16]*buffer
	release := evicted[:0]
	st.mu.Lock()
	for _, r := range reqs {
		switch {
		case r.kind == kindBatch:
			release = st.applyOps(r.ops, release)
		case r.flags&flagCopied != 0:
			st.applyCopy(seg, r)
		default:
			release = st.applyMessage(seg, r, release)
		}
	}
	seg.size = max(seg.size, int64(end.off))
	st.logged += int64(end.off) - int64(st.end.off)
	if st.end.seg != end.seg {
		st.logged += int64(st.end.off)
	}
	st.end = end
	due := st.checkpointDue()
	if due {
		st.beginCheckpoint()
	}
	st.mu.Unlock()
	for _, b := range release {
		st.pool.release(b)
	}
	if due {
		st.wakeJanitor()
	}
	return nil
}

func (st *Store) applyMessage(seg *segment, r *request, release []*buffer) []*buffer {
	e := entry{
		location: location{seg.seq, uint32(r.off)},
		head:     uint32(len(r.head)), body: uint32(len(r.bytes())), rcpts: uint32(r.rcpts),
	}
	if r.kind == kindLarge {
		e.flags |= isLarge
		st.large[r.id] = r.size
		st.largeBytes += r.size
	}
	st.index[r.id] = e
	seg.live += e.recordLen()
	seg.count++
	st.lastID = max(st.lastID, r.id)
	st.gen.fresh = append(st.gen.fresh, r.id)
	st.gen.bytes += costFresh
	if r.content != nil {
		release = st.cache.add(r.id, r.content, release)
		r.content = nil
	}
	return release
}

// applyCopy moves a message to the copy of its record, unless it has been
// removed or moved since the copy was made.
func (st *Store) applyCopy(seg *segment, r *request) {
	e, ok := st.index[r.id]
	if !ok || e.location != r.from {
		return
	}
	st.unlink(e)
	e.location = location{seg.seq, uint32(r.off)}
	st.index[r.id] = e
	seg.live += e.recordLen()
	seg.count++
	st.gen.fresh = append(st.gen.fresh, r.id)
	st.gen.bytes += costFresh
}

// unlink takes a message's record out of its segment's account.
func (st *Store) unlink(e entry) {
	if seg := st.segs[e.seg]; seg != nil {
		seg.live -= e.recordLen()
		seg.count--
		if seg.count == 0 || (seg.sealed && !seg.sparse && seg.ratio() < copyUsual) {
			seg.sparse = seg.sealed
			st.wakeJanitor()
		}
	}
}

// applyOps applies a batch's changes to messages. Changes of messages that are
// not there are ignored.
func (st *Store) applyOps(b *spool.Batch, release []*buffer) []*buffer {
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

func (st *Store) applyRemove(id mail.QueueID, e entry, release []*buffer) []*buffer {
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
	if b := st.cache.remove(id); b != nil {
		release = append(release, b)
	}
	return release
}

// current returns the states of a message that Pebble does not have yet,
// newer ones first. The Store's mutex is held; the slices are never changed
// in place, so they may be used after it.
func (st *Store) current(id mail.QueueID) (list []changes) {
	for _, g := range []*generation{st.gen, st.frozen} {
		if g == nil {
			continue
		}
		if c := g.dirty[id]; c != nil {
			list = append(list, changes{state: c.state, rcpts: append([]rcptState(nil), c.rcpts...)})
		}
	}
	return list
}

// overlay sets m's states from changes, the first of which is the newest.
func overlay(m *mail.Message, list []changes) error {
	for i := len(list) - 1; i >= 0; i-- {
		if list[i].state != nil {
			s, err := spool.DecodeState(list[i].state)
			if err != nil {
				return fmt.Errorf("state: %w", err)
			}
			m.State = s
		}
		for _, r := range list[i].rcpts {
			if int(r.index) >= len(m.RcptState) {
				continue
			}
			s, err := spool.DecodeRecipientState(r.enc)
			if err != nil {
				return fmt.Errorf("recipient state: %w", err)
			}
			m.RcptState[r.index] = s
		}
	}
	return nil
}
