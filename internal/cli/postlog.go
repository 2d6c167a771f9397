package cli

import (
	"bufio"
	"fmt"
	"strings"

	"posthouse/internal/cli/getopt"
	"posthouse/internal/postfix/maillog"
)

const postlogUsage = "usage: postlog [-c config_dir] [-i] [-p priority] [-t tag] [-v] [text]"

// runPostlog is postlog(1): write lines to the mail log, given as arguments
// or on standard input.
func runPostlog(p *process, args []string) int {
	sev, tag, config := maillog.Info, "postlog", ""
	opt := getopt.New("c:ip:t:v", args)
	for opt.Next() {
		switch opt.Opt {
		case 'c':
			config = opt.Arg
		case 'i', 'v':
		case 'p':
			var ok bool
			if sev, ok = severity(opt.Arg); !ok {
				return p.fatal(1, "bad priority name: %s", opt.Arg)
			}
		case 't':
			tag = opt.Arg
		default:
			p.info("%s", opt.Complaint)
			return p.fatal(1, postlogUsage)
		}
	}
	s := p.settings(config)
	if s == nil {
		return 1
	}
	log, closeLog, err := p.openLog(s)
	if err != nil {
		return p.fatal(1, "open the log: %s", withoutOp(err))
	}
	write := func(text string) {
		log.Log(tag, sev, maillog.Text(text))
		fmt.Fprintf(p.std.Err, "%s: %s%s\n", tag, sev.Word(), text)
	}
	if words := opt.Operands(); len(words) > 0 {
		write(strings.Join(words, " "))
	} else {
		in := bufio.NewScanner(p.std.In)
		for in.Scan() {
			write(in.Text())
		}
	}
	if err := closeLog(); err != nil {
		return p.fatal(1, "write the log: %s", withoutOp(err))
	}
	return 0
}

// severity reads the name of a priority; "panic" is written as fatal.
func severity(name string) (maillog.Severity, bool) {
	switch name {
	case "info":
		return maillog.Info, true
	case "warn", "warning":
		return maillog.Warning, true
	case "error":
		return maillog.Error, true
	case "fatal", "panic":
		return maillog.Fatal, true
	default:
		return maillog.Info, false
	}
}

// openLog opens the log that the configuration names. A server that writes
// its log to standard output has none that others could write to.
func (p *process) openLog(s *settings) (maillog.Logger, func() error, error) {
	opt := maillog.Options{Hostname: s.cfg.String("myhostname"), Name: s.cfg.String("syslog_name"), IDs: s.ids}
	switch path := s.cfg.String("maillog_file"); path {
	case "":
		w := maillog.NewSyslog("/dev/log", opt)
		return w, w.Close, nil
	case "/dev/stdout":
		return maillog.Discard(), func() error { return nil }, nil
	default:
		w, err := maillog.NewFile(path, opt)
		if err != nil {
			return nil, nil, err
		}
		return w, w.Close, nil
	}
}
