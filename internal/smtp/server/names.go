package server

import (
	"context"
	"net/netip"
	"strings"
	"time"

	"posthouse/internal/postfix/maillog"
	"posthouse/internal/smtp"
)

// Resolver finds clients' names; *net.Resolver is one.
type Resolver interface {
	LookupAddr(ctx context.Context, addr string) ([]string, error)
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// nameTimeout bounds how long a client waits for its greeting because of DNS.
const nameTimeout = 20 * time.Second

// unknown is the name of a client that has none.
const unknown = "unknown"

// clientNames returns the verified and the unverified name of a client. A
// name from a PTR record is whatever the owner of the address says, so it is
// believed only when the name's own address records lead back (RFC 1912 §2.1).
func (s *Server) clientNames(ctx context.Context, cfg *settings, service string, addr netip.Addr) (name, reverse string) {
	if !cfg.LookupNames || s.deps.Resolver == nil || !addr.IsValid() {
		return unknown, unknown
	}
	ctx, cancel := context.WithTimeout(ctx, nameTimeout)
	defer cancel()
	ptrs, err := s.deps.Resolver.LookupAddr(ctx, addr.String())
	if err != nil || len(ptrs) == 0 {
		return unknown, unknown
	}
	reverse = strings.TrimSuffix(ptrs[0], ".")
	if !smtp.ValidDomain(reverse) || reverse[0] == '[' {
		return unknown, unknown
	}
	ips, err := s.deps.Resolver.LookupNetIP(ctx, "ip", reverse)
	for _, ip := range ips {
		if ip.Unmap().WithZone("") == addr.WithZone("") {
			return reverse, reverse
		}
	}
	text := "hostname " + reverse + " does not resolve to address " + addr.String()
	if err != nil {
		text += ": " + err.Error()
	}
	s.deps.Log.Log(service, maillog.Warning, maillog.Text(text))
	return unknown, reverse
}
