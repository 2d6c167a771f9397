package local

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"posthouse/internal/mail"
	"posthouse/internal/spool"
)

// replay is what reading the log after the last checkpoint found. The state of
// the messages goes straight into the Store's index and generation; the rest
// is kept here for Recover, which knows the rows.
type replay struct {
	st      *Store
	removed map[mail.QueueID]struct{} // removed in the log; Pebble may have rows of them
	corrupt map[mail.QueueID]string   // damaged records, and how
	batch   uint64                    // the last one seen
	nextSeg uint32                    // the number of the segment to go on with
	order   []*segment                // all segments, oldest first
}

// replay opens the segments and applies what the log has after the checkpoint.
func (st *Store) replay() (*replay, error) {
	r := &replay{st: st, removed: make(map[mail.QueueID]struct{}), corrupt: make(map[mail.QueueID]string), batch: st.durable.batch}
	if err := r.openSegments(); err != nil {
		return nil, err
	}
	for i, seg := range r.order {
		if seg.seq < st.durable.seg {
			continue
		}
		from := int64(headerLen)
		if seg.seq == st.durable.seg {
			from = int64(st.durable.off)
		}
		if err := r.segment(seg, from, r.order[i+1:]); err != nil {
			return nil, fmt.Errorf("replay log segment %08x: %w", seg.seq, err)
		}
	}
	// What was torn off had a number too.
	r.batch += 2
	return r, nil
}

func (r *replay) openSegments() error {
	st := r.st
	names, err := st.opts.FS.List(st.logDir)
	if err != nil {
		return fmt.Errorf("read log directory: %w", err)
	}
	slices.Sort(names)
	r.nextSeg = st.durable.seg + 1
	for _, name := range names {
		seq, ok := parseSegmentName(name)
		if !ok {
			continue
		}
		f, err := st.opts.FS.OpenReadWrite(st.segmentPath(seq), diskCategory)
		if err != nil {
			return fmt.Errorf("open log segment: %w", err)
		}
		seg := &segment{seq: seq, file: f, sealed: true}
		st.segs[seq] = seg
		r.order = append(r.order, seg)
		info, err := f.Stat()
		if err != nil {
			return fmt.Errorf("open log segment: %w", err)
		}
		seg.size = info.Size()
		r.nextSeg = max(r.nextSeg, seq+1)
	}
	return nil
}

// segment replays one segment. See the package comment for how a torn end is
// told from damage.
func (r *replay) segment(seg *segment, off int64, later []*segment) error {
	w := &window{seg: seg}
	start := off
	for {
		rec, err := r.read(w, off)
		switch {
		case err == nil && rec.h.kind == kindEnd:
			r.batch = rec.h.batch
			r.st.logged += off - start
			return nil
		case err == nil:
			if err := r.apply(seg, rec); err != nil {
				return err
			}
			r.batch = rec.h.batch
			off += rec.h.recordLen()
			continue
		case !errors.Is(err, spool.ErrCorrupt):
			return err
		}
		next, synced, scanErr := r.afterDamage(w, off, later)
		if scanErr != nil {
			return scanErr
		}
		if !synced {
			r.st.logged += off - start
			return r.cut(w, off, err)
		}
		off = r.damaged(w, off, next, rec, err)
		if off < 0 {
			r.st.logged += seg.size - start
			return nil
		}
	}
}

// record is a record read from the log; the slices are valid until the next.
type record struct {
	h          header
	head, body []byte
	framed     bool // the header is sound, so the length is known
}

var errNoRecord = fmt.Errorf("%w: no record", spool.ErrCorrupt)

// read reads and checks the record at off. The error is ErrCorrupt, or that
// of the disk.
func (r *replay) read(w *window, off int64) (rec record, err error) {
	b, err := w.at(off, headerLen)
	if err != nil {
		return rec, err
	}
	if len(b) < headerLen || !rec.h.parse(b, r.st.mark, w.seg.seq, off) || rec.h.batch < r.batch {
		return record{}, errNoRecord
	}
	n := rec.h.recordLen()
	if b, err = w.at(off, n); err != nil {
		return rec, err
	}
	if int64(len(b)) < n {
		return record{}, fmt.Errorf("%w: the log segment ends within a record", spool.ErrCorrupt)
	}
	rec.framed = true
	rec.head = b[headerLen : headerLen+rec.h.headLen]
	rec.body = b[headerLen+rec.h.headLen:][:rec.h.bodyLen]
	if checksum(rec.head) != rec.h.headCRC {
		return rec, fmt.Errorf("%w: a record's head fails its checksum", spool.ErrCorrupt)
	}
	if checksum(rec.body) != rec.h.bodyCRC {
		return rec, fmt.Errorf("%w: a record's content fails its checksum", spool.ErrCorrupt)
	}
	return rec, nil
}

// afterDamage looks at what follows a bad record at off: synced tells that it
// had been synced, because something is there that was only written later;
// next is where the next sound header of this segment is, or -1.
func (r *replay) afterDamage(w *window, off int64, later []*segment) (next int64, synced bool, err error) {
	next = -1
	for at := off; ; {
		var h header
		at, err = r.findHeader(w, at+recordAlign, &h)
		if err != nil || at < 0 {
			break
		}
		if next < 0 {
			next = at
		}
		if int64(h.start) > off {
			return next, true, nil
		}
	}
	if err != nil {
		return next, false, err
	}
	for _, seg := range later {
		rec, err := r.read(&window{seg: seg}, headerLen)
		if err == nil || rec.framed {
			return next, true, nil
		}
		if !errors.Is(err, spool.ErrCorrupt) {
			return next, false, err
		}
	}
	return next, false, nil
}

// findHeader returns the offset of the first sound header at or after off, or -1.
func (r *replay) findHeader(w *window, off int64, h *header) (int64, error) {
	for ; ; off += recordAlign {
		b, err := w.at(off, headerLen)
		if err != nil {
			return -1, err
		}
		if len(b) < headerLen {
			return -1, nil
		}
		if binary.LittleEndian.Uint64(b) == r.st.mark && h.parse(b, r.st.mark, w.seg.seq, off) && h.batch >= r.batch {
			return off, nil
		}
	}
}

// cut ends a segment where its torn batch begins, durably, so that what is
// left behind is not taken for damage once later segments exist.
func (r *replay) cut(w *window, off int64, cause error) error {
	seg := w.seg
	if !errors.Is(cause, errNoRecord) {
		r.st.opts.Warn(fmt.Sprintf("spool: log segment %08x: unfinished write at %d dropped, it was never acknowledged", seg.seq, off))
	}
	r.batch++
	h := header{kind: kindEnd, seg: seg.seq, batch: r.batch, start: uint32(off), off: uint32(off)}
	if _, err := seg.file.WriteAt(h.append(nil, r.st.mark), off); err != nil {
		return fmt.Errorf("mark the end: %w", err)
	}
	seg.size = max(seg.size, off+headerLen)
	return seg.file.SyncData()
}

// damaged reports a bad record in synced data and returns where to go on, or
// -1 at the end of what can be read.
func (r *replay) damaged(w *window, off, next int64, rec record, cause error) int64 {
	st, seg := r.st, w.seg
	st.opts.Warn(fmt.Sprintf("spool: log segment %08x is damaged at %d: %v", seg.seq, off, cause))
	h := rec.h
	if rec.framed {
		next = off + h.recordLen()
		r.batch = max(r.batch, h.batch)
	} else if b, err := w.at(off, headerLen); err == nil && len(b) == headerLen {
		// Nothing here is to be trusted, but a message that may be lost is
		// better shown with a doubtful ID than not at all.
		h.fill(b)
		if binary.LittleEndian.Uint64(b) != st.mark || h.seg != seg.seq {
			return next
		}
	}
	if (h.kind != kindMessage && h.kind != kindLarge) || h.id == 0 {
		return next
	}
	if _, gone := r.removed[h.id]; gone {
		return next
	}
	if _, ok := st.index[h.id]; !ok && h.flags&flagCopied != 0 {
		return next // the row still says where the original is
	}
	if !rec.framed {
		h.headLen, h.bodyLen, h.off = 0, 0, uint32(off)
	}
	r.corrupt[h.id] = cause.Error()
	r.place(seg, &rec, h)
	return next
}

// apply applies a sound record.
func (r *replay) apply(seg *segment, rec record) error {
	switch h := rec.h; h.kind {
	case kindMessage, kindLarge:
		if h.flags&flagCopied != 0 {
			return r.applyCopy(seg, rec)
		}
		r.place(seg, &rec, h)
	case kindBatch:
		b, err := spool.DecodeBatch(rec.head)
		if err != nil {
			return err // sound by its checksum, so written by a newer version
		}
		r.applyOps(b)
		if kv := r.st.rows.addKV(nil, b); kv != nil {
			return errors.Join(kv.Commit(pebble.NoSync), kv.Close())
		}
	case kindSegment:
	default:
		return fmt.Errorf("%w: record of kind %d", spool.ErrFormat, h.kind)
	}
	return nil
}

// place puts a message into the index, where it is or was written anew.
func (r *replay) place(seg *segment, rec *record, h header) {
	st := r.st
	if old, ok := st.index[h.id]; ok {
		st.unlink(old)
	}
	e := entry{location: location{seg.seq, h.off}, head: h.headLen, body: h.bodyLen}
	if h.kind == kindLarge {
		e.flags |= isLarge
		if len(rec.body) == largeRefLen {
			st.large[h.id] = int64(binary.LittleEndian.Uint64(rec.body))
		}
	}
	if env, err := spool.DecodeEnvelope(rec.head); err == nil {
		e.rcpts = uint32(len(env.Recipients))
	}
	st.index[h.id] = e
	seg.live += e.recordLen()
	seg.count++
	st.lastID = max(st.lastID, h.id)
	st.gen.fresh = append(st.gen.fresh, h.id)
}

// applyCopy moves a message, if it was live when the copy was logged: it is in
// the index if its own record was replayed, or else in Pebble.
func (r *replay) applyCopy(seg *segment, rec record) error {
	if _, gone := r.removed[rec.h.id]; gone {
		return nil
	}
	if _, ok := r.st.index[rec.h.id]; !ok {
		switch _, _, err := r.st.rows.envelope(rec.h.id); {
		case errors.Is(err, spool.ErrNotFound):
			return nil
		case err != nil && !errors.Is(err, spool.ErrCorrupt):
			return err
		}
	}
	r.place(seg, &rec, rec.h)
	return nil
}

// applyOps applies changes to messages. Whether a message that the log has no
// record of exists is for Recover to find out.
func (r *replay) applyOps(b *spool.Batch) {
	st := r.st
	for _, op := range b.Ops {
		switch op := op.(type) {
		case spool.SetState:
			if _, gone := r.removed[op.ID]; !gone {
				st.gen.setState(op.ID, &op.State)
			}
		case spool.SetRecipients:
			if _, gone := r.removed[op.ID]; gone {
				continue
			}
			for i := range op.Changes {
				st.gen.setRecipient(op.ID, uint32(op.Changes[i].Index), &op.Changes[i].State)
			}
		case spool.Remove:
			r.removed[op.ID] = struct{}{}
			delete(r.corrupt, op.ID)
			st.gen.drop(op.ID)
			if e, ok := st.index[op.ID]; ok {
				delete(st.index, op.ID)
				delete(st.large, op.ID)
				st.unlink(e)
			}
			st.lastID = max(st.lastID, op.ID)
		}
	}
}

// window reads a segment through a buffer that moves forward.
type window struct {
	seg  *segment
	buf  []byte
	base int64
}

const windowSize = 1 << 20

// at returns the n bytes at off, or fewer at the end of the file. They are
// valid until the next call.
func (w *window) at(off, n int64) ([]byte, error) {
	n = min(n, max(w.seg.size-off, 0))
	if off >= w.base && off+n <= w.base+int64(len(w.buf)) {
		return w.buf[off-w.base:][:n], nil
	}
	want := min(max(n, windowSize), max(w.seg.size-off, 0))
	if int64(cap(w.buf)) < want {
		w.buf = make([]byte, want)
	}
	w.buf, w.base = w.buf[:want], off
	got, err := w.seg.file.ReadAt(w.buf, off)
	w.buf = w.buf[:got]
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return w.buf[:min(n, int64(got))], nil
}
