package local

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"posthouse/internal/mail"
	"posthouse/internal/spool"
)

// recovery merges the rows of Pebble with what the log has after them.
type recovery struct {
	st     *Store
	replay *replay
	each   func(*mail.Message) error
	found  spool.Recovered
	logged []mail.QueueID // messages placed by the log, in order of ID, not yet yielded
	rows   messageRows    // of the message being read
}

// messageRows are the rows that Pebble has of one message.
type messageRows struct {
	id       mail.QueueID
	envelope []byte // nil when there is none
	changes  changes
}

// Recover implements spool.Store.
func (st *Store) Recover(ctx context.Context, each func(*mail.Message) error) (spool.Recovered, error) {
	st.mu.Lock()
	r := &recovery{st: st, replay: st.replayed, each: each}
	st.replayed = nil
	switch {
	case st.closed:
		st.mu.Unlock()
		return spool.Recovered{}, spool.ErrClosed
	case r.replay == nil:
		st.mu.Unlock()
		return spool.Recovered{}, errors.New("spool: Recover was called before")
	}
	st.users++
	st.mu.Unlock()
	defer st.leave()
	if err := r.run(ctx); err != nil {
		return r.found, err
	}
	if err := st.removeLargeOrphans(); err != nil {
		return r.found, err
	}
	st.mu.Lock()
	st.recovered = true
	for _, size := range st.large {
		st.largeBytes += size
	}
	r.found.LastID = st.lastID
	st.mu.Unlock()
	st.wakeJanitor()
	return r.found, nil
}

// run goes through rows and log in order of ID.
func (r *recovery) run(ctx context.Context) error {
	for id := range r.st.index {
		r.logged = append(r.logged, id)
	}
	slices.Sort(r.logged)
	it, err := r.st.rows.db.NewIterWithContext(ctx, &pebble.IterOptions{LowerBound: []byte{messagePrefix}, UpperBound: []byte{messagePrefix + 1}})
	if err != nil {
		return fmt.Errorf("read spool rows: %w", err)
	}
	err = r.merge(ctx, it)
	return errors.Join(err, it.Close())
}

func (r *recovery) merge(ctx context.Context, it *pebble.Iterator) error {
	n := 0
	for ok := it.First(); ok; ok = it.Next() {
		if n++; n%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		id, kind, index, sound := parseMessageKey(it.Key())
		if !sound {
			continue
		}
		if id != r.rows.id {
			if err := r.upTo(id); err != nil {
				return err
			}
			r.rows = messageRows{id: id}
		}
		value := append([]byte(nil), it.Value()...)
		switch kind {
		case rowEnvelope:
			r.rows.envelope = value
		case rowState:
			r.rows.changes.state = value
		case rowRecipient:
			r.rows.changes.rcpts = append(r.rows.changes.rcpts, rcptState{index, value})
		}
	}
	if err := it.Error(); err != nil {
		return fmt.Errorf("read spool rows: %w", err)
	}
	if err := r.upTo(1<<64 - 1); err != nil {
		return err
	}
	r.dropStrays()
	return ctx.Err()
}

// upTo yields all messages before next: those that only the log has, and the
// one whose rows were read.
func (r *recovery) upTo(next mail.QueueID) error {
	rows := r.rows
	r.rows = messageRows{}
	for len(r.logged) > 0 && r.logged[0] < next {
		id := r.logged[0]
		if rows.id != 0 && rows.id < id {
			if err := r.rowed(rows); err != nil {
				return err
			}
			rows = messageRows{}
		}
		r.logged = r.logged[1:]
		mine := messageRows{id: id}
		if rows.id == id {
			mine, rows = rows, messageRows{}
		}
		if err := r.yield(mine, r.st.index[id], true); err != nil {
			return err
		}
	}
	if rows.id == 0 {
		return nil
	}
	return r.rowed(rows)
}

// rowed handles a message that the log has no record of after the checkpoint.
func (r *recovery) rowed(rows messageRows) error {
	_, removed := r.replay.removed[rows.id]
	if removed || rows.envelope == nil {
		// Removed since the checkpoint, or left over from one that a crash
		// interrupted.
		e, _, _, _ := parseEnvelopeRow(rows.envelope)
		r.st.gen.gone = append(r.st.gen.gone, goneRows{rows.id, max(e.rcpts, fewRecipients+1), hasRow | hasState | hasRcpts})
		r.st.gen.drop(rows.id)
		return nil
	}
	e, size, _, err := parseEnvelopeRow(rows.envelope)
	if err != nil {
		r.replay.corrupt[rows.id] = err.Error()
	}
	if e.flags&isLarge != 0 {
		r.st.large[rows.id] = size
	}
	return r.yield(rows, e, false)
}

// yield hands out a message and completes its place in the index. logged tells
// that the log put it there.
func (r *recovery) yield(rows messageRows, e entry, logged bool) error {
	st := r.st
	m := r.message(rows, e)
	if rows.envelope != nil {
		e.flags |= hasRow
	}
	if rows.changes.state != nil {
		e.flags |= hasState
	}
	if len(rows.changes.rcpts) > 0 {
		e.flags |= hasRcpts
	}
	e.rcpts = uint32(len(m.Recipients))
	st.mu.Lock()
	list := append(st.current(rows.id), rows.changes)
	st.index[rows.id] = e
	if seg := st.segs[e.seg]; seg != nil && !logged {
		seg.live += e.recordLen()
		seg.count++
	}
	st.lastID = max(st.lastID, rows.id)
	st.mu.Unlock()
	if err := overlay(m, list); err != nil {
		m.State.Corrupt = err.Error()
	}
	r.check(m, e)
	if m.State.Corrupt != "" {
		r.found.Corrupt++
	}
	r.found.Messages++
	return r.each(m)
}

// message decodes the envelope: from the row if there is one, else from the log.
func (r *recovery) message(rows messageRows, e entry) *mail.Message {
	if _, _, head, err := parseEnvelopeRow(rows.envelope); err == nil && len(head) > 0 {
		return decodeMessage(rows.id, head)
	}
	return r.st.readMessage(rows.id, e)
}

// check marks a message corrupt that replay found damaged, or whose content
// cannot be there. What the log had damaged is recorded as its state, because
// the next checkpoint leaves that part of the log behind.
func (r *recovery) check(m *mail.Message, e entry) {
	reason, damaged := r.replay.corrupt[m.ID]
	switch {
	case damaged:
	case r.st.opts.VerifyAll:
		if err := r.st.verify(m.ID, e); err != nil {
			reason = err.Error()
		}
	default:
		reason = r.st.missing(e)
	}
	if reason == "" {
		return
	}
	if m.State.Corrupt == "" {
		m.State.Corrupt = reason
	}
	r.st.opts.Warn(fmt.Sprintf("spool: message %s is corrupt: %s", m.ID.Short(), m.State.Corrupt))
	if damaged {
		r.st.mu.Lock()
		r.st.gen.setState(m.ID, &m.State)
		r.st.mu.Unlock()
	}
}

// missing tells why the record of e cannot be where it should be, or "".
func (st *Store) missing(e entry) string {
	st.mu.Lock()
	defer st.mu.Unlock()
	switch seg := st.segs[e.seg]; {
	case seg == nil:
		return fmt.Sprintf("log segment %08x is missing", e.seg)
	case int64(e.off)+headerLen+int64(e.head)+int64(e.body) > seg.size:
		return fmt.Sprintf("log segment %08x ends too early", e.seg)
	}
	return ""
}

// verify reads a message's content and checks it.
func (st *Store) verify(id mail.QueueID, e entry) error {
	buf, _, body, err := st.readRecord(id, e, true)
	if buf != nil {
		defer st.pool.release(buf)
	}
	if err != nil || e.flags&isLarge == 0 {
		return err
	}
	c, err := st.openLarge(id, body)
	if err != nil {
		return err
	}
	return errors.Join(c.verify(), c.Close())
}

// dropStrays forgets changes of messages that do not exist.
func (r *recovery) dropStrays() {
	r.st.mu.Lock()
	defer r.st.mu.Unlock()
	for id := range r.st.gen.dirty {
		if _, ok := r.st.index[id]; !ok {
			r.st.gen.drop(id)
		}
	}
}
