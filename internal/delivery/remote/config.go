package remote

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"posthouse/internal/delivery/dns"
	"posthouse/internal/postfix/maillog"
	"posthouse/internal/smtp/client"
)

// Level is how much TLS is asked for (smtp_tls_security_level).
type Level uint8

// The levels.
const (
	TLSNone    Level = iota // never
	TLSMay                  // when offered; in the clear otherwise
	TLSEncrypt              // always; the certificate does not matter
	TLSVerify               // always, with a trusted certificate for the MX host's name
	TLSSecure               // always, with a trusted certificate for the next hop's name
)

// Lookup is a way to find a host's addresses (smtp_host_lookup).
type Lookup uint8

// The ways.
const (
	LookupDNS    Lookup = iota // the domain name system alone
	LookupNative               // the hosts file, then the domain name system
)

// Preference is the address family that goes first among equals
// (smtp_address_preference).
type Preference uint8

// The preferences.
const (
	PreferAny Preference = iota
	PreferIPv4
	PreferIPv6
)

// Config are the settings of one transport. Begin with DefaultConfig.
type Config struct {
	Service    string // name in log lines, usually the transport's: "smtp"
	LMTP       bool   // speak LMTP; no MX lookups
	MyHostname string // our own name: loops are recognised by it
	HeloName   string // how we introduce ourselves; "": MyHostname

	Port       uint16       // when the next hop names none (smtp_tcp_port); 25, LMTP 24
	IPv4, IPv6 bool         // inet_protocols; both
	Preference Preference   // smtp_address_preference; any
	Balance    bool         // smtp_balance_inet_protocols: both families among the first AddressLimit; yes
	Randomize  bool         // smtp_randomize_addresses: shuffle equals; yes
	Own        []netip.Addr // addresses of this host and of its proxies: mail to their port 25 would loop
	Bind4      netip.Addr   // smtp_bind_address; zero: any
	Bind6      netip.Addr   // smtp_bind_address6; zero: any

	DisableDNS     bool     // disable_dns_lookups: no MX, hosts by LookupNative; no
	HostLookup     []Lookup // smtp_host_lookup, in order; DNS
	IgnoreMXErrors bool     // ignore_mx_lookup_error: look for the domain's own address instead; no
	DeferNoMXAddr  bool     // smtp_defer_if_no_mx_address_found; no
	Relayhost      string   // relayhost: failures to find it never bounce
	Fallback       []string // smtp_fallback_relay: further next hops
	AddressLimit   int      // smtp_mx_address_limit; 5, 0: none
	SessionLimit   int      // smtp_mx_session_limit; 2, 0: none

	Timeouts      client.Timeouts // Postfix's
	LineLimit     int             // smtp_line_length_limit in bytes; 998, 0: none
	Skip5xxHello  bool            // smtp_skip_5xx_greeting: a 5xx greeting defers; yes
	CacheIdle     time.Duration   // smtp_connection_cache_time_limit; 2s
	CacheTotal    time.Duration   // smtp_connection_reuse_time_limit, from connect; 300s
	CacheUses     int             // smtp_connection_reuse_count_limit; 0: none
	CacheOnDemand bool            // smtp_connection_cache_on_demand; yes
	CacheSize     int             // connections kept at most; 200

	TLS TLSConfig
}

// TLSConfig are the settings of TLS.
type TLSConfig struct {
	Level        Level             // smtp_tls_security_level; none
	Roots        *x509.CertPool    // smtp_tls_CAfile; nil: nobody is trusted, and verify and secure always fail
	Certificates []tls.Certificate // smtp_tls_cert_file: what we show when asked; none
	MinVersion   uint16            // TLS 1.2
	LogLevel     int               // smtp_tls_loglevel; from 1 on each handshake is logged; 0
}

// DefaultConfig are Postfix's defaults for a host of this name.
func DefaultConfig(service, myHostname string) Config {
	return Config{
		Service: service, MyHostname: myHostname,
		Port: 25, IPv4: true, IPv6: true, Balance: true, Randomize: true,
		HostLookup:   []Lookup{LookupDNS},
		AddressLimit: 5, SessionLimit: 2,
		Timeouts: client.DefaultTimeouts(), LineLimit: 998, Skip5xxHello: true,
		CacheIdle: 2 * time.Second, CacheTotal: 300 * time.Second, CacheOnDemand: true, CacheSize: 200,
		TLS: TLSConfig{MinVersion: tls.VersionTLS12},
	}
}

// DefaultLMTPConfig are Postfix's defaults for an lmtp transport.
func DefaultLMTPConfig(service, myHostname string) Config {
	c := DefaultConfig(service, myHostname)
	c.LMTP, c.Port = true, 24
	return c
}

// Resolver answers questions about names; *dns.Resolver does. Errors wrap the
// sentinels of package dns.
type Resolver interface {
	MX(ctx context.Context, domain string) ([]dns.MX, error)
	A(ctx context.Context, host string) ([]netip.Addr, error)
	AAAA(ctx context.Context, host string) ([]netip.Addr, error)
	Hosts(host string) []netip.Addr
}

// Env is what an Agent needs of the world.
type Env struct {
	Resolver Resolver       // required
	Log      maillog.Logger // required
	// Dial connects; nil: the network. local is nil or the address to come from.
	Dial func(ctx context.Context, network, address string, local net.Addr) (net.Conn, error)
	// Now is the clock; nil: time.Now.
	Now func() time.Time
	// Shuffle brings n things into random order; nil: math/rand.
	Shuffle func(n int, swap func(i, j int))
}

func (e Env) withDefaults() Env {
	if e.Dial == nil {
		e.Dial = dial
	}
	if e.Now == nil {
		e.Now = time.Now
	}
	if e.Shuffle == nil {
		e.Shuffle = rand.Shuffle
	}
	return e
}

func dial(ctx context.Context, network, address string, local net.Addr) (net.Conn, error) {
	d := net.Dialer{LocalAddr: local, FallbackDelay: -1}
	return d.DialContext(ctx, network, address)
}
