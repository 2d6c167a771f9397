// Package route decides where a recipient goes: to which transport, and to
// which next hop. It implements queue.Router.
//
// # What it promises
//
// The decision is that of Postfix's trivial-rewrite(8):
//
//  1. The recipient's domain has a class: local (mydestination, or an address
//     literal of this host, or no domain at all), relay (relay_domains), or
//     default. The class has a transport, which may name a next hop of its
//     own; otherwise relayhost is the next hop, otherwise the domain.
//  2. A transport table may overrule that (transport(5)): its keys are tried
//     from the full address to "*"; an entry "transport:nexthop" replaces
//     both, "transport:" goes to the recipient's domain, ":nexthop" keeps the
//     transport, and ":" changes nothing.
//  3. Transports in defer_transports are not used.
//
// Next hops are lower case, but those of error, retry and discard, which are
// words for people.
//
// # Errors
//
// All are statuses of class 4 but one (an address that is none, 5.1.3): a
// table that cannot be consulted (4.3.0), a transport on hold (4.3.2), a
// transport that does not exist (4.3.0; a warning is logged at most once a
// minute for each).
//
// A Router is safe for concurrent use; Reconfigure swaps its settings while it
// works.
package route

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"posthouse/internal/mail"
	"posthouse/internal/postfix/lookup"
	"posthouse/internal/postfix/maillog"
	"posthouse/internal/queue"
)

// Domains is a list of domains, such as *match.DomainList.
type Domains interface {
	Match(ctx context.Context, domain string) (bool, error)
}

// Config are the settings. Nil lists and tables are empty ones.
type Config struct {
	MyHostname string // $myhostname; the next hop of local mail

	Local Domains      // mydestination
	Own   []netip.Addr // inet_interfaces and proxy_interfaces: user@[addr] is local
	Relay Domains      // relay_domains

	LocalTransport   string // local_transport, "transport[:nexthop]"; "": "local:" MyHostname
	RelayTransport   string // relay_transport; "": "relay"
	DefaultTransport string // default_transport; "": "smtp"
	Relayhost        string // relayhost; "": none

	Transports []lookup.Table // transport_maps, in order
	// Delimiters are the characters of recipient_delimiter; "": no extensions.
	Delimiters string

	Defer []string // defer_transports: names not to be used for now
	// Known are the transports that exist; nil: any does.
	Known []string
}

// Router implements queue.Router.
type Router struct {
	cfg atomic.Pointer[Config]
	log maillog.Logger
	now func() time.Time

	mu     sync.Mutex
	warned map[string]time.Time // transport → when its absence was last logged
}

var _ queue.Router = (*Router)(nil)

// warnAgain is how often the absence of a transport is logged
// (transport_retry_time).
const warnAgain = time.Minute

// New returns a Router. now is the clock.
func New(cfg Config, log maillog.Logger, now func() time.Time) *Router {
	r := &Router{log: log, now: now, warned: make(map[string]time.Time)}
	r.Reconfigure(cfg)
	return r
}

// Reconfigure changes the settings for all calls from now on.
func (r *Router) Reconfigure(cfg Config) {
	orDefault(&cfg.LocalTransport, "local:"+cfg.MyHostname)
	orDefault(&cfg.RelayTransport, "relay")
	orDefault(&cfg.DefaultTransport, "smtp")
	r.cfg.Store(&cfg)
}

func orDefault(s *string, def string) {
	if *s == "" {
		*s = def
	}
}

// Route implements queue.Router.
func (r *Router) Route(rcpt mail.Address, _ *mail.Envelope) (mail.Destination, *mail.Status) {
	cfg, ctx := r.cfg.Load(), context.Background()
	if rcpt == "" {
		return refused("5.1.3", "null recipient address")
	}
	dest, err := cfg.class(ctx, rcpt)
	if err == nil {
		dest, err = cfg.overrule(ctx, rcpt, dest)
	}
	if err != nil {
		r.log.Log("trivial-rewrite", maillog.Warning, maillog.Text(err.Error()))
		return refused("4.3.0", "address resolver failure")
	}
	if !wordy(dest.Transport) {
		dest.NextHop = strings.ToLower(dest.NextHop)
	}
	if slices.Contains(cfg.Defer, dest.Transport) {
		return refused("4.3.2", "deferred transport")
	}
	if cfg.Known != nil && !slices.Contains(cfg.Known, dest.Transport) {
		r.missing(dest.Transport)
		return refused("4.3.0", "mail transport unavailable")
	}
	return dest, nil
}

func refused(code, text string) (mail.Destination, *mail.Status) {
	st := mail.Status{Text: text}
	st.Code, _ = mail.ParseEnhancedCode(code)
	return mail.Destination{}, &st
}

// wordy tells whether a transport's next hop is text for people.
func wordy(transport string) bool {
	return transport == "error" || transport == "retry" || transport == "discard"
}

// missing logs that a transport does not exist, now and then.
func (r *Router) missing(transport string) {
	r.mu.Lock()
	now := r.now()
	last, ok := r.warned[transport]
	due := !ok || now.Sub(last) >= warnAgain
	if due {
		r.warned[transport] = now
	}
	r.mu.Unlock()
	if due {
		r.log.Log("qmgr", maillog.Warning, maillog.Text("connect to transport private/"+transport+": No such file or directory"))
	}
}

// class is the destination without transport table.
func (c *Config) class(ctx context.Context, rcpt mail.Address) (mail.Destination, error) {
	domain := rcpt.Domain()
	local, err := c.local(ctx, domain)
	if err != nil {
		return mail.Destination{}, err
	}
	if local {
		return split(c.LocalTransport, c.MyHostname), nil
	}
	relay, err := matches(ctx, c.Relay, domain)
	if err != nil {
		return mail.Destination{}, fmt.Errorf("relay_domains: %w", err)
	}
	next := domain
	if c.Relayhost != "" {
		next = c.Relayhost
	}
	if relay {
		return split(c.RelayTransport, next), nil
	}
	return split(c.DefaultTransport, next), nil
}

// split reads "transport:nexthop", either part of which may be missing.
func split(s, nextHop string) mail.Destination {
	transport, next, _ := strings.Cut(s, ":")
	if next == "" {
		next = nextHop
	}
	return mail.Destination{Transport: transport, NextHop: next}
}

// local tells whether mail for the domain ends on this host.
func (c *Config) local(ctx context.Context, domain string) (bool, error) {
	if domain == "" {
		return true, nil
	}
	if literal, ok := strings.CutPrefix(domain, "["); ok {
		literal = strings.TrimSuffix(literal, "]")
		if len(literal) > 5 && strings.EqualFold(literal[:5], "ipv6:") {
			literal = literal[5:]
		}
		ip, err := netip.ParseAddr(literal)
		return err == nil && slices.Contains(c.Own, ip.Unmap()), nil
	}
	ok, err := matches(ctx, c.Local, domain)
	if err != nil {
		return false, fmt.Errorf("mydestination: %w", err)
	}
	return ok, nil
}

func matches(ctx context.Context, list Domains, domain string) (bool, error) {
	if list == nil {
		return false, nil
	}
	return list.Match(ctx, strings.ToLower(strings.TrimSuffix(domain, ".")))
}

// overrule applies the transport tables.
func (c *Config) overrule(ctx context.Context, rcpt mail.Address, dest mail.Destination) (mail.Destination, error) {
	if len(c.Transports) == 0 {
		return dest, nil
	}
	value, found, err := c.find(ctx, rcpt)
	if err != nil {
		return dest, err
	}
	if !found {
		return dest, nil
	}
	transport, next, _ := strings.Cut(strings.TrimSpace(value), ":")
	switch {
	case transport != "" && next != "":
		return mail.Destination{Transport: transport, NextHop: next}, nil
	case transport != "":
		next = rcpt.Domain()
		if next == "" {
			next = c.MyHostname
		}
		return mail.Destination{Transport: transport, NextHop: next}, nil
	case next != "":
		dest.NextHop = next
	}
	return dest, nil
}

// find tries the keys of transport(5) in order, each in every table. A table
// of patterns sees the full address only.
func (c *Config) find(ctx context.Context, rcpt mail.Address) (value string, found bool, err error) {
	for i, key := range c.keys(rcpt) {
		for _, table := range c.Transports {
			if i > 0 && lookup.IsPattern(table) {
				continue
			}
			if value, found, err = table.Lookup(ctx, key); err != nil {
				return "", false, fmt.Errorf("%s lookup of %q: %w", table, key, err)
			}
			if found {
				return value, true, nil
			}
		}
	}
	return "", false, nil
}

// keys are the full address, the address without extension, the domain, its
// parents with a leading dot, and "*"; all lower case.
func (c *Config) keys(rcpt mail.Address) []string {
	local, domain := mail.Address(strings.ToLower(string(rcpt))).Split()
	if domain == "" {
		domain = strings.ToLower(c.MyHostname)
	}
	keys := make([]string, 0, 8)
	keys = append(keys, local+"@"+domain)
	// Postfix never takes a special address such as owner-list or
	// postmaster for one with an extension; only a delimiter after the first
	// character counts.
	if c.Delimiters != "" {
		if i := strings.IndexAny(local[min(1, len(local)):], c.Delimiters); i >= 0 {
			keys = append(keys, local[:i+1]+"@"+domain)
		}
	}
	keys = append(keys, domain)
	if !strings.HasPrefix(domain, "[") {
		for rest := domain; ; {
			i := strings.IndexByte(rest, '.')
			if i < 0 {
				break
			}
			keys = append(keys, rest[i:])
			rest = rest[i+1:]
		}
	}
	return append(keys, "*")
}
