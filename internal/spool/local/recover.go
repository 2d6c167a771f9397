package local

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"posthouse/internal/mail"
	"posthouse/internal/spool"
	"posthouse/internal/spool/local/rows"
)

// recovery merges the rows of Pebble with what the log has after them.
type recovery struct {
	st     *Store
	replay *replay
	each   func(*mail.Message) error
	found  spool.Recovered
	logged []mail.QueueID // messages placed by the log, in order of ID, not yet yielded
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
	if err := st.largeDir.RemoveOrphans(func(id mail.QueueID) bool { _, live := st.large[id]; return live }); err != nil {
		st.opts.Warn("spool: remove left-over contents: " + err.Error())
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
	err := r.st.rows.Messages(ctx, func(m *rows.Message) error {
		if err := r.loggedBefore(m.ID); err != nil {
			return err
		}
		if len(r.logged) > 0 && r.logged[0] == m.ID {
			r.logged = r.logged[1:]
			return r.yield(m, r.st.index[m.ID], true)
		}
		return r.rowed(m)
	})
	if err == nil {
		err = r.loggedBefore(1<<64 - 1)
	}
	if err == nil {
		r.dropStrays()
	}
	return err
}

// loggedBefore yields the messages that only the log has, up to an ID.
func (r *recovery) loggedBefore(next mail.QueueID) error {
	for len(r.logged) > 0 && r.logged[0] < next {
		id := r.logged[0]
		r.logged = r.logged[1:]
		if err := r.yield(&rows.Message{ID: id}, r.st.index[id], true); err != nil {
			return err
		}
	}
	return nil
}

// rowed handles a message that the log has no record of after the checkpoint.
func (r *recovery) rowed(m *rows.Message) error {
	_, removed := r.replay.removed[m.ID]
	if removed || (m.Envelope == nil && m.Err == nil) {
		// Removed since the checkpoint, or left over from one that a crash
		// interrupted. How many recipients there were is not known here.
		r.st.mu.Lock()
		r.st.gen.gone = append(r.st.gen.gone, goneRows{m.ID, 1<<32 - 1, hasRow | stateFlags(&m.States)})
		r.st.gen.drop(m.ID)
		r.st.mu.Unlock()
		return nil
	}
	var e entry
	if env := m.Envelope; env != nil {
		e = entry{at: env.At, head: env.Head, body: env.Body}
		if env.Large {
			e.flags |= isLarge
			r.st.large[m.ID] = env.Size
		}
	} else {
		r.replay.corrupt[m.ID] = m.Err.Error()
	}
	return r.yield(m, e, false)
}

// yield hands out a message and completes its place in the index. logged tells
// that the log put it there.
func (r *recovery) yield(row *rows.Message, e entry, logged bool) error {
	st := r.st
	e.flags |= stateFlags(&row.States)
	m, err := r.message(row, &e)
	if err != nil {
		return err
	}
	e.rcpts = uint32(len(m.Recipients))
	st.mu.Lock()
	list := append(st.current(row.ID), row.States)
	st.index[row.ID] = e
	if !logged {
		st.log.Link(e.at.Seg, e.recordLen())
	}
	st.lastID = max(st.lastID, row.ID)
	st.mu.Unlock()
	if err := overlay(m, list); err != nil {
		return err
	}
	r.check(m, e)
	if m.State.Corrupt != "" {
		r.found.Corrupt++
	}
	r.found.Messages++
	return r.each(m)
}

// message returns a message in its first state. Its row is only a copy of what
// the log has: when nothing can be made of it, the log is asked, and the next
// checkpoint writes the row again.
func (r *recovery) message(row *rows.Message, e *entry) (*mail.Message, error) {
	if row.Envelope == nil {
		return r.st.readMessage(row.ID, *e)
	}
	e.flags |= hasRow
	env, bad := decodeEnvelope(row.ID, row.Envelope.Enc)
	if bad == nil {
		return mail.NewMessage(env), nil
	}
	m, err := r.st.readMessage(row.ID, *e)
	if err == nil && m.State.Corrupt == "" {
		r.st.opts.Warn(fmt.Sprintf("spool: message %s is read from the log, not from its row: %v", row.ID.Short(), bad))
		r.st.mu.Lock()
		r.st.gen.fresh = append(r.st.gen.fresh, row.ID)
		r.st.gen.bytes += costFresh
		r.st.mu.Unlock()
	}
	return m, err
}

// check marks a message corrupt that replay found damaged, or whose content
// cannot be there. What the log had damaged is recorded as its state, because
// the next checkpoint leaves that part of the log behind.
func (r *recovery) check(m *mail.Message, e entry) {
	reason, damaged := r.replay.corrupt[m.ID]
	switch {
	case damaged:
	case m.State.Corrupt != "":
		reason = m.State.Corrupt
	case r.st.opts.VerifyAll:
		switch err := r.st.verify(m.ID, e); {
		case errors.Is(err, spool.ErrCorrupt):
			reason = err.Error()
		case err != nil:
			r.st.opts.Warn(fmt.Sprintf("spool: message %s could not be verified: %v", m.ID.Short(), err))
		}
	default:
		reason = r.st.log.Missing(e.at, e.recordLen())
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

// verify reads a message's content and checks it.
func (st *Store) verify(id mail.QueueID, e entry) error {
	buf, _, body, err := st.readRecord(id, e, true)
	defer st.pool.Release(buf)
	if err != nil || e.flags&isLarge == 0 {
		return err
	}
	c, err := st.largeDir.Open(id, body)
	if err != nil {
		return err
	}
	return errors.Join(c.Verify(), c.Close())
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
