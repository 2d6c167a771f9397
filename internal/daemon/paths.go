package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"posthouse/internal/intake/pickup"
)

// create makes the directories below queue_directory that are missing.
func (p *paths) create() error {
	if _, err := os.Stat(filepath.Dir(p.queue)); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("queue_directory = %s: %s does not exist; create it, or change queue_directory in main.cf",
			p.queue, filepath.Dir(p.queue))
	}
	for _, d := range []struct {
		path string
		mode fs.FileMode
	}{
		{p.queue, 0o755},
		{p.public, 0o755},
		{filepath.Dir(p.pid), 0o755},
	} {
		if st, err := os.Stat(d.path); err == nil && st.IsDir() {
			continue
		}
		err := os.Mkdir(d.path, d.mode.Perm())
		if err == nil {
			err = os.Chmod(d.path, d.mode) // past the umask
		}
		if err != nil {
			return fmt.Errorf("queue_directory = %s: %w; start as a user who may write there, or change queue_directory in main.cf", p.queue, err)
		}
	}
	if err := pickup.NewMaildrop(p.queue).Prepare(-1, -1); err != nil {
		return fmt.Errorf("queue_directory = %s: %w; start as the user that it belongs to, or change queue_directory in main.cf", p.queue, err)
	}
	return nil
}

// writePID writes our process ID, right-justified in ten columns as Postfix does.
func (p *paths) writePID() error {
	if err := os.WriteFile(p.pid, fmt.Appendf(nil, "%10s\n", strconv.Itoa(os.Getpid())), 0o644); err != nil {
		return fmt.Errorf("write process ID: %w", err)
	}
	return nil
}
