package local

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// segment is one file of the log.
type segment struct {
	seq  uint32
	file vfs.File // read and, while it is the last one, written

	// Guarded by Store.mu.
	size   int64 // of the file
	live   int64 // bytes of records of live messages
	count  int   // live messages
	refs   int   // readers and writers of the file right now
	sealed bool  // the committer is done with it
	sparse bool  // the janitor was told that little of it lives
	stuck  bool  // what lives in it cannot be copied
}

// ratio is the live part of the segment.
func (s *segment) ratio() float64 { return float64(s.live) / float64(max(s.size, 1)) }

const (
	segmentSuffix = ".seg"

	// spareSegments is how many dead segments are kept to be written over.
	spareSegments = 2

	// zeroAhead is how far the file is extended with zeros when the writer
	// gets to its end. Growing a file by each batch makes every sync journal
	// its new size; measured, that halves the syncs per second.
	zeroAhead = 512 << 10
)

func (st *Store) segmentPath(seq uint32) string {
	return st.opts.FS.PathJoin(st.logDir, fmt.Sprintf("%08x%s", seq, segmentSuffix))
}

// parseSegmentName returns the number of a segment from its file name.
func parseSegmentName(name string) (uint32, bool) {
	text, ok := strings.CutSuffix(name, segmentSuffix)
	seq, err := strconv.ParseUint(text, 16, 32)
	return uint32(seq), ok && err == nil && len(text) == 8
}

// prepared is a segment file made ready for writing.
type prepared struct {
	seg *segment
	err error
}

// prepare makes segments ready ahead of need, one at a time, so that the
// committer does not wait for files to be created. It ends when stop closes.
func (st *Store) prepare(first uint32) {
	defer st.wg.Done()
	for seq := first; ; {
		seg, err := st.newSegment(seq)
		select {
		case st.segReady <- prepared{seg, err}:
			if err == nil {
				seq++
			}
		case <-st.stop:
			if seg != nil {
				_ = seg.file.Close() // holds nothing yet
				_ = st.opts.FS.Remove(st.segmentPath(seq))
			}
			return
		}
	}
}

// newSegment makes a segment from a dead one if there is one to spare. The
// file and its name are durable when it returns.
func (st *Store) newSegment(seq uint32) (seg *segment, err error) {
	st.mu.Lock()
	var spare uint32
	if n := len(st.spares); n > 0 {
		spare, st.spares = st.spares[n-1], st.spares[:n-1]
	}
	st.mu.Unlock()
	path := st.segmentPath(seq)
	if spare != 0 {
		if err := st.opts.FS.Rename(st.segmentPath(spare), path); err != nil {
			return nil, fmt.Errorf("reuse log segment: %w", err)
		}
	}
	f, err := st.opts.FS.OpenReadWrite(path, diskCategory)
	if err != nil {
		return nil, fmt.Errorf("create log segment: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("create log segment: %w", err), f.Close())
		}
	}()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	seg = &segment{seq: seq, file: f, size: info.Size()}
	h := header{kind: kindSegment, seg: seq}
	if _, err := f.WriteAt(h.append(nil, st.mark), 0); err != nil {
		return nil, err
	}
	if err := f.Sync(); err != nil {
		return nil, err
	}
	seg.size = max(seg.size, headerLen)
	return seg, syncDir(st.opts.FS, st.logDir)
}

// release lets go of a segment's file after reading from it.
func (st *Store) release(seg *segment) {
	st.mu.Lock()
	seg.refs--
	st.mu.Unlock()
}
