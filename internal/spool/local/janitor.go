package local

import "time"

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
	if ready {
		st.log.Free(before)
	}
}
