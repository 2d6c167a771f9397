package access

import (
	"context"
	"net/netip"
	"strings"
	"sync/atomic"

	"posthouse/internal/mail"
	"posthouse/internal/smtp"
	"posthouse/internal/smtp/server"
)

// DomainFunc tells whether a domain, in lower case and without a trailing
// dot, belongs to a list. An error means that the list cannot be consulted.
type DomainFunc func(ctx context.Context, domain string) (bool, error)

// UserFunc tells whether a local recipient exists. The address is as it will
// be delivered. An error means that nobody can tell now.
type UserFunc func(ctx context.Context, rcpt mail.Address) (bool, error)

// Config is what is ours, and who may send elsewhere. A nil function matches
// nothing, but for LocalUsers, where nil means that every user exists.
type Config struct {
	MyNetworks []netip.Prefix // clients that may send anywhere
	// Listeners has the networks of those listeners (Peer.Listener) that have
	// others than MyNetworks; with none, no client of theirs is trusted.
	Listeners      map[string][]netip.Prefix
	Interfaces     []netip.Addr // our own addresses: user@[address] is for us
	MyDestination  DomainFunc   // domains delivered here
	RelayDomains   DomainFunc   // domains relayed for anyone; see Domains for subdomains
	VirtualDomains DomainFunc   // virtual alias and virtual mailbox domains
	LocalUsers     UserFunc     // users of MyDestination and of our addresses

	// DeferRelay answers 454 instead of 554 to who may not relay, so that a
	// mistake in the configuration loses no mail (defer_unauth_destination).
	DeferRelay bool
}

// Domains returns a DomainFunc for a fixed list of names. With subdomains, an
// entry "example.com" matches the domains below it too
// (parent_domain_matches_subdomains); an entry ".example.com" always matches
// those below it, and only those. Names compare without regard to case.
func Domains(list []string, subdomains bool) DomainFunc {
	exact := make(map[string]bool, len(list))
	below := make(map[string]bool)
	for _, d := range list {
		d = strings.TrimSuffix(strings.ToLower(d), ".")
		if parent, dotted := strings.CutPrefix(d, "."); dotted {
			below[parent] = true
			continue
		}
		exact[d] = true
		if subdomains {
			below[d] = true
		}
	}
	delete(exact, "")
	delete(below, "")
	return func(_ context.Context, domain string) (bool, error) {
		if exact[domain] {
			return true, nil
		}
		for {
			dot := strings.IndexByte(domain, '.')
			if dot < 0 {
				return false, nil
			}
			domain = domain[dot+1:]
			if below[domain] {
				return true, nil
			}
		}
	}
}

// Checker decides about recipients. It is safe for concurrent use.
type Checker struct{ cfg atomic.Pointer[Config] }

// New returns a Checker.
func New(cfg Config) *Checker {
	c := &Checker{}
	c.Reconfigure(cfg)
	return c
}

// Reconfigure replaces the configuration.
func (c *Checker) Reconfigure(cfg Config) {
	cfg.MyNetworks = unmapAll(cfg.MyNetworks)
	listeners := make(map[string][]netip.Prefix, len(cfg.Listeners))
	for name, nets := range cfg.Listeners {
		listeners[name] = unmapAll(nets)
	}
	cfg.Listeners = listeners
	own := make([]netip.Addr, 0, len(cfg.Interfaces))
	for _, a := range cfg.Interfaces {
		own = append(own, a.Unmap().WithZone(""))
	}
	cfg.Interfaces = own
	c.cfg.Store(&cfg)
}

func unmapAll(nets []netip.Prefix) []netip.Prefix {
	out := make([]netip.Prefix, 0, len(nets))
	for _, p := range nets {
		out = append(out, unmapPrefix(p))
	}
	return out
}

// unmapPrefix makes an IPv4 network of one written as IPv4-mapped IPv6, so
// that it matches clients in either writing.
func unmapPrefix(p netip.Prefix) netip.Prefix {
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		return netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p
}

// request is one recipient to be decided about.
type request struct {
	peer    *server.Peer
	to      mail.Address
	asGiven mail.Address
	local   string // local part of to, still quoted
	domain  string // domain of to, lower case, without a trailing dot
}

// verdict is what a step came to.
type verdict uint8

const (
	dunno  verdict = iota // let the next step decide
	permit                // accepted, as far as this list of steps goes
	refuse                // refused, with a reply
)

type step func(ctx context.Context, cfg *Config, r *request) (verdict, *smtp.Reply)

// Rcpt returns nil when the recipient is accepted, and the refusal otherwise.
// to has its domain; asGiven is what the client wrote, and what replies quote.
func (c *Checker) Rcpt(ctx context.Context, peer *server.Peer, _, to, asGiven mail.Address) *smtp.Reply {
	cfg := c.cfg.Load()
	r := &request{peer: peer, to: to, asGiven: asGiven}
	r.local, r.domain = to.Split()
	r.domain = strings.TrimSuffix(strings.ToLower(r.domain), ".")
	// Both lists must be passed: being allowed to relay does not make a user exist.
	for _, list := range [...][]step{
		{permitTrusted, rejectRouted, permitOurs, rejectRelay},
		{rejectUnknownUser},
	} {
		if reply := run(ctx, cfg, r, list); reply != nil {
			return reply
		}
	}
	return nil
}

// run goes through the steps until one decides.
func run(ctx context.Context, cfg *Config, r *request, steps []step) *smtp.Reply {
	for _, s := range steps {
		switch v, reply := s(ctx, cfg, r); v {
		case permit:
			return nil
		case refuse:
			return reply
		}
	}
	return nil
}

// permitTrusted lets clients of our networks and authenticated ones pass.
func permitTrusted(_ context.Context, cfg *Config, r *request) (verdict, *smtp.Reply) {
	if r.peer.SASLUser != "" {
		return permit, nil
	}
	ip, err := netip.ParseAddr(r.peer.Addr)
	if err != nil {
		return dunno, nil
	}
	ip = ip.Unmap().WithZone("")
	nets := cfg.MyNetworks
	if own, ok := cfg.Listeners[r.peer.Listener]; ok {
		nets = own
	}
	for _, p := range nets {
		if p.Contains(ip) {
			return permit, nil
		}
	}
	return dunno, nil
}

// rejectRouted refuses local parts in which someone further on could read a
// route. Quoting does not matter: a system that strips the quotes would see it.
func rejectRouted(_ context.Context, cfg *Config, r *request) (verdict, *smtp.Reply) {
	if strings.ContainsAny(r.local, "@%!") {
		return refuse, denied(cfg, r)
	}
	return dunno, nil
}

// permitOurs lets recipients in our own domains pass.
func permitOurs(ctx context.Context, cfg *Config, r *request) (verdict, *smtp.Reply) {
	local, err := cfg.isLocal(ctx, r.domain)
	if err != nil {
		return refuse, laterOn(r)
	}
	if local {
		return permit, nil
	}
	for _, ours := range [...]DomainFunc{cfg.RelayDomains, cfg.VirtualDomains} {
		switch ok, err := match(ctx, ours, r.domain); {
		case err != nil:
			return refuse, laterOn(r)
		case ok:
			return permit, nil
		}
	}
	return dunno, nil
}

// rejectRelay ends the relay list: what no step permitted goes no further.
func rejectRelay(_ context.Context, cfg *Config, r *request) (verdict, *smtp.Reply) {
	return refuse, denied(cfg, r)
}

// rejectUnknownUser refuses local recipients that do not exist.
func rejectUnknownUser(ctx context.Context, cfg *Config, r *request) (verdict, *smtp.Reply) {
	if cfg.LocalUsers == nil {
		return dunno, nil
	}
	local, err := cfg.isLocal(ctx, r.domain)
	if err != nil {
		return refuse, laterOn(r)
	}
	if !local {
		return dunno, nil
	}
	switch ok, err := cfg.LocalUsers(ctx, r.to); {
	case err != nil:
		return refuse, laterOn(r)
	case !ok:
		return refuse, smtp.NewReply(550, "5.1.1", quoted(r)+": Recipient address rejected: User unknown in local recipient table")
	}
	return dunno, nil
}

// isLocal tells whether mail for a domain is delivered here.
func (cfg *Config) isLocal(ctx context.Context, domain string) (bool, error) {
	if ok, err := match(ctx, cfg.MyDestination, domain); ok || err != nil {
		return ok, err
	}
	ip, ok := literal(domain)
	if !ok {
		return false, nil
	}
	for _, own := range cfg.Interfaces {
		if own == ip {
			return true, nil
		}
	}
	return false, nil
}

func match(ctx context.Context, f DomainFunc, domain string) (bool, error) {
	if f == nil || domain == "" {
		return false, nil
	}
	return f(ctx, domain)
}

// literal reads a domain that is an address literal (RFC 5321 §4.1.3).
func literal(domain string) (netip.Addr, bool) {
	in, ok := strings.CutPrefix(domain, "[")
	if !ok || !strings.HasSuffix(in, "]") {
		return netip.Addr{}, false
	}
	in = strings.TrimSuffix(in, "]")
	v6, isV6 := strings.CutPrefix(in, "ipv6:")
	ip, err := netip.ParseAddr(v6)
	if err != nil || ip.Is4() == isV6 || ip.Zone() != "" {
		return netip.Addr{}, false
	}
	return ip.Unmap(), true
}

// denied is Postfix's answer to who may not relay.
func denied(cfg *Config, r *request) *smtp.Reply {
	if cfg.DeferRelay {
		return smtp.NewReply(454, "4.7.1", quoted(r)+": Relay access denied")
	}
	return smtp.NewReply(554, "5.7.1", quoted(r)+": Relay access denied")
}

// laterOn is the answer when a table cannot be consulted.
func laterOn(r *request) *smtp.Reply {
	return smtp.NewReply(451, "4.3.0", quoted(r)+": Temporary lookup failure")
}

// quoted is the recipient in brackets as Postfix quotes it: without the
// quoting of its local part.
func quoted(r *request) string {
	local, domain := r.asGiven.Split()
	if s, ok := smtp.UnquoteLocal(local); ok {
		local = s
	}
	if domain != "" {
		local += "@" + domain
	}
	return "<" + local + ">"
}
