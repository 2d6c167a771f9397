package pickup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"posthouse/internal/mail"
	"posthouse/internal/postfix/queuefile"
)

// Maildrop is the directory where local programs leave messages, and the two
// beside it. The zero value is of no use: see NewMaildrop.
type Maildrop struct {
	dir     string // messages that wait
	saved   string // deleted ones
	corrupt string // those that are none
	now     func() time.Time
}

// NewMaildrop returns the maildrop of a queue directory. Nothing is made or opened.
func NewMaildrop(queueDir string) *Maildrop {
	return &Maildrop{dir: filepath.Join(queueDir, "maildrop"), saved: filepath.Join(queueDir, "saved"), corrupt: filepath.Join(queueDir, "corrupt"), now: time.Now}
}

// Prepare makes the directories. The maildrop is made writable for group, who
// may put files there but not see them, as Postfix has it for set-gid
// postdrop. owner and group of -1 leave the process's own.
func (m *Maildrop) Prepare(owner, group int) error {
	for _, d := range []struct {
		path string
		mode uint32
	}{{m.dir, 0o1730}, {m.saved, 0o700}, {m.corrupt, 0o700}} {
		if err := os.MkdirAll(d.path, 0o700); err != nil {
			return fmt.Errorf("maildrop: %w", err)
		}
		if owner >= 0 || group >= 0 {
			if err := os.Chown(d.path, owner, group); err != nil {
				return fmt.Errorf("maildrop: %w", err)
			}
		}
		// After chown, which may clear bits; and not through os.Chmod's
		// FileMode, whose sticky bit is another.
		if err := unix.Chmod(d.path, d.mode); err != nil {
			return fmt.Errorf("maildrop: chmod %s: %w", d.path, err)
		}
	}
	return nil
}

// idOf is the queue ID that stands for a file: its name where that is one of
// ours, else a number made of the name, so that files of other programs can
// be listed and deleted as well.
func idOf(name string) mail.QueueID {
	if id, err := mail.ParseQueueID(name); err == nil {
		return id
	}
	if v, err := strconv.ParseUint(name, 16, 60); err == nil {
		return mail.QueueID(v)
	}
	// FNV-1a, kept to 47 bits so that it prints in 12 digits.
	h := uint64(14695981039346656037)
	for i := range len(name) {
		h = (h ^ uint64(name[i])) * 1099511628211
	}
	return mail.QueueID(h >> 17)
}

// ready tells whether a file is a complete message, by its mode.
func ready(info fs.FileInfo) bool {
	return info.Mode().IsRegular() && info.Mode().Perm()&0o700 == 0o700
}

// names are the files that could be messages, in order of their names.
func (m *Maildrop) names() ([]string, error) {
	entries, err := os.ReadDir(m.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		// A name with a dot belongs to a writer that is not done.
		if mail.LegalQueueID(e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// open opens a complete message. ErrNotReady for a file that is none.
func (m *Maildrop) open(name string) (*os.File, fs.FileInfo, error) {
	// Not following links, and not waiting for the writer of a pipe: anyone
	// may put anything here.
	f, err := os.OpenFile(filepath.Join(m.dir, name), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil && !ready(info) {
		err = ErrNotReady
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, info, nil
}

// ErrNotReady: the file is still being written, or no file at all.
var ErrNotReady = errors.New("not a complete message")

// List calls each for every complete message until it returns false. The size
// is that of the file, as Postfix lists it; a file that cannot be read as a
// message is listed without sender and recipients.
func (m *Maildrop) List(each func(*mail.Envelope) bool) error {
	names, err := m.names()
	if err != nil {
		return err
	}
	for _, name := range names {
		f, info, err := m.open(name)
		if err != nil {
			continue // taken meanwhile, or not complete
		}
		env := mail.Envelope{Arrival: info.ModTime()}
		if decoded, err := queuefile.Decode(f); err == nil {
			env = decoded.Envelope
			if env.Arrival.IsZero() {
				env.Arrival = info.ModTime()
			}
		}
		env.ID, env.Origin, env.Size = idOf(name), mail.FromLocal, info.Size()
		if err := f.Close(); err != nil {
			return err
		}
		if !each(&env) {
			return nil
		}
	}
	return nil
}

// find is the name of the file that an ID stands for, "" when there is none.
func (m *Maildrop) find(id mail.QueueID) (string, error) {
	names, err := m.names()
	if err != nil {
		return "", err
	}
	for _, name := range names {
		if idOf(name) == id {
			return name, nil
		}
	}
	return "", nil
}

// Open opens the file of a complete message. fs.ErrNotExist when there is none.
func (m *Maildrop) Open(id mail.QueueID) (*os.File, error) {
	name, err := m.find(id)
	if err == nil && name == "" {
		err = &fs.PathError{Op: "open", Path: id.Short(), Err: fs.ErrNotExist}
	}
	if err != nil {
		return nil, err
	}
	f, _, err := m.open(name)
	return f, err
}

// Delete moves a message to "saved", from where it can be put back for as
// long as Config.KeepDeleted says, and tells whether there was one.
func (m *Maildrop) Delete(id mail.QueueID) (bool, error) {
	name, err := m.find(id)
	if err != nil || name == "" {
		return false, err
	}
	target := filepath.Join(m.saved, name)
	if err := os.Rename(filepath.Join(m.dir, name), target); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	now := m.now()
	return true, os.Chtimes(target, now, now)
}

// purge removes messages that were deleted before then.
func (m *Maildrop) purge(then time.Time) error {
	entries, err := os.ReadDir(m.saved)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		info, ierr := e.Info()
		if ierr != nil || !info.Mode().IsRegular() || info.ModTime().After(then) {
			continue
		}
		err = errors.Join(err, os.Remove(filepath.Join(m.saved, e.Name())))
	}
	return err
}

// Writer is a message on its way into the maildrop.
type Writer struct {
	m    *Maildrop
	f    *os.File
	path string // present name
}

// Create begins a message. The name has a dot in it, which keeps readers away.
func (m *Maildrop) Create() (*Writer, error) {
	for n := m.now().UnixMicro(); ; n++ {
		path := filepath.Join(m.dir, fmt.Sprintf("%d.%d", n%1e6, os.Getpid()))
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if errors.Is(err, fs.ErrExist) {
			continue
		} else if err != nil {
			return nil, err
		}
		return &Writer{m: m, f: f, path: path}, nil
	}
}

// Write appends records.
func (w *Writer) Write(p []byte) (int, error) { return w.f.Write(p) }

// Commit makes the message durable and visible, and returns its name.
//
// The file gets its name before it becomes readable and is synced: on the
// file systems in use, the sync of a new file keeps its name too, which
// matters where the writer may not read, and so not sync, the directory.
func (w *Writer) Commit() (string, error) {
	name, err := w.rename()
	if err == nil {
		err = w.f.Chmod(0o744)
	}
	if err == nil {
		err = w.f.Sync()
	}
	if err == nil {
		err = syncDir(w.m.dir)
	}
	if err != nil {
		w.Discard()
		return "", err
	}
	return name, w.f.Close()
}

// rename gives the file a queue ID that no other file has.
func (w *Writer) rename() (string, error) {
	for id := mail.NewIDSource(0, w.m.now).Next(); ; id++ {
		path := filepath.Join(w.m.dir, id.Short())
		err := unix.Renameat2(unix.AT_FDCWD, w.path, unix.AT_FDCWD, path, unix.RENAME_NOREPLACE)
		if errors.Is(err, syscall.EEXIST) {
			continue
		} else if err != nil {
			return "", &os.LinkError{Op: "rename", Old: w.path, New: path, Err: err}
		}
		w.path = path
		return id.Short(), nil
	}
}

// Discard removes an unfinished message.
func (w *Writer) Discard() {
	_ = w.f.Close()
	_ = os.Remove(w.path)
}

// syncDir makes names durable. A writer who may not read the directory leaves
// that to the sync of the file.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if errors.Is(err, fs.ErrPermission) {
		return nil
	} else if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// AppendHead appends the T record that begins every file of the maildrop.
func AppendHead(b []byte, now time.Time) []byte {
	return queuefile.AppendString(b, queuefile.TypeTime, fmt.Sprintf("%d %d", now.Unix(), now.Nanosecond()/1000))
}
