package local

import (
	"context"
	"time"

	"posthouse/internal/spool"
)

// wakeJanitor tells the janitor that there may be something to do.
func (st *Store) wakeJanitor() {
	select {
	case st.janitor <- struct{}{}:
	default:
	}
}

// keepHouse is the janitor's goroutine: it writes checkpoints, deletes the
// files of removed messages, and reclaims segments.
func (st *Store) keepHouse() {
	defer st.wg.Done()
	timer := time.NewTimer(0)
	defer timer.Stop()
	cp := copier{st: st}
	for {
		select {
		case <-st.stop:
			return
		case <-st.janitor:
		case <-timer.C:
		}
		if wait := st.tidy(&cp); wait > 0 {
			timer.Reset(wait)
		}
	}
}

// tidy does what is to be done, and returns when to look again, 0 for not
// before something happens.
func (st *Store) tidy(cp *copier) time.Duration {
	st.squeeze()
	if err := st.writeCheckpoint(); err != nil {
		if st.Err() != nil {
			return 0
		}
		st.opts.Warn("spool: " + err.Error())
		return retryCheckpoint
	}
	st.deleteLarge()
	st.freeSegments()
	return cp.step()
}

// deleteLarge deletes the content files of messages whose removal is durable.
func (st *Store) deleteLarge() {
	st.mu.Lock()
	ids := st.largeGone
	st.largeGone = nil
	st.mu.Unlock()
	for _, id := range ids {
		if err := st.largeDir.Remove(id); err != nil {
			st.opts.Warn("spool: remove content file: " + err.Error())
		}
	}
}

// freeSegments takes back the segments in which nothing lives, and which no
// replay will read: those before the durable checkpoint.
func (st *Store) freeSegments() {
	st.mu.Lock()
	before, ready := st.durable.Seg, st.recovered
	st.mu.Unlock()
	if !ready {
		return
	}
	st.log.Free(before)
	if st.space.short() {
		st.log.DropSpares()
	}
}

// squeeze ends the segment being written and begins a checkpoint when mail is
// refused for lack of space while the log holds on to dead bytes. Both happen
// by themselves only as more is written: a queue that has run empty on a full
// disk would never take mail again.
func (st *Store) squeeze() {
	if !st.space.short() {
		return
	}
	st.mu.Lock()
	pinned := st.recovered && st.frozen == nil && st.log.Pinned(st.durable.Seg, st.end) >= st.space.reserve/8
	st.mu.Unlock()
	if !pinned {
		return
	}
	st.log.Rotate()
	if err := st.submit(context.Background(), st.batch(&spool.Batch{})); err != nil {
		return // there is not even room for this, or the store is ending
	}
	st.mu.Lock()
	if st.frozen == nil {
		st.beginCheckpoint()
	}
	st.mu.Unlock()
}
