package local

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"

	"posthouse/internal/spool"
)

// Versions of the layout on disk. 1 is the first: see the package comment.
const layoutVersion = 1

// Names inside the spool's directory.
const (
	formatFile = "FORMAT"
	lockFile   = "lock"
	logDir     = "log"
	largeDir   = "large"
	rowsDir    = "rows"
)

const diskCategory = vfs.WriteCategoryUnspecified

// lockDir takes the lock of the spool, after making the directory if asked to.
func lockDir(o *Options) (io.Closer, error) {
	if o.Create {
		if err := o.FS.MkdirAll(o.Dir, 0o700); err != nil {
			return nil, fmt.Errorf("create spool directory %s: %w", o.Dir, err)
		}
		syncAbove(o.FS, o.Dir)
	}
	switch _, err := o.FS.Stat(o.Dir); {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("spool directory %s does not exist: create it, owned by the user who runs this with mode 0700: %w", o.Dir, err)
	case err != nil:
		return nil, fmt.Errorf("spool directory %s: %w", o.Dir, err)
	}
	l, err := o.FS.Lock(o.FS.PathJoin(o.Dir, lockFile))
	if err == nil {
		return l, nil
	}
	// A path error comes from opening the file, everything else from locking it.
	var pe *fs.PathError
	switch {
	case errors.As(err, &pe) && errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("no permission to write to spool directory %s: make the user who runs this its owner: %w", o.Dir, err)
	case errors.As(err, &pe):
		return nil, fmt.Errorf("lock spool directory %s: %w", o.Dir, err)
	}
	return nil, fmt.Errorf("%w: %s (%w)", spool.ErrLocked, o.Dir, err)
}

// syncAbove makes the names of a directory and of those above it durable, for
// the caller may have just made them. One that may not be opened was there
// before.
func syncAbove(fsys vfs.FS, dir string) {
	for up := fsys.PathDir(dir); up != dir; dir, up = up, fsys.PathDir(up) {
		_ = syncDir(fsys, up)
	}
}

// readFormat returns the mark of the spool, after making a new spool of an
// empty directory. FORMAT is durable before anything else is created, so a
// directory with other files and no FORMAT is not a spool.
func readFormat(o *Options) (mark uint64, err error) {
	path := o.FS.PathJoin(o.Dir, formatFile)
	b, err := readFile(o.FS, path)
	if errors.Is(err, fs.ErrNotExist) {
		return writeFormat(o, path)
	}
	if err != nil {
		return 0, fmt.Errorf("read spool format: %w", err)
	}
	version := 0
	if n, _ := fmt.Sscanf(string(b), "posthouse spool %d\nmark %x\n", &version, &mark); n == 0 {
		return 0, fmt.Errorf("%w: %s is not the format file of a spool", spool.ErrFormat, path)
	}
	if version != layoutVersion {
		return 0, fmt.Errorf("%w: %s has version %d, and this program reads version %d: use the program that wrote it, or a newer one",
			spool.ErrFormat, o.Dir, version, layoutVersion)
	}
	if mark == 0 {
		return 0, fmt.Errorf("%w: %s has no mark", spool.ErrFormat, path)
	}
	return mark, nil
}

func writeFormat(o *Options, path string) (uint64, error) {
	names, err := o.FS.List(o.Dir)
	if err != nil {
		return 0, fmt.Errorf("read spool directory: %w", err)
	}
	for _, n := range names {
		if n != lockFile && n != "lost+found" && !strings.HasPrefix(n, formatFile) {
			return 0, fmt.Errorf("%w: %s is not empty (%s) and has no %s file: it is not a spool", spool.ErrFormat, o.Dir, n, formatFile)
		}
	}
	var raw [8]byte
	if _, err := rand.Read(raw[:]); err != nil {
		return 0, err
	}
	mark := binary.LittleEndian.Uint64(raw[:]) | 1
	text := fmt.Sprintf("posthouse spool %d\nmark %016x\n", layoutVersion, mark)
	tmp := path + ".new"
	f, err := o.FS.Create(tmp, diskCategory)
	if err != nil {
		return 0, fmt.Errorf("create spool: %w", err)
	}
	_, err = f.Write([]byte(text))
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = o.FS.Rename(tmp, path)
	}
	if err == nil {
		err = syncDir(o.FS, o.Dir)
	}
	if err != nil {
		return 0, fmt.Errorf("create spool: %w", err)
	}
	return mark, nil
}

func readFile(fsys vfs.FS, path string) ([]byte, error) {
	f, err := fsys.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	return io.ReadAll(f)
}

func syncDir(fsys vfs.FS, path string) error {
	d, err := fsys.OpenDir(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// makeDirs creates the directories of the spool and makes them durable.
func makeDirs(o *Options) error {
	for _, d := range []string{logDir, largeDir, rowsDir} {
		if err := o.FS.MkdirAll(o.FS.PathJoin(o.Dir, d), 0o700); err != nil {
			return fmt.Errorf("create spool: %w", err)
		}
	}
	if err := syncDir(o.FS, o.Dir); err != nil {
		return fmt.Errorf("create spool: %w", err)
	}
	return nil
}
