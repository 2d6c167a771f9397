package seglog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"posthouse/internal/mail"
	"posthouse/internal/spool"
)

// Record is a record read back from the log. The slices are valid during the
// call only.
type Record struct {
	Kind   Kind
	Copied bool // Request.Copied
	ID     mail.QueueID
	At     Location
	Head   []byte
	Body   []byte
	// Framed tells, of a damaged record, that its header is sound, so that all
	// of the above is as it was written, as far as it could be read. Otherwise
	// all but At is doubtful, and Head and Body are nil.
	Framed bool
}

// Handler is who Replay reports to.
type Handler interface {
	// Record gets each sound record in order. An error ends the replay.
	Record(r *Record) error
	// Damaged gets each message that was acknowledged and is now damaged.
	Damaged(r *Record, cause error)
}

// replay is one reading of the log.
type replay struct {
	log    *Log
	to     Handler
	batch  uint64 // the last one seen
	length int64  // bytes of log read
}

// Replay reads the log from a position, and ends it where its torn end begins.
// It returns where to start after, and how many bytes were read.
func (l *Log) Replay(from Position, to Handler) (end Position, length int64, err error) {
	r := &replay{log: l, to: to, batch: from.Batch}
	segs := l.ordered()
	for i, seg := range segs {
		if seg.seq < from.Seg {
			continue
		}
		off := int64(headerLen)
		if seg.seq == from.Seg {
			off = int64(from.Off)
		}
		if err := r.segment(seg, off, segs[i+1:]); err != nil {
			return Position{}, 0, fmt.Errorf("replay log segment %08x: %w", seg.seq, err)
		}
	}
	// What was torn off had a number too.
	return Position{Seg: max(from.Seg, l.last), Batch: r.batch + 2}, r.length, nil
}

// segment replays one segment.
func (r *replay) segment(seg *segment, off int64, later []*segment) error {
	w := &window{file: seg.file, size: seg.size}
	start := off
	defer func() { r.length += max(off-start, 0) }()
	for {
		rec, err := r.read(w, seg.seq, off)
		switch {
		case err == nil && rec.h.kind == kindEnd:
			r.batch = rec.h.batch
			return nil
		case err == nil:
			if rec.h.kind != kindSegment {
				if err := r.to.Record(rec.export(true)); err != nil {
					return err
				}
			}
			r.batch = rec.h.batch
			off += rec.h.recordLen()
			continue
		case !errors.Is(err, spool.ErrCorrupt):
			return err
		}
		next, synced, scanErr := r.afterDamage(w, seg.seq, off, later)
		if scanErr != nil {
			return scanErr
		}
		if !synced {
			return r.cut(seg, off, err)
		}
		if next = r.damaged(w, seg.seq, off, next, rec, err); next < 0 {
			return nil
		}
		off = next
	}
}

func (rec *record) export(framed bool) *Record {
	h := &rec.h
	return &Record{Kind: h.kind, Copied: h.flags&flagCopied != 0, ID: h.id, At: Location{h.seg, h.off}, Head: rec.head, Body: rec.body, Framed: framed}
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
func (r *replay) read(w *window, seg uint32, off int64) (rec record, err error) {
	b, err := w.at(off, headerLen)
	if err != nil {
		return rec, err
	}
	if len(b) < headerLen || !rec.h.parse(b, r.log.opts.Mark, seg, off) || rec.h.batch < r.batch {
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
func (r *replay) afterDamage(w *window, seg uint32, off int64, later []*segment) (next int64, synced bool, err error) {
	next = -1
	for at := off; ; {
		var h header
		at, err = r.findHeader(w, seg, at+recordAlign, &h)
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
	for _, s := range later {
		rec, err := r.read(&window{file: s.file, size: s.size}, s.seq, headerLen)
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
func (r *replay) findHeader(w *window, seg uint32, off int64, h *header) (int64, error) {
	for ; ; off += recordAlign {
		b, err := w.at(off, headerLen)
		if err != nil {
			return -1, err
		}
		if len(b) < headerLen {
			return -1, nil
		}
		if binary.LittleEndian.Uint64(b) == r.log.opts.Mark && h.parse(b, r.log.opts.Mark, seg, off) && h.batch >= r.batch {
			return off, nil
		}
	}
}

// cut ends a segment where its torn batch begins, durably, so that what is
// left behind is not taken for damage once later segments exist.
func (r *replay) cut(seg *segment, off int64, cause error) error {
	if !errors.Is(cause, errNoRecord) {
		r.log.opts.Warn(fmt.Sprintf("spool: log segment %08x: unfinished write at %d dropped, it was never acknowledged", seg.seq, off))
	}
	r.batch++
	h := header{kind: kindEnd, seg: seg.seq, batch: r.batch, start: uint32(off), off: uint32(off)}
	if _, err := seg.file.WriteAt(h.append(nil, r.log.opts.Mark), off); err != nil {
		return fmt.Errorf("mark the end: %w", err)
	}
	seg.size = max(seg.size, off+headerLen)
	return seg.file.SyncData()
}

// damaged reports a bad record in synced data and returns where to go on, or
// -1 at the end of what can be read.
func (r *replay) damaged(w *window, seg uint32, off, next int64, rec record, cause error) int64 {
	r.log.opts.Warn(fmt.Sprintf("spool: log segment %08x is damaged at %d: %v", seg, off, cause))
	if rec.framed {
		next = off + rec.h.recordLen()
		r.batch = max(r.batch, rec.h.batch)
	} else if b, err := w.at(off, headerLen); err == nil && len(b) == headerLen {
		// Nothing here is to be trusted, but a message that may be lost is
		// better shown with a doubtful ID than not at all.
		rec.h.fill(b)
		if binary.LittleEndian.Uint64(b) != r.log.opts.Mark || rec.h.seg != seg {
			return next
		}
		rec.h.off = uint32(off)
	}
	if (rec.h.kind == Message || rec.h.kind == Large) && rec.h.id != 0 {
		r.to.Damaged(rec.export(rec.framed), cause)
	}
	return next
}

// window reads a segment through a buffer that moves forward.
type window struct {
	file io.ReaderAt
	size int64 // of the file
	buf  []byte
	base int64
}

const windowSize = 1 << 20

// at returns the n bytes at off, or fewer at the end of the file. They are
// valid until the next call.
func (w *window) at(off, n int64) ([]byte, error) {
	n = min(n, max(w.size-off, 0))
	if off >= w.base && off+n <= w.base+int64(len(w.buf)) {
		return w.buf[off-w.base:][:n], nil
	}
	want := min(max(n, windowSize), max(w.size-off, 0))
	if int64(cap(w.buf)) < want {
		w.buf = make([]byte, want)
	}
	w.buf, w.base = w.buf[:want], off
	got, err := w.file.ReadAt(w.buf, off)
	w.buf = w.buf[:got]
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return w.buf[:min(n, int64(got))], nil
}
