package daemon

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	"posthouse/internal/postfix/maillog"
)

// systemLog is where local programs reach syslog.
const systemLog = "/dev/log"

// switchLog is the logger that every room holds: a reload changes what is
// behind it.
type switchLog struct {
	to atomic.Pointer[maillog.Writer]
}

// Log passes the event on.
func (s *switchLog) Log(service string, sev maillog.Severity, ev maillog.Event) {
	s.to.Load().Log(service, sev, ev)
}

// open makes the writer that settings ask for. Without maillog_file that is
// syslog, and where no syslog runs, as in most containers, standard error.
func (l *logSettings) open() (*maillog.Writer, error) {
	if l.file != "" {
		w, err := maillog.NewFile(l.file, l.options)
		if err != nil {
			return nil, fmt.Errorf("maillog_file: %w; create its directory, or change maillog_file in main.cf", err)
		}
		return w, nil
	}
	if _, err := os.Stat(systemLog); errors.Is(err, os.ErrNotExist) {
		return maillog.NewStream(os.Stderr, l.options), nil
	}
	return maillog.NewSyslog(systemLog, l.options), nil
}

// replace puts a new writer in place and closes the old one.
func (s *switchLog) replace(w *maillog.Writer) error {
	if old := s.to.Swap(w); old != nil {
		return old.Close()
	}
	return nil
}
