package remote

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strconv"

	"posthouse/internal/delivery/dns"
	"posthouse/internal/mail"
	"posthouse/internal/postfix/maillog"
)

// candidate is an address to try.
type candidate struct {
	host string
	ip   netip.Addr
	pref int  // MX preference
	best bool // no mail exchanger is more preferred: a loop through it is final
	path string
	port uint16
}

// name is "host[address]", as reasons have it.
func (c *candidate) name() string {
	if c.path != "" {
		return c.host + "[" + c.path + "]"
	}
	return c.host + "[" + c.ip.String() + "]"
}

// relay is the name with the port, as log lines have it.
func (c *candidate) relay() string {
	if c.path != "" {
		return c.name()
	}
	return c.name() + ":" + strconv.Itoa(int(c.port))
}

// address is what to connect to.
func (c *candidate) address() (network, address string) {
	if c.path != "" {
		return "unix", c.path
	}
	return "tcp", net.JoinHostPort(c.ip.String(), strconv.Itoa(int(c.port)))
}

// key finds kept connections by address.
func (c *candidate) key() string {
	_, address := c.address()
	return address
}

// found is the outcome of looking for a target's addresses.
type found struct {
	list   []candidate  // in the order to try; empty when status is set
	status *mail.Status // why there are none
	self   bool         // this host is among the mail exchangers
}

// finder looks for addresses with one set of settings.
type finder struct {
	cfg *Config
	env *Env
}

// find returns the addresses of t in the order to try them.
func (f *finder) find(ctx context.Context, t target) found {
	if t.path != "" {
		return found{list: []candidate{{host: f.cfg.MyHostname, path: t.path, best: true}}}
	}
	var r found
	if t.mx {
		r = f.findMX(ctx, t)
	} else {
		r = f.findHost(ctx, t)
	}
	for i := range r.list {
		r.list[i].port = t.port
	}
	return r
}

// findHost takes t for a host. The mail loops when it is this one.
func (f *finder) findHost(ctx context.Context, t target) found {
	addrs, status := f.addresses(ctx, t.host)
	if status != nil {
		return found{status: status}
	}
	r := found{list: make([]candidate, 0, len(addrs))}
	for _, ip := range addrs {
		if t.port == smtpPort && slices.Contains(f.cfg.Own, ip) {
			return found{status: looping(t.host), self: true}
		}
		r.list = append(r.list, candidate{host: t.host, ip: ip, best: true})
	}
	f.order(r.list)
	r.list = f.balance(r.list)
	return r
}

func looping(host string) *mail.Status {
	st := mail.NewStatus("5.4.6", "mail for %s loops back to myself", host)
	return &st
}

// findMX takes t for a mail domain (RFC 5321 §5.1).
func (f *finder) findMX(ctx context.Context, t target) found {
	mxs, err := f.env.Resolver.MX(ctx, t.host)
	switch {
	case errors.Is(err, dns.ErrNotFound), errors.Is(err, dns.ErrNoData):
		return f.findHost(ctx, t) // the implicit MX
	case err != nil && f.cfg.IgnoreMXErrors && !errors.Is(err, dns.ErrNullMX):
		return f.findHost(ctx, t)
	case err != nil:
		return found{status: lookupStatus(err)}
	}
	mxs = slices.Clone(mxs) // the resolver's own
	slices.SortStableFunc(mxs, func(a, b dns.MX) int { return int(a.Preference) - int(b.Preference) })
	var r found
	var why *mail.Status
	for _, mx := range mxs {
		addrs, status := f.addresses(ctx, mx.Host)
		if status != nil && (why == nil || status.Temporary()) {
			why = status // a failure that may pass outweighs one that will not
		}
		for _, ip := range addrs {
			r.list = append(r.list, candidate{host: mx.Host, ip: ip, pref: int(mx.Preference), best: mx.Preference == mxs[0].Preference})
		}
	}
	if len(r.list) == 0 {
		f.env.Log.Log(f.cfg.Service, maillog.Warning, maillog.Text("no MX host for "+t.host+" has a valid address record"))
		if f.cfg.DeferNoMXAddr && why.Permanent() {
			why.Code = mail.EnhancedCode{4, 4, 4}
		}
		return found{status: why}
	}
	f.order(r.list)
	f.dropSelf(&r, t)
	r.list = f.balance(r.list)
	return r
}

// dropSelf leaves out this host and every exchanger that is not better: mail
// would come back from it (RFC 5321 §5.1).
func (f *finder) dropSelf(r *found, t target) {
	if t.port != smtpPort {
		return
	}
	for i := range r.list {
		if !slices.Contains(f.cfg.Own, r.list[i].ip) {
			continue
		}
		better := slices.IndexFunc(r.list, func(c candidate) bool { return c.pref >= r.list[i].pref })
		best := r.list[0].best
		r.list, r.self = r.list[:better], true
		if len(r.list) > 0 {
			return
		}
		if best {
			r.status = looping(t.host)
		} else {
			st := mail.NewStatus("4.4.4", "unable to find primary relay for %s", t.host)
			r.status = &st
		}
		return
	}
}

// order sorts by preference, with equals in random order and the preferred
// family first among them.
func (f *finder) order(list []candidate) {
	if f.cfg.Randomize {
		f.env.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	}
	slices.SortStableFunc(list, func(a, b candidate) int {
		if a.pref != b.pref {
			return a.pref - b.pref
		}
		return f.family(a.ip) - f.family(b.ip)
	})
}

func (f *finder) family(ip netip.Addr) int {
	switch {
	case f.cfg.Preference == PreferIPv4 && !ip.Is4(), f.cfg.Preference == PreferIPv6 && ip.Is4():
		return 1
	default:
		return 0
	}
}

// balance cuts the list to AddressLimit so that a family whose addresses all
// come late is not cut off altogether: a host with broken IPv6 and many IPv6
// addresses must still be reached over IPv4, and the other way round.
func (f *finder) balance(list []candidate) []candidate {
	limit := f.cfg.AddressLimit
	if limit <= 0 || len(list) <= limit {
		return list
	}
	if !f.cfg.Balance || !f.cfg.IPv4 || !f.cfg.IPv6 || limit < 2 {
		return list[:limit]
	}
	v4 := 0
	for i := range list {
		if list[i].ip.Is4() {
			v4++
		}
	}
	v6 := len(list) - v4
	room4 := min(v4, max(limit/2, limit-v6))
	room6 := limit - room4
	kept := make([]candidate, 0, limit)
	for _, c := range list {
		room := &room6
		if c.ip.Is4() {
			room = &room4
		}
		if *room > 0 {
			*room--
			kept = append(kept, c)
		}
	}
	return kept
}

// addresses returns the addresses of a host in the families we speak.
func (f *finder) addresses(ctx context.Context, host string) ([]netip.Addr, *mail.Status) {
	if ip, err := netip.ParseAddr(host); err == nil {
		if ip = ip.Unmap(); f.speak(ip) {
			return []netip.Addr{ip}, nil
		}
		st := mail.NewStatus("5.4.4", "unable to look up host %s: Address family for hostname not supported", host)
		return nil, &st
	}
	lookups := f.cfg.HostLookup
	if f.cfg.DisableDNS {
		lookups = []Lookup{LookupNative}
	}
	var status *mail.Status
	for _, l := range lookups {
		var addrs []netip.Addr
		if l == LookupNative {
			addrs, status = f.native(ctx, host)
		} else {
			addrs, status = f.fromDNS(ctx, host)
		}
		if len(addrs) > 0 {
			return addrs, nil
		}
	}
	if status == nil {
		st := mail.NewStatus("4.3.5", "no way to look up host %s is configured", host)
		status = &st
	}
	return nil, status
}

func (f *finder) speak(ip netip.Addr) bool {
	if ip.Is4() {
		return f.cfg.IPv4
	}
	return f.cfg.IPv6
}

func (f *finder) fromDNS(ctx context.Context, host string) ([]netip.Addr, *mail.Status) {
	addrs, err := f.query(ctx, host)
	if err != nil {
		return nil, lookupStatus(err)
	}
	return addrs, nil
}

// query asks for both families. One of them is enough; of two failures the
// one that may pass is told.
func (f *finder) query(ctx context.Context, host string) ([]netip.Addr, error) {
	var addrs []netip.Addr
	var why error
	ask := func(lookup func(context.Context, string) ([]netip.Addr, error)) {
		got, err := lookup(ctx, host)
		if err != nil && !errors.Is(why, dns.ErrTemporary) {
			why = err
		}
		addrs = append(addrs, got...)
	}
	if f.cfg.IPv4 {
		ask(f.env.Resolver.A)
	}
	if f.cfg.IPv6 {
		ask(f.env.Resolver.AAAA)
	}
	if len(addrs) > 0 {
		return addrs, nil
	}
	if why == nil {
		why = &dns.Error{Name: host, Type: "A", Err: dns.ErrNoData}
	}
	return nil, why
}

// native looks into the hosts file first, and speaks as the C library does.
func (f *finder) native(ctx context.Context, host string) ([]netip.Addr, *mail.Status) {
	var addrs []netip.Addr
	for _, ip := range f.env.Resolver.Hosts(host) {
		if f.speak(ip) {
			addrs = append(addrs, ip)
		}
	}
	if len(addrs) > 0 {
		return addrs, nil
	}
	addrs, err := f.query(ctx, host)
	if err == nil {
		return addrs, nil
	}
	code, text := "5.4.4", "Name or service not known"
	switch {
	case errors.Is(err, dns.ErrNoData):
		text = "No address associated with hostname"
	case errors.Is(err, dns.ErrTemporary):
		code, text = "4.4.3", "Temporary failure in name resolution"
	}
	st := mail.NewStatus(code, "unable to look up host %s: %s", host, text)
	return nil, &st
}

// lookupStatus gives a failed lookup Postfix's code. The text is the error's.
func lookupStatus(err error) *mail.Status {
	code := mail.EnhancedCode{4, 4, 3}
	switch {
	case errors.Is(err, dns.ErrNotFound), errors.Is(err, dns.ErrNoData), errors.Is(err, dns.ErrInvalidName):
		code = mail.EnhancedCode{5, 4, 4}
	case errors.Is(err, dns.ErrNullMX):
		code = mail.EnhancedCode{5, 1, 0}
	case errors.Is(err, dns.ErrMalformed):
		code = mail.EnhancedCode{5, 4, 3}
	}
	return &mail.Status{Code: code, Text: err.Error()}
}
