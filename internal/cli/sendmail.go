package cli

import (
	"errors"
	"fmt"
	"os/user"
	"path/filepath"
	"strings"

	"posthouse/internal/cli/getopt"
	"posthouse/internal/mail"
	"posthouse/internal/operator/control"
)

// Every failure that sendmail itself finds ends with this: the caller is to
// keep the message and try again.
const exTempFail = 75

const sendmailOptions = "A:B:C:F:GIL:N:O:R:UV:X:b:ce:f:h:imno:p:r:q:tvx"

// sendmailMode is what a run of sendmail does.
type sendmailMode byte

// The modes.
const (
	modeEnqueue sendmailMode = iota
	modeMailq
	modeFlush
	modeNewaliases
	modeDaemon
	modeSMTP
	modeIgnore
)

// submission is what the options of sendmail ask for.
type submission struct {
	*process
	mode      sendmailMode
	config    string      // -C
	sender    string      // -f, -r
	hasSender bool        // one of them was given
	fullName  string      // -F
	notify    mail.Notify // -N
	ret       mail.Ret    // -R
	envID     string      // -V
	body8Bit  bool        // -B 8BITMIME
	body7Bit  bool        // -B 7BIT
	remote    bool        // -G
	dots      bool        // -i: a lone dot does not end the message
	fromHdr   bool        // -t
	site, id  string      // -qR, -qI
	verbose   int         // -v
	qtime     bool        // -q with a time
	operands  []string
}

// complaint is a failure in Postfix's words, which begin as they like.
type complaint string

func (c complaint) Error() string { return string(c) }

// runSendmail is sendmail(1), and under their names mailq(1) and newaliases(1).
func runSendmail(p *process, args []string) int {
	m := &submission{process: p}
	switch p.name {
	case "mailq":
		m.mode = modeMailq
	case "newaliases":
		m.mode = modeNewaliases
	}
	m.prescan(args)
	err := m.options(args)
	if err == nil {
		err = m.conflicts()
	}
	if err != nil {
		return p.fatal(exTempFail, "%v", err)
	}
	if m.qtime && m.mode != modeDaemon {
		return 0
	}
	return m.run()
}

// prescan complains about bad options a first time: Postfix reads the options
// twice, once for the configuration directory alone, and its users know the
// doubled complaint.
func (m *submission) prescan(args []string) {
	opt := getopt.New(sendmailOptions, args)
	for {
		if opt.Word() == "-q" {
			opt.Skip()
			continue
		}
		if !opt.Next() {
			return
		}
		if opt.Opt == '?' {
			m.info("%s", opt.Complaint)
		}
	}
}

// options reads the command line. Some of sendmail's options do not follow
// the rules of getopt: "-q" alone, and "-V" and "-XV" of old.
func (m *submission) options(args []string) error {
	opt := getopt.New(sendmailOptions, args)
	for {
		switch opt.Word() {
		case "-q":
			m.mode = modeFlush
			opt.Skip()
			continue
		case "-XV":
			return errors.New("-XV is not supported")
		}
		if !opt.Next() {
			m.operands = opt.Operands()
			return nil
		}
		if err := m.option(opt); err != nil {
			return err
		}
	}
}

func (m *submission) option(opt *getopt.Scanner) error {
	switch opt.Opt {
	case '?':
		m.info("%s", opt.Complaint)
		return fmt.Errorf("usage: %s [options]", m.name)
	case 'n':
		return errors.New("-n option not supported")
	case 'C':
		m.config = opt.Arg
		if filepath.Base(opt.Arg) == "main.cf" {
			m.config = filepath.Dir(opt.Arg)
		}
	case 'B':
		m.body8Bit, m.body7Bit = opt.Arg == "8BITMIME", opt.Arg == "7BIT"
		if !m.body8Bit && !m.body7Bit {
			return errors.New("-B option needs 8BITMIME or 7BIT")
		}
	case 'F':
		m.fullName = opt.Arg
	case 'G':
		m.remote = true
	case 'I':
		m.mode = modeNewaliases
	case 'b':
		return m.modeOption(opt.Arg)
	case 'f', 'r':
		m.sender, m.hasSender = opt.Arg, true
	case 'i':
		m.dots = true
	case 'o':
		m.dots = m.dots || strings.HasPrefix(opt.Arg, "i")
		if opt.Arg == "A" {
			return errors.New("-oA requires pathname")
		}
	case 'q':
		return m.queueOption(opt.Arg)
	case 't':
		m.fromHdr = true
	case 'v':
		m.verbose++
	case 'X':
		return fmt.Errorf("unsupported: -X%.1s", opt.Arg)
	default:
		m.dsnOption(opt)
	}
	return nil
}

// dsnOption is -N, -R and -V; what they cannot use they say and ignore.
func (m *submission) dsnOption(opt *getopt.Scanner) {
	switch opt.Opt {
	case 'N':
		var unknown string
		if m.notify, unknown = parseNotify(opt.Arg); unknown != "" {
			m.warn("unknown DSN NOTIFY command value \"%s\" in \"%s\"", unknown, opt.Arg)
		}
		if m.notify == 0 {
			m.warn("bad -N option value -- ignored")
		}
	case 'R':
		switch strings.ToLower(opt.Arg) {
		case "full":
			m.ret = mail.RetFull
		case "hdrs":
			m.ret = mail.RetHeaders
		default:
			m.warn("bad -R option value -- ignored")
		}
	case 'V':
		switch {
		case len(opt.Arg) > 100:
			m.warn("too long -V option value -- ignored")
		case strings.ContainsFunc(opt.Arg, func(r rune) bool { return r < ' ' || r > '~' }):
			m.warn("bad syntax in -V option value -- ignored")
		default:
			m.envID = opt.Arg
		}
	}
}

// parseNotify reads the value of -N: 0 when it is none, and the word that is
// to blame for it if there is one.
func parseNotify(list string) (n mail.Notify, unknown string) {
	for _, word := range strings.Split(list, ",") {
		switch strings.ToLower(strings.TrimSpace(word)) {
		case "never":
			n |= mail.NotifyNever
		case "success":
			n |= mail.NotifySuccess
		case "failure":
			n |= mail.NotifyFailure
		case "delay":
			n |= mail.NotifyDelay
		default:
			return 0, word
		}
	}
	if n&mail.NotifyNever != 0 && n != mail.NotifyNever {
		return 0, "" // RFC 3461 §4.1: NEVER stands alone
	}
	return n, ""
}

func (m *submission) modeOption(arg string) error {
	switch arg[:min(1, len(arg))] {
	case "d", "l":
		m.mode = modeDaemon
	case "h", "H":
		m.mode = modeIgnore
	case "i":
		m.mode = modeNewaliases
	case "m":
		m.mode = modeEnqueue
	case "p":
		m.mode = modeMailq
	case "s":
		m.mode = modeSMTP
	default:
		return fmt.Errorf("unsupported: -b%.1s", arg)
	}
	return nil
}

func (m *submission) queueOption(arg string) error {
	switch {
	case arg != "" && arg[0] >= '0' && arg[0] <= '9':
		m.qtime = true
	case arg == "R":
		return errors.New("specify: -qRsitename")
	case arg == "I":
		return errors.New("specify: -qIqueueid")
	case strings.HasPrefix(arg, "R"):
		m.site = arg[1:]
	case strings.HasPrefix(arg, "I"):
		m.id = arg[1:]
	default:
		return fmt.Errorf("-q%.1s is not implemented", arg)
	}
	return nil
}

// conflicts refuses what does not go together.
func (m *submission) conflicts() error {
	if m.mode != modeEnqueue {
		switch {
		case m.fromHdr:
			return errors.New("-t can be used only in delivery mode")
		case m.site != "":
			return errors.New("-qR can be used only in delivery mode")
		case m.id != "":
			return errors.New("-qI can be used only in delivery mode")
		}
	}
	if len(m.operands) == 0 {
		return nil
	}
	what := ""
	switch {
	case m.mode == modeEnqueue && m.site != "":
		what = "flush site"
	case m.mode == modeEnqueue && m.id != "":
		what = "flush queue_id"
	case m.mode == modeMailq:
		what = "display queue mode"
	case m.mode == modeFlush:
		what = "flush queue mode"
	case m.mode == modeDaemon:
		what = "daemon mode"
	case m.mode == modeNewaliases:
		what = "alias initialization mode"
	case m.mode == modeSMTP:
		what = "stand-alone mode"
	default:
		return nil
	}
	return fmt.Errorf("%s requires no recipient", what)
}

// run does what the mode says. The other commands run under their own names,
// as their messages and exit statuses are theirs.
func (m *submission) run() int {
	switch {
	case m.mode == modeIgnore, m.mode == modeNewaliases:
		// There is no alias database to rebuild: tables are read from text.
		return 0
	case m.mode == modeMailq:
		return m.postqueue("-p")
	case m.mode == modeFlush:
		return m.postqueue("-f")
	case m.mode == modeDaemon:
		m.name = "postfix"
		return runPostfix(m.process, m.withConfig("start"))
	case m.mode == modeSMTP:
		return m.standalone()
	case m.site != "":
		return m.postqueue("-s", m.site)
	case m.id != "":
		return m.postqueue("-i", m.id)
	}
	return m.enqueue()
}

func (m *submission) withConfig(args ...string) []string {
	if m.config == "" {
		return args
	}
	return append([]string{"-c", m.config}, args...)
}

func (m *submission) postqueue(args ...string) int {
	m.name = "postqueue"
	return runPostqueue(m.process, m.withConfig(args...))
}

// maySubmit checks authorized_submit_users.
func (m *submission) maySubmit(s *settings) error {
	name := control.UserName(m.uid)
	list, err := s.users("authorized_submit_users")
	switch {
	case err != nil:
		return err
	case m.uid != 0 && m.uid != s.owner && !list.Has(name):
		return complaint(fmt.Sprintf("User %s(%d) is not allowed to submit mail", name, m.uid))
	}
	return nil
}

// standalone is -bs.
func (m *submission) standalone() int {
	s := m.settings(m.config)
	if s == nil {
		return exTempFail
	}
	if err := m.maySubmit(s); err != nil {
		return m.fatal(exTempFail, "%v", err)
	}
	if m.prog.StandaloneSMTP == nil {
		return m.fatal(exTempFail, "unsupported: -bs")
	}
	status := m.prog.StandaloneSMTP(m.ctx, s.dir, m.uid, m.std)
	// What the session took lies in the maildrop now. A server, if one runs,
	// need not wait for its next look.
	if err := s.client().Pickup(m.ctx); err != nil && !errors.Is(err, control.ErrUnreachable) {
		m.warn("wake up the mail system: %v", err)
	}
	return status
}

// gecosName is the user's own name: NAME of the environment, else that of the
// password file.
func (m *submission) gecosName() string {
	if name := m.getenv("NAME"); name != "" {
		return name
	}
	u, err := user.LookupId(fmt.Sprint(m.uid))
	if err != nil {
		return ""
	}
	name, _, _ := strings.Cut(u.Name, ",")
	if login := u.Username; login != "" {
		name = strings.ReplaceAll(name, "&", strings.ToUpper(login[:1])+login[1:])
	}
	return name
}
