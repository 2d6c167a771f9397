package daemon

import (
	"fmt"

	"posthouse/internal/postfix/config"
)

// inert warns about parameters that are set and that change nothing here,
// since an operator may count on them: a relay that ignored soft_bounce or a
// list of blocked clients in silence would be worse than one without them.
func (t *translator) inert() {
	for _, name := range t.cfg.SetNames() {
		if t.isInert(t.cfg, name) {
			t.warn(name + " is set, but has no effect in this version of Posthouse")
		}
	}
	for _, svc := range t.cfg.Services() {
		if !runs(&svc) {
			continue // nothing of it is used, and listeners says so where that matters
		}
		view := svc.View(t.cfg)
		for _, o := range svc.Overrides {
			if t.isInert(view, o.Name) {
				t.warn(fmt.Sprintf("master.cf line %d: -o %s has no effect in this version of Posthouse", svc.Line, o.Name))
			}
		}
	}
}

// runs tells whether Posthouse has the program that a service names.
func runs(svc *config.Service) bool {
	switch svc.Command {
	case "smtpd":
		return svc.Type == "inet"
	case "smtp", "lmtp", "discard", "error":
		return svc.Type == "unix"
	}
	return false
}

// isInert tells whether a setting asks for something that does not happen. One
// that asks for what happens anyway is left in peace.
func (t *translator) isInert(c *config.Config, name string) bool {
	if name == "smtpd_relay_restrictions" || name == "smtpd_recipient_restrictions" {
		return !builtIn(c.List(name))
	}
	p, ok := config.LookupParam(name)
	if !ok || p.Meaning != "" || harmless(name) {
		return false
	}
	usual, err := c.Expand(p.Default)
	return err != nil || c.String(name) != usual
}

// builtIn tells whether a restriction list asks for no more than what always
// holds: mynetworks may relay, everyone else may not.
func builtIn(list []string) bool {
	for _, word := range list {
		switch word {
		case "permit_mynetworks", "permit_sasl_authenticated", "reject_unauth_destination", "defer_unauth_destination":
		default:
			return false
		}
	}
	return true
}

// harmless names parameters that installers write everywhere and that stand
// for nothing this relay could do otherwise.
func harmless(name string) bool {
	switch name {
	case "biff", "readme_directory", "html_directory", "manpage_directory", "sample_directory", "mailq_path",
		"newaliases_path", "sendmail_path", "alias_database", "mailbox_size_limit", "debugger_command",
		"debug_peer_level", "debug_peer_list", "multi_instance_enable", "multi_instance_wrapper", "multi_instance_group",
		"shlib_directory", "meta_directory", "smtp_tls_session_cache_database", "smtpd_tls_session_cache_database",
		"append_dot_mydomain", "command_directory", "data_directory", "setgid_group", "unknown_local_recipient_reject_code",
		"queue_run_delay": // each message is tried when it is due, which is never later than a scan would
		return true
	}
	return false
}
