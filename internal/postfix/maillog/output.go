package maillog

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"
)

// NewFile returns a Writer that appends to the file at path, creating it with
// Options.Perm when it does not exist. The paths /dev/stdout and /dev/stderr
// mean this process's own streams. When the file is renamed or removed (log
// rotation), a new one is begun within a second, even without Reopen.
func NewFile(path string, opt Options) (*Writer, error) {
	opt = opt.withDefaults()
	switch path {
	case "/dev/stdout":
		return NewStream(os.Stdout, opt), nil
	case "/dev/stderr":
		return NewStream(os.Stderr, opt), nil
	}
	out := &fileOutput{path: path, perm: opt.Perm, now: opt.Now}
	if err := out.reopen(); err != nil {
		return nil, err
	}
	return newWriter(out, opt, false), nil
}

// NewStream returns a Writer to w, which is not closed by Close.
func NewStream(w io.Writer, opt Options) *Writer {
	return newWriter(streamOutput{w}, opt.withDefaults(), false)
}

// fileOutput appends to a file and follows its name.
type fileOutput struct {
	path    string
	perm    os.FileMode
	now     func() time.Time
	file    *os.File
	info    os.FileInfo // of file, to recognise that the name means another one
	checked time.Time
}

// rotationCheck is how often the name is looked up again.
const rotationCheck = time.Second

func (o *fileOutput) write(lines []byte) error {
	if now := o.now(); now.Sub(o.checked) >= rotationCheck {
		o.checked = now
		if info, err := os.Stat(o.path); err != nil || !os.SameFile(info, o.info) {
			// The old file is still good when the new one cannot be opened.
			_ = o.reopen()
		}
	}
	_, err := o.file.Write(lines)
	return err
}

func (o *fileOutput) reopen() error {
	f, err := os.OpenFile(o.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, o.perm)
	if err != nil {
		return fmt.Errorf("open the mail log: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("open the mail log: %w", errors.Join(err, f.Close()))
	}
	old := o.file
	o.file, o.info, o.checked = f, info, o.now()
	if old != nil {
		return old.Close()
	}
	return nil
}

func (o *fileOutput) close() error { return o.file.Close() }

type streamOutput struct{ w io.Writer }

func (o streamOutput) write(lines []byte) error {
	_, err := o.w.Write(lines)
	return err
}
func (o streamOutput) reopen() error { return nil }
func (o streamOutput) close() error  { return nil }

// facilityMail is the syslog facility of mail (RFC 3164 §4.1.1).
const facilityMail = 2

// maxSyslogLine keeps a line below what common syslog daemons accept as one
// datagram.
const maxSyslogLine = 8000

// level is the syslog severity (RFC 3164 §4.1.1).
func (s Severity) level() int {
	switch s {
	case Warning:
		return 4
	case Error:
		return 3
	case Fatal:
		return 2
	default:
		return 6
	}
}

// ErrFacility is returned for an unknown syslog_facility.
var ErrFacility = errors.New("not a syslog facility")

// ParseFacility reads syslog_facility: "mail", "local0", ...
func ParseFacility(name string) (int, error) {
	// RFC 3164 §4.1.1, table 1, with syslog(3)'s names in its order.
	names := strings.Fields("kern user mail daemon auth syslog lpr news uucp cron authpriv ftp - - - - local0 local1 local2 local3 local4 local5 local6 local7")
	for n, known := range names {
		if known == strings.ToLower(name) && known != "-" {
			return n, nil
		}
	}
	return 0, fmt.Errorf("%w: %q", ErrFacility, name)
}

// NewSyslog returns a Writer to the system log socket at path, "/dev/log" when
// empty, in the form local programs use (RFC 3164 without the host name). It
// does not fail when nobody listens: the socket is tried again for each batch
// of lines, and what cannot be sent is counted as dropped.
func NewSyslog(path string, opt Options) *Writer {
	if path == "" {
		path = "/dev/log"
	}
	return newWriter(&syslogOutput{path: path}, opt.withDefaults(), true)
}

// syslogTimeout bounds how long a stuck log daemon can hold up a batch.
const syslogTimeout = time.Second

type syslogOutput struct {
	path   string
	conn   net.Conn
	stream bool
}

func (o *syslogOutput) write(lines []byte) error {
	var failed error
	for len(lines) > 0 {
		end := 0
		for end < len(lines) && lines[end] != '\n' {
			end++
		}
		line := lines[:min(end, maxSyslogLine)]
		lines = lines[min(end+1, len(lines)):]
		if err := o.send(line); err != nil {
			// A restarted log daemon has a new socket under the old name.
			_ = o.reopen()
			if err := o.send(line); err != nil {
				failed = err
				if o.conn == nil {
					return failed
				}
			}
		}
	}
	return failed
}

func (o *syslogOutput) send(line []byte) error {
	if o.conn == nil {
		if err := o.dial(); err != nil {
			return err
		}
	}
	if o.stream {
		line = append(append([]byte(nil), line...), '\n')
	}
	if err := o.conn.SetWriteDeadline(time.Now().Add(syslogTimeout)); err != nil {
		return err
	}
	_, err := o.conn.Write(line)
	return err
}

func (o *syslogOutput) dial() error {
	for _, network := range []string{"unixgram", "unix"} {
		conn, err := net.DialTimeout(network, o.path, syslogTimeout)
		if err == nil {
			o.conn, o.stream = conn, network == "unix"
			return nil
		}
	}
	return fmt.Errorf("no syslog daemon at %s", o.path)
}

func (o *syslogOutput) reopen() error {
	if o.conn == nil {
		return nil
	}
	err := o.conn.Close()
	o.conn = nil
	return err
}

func (o *syslogOutput) close() error { return o.reopen() }
