package maillog

import (
	"strings"
	"sync"

	"posthouse/internal/mail"
)

type discard struct{}

func (discard) Log(string, Severity, Event) {}

// Discard returns a Logger that forgets everything.
func Discard() Logger { return discard{} }

type multi []Logger

// Multi returns a Logger that gives every event to each of loggers.
func Multi(loggers ...Logger) Logger {
	if len(loggers) == 1 {
		return loggers[0]
	}
	return multi(append([]Logger(nil), loggers...))
}

func (m multi) Log(service string, sev Severity, ev Event) {
	for _, l := range m {
		l.Log(service, sev, ev)
	}
}

// Entry is an event that a Recorder has taken.
type Entry struct {
	Service  string
	Severity Severity
	Kind     string
	Text     string // as AppendText wrote it at the time, without the severity word
}

// Line is "smtp: warning: text", to compare and to print.
func (e Entry) Line() string { return e.Service + ": " + e.Severity.Word() + e.Text }

// Recorder is a Logger for tests: it keeps what it is given. The zero value is
// ready and writes short queue IDs.
type Recorder struct {
	IDs mail.IDForm // the form of queue IDs in Text

	mu      sync.Mutex
	entries []Entry
	changed chan struct{}
}

// Log keeps the event.
func (r *Recorder) Log(service string, sev Severity, ev Event) {
	// The caller may use ev again, so it is formatted now.
	e := Entry{service, sev, ev.Kind(), string(ev.AppendText(nil, r.IDs))}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.entries = append(r.entries, e)
	if r.changed != nil {
		close(r.changed)
		r.changed = nil
	}
}

// Entries returns all events so far, in order.
func (r *Recorder) Entries() []Entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Entry(nil), r.entries...)
}

// Lines returns Entry.Line of all events so far.
func (r *Recorder) Lines() []string {
	var lines []string
	for _, e := range r.Entries() {
		lines = append(lines, e.Line())
	}
	return lines
}

// Find returns the first line that contains text, and whether there is one.
func (r *Recorder) Find(text string) (string, bool) {
	for _, l := range r.Lines() {
		if strings.Contains(l, text) {
			return l, true
		}
	}
	return "", false
}

// Changed returns a channel that is closed when the next event arrives. Take
// it before looking at Entries, so that nothing is missed in between.
func (r *Recorder) Changed() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.changed == nil {
		r.changed = make(chan struct{})
	}
	return r.changed
}

// Reset forgets all events.
func (r *Recorder) Reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.entries = nil
}
