package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"posthouse/internal/delivery/bounce"
	"posthouse/internal/delivery/dns"
	"posthouse/internal/delivery/route"
	"posthouse/internal/intake"
	"posthouse/internal/intake/access"
	"posthouse/internal/mail"
	"posthouse/internal/operator/control"
	"posthouse/internal/postfix/config"
	"posthouse/internal/postfix/lookup"
	"posthouse/internal/postfix/maillog"
	"posthouse/internal/postfix/match"
	"posthouse/internal/queue"
	"posthouse/internal/spool/local"
)

// settings is a configuration, translated for every room. It never changes;
// a reload makes a new one.
type settings struct {
	cfg *config.Config // where it all comes from

	log       logSettings
	paths     paths
	spool     local.Options // without FS, Now and Warn
	ids       mail.IDForm
	queue     queue.Config
	intake    intake.Config
	access    access.Config
	bounce    bounce.Config
	route     route.Config
	dns       dns.Config
	transport []transport // delivery transports of master.cf
	listeners []listener  // where smtpd services listen
	control   control.Config
	pickup    time.Duration // between scans of the maildrop
}

// paths are the places below queue_directory.
type paths struct {
	queue  string // queue_directory itself
	spool  string // the embedded store
	public string // directory of the control socket
	socket string // the control socket
	pid    string // file with the process ID, "master.pid" as Postfix has it
}

// logSettings say where log lines go.
type logSettings struct {
	file    string // maillog_file; "" means syslog
	options maillog.Options
}

// pathsOf derives the places from queue_directory alone: commands that only
// look for the socket need no more.
func pathsOf(cfg *config.Config) paths {
	q := cfg.String("queue_directory")
	return paths{
		queue:  q,
		spool:  filepath.Join(q, "spool"),
		public: filepath.Join(q, "public"),
		socket: filepath.Join(q, "public", "posthouse"),
		pid:    filepath.Join(q, "pid", "master.pid"),
	}
}

// translator gathers the errors of translating a configuration, so that an
// operator sees all of them at once.
type translator struct {
	cfg  *config.Config
	warn func(string)
	errs []error
}

func (t *translator) fail(param string, err error) {
	if err == nil {
		return
	}
	value := t.cfg.String(param)
	if value == "" {
		value = "(empty)"
	}
	t.at(param, fmt.Errorf("%s = %s: %w", param, value, err))
}

// at keeps an error that names param, with the place where that is set.
func (t *translator) at(param string, err error) {
	if where := t.cfg.Where(param); where != "" {
		err = fmt.Errorf("%s: %w", where, err)
	}
	t.errs = append(t.errs, err)
}

// translate makes settings of a configuration that Load found well formed.
// warn is told what is odd and yet works.
func translate(cfg *config.Config, warn func(string)) (*settings, error) {
	t := &translator{cfg: cfg, warn: warn}
	s := &settings{cfg: cfg, paths: pathsOf(cfg), ids: mail.IDForm(cfg.Bool("enable_long_queue_ids"))}
	s.log = t.logSettings(s.ids)
	s.spool = local.Options{
		Dir: s.paths.spool, Create: true,
		MinFree: cfg.Size("queue_minfree"), MaxMessageSize: cfg.Size("message_size_limit"),
		SegmentSize: cfg.Size("spool_segment_size"),
	}
	own := t.ownAddresses()
	s.intake = t.intake(s.ids, own)
	s.access = t.access(own)
	s.bounce = t.bounce(s.ids)
	s.transport = t.transports(own)
	s.route = t.route(own, s.transport)
	s.queue = t.queue(s.transport)
	s.dns = dns.Config{Servers: t.servers()}
	s.listeners = t.listeners()
	s.control = t.control()
	s.pickup = time.Minute
	if svc, ok := cfg.Service("pickup", "unix"); ok && svc.Wakeup > 0 {
		s.pickup = svc.Wakeup
	}
	t.inert()
	return s, oneLine(t.errs)
}

// oneLine joins errors so that they make one line of the log.
func oneLine(errs []error) error {
	if len(errs) == 0 {
		return nil
	}
	err := errs[0]
	for _, e := range errs[1:] {
		err = fmt.Errorf("%w; %w", err, e)
	}
	return err
}

func (t *translator) logSettings(ids mail.IDForm) logSettings {
	format, err := maillog.ParseFormat(t.cfg.String("maillog_format"))
	t.fail("maillog_format", err)
	return logSettings{
		file: t.cfg.String("maillog_file"),
		options: maillog.Options{
			Format: format, IDs: ids, Hostname: t.cfg.String("myhostname"), Name: t.cfg.String("syslog_name"),
		},
	}
}

// ownAddresses are the addresses of this host that mail to user@[address]
// means.
func (t *translator) ownAddresses() []netip.Addr {
	var own []netip.Addr
	for _, prefix := range interfaces() {
		own = append(own, prefix.Addr())
	}
	for _, s := range t.cfg.List("proxy_interfaces") {
		a, err := netip.ParseAddr(s)
		t.fail("proxy_interfaces", err)
		own = append(own, a)
	}
	return own
}

func (t *translator) origin() string {
	o, err := t.cfg.Origin()
	t.fail("myorigin", err)
	return o
}

func (t *translator) intake(ids mail.IDForm, own []netip.Addr) intake.Config {
	c := t.cfg
	var local []netip.Prefix
	for _, a := range own {
		local = append(local, netip.PrefixFrom(a, a.BitLen()))
	}
	return intake.Config{
		Hostname: c.String("myhostname"), MailName: c.String("mail_name"), Origin: t.origin(), IDs: ids,
		MaxMessageSize: c.Size("message_size_limit"), MaxRecipients: c.Int("smtpd_recipient_limit"),
		HopLimit: c.Int("hopcount_limit"), DuplicateFilterLimit: c.Int("duplicate_filter_limit"),
		MinFree: c.Size("queue_minfree"), LocalClients: local,
		AlwaysAddMissingHeaders: c.Bool("always_add_missing_headers"),
		ReceivedTLS:             c.Bool("smtpd_tls_received_header"),
		ReceivedAuth:            c.Bool("smtpd_sasl_authenticated_header"),
		UID:                     os.Getuid(),
	}
}

func (t *translator) access(own []netip.Addr) access.Config {
	return access.Config{
		MyNetworks:    t.trusted(t.cfg),
		Listeners:     t.trustedBy(),
		Interfaces:    own,
		MyDestination: t.domains("mydestination").Match,
		RelayDomains:  t.domains("relay_domains").Match,
		LocalUsers:    t.localUsers(),
		DeferRelay:    t.defersRelay(),
	}
}

// defersRelay tells whether strangers are answered 454 instead of 554: when a
// list that was set says so before it says otherwise, in the order that
// Postfix goes through them. Postfix's own default says so too, as a safety net
// for configurations from before there was such a list; we have none of those,
// and a stranger who is told 454 comes back for days.
func (t *translator) defersRelay() bool {
	for _, param := range []string{"smtpd_relay_restrictions", "smtpd_recipient_restrictions"} {
		if !t.cfg.IsSet(param) {
			continue
		}
		for _, word := range t.cfg.List(param) {
			switch word {
			case "defer_unauth_destination":
				return true
			case "reject_unauth_destination":
				return false
			}
		}
	}
	return false
}

// trustParams are what decides which networks may send anywhere.
func trustParams() []string {
	return []string{"mynetworks", "smtpd_relay_restrictions", "smtpd_recipient_restrictions"}
}

// trustedBy are the networks of those smtpd services that have settings of
// their own: a door that -o makes narrower must not stay as wide as the others.
func (t *translator) trustedBy() map[string][]netip.Prefix {
	own := make(map[string][]netip.Prefix)
	addrs, _ := t.cfg.Addresses() // listeners tells about the error
	for i := range addrs {
		view := addrs[i].Service.View(t.cfg)
		if slices.ContainsFunc(trustParams(), func(name string) bool { return view.String(name) != t.cfg.String(name) }) {
			own[listenerKey(addrs[i].Network, addrs[i].Address)] = t.trusted(view)
		}
	}
	return own
}

// trusted are the networks that may send anywhere: mynetworks, unless a list
// of restrictions turns strangers away before it comes to permit_mynetworks.
func (t *translator) trusted(c *config.Config) []netip.Prefix {
	if closed(c.List("smtpd_relay_restrictions")) || closed(c.List("smtpd_recipient_restrictions")) {
		return nil
	}
	return t.networks(c, "mynetworks")
}

func closed(restrictions []string) bool {
	for _, word := range restrictions {
		switch word {
		case "permit_mynetworks", "permit":
			return false
		case "reject_unauth_destination", "defer_unauth_destination", "reject", "defer":
			return true
		}
	}
	return false
}

// networks reads a list that must be addresses only: who may relay is not
// decided by a name that the client's own DNS gives it.
func (t *translator) networks(c *config.Config, param string) []netip.Prefix {
	var list []netip.Prefix
	for _, word := range c.List(param) {
		more, err := parseNetwork(word)
		if err != nil { // which names word
			t.at(param, fmt.Errorf("%s: %w", param, err))
		}
		list = append(list, more...)
	}
	return list
}

func parseNetwork(word string) ([]netip.Prefix, error) {
	if strings.HasPrefix(word, "/") {
		text, err := os.ReadFile(word)
		if err != nil {
			return nil, err
		}
		var list []netip.Prefix
		for line := range strings.Lines(string(text)) {
			line, _, _ = strings.Cut(line, "#")
			for _, w := range strings.FieldsFunc(line, func(r rune) bool { return strings.ContainsRune(", \t\r\n", r) }) {
				more, err := parseNetwork(w)
				if err != nil {
					return nil, err
				}
				list = append(list, more...)
			}
		}
		return list, nil
	}
	text := strings.NewReplacer("[", "", "]", "").Replace(word)
	if p, err := netip.ParsePrefix(text); err == nil {
		if p != p.Masked() {
			return nil, fmt.Errorf("%s: host bits are set; did you mean %s?", word, p.Masked())
		}
		return []netip.Prefix{p}, nil
	}
	a, err := netip.ParseAddr(text)
	if err != nil {
		return nil, fmt.Errorf("%q is neither an address nor a network such as 192.0.2.0/24; other forms are not supported yet", word)
	}
	return []netip.Prefix{netip.PrefixFrom(a, a.BitLen())}, nil
}

func (t *translator) domains(param string) *match.DomainList {
	parents := false
	for _, p := range t.cfg.List("parent_domain_matches_subdomains") {
		parents = parents || p == param
	}
	list, err := match.ParseDomains(t.cfg.String(param), match.Options{ParentMatches: parents, Tables: t.tableOptions(false)})
	t.fail(param, err)
	return list
}

func (t *translator) tableOptions(aliases bool) lookup.Options {
	return lookup.Options{DefaultType: t.cfg.String("default_database_type"), Warn: t.warn, Aliases: aliases}
}

func (t *translator) tables(param string, aliases bool) []lookup.Table {
	var list []lookup.Table
	for _, spec := range t.cfg.List(param) {
		table, err := lookup.Open(strings.TrimPrefix(spec, "proxy:"), t.tableOptions(aliases))
		if err != nil { // which names spec: the whole list would only repeat it
			t.at(param, fmt.Errorf("%s: %w", param, err))
			continue
		}
		if err := lookup.Check(context.Background(), table); err != nil {
			t.warn(fmt.Sprintf("%s: %v; mail that needs the table waits until it can be read", param, err))
		}
		list = append(list, table)
	}
	return list
}

// localUsers is local_recipient_maps: nil (everyone exists) when it is empty.
func (t *translator) localUsers() access.UserFunc {
	var tables []lookup.Table
	passwd := false
	specs := t.cfg.List("local_recipient_maps")
	for _, spec := range specs {
		spec = strings.TrimPrefix(spec, "proxy:")
		if spec == "unix:passwd.byname" {
			passwd = true
			continue
		}
		aliases := strings.Contains(t.cfg.String("alias_maps"), spec)
		table, err := lookup.Open(spec, t.tableOptions(aliases))
		t.fail("local_recipient_maps", err)
		if err == nil {
			tables = append(tables, table)
		}
	}
	if len(specs) == 0 {
		return nil
	}
	delimiters := t.cfg.String("recipient_delimiter")
	return func(ctx context.Context, rcpt mail.Address) (bool, error) {
		return knownUser(ctx, rcpt, delimiters, passwd, tables)
	}
}

// knownUser looks an address up as Postfix does: whole, then the local part,
// each with and without its extension.
func knownUser(ctx context.Context, rcpt mail.Address, delimiters string, passwd bool, tables []lookup.Table) (bool, error) {
	name, domain := rcpt.Split()
	name = strings.ToLower(strings.Trim(name, `"`))
	names := []string{name}
	if i := strings.IndexAny(name, delimiters); delimiters != "" && i > 0 {
		names = append(names, name[:i])
	}
	for _, n := range names {
		for _, table := range tables {
			for _, key := range []string{n + "@" + strings.ToLower(domain), n} {
				if _, found, err := table.Lookup(ctx, key); err != nil || found {
					return found, err
				}
			}
		}
		if !passwd {
			continue
		}
		_, err := user.Lookup(n)
		var unknown user.UnknownUserError
		if err == nil {
			return true, nil
		} else if !errors.As(err, &unknown) {
			return false, err
		}
	}
	return false, nil
}

func (t *translator) bounce(ids mail.IDForm) bounce.Config {
	c := t.cfg
	classes := map[string]bool{}
	for _, class := range c.List("notify_classes") {
		classes[class] = true
	}
	return bounce.Config{
		Hostname: c.String("myhostname"), MailName: c.String("mail_name"), Origin: t.origin(), IDs: ids,
		SizeLimit: c.Size("bounce_size_limit"), QueueLifetime: c.Duration("maximal_queue_lifetime"),
		DelayWarning: c.Duration("delay_warning_time"), DoubleBounce: c.String("double_bounce_sender"),
		CopyFailures: classes["bounce"], CopyDoubleBounces: classes["2bounce"] || classes["bounce"], CopyDelays: classes["delay"],
		FailureRecipient: mail.Address(c.String("bounce_notice_recipient")),
		DoubleRecipient:  mail.Address(c.String("2bounce_notice_recipient")),
		DelayRecipient:   mail.Address(c.String("delay_notice_recipient")),
	}
}

func (t *translator) route(own []netip.Addr, transports []transport) route.Config {
	c := t.cfg
	known := []string{"error", "retry", "discard"}
	for i := range transports {
		known = append(known, transports[i].name)
	}
	return route.Config{
		MyHostname: c.String("myhostname"), Local: t.domains("mydestination"), Own: own, Relay: t.domains("relay_domains"),
		LocalTransport: c.String("local_transport"), RelayTransport: c.String("relay_transport"),
		DefaultTransport: c.String("default_transport"), Relayhost: c.String("relayhost"),
		Transports: t.tables("transport_maps", false), Delimiters: c.String("recipient_delimiter"),
		Defer: c.List("defer_transports"), Known: known,
	}
}

func (t *translator) control() control.Config {
	users := func(param string) control.Users {
		u, err := control.ParseUsers(t.cfg.List(param))
		t.fail(param, err)
		return u
	}
	owner := -1
	if u, err := user.Lookup(t.cfg.String("mail_owner")); err == nil {
		if uid, err := strconv.Atoi(u.Uid); err == nil {
			owner = uid
		}
	}
	return control.Config{Access: control.Access{
		Owner: owner, List: users("authorized_mailq_users"), Flush: users("authorized_flush_users"),
	}}
}

// certificates reads a certificate with its key; both empty means none.
func (t *translator) certificates(c *config.Config, certParam, keyParam string) []tls.Certificate {
	certFile, keyFile := c.String(certParam), c.String(keyParam)
	if certFile == "" {
		return nil
	}
	if keyFile == "" {
		keyFile = certFile
	}
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.fail(certParam, err)
		return nil
	}
	return []tls.Certificate{cert}
}

func (t *translator) servers() []string {
	var list []string
	for _, s := range t.cfg.List("dns_servers") {
		if _, err := netip.ParseAddrPort(s); err != nil {
			a, err := netip.ParseAddr(strings.Trim(s, "[]"))
			if err != nil {
				t.fail("dns_servers", fmt.Errorf("%q is neither an address nor address:port", s))
				continue
			}
			s = netip.AddrPortFrom(a, 53).String()
		}
		list = append(list, s)
	}
	return list
}
