package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/idna"
)

// What a lookup can fail with; test with errors.Is.
var (
	// ErrNotFound: the name does not exist (NXDOMAIN).
	ErrNotFound = errors.New("Host not found")
	// ErrNoData: the name exists, without a record of the wanted type.
	ErrNoData = errors.New("Host found but no data record of requested type")
	// ErrTemporary: no server gave an answer to rely on; ask again later.
	ErrTemporary = errors.New("Host not found, try again")
	// ErrMalformed: the answer is not one this question can have.
	ErrMalformed = errors.New("Malformed or unexpected name server reply")
	// ErrNullMX: the domain says that it takes no mail (RFC 7505).
	ErrNullMX = errors.New("null MX")
	// ErrInvalidName: no DNS name is written like that.
	ErrInvalidName = errors.New("invalid host or domain name")
)

// Error is a failed lookup in Postfix's words; it wraps one of the sentinels.
type Error struct {
	Name string // what was asked for
	Type string // "MX", "A", "AAAA"
	Err  error  // one of the package's sentinels
}

// Error is the reason as Postfix writes it.
func (e *Error) Error() string {
	switch e.Err {
	case ErrNullMX:
		return fmt.Sprintf("Domain %s does not accept mail (nullMX)", e.Name)
	case ErrMalformed:
		return fmt.Sprintf("Name service error for name=%s type=%s: %v", e.Name, e.Type, e.Err)
	case ErrInvalidName:
		return fmt.Sprintf("Name service error for %s: %v", e.Name, e.Err)
	default:
		return fmt.Sprintf("Host or domain name not found. Name service error for name=%s type=%s: %v", e.Name, e.Type, e.Err)
	}
}

// Unwrap gives the sentinel.
func (e *Error) Unwrap() error { return e.Err }

// MX is a mail exchanger.
type MX struct {
	Preference uint16 // lower is better
	Host       string // without the final dot
}

// Config says whom to ask and how long to wait.
type Config struct {
	Servers   []string      // "host:port" of recursive resolvers; empty: those of ResolvConf
	Timeout   time.Duration // wait for one server's answer; 0: 5 seconds, as resolv.conf(5)
	Attempts  int           // rounds through the servers; 0: 2, as resolv.conf(5)
	CacheSize int           // answers kept at most; 0: 20000; negative: none
	MinTTL    time.Duration // keep an answer at least this long; 0: 1 second
	MaxTTL    time.Duration // and at most this long; 0: 1 hour

	ResolvConf string           // file naming the servers; "": /etc/resolv.conf
	HostsFile  string           // file for Hosts; "": /etc/hosts
	Now        func() time.Time // clock; nil: time.Now
}

const (
	defaultTimeout   = 5 * time.Second
	defaultAttempts  = 2
	defaultCacheSize = 20000
	defaultMinTTL    = time.Second
	defaultMaxTTL    = time.Hour

	// maxAliases bounds CNAME chains; resolvers themselves follow no more.
	maxAliases = 10
	// maxRecords bounds how much of one answer is used.
	maxRecords = 100
	// udpSize is the EDNS0 buffer that avoids fragments on any path (RFC 9715).
	udpSize = 1232
	// negativeTTL is used where an answer names no SOA to take it from (RFC 2308 §5).
	negativeTTL = time.Minute
)

// Resolver asks DNS servers and remembers the answers.
type Resolver struct {
	cfg   Config
	cache *cache
	hosts *hosts
}

// New returns a Resolver. It fails when Servers is empty and ResolvConf
// cannot be read; a resolv.conf without servers means the local host, as in
// resolv.conf(5).
func New(cfg Config) (*Resolver, error) {
	orDefault(&cfg.Timeout, defaultTimeout)
	orDefault(&cfg.Attempts, defaultAttempts)
	orDefault(&cfg.CacheSize, defaultCacheSize)
	orDefault(&cfg.MinTTL, defaultMinTTL)
	orDefault(&cfg.MaxTTL, defaultMaxTTL)
	orDefault(&cfg.ResolvConf, "/etc/resolv.conf")
	orDefault(&cfg.HostsFile, "/etc/hosts")
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if len(cfg.Servers) == 0 {
		servers, err := systemServers(cfg.ResolvConf)
		if err != nil {
			return nil, err
		}
		cfg.Servers = servers
	}
	return &Resolver{cfg: cfg, cache: newCache(cfg.CacheSize), hosts: &hosts{path: cfg.HostsFile, now: cfg.Now}}, nil
}

func orDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

// systemServers reads the servers of a resolv.conf. A missing file means the
// local host.
func systemServers(path string) ([]string, error) {
	local := []string{"127.0.0.1:53"}
	conf, err := dns.ClientConfigFromFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return local, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read name servers: %w", err)
	}
	servers := make([]string, 0, len(conf.Servers))
	for _, s := range conf.Servers {
		servers = append(servers, net.JoinHostPort(s, conf.Port))
	}
	if len(servers) == 0 {
		return local, nil
	}
	return servers, nil
}

// MX returns the mail exchangers of domain in no particular order. Those whose
// host is no host name are left out; ErrMalformed when none remains.
func (r *Resolver) MX(ctx context.Context, domain string) ([]MX, error) {
	a, err := r.lookup(ctx, domain, dns.TypeMX)
	if err != nil {
		return nil, err
	}
	return a.mx, nil
}

// A returns the IPv4 addresses of host.
func (r *Resolver) A(ctx context.Context, host string) ([]netip.Addr, error) {
	a, err := r.lookup(ctx, host, dns.TypeA)
	if err != nil {
		return nil, err
	}
	return a.addrs, nil
}

// AAAA returns the IPv6 addresses of host.
func (r *Resolver) AAAA(ctx context.Context, host string) ([]netip.Addr, error) {
	a, err := r.lookup(ctx, host, dns.TypeAAAA)
	if err != nil {
		return nil, err
	}
	return a.addrs, nil
}

// Hosts returns the addresses that the hosts file gives host, IPv4 and IPv6
// in the file's order; none when it is not there.
func (r *Resolver) Hosts(host string) []netip.Addr { return r.hosts.lookup(host) }

// answer is what one question came to: records or a lasting error.
type answer struct {
	mx      []MX
	addrs   []netip.Addr
	err     error // a sentinel; ErrTemporary is never kept
	expires time.Time
}

// lookup answers from the cache or asks. The error is an *Error.
func (r *Resolver) lookup(ctx context.Context, name string, qtype uint16) (answer, error) {
	fqdn, ok := canonical(name)
	if !ok {
		return answer{}, &Error{Name: name, Type: dns.TypeToString[qtype], Err: ErrInvalidName}
	}
	key := question{fqdn, qtype}
	a, hit := r.cache.get(key, r.cfg.Now())
	if !hit {
		a = r.resolve(ctx, fqdn, qtype)
		if a.err != ErrTemporary {
			r.cache.put(key, a, r.cfg.Now())
		}
	}
	if a.err != nil {
		return answer{}, &Error{Name: name, Type: dns.TypeToString[qtype], Err: a.err}
	}
	return a, nil
}

// canonical returns the name as it is asked for: A-labels (RFC 5891), lower
// case, final dot.
func canonical(name string) (string, bool) {
	ascii := strings.ToLower(strings.TrimSuffix(name, "."))
	for i := range len(name) {
		if name[i] < 0x80 {
			continue
		}
		var err error
		if ascii, err = idna.Lookup.ToASCII(name); err != nil {
			return "", false
		}
		break
	}
	if !validHost(ascii) {
		return "", false
	}
	return ascii + ".", true
}

// validHost tells whether s can be a host or mail domain: labels of letters,
// digits, hyphens and (for what is out there) underscores, not all of it
// digits, not too long (RFC 1035 §2.3.4).
func validHost(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	label, numeric := 0, true
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '.':
			if label == 0 {
				return false
			}
			label = 0
			continue
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '-', c == '_':
			numeric = false
		case c >= '0' && c <= '9':
		default:
			return false
		}
		if label++; label > 63 {
			return false
		}
	}
	return label > 0 && !numeric
}

// resolve asks for name, following aliases that an answer leaves dangling.
func (r *Resolver) resolve(ctx context.Context, name string, qtype uint16) answer {
	ttl := r.cfg.MaxTTL
	for range maxAliases {
		msg, err := r.ask(ctx, name, qtype)
		if err != nil {
			return answer{err: ErrTemporary}
		}
		a, alias, t := read(msg, name, qtype)
		ttl = max(min(ttl, t), r.cfg.MinTTL)
		if alias == "" {
			a.expires = r.cfg.Now().Add(ttl)
			return a
		}
		name = alias
	}
	return answer{err: ErrMalformed, expires: r.cfg.Now().Add(ttl)}
}

// ask puts one question to the servers in turn until one gives a usable answer.
func (r *Resolver) ask(ctx context.Context, name string, qtype uint16) (*dns.Msg, error) {
	query := new(dns.Msg)
	query.SetQuestion(name, qtype)
	query.SetEdns0(udpSize, false)
	err := error(ErrTemporary)
	for range r.cfg.Attempts {
		for _, server := range r.cfg.Servers {
			var msg *dns.Msg
			if msg, err = r.exchange(ctx, query, server); err == nil {
				return msg, nil
			}
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
		}
	}
	return nil, err
}

// exchange asks one server, over TCP too when the answer does not fit. An
// answer that says nothing about the name (SERVFAIL, REFUSED, …) is an error,
// so that the next server is asked.
func (r *Resolver) exchange(ctx context.Context, query *dns.Msg, server string) (*dns.Msg, error) {
	msg, err := r.exchangeOver(ctx, "udp", query, server)
	if err == nil && msg.Truncated {
		msg, err = r.exchangeOver(ctx, "tcp", query, server)
	}
	switch {
	case err != nil:
		return nil, err
	case msg.Rcode != dns.RcodeSuccess && msg.Rcode != dns.RcodeNameError:
		return nil, fmt.Errorf("server %s: %s", server, dns.RcodeToString[msg.Rcode])
	case len(msg.Question) != 1 || !strings.EqualFold(msg.Question[0].Name, query.Question[0].Name) || msg.Question[0].Qtype != query.Question[0].Qtype:
		return nil, fmt.Errorf("server %s: answer to another question", server)
	}
	return msg, nil
}

func (r *Resolver) exchangeOver(ctx context.Context, network string, query *dns.Msg, server string) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Timeout)
	defer cancel()
	c := dns.Client{Net: network, Timeout: r.cfg.Timeout, UDPSize: udpSize}
	q := *query // its own ID for each try, so that a late answer is not taken for this one
	q.Id = dns.Id()
	msg, _, err := c.ExchangeContext(ctx, &q, server)
	return msg, err
}

// read takes the records out of an answer. alias is set when the answer ends
// in a CNAME without saying more.
func read(msg *dns.Msg, name string, qtype uint16) (a answer, alias string, ttl time.Duration) {
	ttl = time.Duration(1<<62 - 1)
	owner := name
	for range maxAliases {
		next := ""
		for _, rr := range msg.Answer {
			if c, ok := rr.(*dns.CNAME); ok && strings.EqualFold(c.Hdr.Name, owner) {
				next, ttl = c.Target, min(ttl, seconds(c.Hdr.Ttl))
			}
		}
		if next == "" {
			break
		}
		owner = next
	}
	seen, invalid := 0, 0
	for _, rr := range msg.Answer {
		h := rr.Header()
		if h.Rrtype != qtype || !strings.EqualFold(h.Name, owner) || seen == maxRecords {
			continue
		}
		seen++
		ttl = min(ttl, seconds(h.Ttl))
		if !a.add(rr) {
			invalid++
		}
	}
	switch {
	case qtype == dns.TypeMX && seen == 1 && isNullMX(msg.Answer, owner):
		a = answer{err: ErrNullMX}
	case seen > 0 && seen == invalid:
		a = answer{err: ErrMalformed}
	case seen > 0:
	case msg.Rcode == dns.RcodeNameError:
		a, ttl = answer{err: ErrNotFound}, min(ttl, negative(msg))
	case owner != name && len(msg.Ns) == 0:
		alias = owner
	default:
		a, ttl = answer{err: ErrNoData}, min(ttl, negative(msg))
	}
	return a, alias, ttl
}

// add takes one record, and tells whether it is usable.
func (a *answer) add(rr dns.RR) bool {
	switch rr := rr.(type) {
	case *dns.MX:
		host := strings.TrimSuffix(rr.Mx, ".")
		// An address in place of a name is wrong (RFC 1035 §3.3.9) and common;
		// it is clear what is meant.
		if _, err := netip.ParseAddr(host); err != nil && !validHost(host) {
			return false
		}
		a.mx = append(a.mx, MX{Preference: rr.Preference, Host: host})
		return true
	case *dns.A:
		return a.addAddr(rr.A)
	case *dns.AAAA:
		return a.addAddr(rr.AAAA)
	default:
		return false
	}
}

func (a *answer) addAddr(ip net.IP) bool {
	addr, ok := netip.AddrFromSlice(ip)
	if ok {
		a.addrs = append(a.addrs, addr.Unmap())
	}
	return ok
}

// isNullMX tells whether the only MX of owner is "." (RFC 7505 §3).
func isNullMX(rrs []dns.RR, owner string) bool {
	for _, rr := range rrs {
		if mx, ok := rr.(*dns.MX); ok && strings.EqualFold(mx.Hdr.Name, owner) {
			return mx.Mx == "."
		}
	}
	return false
}

// negative is how long an absence may be believed (RFC 2308 §5).
func negative(msg *dns.Msg) time.Duration {
	for _, rr := range msg.Ns {
		if soa, ok := rr.(*dns.SOA); ok {
			return seconds(min(soa.Minttl, soa.Hdr.Ttl))
		}
	}
	return negativeTTL
}

func seconds(n uint32) time.Duration { return time.Duration(n) * time.Second }
