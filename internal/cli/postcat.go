package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"

	"posthouse/internal/cli/getopt"
	"posthouse/internal/intake/pickup"
	"posthouse/internal/mail"
	"posthouse/internal/operator"
	"posthouse/internal/operator/control"
	"posthouse/internal/postfix/queuefile"
)

const postcatUsage = "usage: postcat [-b (body text)] [-c config_dir] [-d (decimal record type)] [-e (envelope records)]" +
	" [-h (header text)] [-q (access queue)] [-v] [file(s)...]"

// cat is one run of postcat.
type cat struct {
	*process
	printer queuefile.Printer
	queue   bool   // -q: operands are queue IDs
	config  string // -c
}

// runPostcat is postcat(1): show queue files, or messages as if they were.
func runPostcat(p *process, args []string) int {
	c := &cat{process: p}
	if status := c.options(&args); status != 0 {
		return status
	}
	s := p.settings(c.config)
	if s == nil {
		return 1
	}
	if len(args) == 0 {
		return c.stdin()
	}
	for _, arg := range args {
		show := c.file
		if c.queue {
			show = func(id string) int { return c.message(s, id) }
		}
		if status := show(arg); status != 0 {
			return status
		}
	}
	return 0
}

// options reads the options and leaves the operands.
func (c *cat) options(args *[]string) int {
	pr := &c.printer
	opt := getopt.New("bc:dehoqrs:v", *args)
	for opt.Next() {
		switch opt.Opt {
		case 'b':
			pr.Body = true
		case 'c':
			c.config = opt.Arg
		case 'd':
			pr.Decimal = true
		case 'e':
			pr.Envelope = true
		case 'h':
			pr.Header = true
		case 'o':
			pr.Offsets = true
		case 'q':
			c.queue = true
		case 'r':
			pr.Raw = true
		case 's':
			n, err := strconv.ParseInt(opt.Arg, 10, 63)
			if err != nil || n < 0 {
				return c.fatal(1, "bad offset: %s", opt.Arg)
			}
			pr.Start = n
		case 'v':
			pr.Verbose = true
		default:
			c.info("%s", opt.Complaint)
			return c.fatal(1, postcatUsage)
		}
	}
	if !pr.Body && !pr.Envelope && !pr.Header {
		pr.Body, pr.Envelope, pr.Header = true, true, true
	}
	*args = opt.Operands()
	return 0
}

// print prints one file and returns the exit status.
func (c *cat) print(file io.ReadSeeker, path string) int {
	err := c.printer.Print(c.std.Out, file, path, func(text string) { c.warn("%s", text) })
	var re *queuefile.ReadError
	switch {
	case err == nil, isBrokenPipe(err):
		return 0
	case errors.Is(err, queuefile.ErrNotQueueFile):
		c.warn("%s: %v", path, err)
		return 0
	case errors.As(err, &re):
		c.warn("%s: %s", path, re.Problem)
		return c.fatal(1, "record read error")
	default:
		return c.fatal(1, "%s", withoutOp(err))
	}
}

func (c *cat) stdin() int {
	// Pointers need a file that can be moved in; a pipe cannot.
	data, err := io.ReadAll(c.std.In)
	if err != nil {
		return c.fatal(1, "read stdin: %s", reason(err))
	}
	return c.print(bytes.NewReader(data), "stdin")
}

func (c *cat) file(path string) int {
	f, err := os.Open(path)
	if err != nil {
		return c.fatal(1, "%s", withoutOp(err))
	}
	defer func() { _ = f.Close() }()
	return c.print(f, path)
}

// message finds a message by its queue ID: in the maildrop, which is made of
// files, or in the spool, whose messages are shown as the files that Postfix
// would have for them.
func (c *cat) message(s *settings, word string) int {
	if !mail.LegalQueueID(word) {
		return c.fatal(1, "bad mail queue ID: %s", word)
	}
	id, err := mail.ParseQueueID(word)
	if err != nil {
		return c.fatal(1, "open queue file %s: No such file or directory", word)
	}
	if f, err := pickup.NewMaildrop(s.queueDir).Open(id); err == nil {
		defer func() { _ = f.Close() }()
		return c.print(f, "maildrop/"+word)
	}
	status := 0
	err = c.withMessage(s, id, func(m *operator.Stored) error {
		file, err := asFile(m, s.ids)
		if err == nil {
			defer func() { _ = os.Remove(file.Name()); _ = file.Close() }()
			status = c.print(file, queuePath(m.Queue, id, s.ids))
		}
		return err
	})
	switch {
	case err == nil:
		return status
	case errors.Is(err, operator.ErrNotFound):
		return c.fatal(1, "open queue file %s: No such file or directory", word)
	case errors.Is(err, control.ErrDenied), errors.Is(err, fs.ErrPermission):
		return c.fatal(1, "open queue file %s: Permission denied", word)
	default:
		return c.fatal(1, "open queue file %s: %s", word, withoutOp(err))
	}
}

// withMessage fetches a message from the server or, without one, the spool.
func (c *cat) withMessage(s *settings, id mail.QueueID, use func(*operator.Stored) error) (err error) {
	m, err := s.client().Message(c.ctx, id)
	if errors.Is(err, control.ErrUnreachable) {
		if !c.mayAdminister(s) {
			return fs.ErrPermission
		}
		op, done, oerr := c.offline(s)
		if oerr != nil {
			return oerr
		}
		defer func() { err = errors.Join(err, done()) }()
		m, err = op.Message(c.ctx, id)
	}
	if err != nil {
		return err
	}
	return errors.Join(use(m), m.Content.Close())
}

// asFile writes a message as a queue file: a file, since it may be large, and
// the printer moves about in it.
func asFile(m *operator.Stored, ids mail.IDForm) (*os.File, error) {
	f, err := os.CreateTemp("", "postcat")
	if err != nil {
		return nil, err
	}
	err = queuefile.Encode(f, m.Message, io.NewSectionReader(m.Content, 0, m.Content.Size()), ids)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		_ = f.Close()
		return nil, errors.Join(err, os.Remove(f.Name()))
	}
	return f, nil
}

// queuePath is where Postfix would have the file: the deferred queue is hashed
// by the first hexadecimal digit of the ID's microseconds.
func queuePath(q mail.QueueName, id mail.QueueID, ids mail.IDForm) string {
	if q != mail.Deferred {
		return string(q) + "/" + ids.Format(id)
	}
	usec := fmt.Sprintf("%05X", id.Time().Nanosecond()/1000)
	return string(q) + "/" + usec[:1] + "/" + ids.Format(id)
}
