package contents

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"

	"posthouse/internal/mail"
	"posthouse/internal/spool"
)

const (
	largeBlock = 64 << 10
	tempSuffix = ".new"
)

// RefLen is the length of the reference to a large content that its owner
// keeps: its size and the checksum of its checksums.
const RefLen = 12

func tableLen(size int64) int64 { return (size + largeBlock - 1) / largeBlock * 4 }

func checksum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// Dir is a directory of large contents, each a file named after its queue ID
// in hexadecimal: the content in blocks of 64 KiB, and after it the CRC-32C of
// each block. With the reference, any part of a file can be read and checked
// without the rest.
//
// A file is written under a temporary name and is durable under its own before
// its reference is given out; what nobody refers to is for RemoveOrphans.
type Dir struct {
	fs     vfs.FS
	path   string
	dir    vfs.File          // to sync it
	failed func(error) error // told of a sync error, returns the final one
	took   func(bytes int64) // told of disk space used
	names  atomic.Uint64     // numbers temporary files
}

// OpenDir opens a directory, which must exist. failed is told of the first
// sync error and returns what callers are to see; took is told of each write.
func OpenDir(fsys vfs.FS, path string, failed func(error) error, took func(int64)) (*Dir, error) {
	d, err := fsys.OpenDir(path)
	if err != nil {
		return nil, fmt.Errorf("open content directory: %w", err)
	}
	return &Dir{fs: fsys, path: path, dir: d, failed: failed, took: took}, nil
}

// Close closes the directory, not its files.
func (d *Dir) Close() error { return d.dir.Close() }

func (d *Dir) file(name string) string { return d.fs.PathJoin(d.path, name) }

func fileName(id mail.QueueID) string { return fmt.Sprintf("%016x", uint64(id)) }

func parseName(name string) (mail.QueueID, bool) {
	v, err := strconv.ParseUint(name, 16, 64)
	return mail.QueueID(v), err == nil && len(name) == 16
}

// Remove deletes a content.
func (d *Dir) Remove(id mail.QueueID) error { return d.fs.Remove(d.file(fileName(id))) }

// RemoveOrphans deletes the contents that are not live. Nothing may be on its
// way in.
func (d *Dir) RemoveOrphans(live func(mail.QueueID) bool) error {
	names, err := d.fs.List(d.path)
	if err != nil {
		return fmt.Errorf("read content directory: %w", err)
	}
	var errs []error
	for _, name := range names {
		id, ok := parseName(name)
		if (ok && !live(id)) || strings.HasSuffix(name, tempSuffix) {
			errs = append(errs, d.fs.Remove(d.file(name)))
		}
	}
	return errors.Join(errs...)
}

// Writer writes one large content. Keep or Discard ends it.
type Writer struct {
	dir   *Dir
	file  vfs.File
	path  string
	block []byte // not yet written
	table []byte // checksums of what was
	size  int64  // of what was
}

// Create begins a content.
func (d *Dir) Create() (*Writer, error) {
	path := d.file(strconv.FormatUint(d.names.Add(1), 16) + tempSuffix)
	f, err := d.fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, fmt.Errorf("create content file: %w", err)
	}
	return &Writer{dir: d, file: f, path: path, block: make([]byte, 0, largeBlock)}, nil
}

// Write implements io.Writer.
func (w *Writer) Write(p []byte) (int, error) {
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

func (w *Writer) flush() error {
	if len(w.block) == 0 {
		return nil
	}
	w.table = binary.LittleEndian.AppendUint32(w.table, checksum(w.block))
	w.size += int64(len(w.block))
	w.dir.took(int64(len(w.block)))
	_, err := w.file.Write(w.block)
	w.block = w.block[:0]
	return err
}

// Keep makes the content durable as that of a message and returns its
// reference. The writer is used up, whatever the outcome.
func (w *Writer) Keep(id mail.QueueID) ([]byte, error) {
	err := w.flush()
	ref := binary.LittleEndian.AppendUint64(nil, uint64(w.size))
	ref = binary.LittleEndian.AppendUint32(ref, checksum(w.table))
	if err == nil {
		_, err = w.file.Write(w.table)
	}
	if err != nil {
		w.Discard()
		return nil, fmt.Errorf("write content file: %w", err)
	}
	if err := w.file.Sync(); err != nil {
		w.Discard()
		return nil, w.dir.failed(fmt.Errorf("sync content file: %w", err))
	}
	err = w.file.Close()
	if err == nil {
		err = w.dir.fs.Rename(w.path, w.dir.file(fileName(id)))
	}
	if err != nil {
		_ = w.dir.fs.Remove(w.path) // else RemoveOrphans does
		return nil, fmt.Errorf("keep content file: %w", err)
	}
	if err := w.dir.dir.Sync(); err != nil {
		return nil, w.dir.failed(fmt.Errorf("sync content directory: %w", err))
	}
	return ref, nil
}

// Discard gives the place back.
func (w *Writer) Discard() {
	_ = w.file.Close()          // its content is not wanted
	_ = w.dir.fs.Remove(w.path) // else RemoveOrphans does
}

// RefSize is the size in bytes that a reference tells, 0 if it is malformed.
func RefSize(ref []byte) int64 {
	if len(ref) != RefLen {
		return 0
	}
	return int64(binary.LittleEndian.Uint64(ref))
}

// Large is an open large content. Each block is checked as it is read.
type Large struct {
	file  vfs.File
	size  int64  // bytes of content
	table []byte // checksums of the blocks

	mu    sync.Mutex
	block []byte // the block read last; adjacent small reads share it
	at    int64  // its number, -1 for none
}

// Open opens the content that ref describes. The error is spool.ErrCorrupt or
// the disk's.
func (d *Dir) Open(id mail.QueueID, ref []byte) (*Large, error) {
	if len(ref) != RefLen {
		return nil, fmt.Errorf("%w: malformed reference to a content file", spool.ErrCorrupt)
	}
	f, err := d.fs.Open(d.file(fileName(id)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: the content file is missing", spool.ErrCorrupt)
	}
	if err != nil {
		return nil, err
	}
	c := &Large{file: f, size: int64(binary.LittleEndian.Uint64(ref)), at: -1}
	info, err := f.Stat()
	if err == nil && (c.size < 0 || info.Size() != c.size+tableLen(c.size)) {
		err = fmt.Errorf("%w: the content file has %d bytes", spool.ErrCorrupt, info.Size())
	}
	if err == nil {
		c.table = make([]byte, tableLen(c.size))
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
func (c *Large) Size() int64 { return c.size }

// Bytes implements spool.Content.
func (c *Large) Bytes() []byte { return nil }

// Close implements spool.Content.
func (c *Large) Close() error { return c.file.Close() }

// ReadAt implements io.ReaderAt.
func (c *Large) ReadAt(p []byte, off int64) (n int, err error) {
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
func (c *Large) load(number int64) error {
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

// Verify reads the whole content.
func (c *Large) Verify() error {
	for i := int64(0); i*largeBlock < c.size; i++ {
		if err := c.load(i); err != nil {
			return err
		}
	}
	return nil
}
