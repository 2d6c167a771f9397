package remote

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// target is one next hop, taken apart.
type target struct {
	site string     // as given, for cached connections and messages
	path string     // unix-domain socket; then nothing else is set
	host string     // name or address without brackets
	ip   netip.Addr // valid when host is an address
	port uint16
	mx   bool // mail exchangers are to be looked up
}

// smtpPort is where loops through the network happen: another port leads to
// another service, on this host too.
const smtpPort = 25

var errTarget = errors.New("bad next hop")

// splitSites splits a list of next hops at commas and blanks.
func splitSites(nextHop string) []string {
	return strings.FieldsFunc(nextHop, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' })
}

// parseTarget reads "host", "[host]", either with ":port", and for LMTP
// "inet:" and "unix:" before it. Errors wrap errTarget.
func parseTarget(site string, cfg *Config) (target, error) {
	t := target{site: site, port: cfg.Port, mx: !cfg.LMTP && !cfg.DisableDNS}
	rest := site
	if cfg.LMTP {
		if path, ok := strings.CutPrefix(site, "unix:"); ok {
			t.path = path
			return t, nil
		}
		rest = strings.TrimPrefix(site, "inet:")
	}
	port := ""
	switch {
	case strings.HasPrefix(rest, "["):
		end := strings.IndexByte(rest, ']')
		if end < 0 {
			return t, fmt.Errorf(`%w: missing "]" in server description: %s`, errTarget, site)
		}
		t.host, port, t.mx = rest[1:end], rest[end+1:], false
		if port != "" && port[0] != ':' {
			return t, fmt.Errorf("%w: garbage after \"]\" in server description: %s", errTarget, site)
		}
		port = strings.TrimPrefix(port, ":")
	default:
		t.host = rest
		if _, err := netip.ParseAddr(rest); err != nil {
			if i := strings.LastIndexByte(rest, ':'); i >= 0 {
				t.host, port = rest[:i], rest[i+1:]
			}
		}
	}
	if t.host == "" {
		return t, fmt.Errorf("%w: null host in server description: %s", errTarget, site)
	}
	if addr, err := netip.ParseAddr(trimIPv6Tag(t.host)); err == nil {
		t.ip, t.mx = addr.Unmap(), false
		t.host = addr.String()
	}
	return t, t.setPort(port)
}

// trimIPv6Tag removes the tag of an IPv6 address literal (RFC 5321 §4.1.3).
func trimIPv6Tag(host string) string {
	if len(host) > 5 && strings.EqualFold(host[:5], "ipv6:") {
		return host[5:]
	}
	return host
}

func (t *target) setPort(port string) error {
	if port == "" {
		return nil
	}
	if n, err := strconv.ParseUint(port, 10, 16); err == nil && n > 0 {
		t.port = uint16(n)
		return nil
	}
	switch port { // services(5) has no others that take mail
	case "smtp":
		t.port = 25
	case "lmtp":
		t.port = 24
	case "submission":
		t.port = 587
	case "submissions", "smtps":
		t.port = 465
	default:
		return fmt.Errorf("%w: unknown service: %s/tcp", errTarget, port)
	}
	return nil
}
