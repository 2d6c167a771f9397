package cli

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"

	"posthouse/internal/cli/getopt"
	"posthouse/internal/mail"
	"posthouse/internal/operator"
	"posthouse/internal/operator/control"
	"posthouse/internal/postfix/listing"
	"posthouse/internal/postfix/match"
)

// Every failure of postqueue ends with this, whatever it is.
const exUnavailable = 69

const postqueueUsage = "usage: postqueue -f | postqueue -i queueid | postqueue -j | postqueue -p | postqueue -s site"

// runPostqueue is postqueue(1): show the queue, or try to deliver it now.
func runPostqueue(p *process, args []string) int {
	var mode byte
	var config, arg string
	opt := getopt.New("c:fi:jps:v", args)
	for opt.Next() {
		switch opt.Opt {
		case 'c':
			config = opt.Arg
		case 'v':
		case 'f', 'i', 'j', 'p', 's':
			if mode != 0 {
				return p.fatal(exUnavailable, postqueueUsage)
			}
			mode, arg = opt.Opt, opt.Arg
		default:
			p.info("%s", opt.Complaint)
			return p.fatal(exUnavailable, postqueueUsage)
		}
	}
	if mode == 0 || len(opt.Operands()) > 0 {
		return p.fatal(exUnavailable, postqueueUsage)
	}
	s := p.settings(config)
	if s == nil {
		return exUnavailable
	}
	if mode == 'p' || mode == 'j' {
		return p.showQueue(s, mode == 'j')
	}
	return p.flush(s, mode, arg)
}

// showQueue lists the queue, and without a server, for root, the spool.
func (p *process) showQueue(s *settings, asJSON bool) int {
	name, ok, err := p.allowed(s, "authorized_mailq_users")
	if err != nil {
		return p.fatal(exUnavailable, "%v", err)
	}
	if !ok {
		return p.fatal(exUnavailable, "User %s(%d) is not allowed to view the mail queue", name, p.uid)
	}
	err = p.list(s, s.client(), asJSON)
	if errors.Is(err, control.ErrUnreachable) {
		const down = "(Connect to the Postfix showq service: "
		if !p.mayAdminister(s) {
			return p.fatal(exUnavailable, "Queue report unavailable - mail system is down %s%s)", down, reason(err))
		}
		p.warn("Mail system is down -- accessing queue directly %s%s)", down, reason(err))
		err = p.listOffline(s, asJSON)
	}
	return p.listed(err)
}

func (p *process) listed(err error) int {
	switch {
	case err == nil, isBrokenPipe(err):
		return 0 // a reader that has seen enough is no failure
	case errors.Is(err, control.ErrDenied):
		return p.fatal(exUnavailable, "%s", strings.TrimPrefix(err.Error(), control.ErrDenied.Error()+": "))
	default:
		return p.fatal(exUnavailable, "Queue report unavailable: %s", withoutOp(err))
	}
}

func (p *process) listOffline(s *settings, asJSON bool) error {
	op, done, err := p.offline(s)
	if err != nil {
		return err
	}
	return errors.Join(p.list(s, op, asJSON), done())
}

// lister is either form of the listing.
type lister interface {
	Add(*listing.Entry) error
	Close() error
}

func (p *process) list(s *settings, op operator.Operator, asJSON bool) error {
	var out lister = listing.NewText(p.std.Out, s.ids, time.Local)
	if asJSON {
		out = listing.NewJSON(p.std.Out)
	}
	var e listing.Entry
	var werr error
	err := op.List(p.ctx, func(v *operator.View) bool {
		// Postfix lists neither what it set aside nor what was deleted.
		if v.Queue != mail.Trash && v.Queue != mail.Corrupt {
			fillEntry(&e, v, s.ids)
			werr = out.Add(&e)
		}
		return werr == nil
	})
	if werr != nil {
		return werr
	}
	if err != nil {
		return err
	}
	return out.Close()
}

func fillEntry(e *listing.Entry, v *operator.View, ids mail.IDForm) {
	*e = listing.Entry{Queue: v.Queue, ID: ids.Format(v.ID), Arrival: v.Arrival, Size: v.Size, ForcedExpire: v.ForceExpire, Sender: v.Sender, Recipients: e.Recipients[:0]}
	for i := range v.Recipients {
		e.Recipients = append(e.Recipients, listing.Recipient{Address: v.Recipients[i].Address, Reason: v.Recipients[i].Reason})
	}
}

// flush is -f, -i and -s: try to deliver now.
func (p *process) flush(s *settings, mode byte, arg string) int {
	if status := p.checkFlush(s, mode, arg); status != 0 {
		return status
	}
	name, ok, err := p.allowed(s, "authorized_flush_users")
	if err != nil {
		return p.fatal(exUnavailable, "%v", err)
	}
	if !ok {
		return p.fatal(exUnavailable, "User %s(%d) is not allowed to flush the mail queue", name, p.uid)
	}
	if mode == 's' && !s.fastFlush(p, arg) {
		return p.fatal(exUnavailable, "Flush service is not configured for destination \"%s\"", arg)
	}
	op := s.client()
	sel := operator.Selection{All: mode == 'f'}
	switch mode {
	case 'i':
		if id, err := mail.ParseQueueID(arg); err == nil {
			sel.IDs = []mail.QueueID{id}
		}
	case 's':
		sel.IDs, err = p.messagesFor(op, arg)
	}
	if err == nil {
		_, err = op.Act(p.ctx, operator.Retry, sel, p.actor())
	}
	switch {
	case err == nil:
		return 0
	case errors.Is(err, control.ErrUnreachable):
		switch {
		case mode != 'f':
			p.warn("connect to public/flush: %s", reason(err))
		case errors.Is(err, syscall.ENOENT):
			p.warn("unable to look up public/qmgr: %s", reason(err))
		}
		return p.fatal(exUnavailable, "Cannot flush mail queue - mail system is down")
	case errors.Is(err, control.ErrDenied):
		return p.fatal(exUnavailable, "User %s(%d) is not allowed to flush the mail queue", name, p.uid)
	default:
		return p.fatal(exUnavailable, "Cannot flush mail queue: %v", err)
	}
}

// checkFlush looks at the argument before anything else is asked, as Postfix does.
func (p *process) checkFlush(_ *settings, mode byte, arg string) int {
	switch {
	case mode == 'i' && !mail.LegalQueueID(arg):
		return p.fatal(exUnavailable, "Cannot flush queue ID - invalid name: \"%s\"", arg)
	case mode == 's' && !validSite(arg):
		return p.fatal(exUnavailable, "Cannot flush mail queue - invalid destination: \"%s\"", arg)
	}
	return 0
}

// validSite tells whether a destination is a domain name or an address in brackets.
func validSite(site string) bool {
	if strings.HasPrefix(site, "[") && strings.HasSuffix(site, "]") {
		inner := strings.TrimPrefix(site[1:len(site)-1], "IPv6:")
		if _, err := netip.ParseAddr(inner); err == nil {
			return true
		}
		site = inner
	}
	for _, label := range strings.Split(site, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			c := label[i]
			if c != '-' && c != '_' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && c < 0x80 {
				return false
			}
		}
	}
	return true
}

// fastFlush tells whether fast_flush_domains has a site.
func (s *settings) fastFlush(p *process, site string) bool {
	parent := slices.Contains(s.cfg.List("parent_domain_matches_subdomains"), "fast_flush_domains")
	list, err := match.ParseDomains(s.cfg.String("fast_flush_domains"), match.Options{ParentMatches: parent})
	if err != nil {
		p.warn("fast_flush_domains: %v", err)
		return false
	}
	ok, err := list.Match(p.ctx, site)
	if err != nil {
		p.warn("fast_flush_domains: %v", err)
	}
	return ok
}

// messagesFor are the waiting messages with a recipient at a site.
func (p *process) messagesFor(op operator.Operator, site string) ([]mail.QueueID, error) {
	var ids []mail.QueueID
	err := op.List(p.ctx, func(v *operator.View) bool {
		if v.Queue == mail.Deferred || v.Queue == mail.Incoming || v.Queue == mail.Active {
			if slices.ContainsFunc(v.Recipients, func(r operator.RecipientView) bool { return strings.EqualFold(r.Address.Domain(), site) }) {
				ids = append(ids, v.ID)
			}
		}
		return true
	})
	return ids, err
}
