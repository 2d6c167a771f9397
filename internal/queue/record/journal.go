package record

import (
	"sync"

	"posthouse/internal/postfix/maillog"
)

// Journal keeps log lines that are decided under an owner's lock until the
// owner has let go of it, and writes them in the order in which they were
// decided, whoever of several goroutines comes to write first.
type Journal struct {
	mu      *sync.Mutex // the owner's: guards lines and spare
	log     maillog.Logger
	lines   []line
	spare   []line
	writing sync.Mutex // held while lines are written, so that they keep their order
}

type line struct {
	service string
	sev     maillog.Severity
	ev      maillog.Event
}

// NewJournal returns a Journal for an owner whose lock is mu.
func NewJournal(mu *sync.Mutex, log maillog.Logger) *Journal {
	return &Journal{mu: mu, log: log}
}

// Add keeps a line. The owner's lock is held.
func (j *Journal) Add(service string, sev maillog.Severity, ev maillog.Event) {
	j.lines = append(j.lines, line{service, sev, ev})
}

// Empty tells whether there is nothing to write. The owner's lock is held.
func (j *Journal) Empty() bool { return len(j.lines) == 0 }

// Write writes what was kept. When it returns, every line that was added
// before it was called has been written, by this or another call. The owner's
// lock is not held.
func (j *Journal) Write() {
	j.writing.Lock()
	defer j.writing.Unlock()
	j.mu.Lock()
	lines := j.lines
	j.lines, j.spare = j.spare[:0], nil
	j.mu.Unlock()
	for _, l := range lines {
		j.log.Log(l.service, l.sev, l.ev)
	}
	clear(lines)
	j.mu.Lock()
	j.spare = lines[:0]
	j.mu.Unlock()
}
