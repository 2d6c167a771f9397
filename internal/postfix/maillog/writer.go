package maillog

import (
	"bytes"
	"errors"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"posthouse/internal/mail"
)

// Format is how a logger writes its lines.
type Format uint8

const (
	// Postfix is the classic line: "Nov 22 07:45:16 mx postfix/smtp[123]: …".
	Postfix Format = iota
	// JSON is one object per line, with the names of Event.Fields.
	JSON
)

// ErrFormat is returned for an unknown name of a format.
var ErrFormat = errors.New("not a log format: expected postfix or json")

// ParseFormat reads the value of maillog_format: "postfix" or "json".
func ParseFormat(name string) (Format, error) {
	switch strings.ToLower(name) {
	case "postfix", "":
		return Postfix, nil
	case "json":
		return JSON, nil
	default:
		return 0, ErrFormat
	}
}

// DefaultBuffer is how many bytes may wait for a slow disk or pipe before
// Log blocks: a few thousand lines.
const DefaultBuffer = 1 << 20

// Options say how a logger formats and buffers. The zero value works.
type Options struct {
	Format   Format           // Postfix or JSON; default Postfix
	IDs      mail.IDForm      // the form of queue IDs; default short
	Hostname string           // cut at its first dot; default the system's
	Name     string           // syslog_name; a service's own "x/smtpd" is appended to it with "/"; default "postfix"
	PID      int              // in brackets after the service; default this process
	Perm     os.FileMode      // of a log file that does not exist yet; default 0600, since logs name correspondents
	Buffer   int              // bytes that may wait before Log blocks; default DefaultBuffer
	Facility int              // syslog facility number; default 2 (mail)
	Now      func() time.Time // the clock; default time.Now
}

func (o Options) withDefaults() Options {
	if o.Hostname == "" {
		o.Hostname, _ = os.Hostname()
	}
	// Postfix logs the first label only; parsers expect one word.
	o.Hostname, _, _ = strings.Cut(o.Hostname, ".")
	o.Hostname = string(sanitize([]byte(o.Hostname)))
	if o.Name == "" {
		o.Name = "postfix"
	}
	if o.PID == 0 {
		o.PID = os.Getpid()
	}
	if o.Perm == 0 {
		o.Perm = 0o600
	}
	if o.Buffer <= 0 {
		o.Buffer = DefaultBuffer
	}
	if o.Facility == 0 {
		o.Facility = facilityMail
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return o
}

// output is where gathered lines go. Only one goroutine at a time calls it.
type output interface {
	// write takes one or more whole lines. An error means that they, or some
	// of them, are lost.
	write(lines []byte) error
	reopen() error
	close() error
}

// Writer is a Logger that writes lines to a file, a stream or syslog.
//
// Log formats outside any lock, appends to one shared buffer under a short
// one, and returns. A goroutine writes whatever has gathered with one
// write(2) and then looks again: there is no timer, so a line is visible at
// once when little happens, and lines share writes when much does. When more
// than Options.Buffer bytes wait, Log blocks until a write has finished, so a
// stuck disk slows mail down instead of eating memory.
type Writer struct {
	opt    Options
	syslog bool   // lines begin with <priority> and carry no host name
	tail   string // "[pid]: "

	pool sync.Pool // *[]byte, where a line is formatted

	mu       sync.Mutex
	wake     sync.Cond // for the writing goroutine: buf is not empty, or closing
	space    sync.Cond // for loggers: buf has been taken
	buf      []byte    // lines not yet taken by the goroutine
	spare    []byte    // the other buffer, while it is not being written
	writing  bool
	closed   bool
	stampSec int64 // the second that stamp was formatted for
	stamp    []byte

	ioMu sync.Mutex // guards out: held during write, reopen and close
	out  output

	dropped atomic.Uint64
	done    chan struct{}
}

func newWriter(out output, opt Options, syslog bool) *Writer {
	w := &Writer{
		opt: opt, syslog: syslog, out: out, stampSec: -1 << 62, done: make(chan struct{}),
		tail: "[" + strconv.Itoa(opt.PID) + "]: ",
	}
	w.wake.L, w.space.L = &w.mu, &w.mu
	w.pool.New = func() any {
		b := make([]byte, 0, 512)
		return &b
	}
	go w.run()
	return w
}

// Log appends one line. After Close it counts the event as dropped.
func (w *Writer) Log(service string, sev Severity, ev Event) {
	p := w.pool.Get().(*[]byte)
	b := (*p)[:0]
	now := w.opt.Now()
	if w.opt.Format == JSON {
		b = w.appendHead(b, service, w.syslog)
		b = appendJSON(b, &w.opt, now, service, sev, ev)
	} else {
		b = w.appendHead(b, service, true)
		b = append(b, sev.Word()...)
		b = ev.AppendText(b, w.opt.IDs)
	}
	b = append(sanitize(b), '\n')
	w.add(now, sev, b)
	*p = b
	if cap(b) <= maxPooledLine {
		w.pool.Put(p)
	}
}

// maxPooledLine keeps one huge line from staying in memory for ever.
const maxPooledLine = 16 << 10

// appendHead writes "postfix/smtp[123]: ". A JSON line in a file needs none.
func (w *Writer) appendHead(b []byte, service string, wanted bool) []byte {
	if !wanted {
		return b
	}
	b = append(b, w.opt.Name...)
	if service != "" {
		b = append(b, '/')
		b = append(b, service...)
	}
	return append(b, w.tail...)
}

func (w *Writer) add(now time.Time, sev Severity, line []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.buf) > w.opt.Buffer && !w.closed {
		w.space.Wait()
	}
	if w.closed {
		w.dropped.Add(1)
		return
	}
	if w.syslog {
		w.buf = append(w.buf, '<')
		w.buf = strconv.AppendInt(w.buf, int64(w.opt.Facility<<3|sev.level()), 10)
		w.buf = append(w.buf, '>')
	}
	if w.syslog || w.opt.Format != JSON {
		if sec := now.Unix(); sec != w.stampSec {
			w.stampSec = sec
			w.stamp = now.AppendFormat(w.stamp[:0], time.Stamp)
			w.stamp = append(w.stamp, ' ')
			if !w.syslog {
				w.stamp = append(append(w.stamp, w.opt.Hostname...), ' ')
			}
		}
		w.buf = append(w.buf, w.stamp...)
	}
	w.buf = append(w.buf, line...)
	if !w.writing {
		w.wake.Signal()
	}
}

func (w *Writer) run() {
	defer close(w.done)
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		for len(w.buf) == 0 && !w.closed {
			w.wake.Wait()
		}
		if len(w.buf) == 0 {
			return
		}
		lines := w.buf
		w.buf, w.spare, w.writing = w.spare[:0], nil, true
		w.space.Broadcast()
		w.mu.Unlock()

		w.ioMu.Lock()
		err := w.out.write(lines)
		w.ioMu.Unlock()

		w.mu.Lock()
		if err != nil {
			w.dropped.Add(uint64(bytes.Count(lines, []byte{'\n'})))
		}
		w.spare, w.writing = lines, false
	}
}

// Reopen closes a log file and opens its name anew, for SIGHUP and rotation.
// On an error the old file stays in use. It does nothing for streams.
func (w *Writer) Reopen() error {
	w.ioMu.Lock()
	defer w.ioMu.Unlock()
	return w.out.reopen()
}

// Dropped is how many lines could not be written, ever.
func (w *Writer) Dropped() uint64 { return w.dropped.Load() }

// Close writes what is waiting and closes the file or connection.
func (w *Writer) Close() error {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		<-w.done
		return nil
	}
	w.closed = true
	w.wake.Broadcast()
	w.space.Broadcast()
	w.mu.Unlock()
	<-w.done
	w.ioMu.Lock()
	defer w.ioMu.Unlock()
	return w.out.close()
}
