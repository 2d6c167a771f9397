package local

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"

	"posthouse/internal/mail"
	"posthouse/internal/spool"
)

// A large content is a file named after its queue ID in hexadecimal: the
// content in blocks of 64 KiB, and after it the CRC-32C of each block. The
// log record holds the size and the checksum of those checksums (largeRef), so
// that any part of the file can be read and checked without the rest.
//
// The file is written under a temporary name and is durable under its own
// before its record is logged; what has no record is removed at the next open.
const (
	largeBlock  = 64 << 10
	largeRefLen = 12
	tempSuffix  = ".new"
)

func largeTableLen(size int64) int64 { return (size + largeBlock - 1) / largeBlock * 4 }

func largeName(id mail.QueueID) string { return fmt.Sprintf("%016x", uint64(id)) }

func parseLargeName(name string) (mail.QueueID, bool) {
	v, err := strconv.ParseUint(name, 16, 64)
	return mail.QueueID(v), err == nil && len(name) == 16
}

func (st *Store) largePath(name string) string { return st.opts.FS.PathJoin(st.largeDir, name) }

// largeWriter writes one large content.
type largeWriter struct {
	st    *Store
	file  vfs.File
	path  string
	block []byte // not yet written
	table []byte
	size  int64
}

func (st *Store) newLarge() (*largeWriter, error) {
	path := st.largePath(strconv.FormatUint(st.temporary.Add(1), 16) + tempSuffix)
	f, err := st.opts.FS.Create(path, diskCategory)
	if err != nil {
		return nil, fmt.Errorf("create content file: %w", err)
	}
	return &largeWriter{st: st, file: f, path: path, block: make([]byte, 0, largeBlock)}, nil
}

func (w *largeWriter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		part := min(len(p), largeBlock-len(w.block))
		w.block = append(w.block, p[:part]...)
		p = p[part:]
		if len(w.block) == largeBlock {
			if err := w.flush(); err != nil {
				return 0, err
			}
		}
	}
	return n, nil
}

func (w *largeWriter) flush() error {
	if len(w.block) == 0 {
		return nil
	}
	w.table = binary.LittleEndian.AppendUint32(w.table, checksum(w.block))
	w.size += int64(len(w.block))
	w.st.space.took(int64(len(w.block)))
	_, err := w.file.Write(w.block)
	w.block = w.block[:0]
	return err
}

// keep makes the content durable under its name and returns the largeRef.
func (w *largeWriter) keep(id mail.QueueID) ([]byte, error) {
	err := w.flush()
	ref := binary.LittleEndian.AppendUint64(nil, uint64(w.size))
	ref = binary.LittleEndian.AppendUint32(ref, checksum(w.table))
	if err == nil {
		_, err = w.file.Write(w.table)
	}
	if err != nil {
		w.discard()
		return nil, fmt.Errorf("write content file: %w", err)
	}
	if err := w.file.Sync(); err != nil {
		// The same disk as the log's, and the same conclusion.
		w.discard()
		w.st.fail(fmt.Errorf("sync content file: %w", err))
		return nil, w.st.Err()
	}
	err = w.file.Close()
	if err == nil {
		err = w.st.opts.FS.Rename(w.path, w.st.largePath(largeName(id)))
	}
	if err != nil {
		_ = w.st.opts.FS.Remove(w.path) // else the next open does
		return nil, fmt.Errorf("keep content file: %w", err)
	}
	if err := w.st.largeFD.Sync(); err != nil {
		w.st.fail(fmt.Errorf("sync content directory: %w", err))
		return nil, w.st.Err()
	}
	return ref, nil
}

func (w *largeWriter) discard() {
	_ = w.file.Close()              // its content is not wanted
	_ = w.st.opts.FS.Remove(w.path) // else the next open does
}

// largeContent reads a large content, checking each block as it is read.
type largeContent struct {
	file  vfs.File
	size  int64
	table []byte

	mu    sync.Mutex
	block []byte // the block read last; adjacent small reads share it
	at    int64  // its number, -1 for none
}

// openLarge opens the content that ref describes.
func (st *Store) openLarge(id mail.QueueID, ref []byte) (*largeContent, error) {
	if len(ref) != largeRefLen {
		return nil, fmt.Errorf("%w: malformed reference to a content file", spool.ErrCorrupt)
	}
	f, err := st.opts.FS.Open(st.largePath(largeName(id)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: the content file is missing", spool.ErrCorrupt)
	}
	if err != nil {
		return nil, err
	}
	c := &largeContent{file: f, size: int64(binary.LittleEndian.Uint64(ref)), at: -1}
	info, err := f.Stat()
	if err == nil && (c.size < 0 || info.Size() != c.size+largeTableLen(c.size)) {
		err = fmt.Errorf("%w: the content file has %d bytes", spool.ErrCorrupt, info.Size())
	}
	if err == nil {
		c.table = make([]byte, largeTableLen(c.size))
		_, err = f.ReadAt(c.table, c.size)
	}
	if err == nil && checksum(c.table) != binary.LittleEndian.Uint32(ref[8:]) {
		err = fmt.Errorf("%w: the content file's checksums are damaged", spool.ErrCorrupt)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return c, nil
}

// Size implements spool.Content.
func (c *largeContent) Size() int64 { return c.size }

// Bytes implements spool.Content.
func (c *largeContent) Bytes() []byte { return nil }

// Close implements spool.Content.
func (c *largeContent) Close() error { return c.file.Close() }

// ReadAt implements io.ReaderAt.
func (c *largeContent) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, errors.New("spool: negative offset")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for n < len(p) {
		if off >= c.size {
			return n, io.EOF
		}
		if err := c.load(off / largeBlock); err != nil {
			return n, err
		}
		part := copy(p[n:], c.block[off%largeBlock:])
		n += part
		off += int64(part)
	}
	return n, nil
}

// load reads and checks a block.
func (c *largeContent) load(number int64) error {
	if c.at == number {
		return nil
	}
	if c.block == nil {
		c.block = make([]byte, 0, largeBlock)
	}
	c.at = -1
	c.block = c.block[:min(largeBlock, c.size-number*largeBlock)]
	if _, err := c.file.ReadAt(c.block, number*largeBlock); err != nil {
		return fmt.Errorf("read content file: %w", err)
	}
	if checksum(c.block) != binary.LittleEndian.Uint32(c.table[number*4:]) {
		return fmt.Errorf("%w: block %d of the content file", spool.ErrCorrupt, number)
	}
	c.at = number
	return nil
}

// verify reads the whole content.
func (c *largeContent) verify() error {
	for i := int64(0); i*largeBlock < c.size; i++ {
		if err := c.load(i); err != nil {
			return err
		}
	}
	return nil
}

// removeLargeOrphans deletes content files without a message. Only Recover
// calls it: nothing is being received yet.
func (st *Store) removeLargeOrphans() error {
	names, err := st.opts.FS.List(st.largeDir)
	if err != nil {
		return fmt.Errorf("read content directory: %w", err)
	}
	for _, name := range names {
		id, ok := parseLargeName(name)
		if _, live := st.large[id]; (ok && !live) || strings.HasSuffix(name, tempSuffix) {
			if err := st.opts.FS.Remove(st.largePath(name)); err != nil {
				st.opts.Warn("spool: remove left-over content: " + err.Error())
			}
		}
	}
	return nil
}
