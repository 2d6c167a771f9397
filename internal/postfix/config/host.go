package config

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"
)

// Host is what defaults are computed from. The zero value asks the system.
type Host struct {
	Hostname   string         // default: of the system
	Interfaces []netip.Prefix // addresses with their networks; default: of the system
	PID        int            // process_id; default: of this process
	Process    string         // process_name; default "posthouse"
	// Resolve finds the addresses of a name in inet_interfaces; default: the
	// system's resolver, five seconds at most.
	Resolve func(name string) ([]netip.Addr, error)
}

func (h Host) withDefaults() Host {
	if h.Hostname == "" {
		h.Hostname, _ = os.Hostname()
	}
	if h.Interfaces == nil {
		h.Interfaces = systemInterfaces()
	}
	if h.PID == 0 {
		h.PID = os.Getpid()
	}
	if h.Process == "" {
		h.Process = "posthouse"
	}
	if h.Resolve == nil {
		h.Resolve = systemResolve
	}
	return h
}

func systemInterfaces() []netip.Prefix {
	found := []netip.Prefix{}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return found
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok {
			addr, ok := netip.AddrFromSlice(n.IP)
			ones, _ := n.Mask.Size()
			if ok {
				found = append(found, netip.PrefixFrom(addr.Unmap(), ones))
			}
		}
	}
	// IPv4 first: mynetworks has been shown in this order for decades.
	slices.SortStableFunc(found, func(a, b netip.Prefix) int { return a.Addr().BitLen() - b.Addr().BitLen() })
	return found
}

func systemResolve(name string) ([]netip.Addr, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return net.DefaultResolver.LookupNetIP(ctx, "ip", name)
}

// fix returns a Config in which name has a given value. A default that is
// computed from other parameters is computed in such a one, so that values
// which refer to it ("myhostname = mail.$mydomain") come to an end.
func (c *Config) fix(name, value string) *Config {
	v := *c
	v.fixed = map[string]string{name: value}
	for n, s := range c.fixed {
		v.fixed[n] = s
	}
	return &v
}

// defaultHostname is the system's name; one without a dot gets mydomain, as
// far as main.cf sets that, or "localdomain".
func (c *Config) defaultHostname() string {
	name := c.host.Hostname
	if strings.Contains(name, ".") {
		return name
	}
	if domain, set := c.explicit("mydomain"); set {
		if d, err := c.fix("myhostname", name).Expand(domain); err == nil && !strings.Contains(domain, "myhostname") {
			return name + "." + d
		}
	}
	return name + ".localdomain"
}

func (c *Config) defaultDomain() string {
	domain := "localdomain"
	if _, d, ok := strings.Cut(c.host.Hostname, "."); ok && d != "" {
		domain = d
	}
	name := c.fix("mydomain", domain).String("myhostname")
	if _, domain, ok := strings.Cut(name, "."); ok && domain != "" {
		return domain
	}
	return "localdomain"
}

// Families tells which address families inet_protocols allows. The error says
// what is wrong with it.
func (c *Config) Families() (ipv4, ipv6 bool, err error) {
	for _, w := range c.List("inet_protocols") {
		switch strings.ToLower(w) {
		case "all":
			ipv4, ipv6 = true, true
		case "ipv4":
			ipv4 = true
		case "ipv6":
			ipv6 = true
		default:
			return false, false, fmt.Errorf("unknown inet_protocols value %q in %q", w, c.String("inet_protocols"))
		}
	}
	if !ipv4 && !ipv6 {
		return false, false, fmt.Errorf("inet_protocols is empty: expected all, ipv4 or ipv6")
	}
	return ipv4, ipv6, nil
}

// ownAddresses are the addresses that inet_interfaces means, with their
// networks, in families that inet_protocols allows.
func (c *Config) ownAddresses() ([]netip.Prefix, error) {
	ipv4, ipv6, err := c.Families()
	if err != nil {
		return nil, err
	}
	var own []netip.Prefix
	add := func(p netip.Prefix) {
		if (p.Addr().Is4() && ipv4 || p.Addr().Is6() && ipv6) && !slices.Contains(own, p) {
			own = append(own, p)
		}
	}
	for _, word := range c.List("inet_interfaces") {
		if word == "all" || word == "loopback-only" {
			for _, p := range c.host.Interfaces {
				if word == "all" || p.Addr().IsLoopback() {
					add(p)
				}
			}
			continue
		}
		addrs, err := c.resolve(word)
		if err != nil {
			return nil, err
		}
		for _, a := range addrs {
			add(c.withNetwork(a))
		}
	}
	slices.SortStableFunc(own, func(a, b netip.Prefix) int { return a.Addr().BitLen() - b.Addr().BitLen() })
	return own, nil
}

func (c *Config) resolve(word string) ([]netip.Addr, error) {
	plain := strings.TrimSuffix(strings.TrimPrefix(word, "["), "]")
	if a, err := netip.ParseAddr(plain); err == nil {
		return []netip.Addr{a.Unmap()}, nil
	}
	addrs, err := c.host.Resolve(word)
	if err != nil || len(addrs) == 0 {
		return nil, fmt.Errorf("config variable inet_interfaces: host not found: %s", word)
	}
	for i := range addrs {
		addrs[i] = addrs[i].Unmap()
	}
	return addrs, nil
}

func (c *Config) withNetwork(a netip.Addr) netip.Prefix {
	for _, p := range c.host.Interfaces {
		if p.Addr().WithZone("") == a.WithZone("") {
			return p
		}
	}
	return netip.PrefixFrom(a, a.BitLen())
}

// defaultNetworks computes mynetworks from mynetworks_style and the host's
// addresses.
func (c *Config) defaultNetworks() string {
	c = c.fix("mynetworks", "")
	own, err := c.ownAddresses()
	if err != nil {
		return "127.0.0.1/32"
	}
	style := strings.ToLower(c.String("mynetworks_style"))
	var words []string
	for _, p := range own {
		addr := p.Addr().WithZone("")
		bits := addr.BitLen()
		switch {
		case style == "subnet", style == "class" && addr.Is6():
			bits = p.Bits()
		case style == "class":
			bits = classBits(addr)
		}
		network := netip.PrefixFrom(addr, bits).Masked()
		word := network.String()
		if addr.Is6() {
			word = fmt.Sprintf("[%s]/%d", network.Addr(), bits)
		}
		if !slices.Contains(words, word) {
			words = append(words, word)
		}
	}
	return strings.Join(words, " ")
}

func classBits(a netip.Addr) int {
	switch first := a.As4()[0]; {
	case first < 128:
		return 8
	case first < 192:
		return 16
	case first < 224:
		return 24
	}
	return 32
}
