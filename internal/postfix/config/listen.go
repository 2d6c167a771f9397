package config

import (
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// Listen is an address that a service wants connections at.
type Listen struct {
	Service Service
	Network string // "tcp4" or "tcp6", so that the families do not take each other's place
	Address string // "127.0.0.1:2525", "[::]:25"
}

// Addresses lists where the inet services of master.cf listen, in order. A
// service without a host in its name listens on inet_interfaces.
func (c *Config) Addresses() ([]Listen, error) {
	var all []Listen
	for _, s := range c.services {
		if s.Type != "inet" {
			continue
		}
		addrs, err := c.serviceAddresses(&s)
		if err != nil {
			return nil, fmt.Errorf("%s, line %d: service %s: %w", s.File, s.Line, s.Name, err)
		}
		for _, a := range addrs {
			network := "tcp4"
			if a.Addr().Is6() {
				network = "tcp6"
			}
			all = append(all, Listen{s, network, a.String()})
		}
	}
	return all, nil
}

func (c *Config) serviceAddresses(s *Service) ([]netip.AddrPort, error) {
	host, portName := "", s.Name
	if i := strings.LastIndexByte(s.Name, ':'); i >= 0 {
		host, portName = s.Name[:i], s.Name[i+1:]
	}
	port, err := LookupPort(portName)
	if err != nil {
		return nil, err
	}
	view := s.View(c)
	ipv4, ipv6, err := view.Families()
	if err != nil {
		return nil, err
	}
	var found []netip.AddrPort
	add := func(a netip.Addr) {
		if a = a.Unmap(); a.Is4() && ipv4 || a.Is6() && ipv6 {
			found = append(found, netip.AddrPortFrom(a, port))
		}
	}
	switch {
	case host != "":
		addrs, err := view.resolve(host)
		if err != nil {
			return nil, fmt.Errorf("host not found: %s", host)
		}
		for _, a := range addrs {
			add(a)
		}
	case strings.TrimSpace(view.String("inet_interfaces")) == "all":
		add(netip.IPv4Unspecified())
		if view.hasIPv6() {
			add(netip.IPv6Unspecified())
		}
	default:
		own, err := view.ownAddresses()
		if err != nil {
			return nil, err
		}
		for _, p := range own {
			add(p.Addr())
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("no address: inet_interfaces (%s) and inet_protocols (%s) leave none", view.String("inet_interfaces"), view.String("inet_protocols"))
	}
	return found, nil
}

// hasIPv6 tells whether "all" can include IPv6 on this host.
func (c *Config) hasIPv6() bool {
	for _, p := range c.host.Interfaces {
		if p.Addr().Is6() {
			return true
		}
	}
	return false
}

// LookupPort finds a TCP port by number or name. The names of mail are built
// in, so that they need no /etc/services; others are looked up there.
func LookupPort(name string) (uint16, error) {
	switch name {
	case "smtp":
		return 25, nil
	case "smtps", "submissions":
		return 465, nil
	case "submission":
		return 587, nil
	case "lmtp":
		return 24, nil
	}
	if n, err := strconv.ParseUint(name, 10, 16); err == nil {
		return uint16(n), nil
	}
	data, err := os.ReadFile("/etc/services")
	if err == nil {
		for line := range strings.Lines(string(data)) {
			line, _, _ = strings.Cut(line, "#")
			words := strings.Fields(line)
			if len(words) < 2 || !strings.HasSuffix(words[1], "/tcp") {
				continue
			}
			for i, w := range words {
				if w == name && i != 1 {
					n, err := strconv.ParseUint(strings.TrimSuffix(words[1], "/tcp"), 10, 16)
					return uint16(n), err
				}
			}
		}
	}
	return 0, fmt.Errorf("unknown port %q: expected a number or a name such as smtp, submission or smtps", name)
}
