package cli

import "posthouse/internal/postfix/maillog"

// journal is the mail log as the destination of a command's diagnostics.
type journal struct {
	settings *settings // where the log is; nil while no configuration was read, or for commands that do not log
	logger   maillog.Logger
	close    func() error
	failed   bool // the log could not be opened: it is not tried again
}

// journalTo has the diagnostics from now on written to the mail log as well,
// if this command is one whose diagnostics Postfix logs. The lines of
// postsuper are what tells in a log why a message is no longer there.
func (p *process) journalTo(s *settings) {
	switch p.name {
	case "postsuper", "postqueue", "sendmail", "mailq", "newaliases":
		p.log.settings = s
	}
}

// record writes one diagnostic to the mail log. A user who may not write
// there has seen it on standard error, which has to do.
func (p *process) record(sev maillog.Severity, text string) {
	j := &p.log
	if j.settings == nil || j.failed {
		return
	}
	if j.logger == nil {
		var err error
		if j.logger, j.close, err = p.openLog(j.settings); err != nil {
			j.failed = true
			return
		}
	}
	j.logger.Log(p.name, sev, maillog.Text(text))
}

func (p *process) closeJournal() {
	if p.log.close == nil {
		return
	}
	// There is nobody left to tell; the diagnostic itself was shown.
	_ = p.log.close()
}
