// Package match holds Postfix's lists of domains and networks, as mynetworks,
// mydestination and relay_domains have them.
//
// A list is patterns separated by commas or white space; the first one that
// matches decides. "!pattern" decides for no. "/file" stands for the patterns
// in that file (one or more to a line, "#" begins a comment), "type:name" for
// the keys of a lookup table, "{ a, b }" for a group.
//
// Domains: "example.com" matches that name, and its subdomains too when the
// list was made with ParentMatches (parent_domain_matches_subdomains names the
// parameter); ".example.com" matches subdomains only. Case does not matter.
//
// Networks: "192.0.2.0/24", "192.0.2.1", "[2001:db8::]/32", and host names,
// which are compared with the client's verified name.
//
// Lists never change: parse a new one on reload. Their tables follow their
// files. ErrPattern is a pattern that makes no sense; every error of Match
// comes from a table (lookup.ErrUnavailable) and calls for a temporary
// failure.
package match

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"posthouse/internal/postfix/lookup"
)

// ErrPattern is wrapped by every error about a list's text.
var ErrPattern = errors.New("bad pattern")

// Options for parsing a list. The zero value works.
type Options struct {
	ParentMatches bool           // "example.com" matches "sub.example.com"
	Tables        lookup.Options // how "type:name" is opened
}

// pattern is one element of a list.
type pattern struct {
	negate bool
	text   string       // lower case; a domain, host name or address
	prefix netip.Prefix // valid when the text is a network or an address
	table  lookup.Table // for type:name
}

// maxDepth bounds files that include files.
const maxDepth = 10

type reader struct {
	opt      Options
	networks bool
	patterns []pattern
}

func (r *reader) read(spec string, negate bool, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%w: files nested more than %d deep", ErrPattern, maxDepth)
	}
	words, err := Split(spec)
	if err != nil {
		return err
	}
	for _, word := range words {
		neg := negate
		for strings.HasPrefix(word, "!") {
			neg, word = !neg, word[1:]
		}
		if err := r.add(word, neg, depth); err != nil {
			return err
		}
	}
	return nil
}

func (r *reader) add(word string, negate bool, depth int) error {
	switch {
	case word == "":
		return fmt.Errorf("%w: no pattern after '!'", ErrPattern)
	case strings.HasPrefix(word, "{") && strings.HasSuffix(word, "}"):
		return r.read(word[1:len(word)-1], negate, depth+1)
	case filepath.IsAbs(word):
		data, err := os.ReadFile(word)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrPattern, err)
		}
		return r.read(stripComments(string(data)), negate, depth+1)
	case isTable(word):
		table, err := lookup.Open(word, r.opt.Tables)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrPattern, err)
		}
		r.patterns = append(r.patterns, pattern{negate: negate, table: table})
		return nil
	}
	p := pattern{negate: negate, text: strings.ToLower(word)}
	if r.networks {
		var err error
		if p.prefix, err = parseNetwork(word); err != nil {
			return err
		}
	}
	r.patterns = append(r.patterns, p)
	return nil
}

// isTable tells "type:name" from an IPv6 address: a type has letters only.
func isTable(word string) bool {
	typ, name, ok := strings.Cut(word, ":")
	if !ok || name == "" {
		return false
	}
	if _, err := netip.ParseAddr(strings.SplitN(word, "/", 2)[0]); err == nil {
		return false
	}
	for _, c := range typ {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return false
		}
	}
	return typ != ""
}

func stripComments(data string) string {
	var b strings.Builder
	for line := range strings.Lines(data) {
		line, _, _ = strings.Cut(line, "#")
		b.WriteString(line)
		b.WriteByte('\n')
	}
	return b.String()
}

// Split cuts a list at commas and white space outside braces.
func Split(spec string) ([]string, error) {
	var words []string
	depth, start := 0, -1
	for i := 0; i <= len(spec); i++ {
		sep := i == len(spec) || depth == 0 && strings.IndexByte(", \t\r\n", spec[i]) >= 0
		switch {
		case sep && start >= 0:
			words = append(words, spec[start:i])
			start = -1
		case !sep && start < 0:
			start = i
		}
		if i < len(spec) && spec[i] == '{' {
			depth++
		} else if i < len(spec) && spec[i] == '}' {
			if depth--; depth < 0 {
				break
			}
		}
	}
	if depth != 0 {
		return nil, fmt.Errorf("%w: braces do not match in %q", ErrPattern, spec)
	}
	return words, nil
}

// DomainList matches domain names. The nil list matches nothing.
type DomainList struct {
	patterns []pattern
	parent   bool
}

// ParseDomains reads a list of domains.
func ParseDomains(spec string, opt Options) (*DomainList, error) {
	r := reader{opt: opt}
	if err := r.read(spec, false, 0); err != nil {
		return nil, err
	}
	return &DomainList{r.patterns, opt.ParentMatches}, nil
}

// Match tells whether the list covers domain.
func (l *DomainList) Match(ctx context.Context, domain string) (bool, error) {
	if l == nil || domain == "" {
		return false, nil
	}
	domain = strings.ToLower(domain)
	for i := range l.patterns {
		p := &l.patterns[i]
		ok, err := p.matchDomain(ctx, domain, l.parent)
		if err != nil {
			return false, err
		}
		if ok {
			return !p.negate, nil
		}
	}
	return false, nil
}

// Empty tells whether the list has no patterns at all.
func (l *DomainList) Empty() bool { return l == nil || len(l.patterns) == 0 }

func (p *pattern) matchDomain(ctx context.Context, domain string, parent bool) (bool, error) {
	if p.table != nil {
		return tableHasDomain(ctx, p.table, domain, parent)
	}
	if p.text == domain {
		return true, nil
	}
	if strings.HasPrefix(p.text, ".") {
		return !parent && strings.HasSuffix(domain, p.text), nil
	}
	return parent && len(domain) > len(p.text) && domain[len(domain)-len(p.text)-1] == '.' && strings.HasSuffix(domain, p.text), nil
}

// tableHasDomain asks for the name, then for each parent: as "parent" with
// parent matching and as ".parent" without, the forms that lists have too.
func tableHasDomain(ctx context.Context, t lookup.Table, domain string, parent bool) (bool, error) {
	for key := domain; ; {
		if _, ok, err := t.Lookup(ctx, key); ok || err != nil {
			return ok, err
		}
		if lookup.IsPattern(t) {
			return false, nil
		}
		i := strings.IndexByte(strings.TrimPrefix(key, "."), '.')
		if i < 0 {
			return false, nil
		}
		key = strings.TrimPrefix(key, ".")[i:]
		if parent {
			key = key[1:]
		}
	}
}

// NetworkList matches clients by address and name. The nil list matches
// nothing.
type NetworkList struct {
	patterns []pattern
	parent   bool
}

// ParseNetworks reads a list of networks, addresses and host names.
func ParseNetworks(spec string, opt Options) (*NetworkList, error) {
	r := reader{opt: opt, networks: true}
	if err := r.read(spec, false, 0); err != nil {
		return nil, err
	}
	return &NetworkList{r.patterns, opt.ParentMatches}, nil
}

// Match tells whether the list covers a client. name is its verified host
// name; "" and "unknown" match no pattern.
func (l *NetworkList) Match(ctx context.Context, addr netip.Addr, name string) (bool, error) {
	if l == nil {
		return false, nil
	}
	addr = addr.Unmap().WithZone("")
	name = strings.ToLower(name)
	for i := range l.patterns {
		p := &l.patterns[i]
		ok, err := p.matchClient(ctx, addr, name, l.parent)
		if err != nil {
			return false, err
		}
		if ok {
			return !p.negate, nil
		}
	}
	return false, nil
}

// Empty tells whether the list has no patterns at all.
func (l *NetworkList) Empty() bool { return l == nil || len(l.patterns) == 0 }

func (p *pattern) matchClient(ctx context.Context, addr netip.Addr, name string, parent bool) (bool, error) {
	known := name != "" && name != "unknown"
	switch {
	case p.prefix.IsValid():
		return p.prefix.Contains(addr), nil
	case p.table == nil:
		if !known {
			return false, nil
		}
		return p.matchDomain(ctx, name, parent)
	case addr.IsValid():
		if _, ok, err := p.table.Lookup(ctx, addr.String()); ok || err != nil {
			return ok, err
		}
	}
	if !known {
		return false, nil
	}
	return tableHasDomain(ctx, p.table, name, parent)
}

// parseNetwork returns an invalid Prefix for a host name. An address with
// bits beyond the mask is an error: it is a typing error more often than not.
func parseNetwork(word string) (netip.Prefix, error) {
	plain := word
	if strings.HasPrefix(word, "[") {
		inner, rest, ok := strings.Cut(word[1:], "]")
		if !ok {
			return netip.Prefix{}, fmt.Errorf("%w: %q: no closing ']'", ErrPattern, word)
		}
		plain = inner + rest
	}
	if strings.Contains(plain, "/") {
		p, err := netip.ParsePrefix(plain)
		if err != nil {
			return netip.Prefix{}, fmt.Errorf("%w: %q: expected a network such as 192.0.2.0/24 or [2001:db8::]/32", ErrPattern, word)
		}
		if p.Masked() != p {
			return netip.Prefix{}, fmt.Errorf("%w: %q has address bits beyond the mask, perhaps it should be %s", ErrPattern, word, p.Masked())
		}
		return p, nil
	}
	if addr, err := netip.ParseAddr(plain); err == nil {
		addr = addr.Unmap().WithZone("")
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	if plain != word || strings.Trim(plain, "0123456789.") == "" {
		return netip.Prefix{}, fmt.Errorf("%w: %q: not an address", ErrPattern, word)
	}
	return netip.Prefix{}, nil
}
