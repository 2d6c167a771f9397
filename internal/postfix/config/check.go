package config

import (
	"fmt"
	"maps"
	"sort"
	"strings"
	"sync"

	"posthouse/internal/postfix/match"
)

// Check looks at every setting: is the name known, and does the value have
// the parameter's form.
func (c *Config) Check() []Problem {
	var problems []Problem
	usage := c.Usage()
	for _, name := range c.order {
		s := c.main[name]
		if usage.unknown[name] {
			problems = append(problems, Problem{s.file, s.line, Warning, c.unknownText(name)})
			continue
		}
		problems = append(problems, c.checkSetting(s)...)
	}
	seen := map[string]int{}
	for i := range c.services {
		s := &c.services[i]
		key := s.Name + "/" + s.Type
		if at, dup := seen[key]; dup {
			problems = append(problems, Problem{s.File, s.Line, Error, fmt.Sprintf("service %s is already defined in line %d", key, at)})
		}
		seen[key] = s.Line
		view := s.View(c)
		for _, o := range s.Overrides {
			if _, known := c.Param(o.Name); !known && !c.transportLike(o.Name) && usage.unknownOverride[o.Name] {
				problems = append(problems, Problem{s.File, s.Line, Warning, c.unknownText(o.Name)})
				continue
			}
			problems = append(problems, view.checkSetting(setting{o.Name, o.Value, s.File, s.Line})...)
		}
	}
	return append(problems, c.checkHost()...)
}

// checkSetting looks at one value.
func (c *Config) checkSetting(s setting) []Problem {
	fail := func(format string, args ...any) []Problem {
		return []Problem{{s.file, s.line, Error, fmt.Sprintf(format, args...)}}
	}
	if s.name == "service_name" || s.name == "process_id" || s.name == "process_name" {
		return []Problem{{s.file, s.line, Warning, fmt.Sprintf("read-only parameter assignment: %s=%s", s.name, s.value)}}
	}
	p, _ := c.Param(s.name)
	if p.Type == TypeRaw {
		return nil
	}
	value, err := c.Expand(s.value)
	if err != nil {
		return fail("%s = %s: %v", s.name, s.value, err)
	}
	shown := s.value
	if value != s.value {
		shown = fmt.Sprintf("%s (which is %q)", s.value, value)
	}
	if err := checkValue(p, value); err != nil {
		return fail("%s = %s: %v", s.name, shown, err)
	}
	if p.Type == TypeNetworks {
		if _, err := match.ParseNetworks(value, match.Options{}); err != nil {
			return fail("%s = %s: %v", s.name, shown, err)
		}
	}
	return nil
}

// checkHost finds out whether the addresses of inet_interfaces exist.
func (c *Config) checkHost() []Problem {
	if _, err := c.ownAddresses(); err != nil {
		s := c.main["inet_interfaces"]
		if s.file == "" {
			s = c.main["inet_protocols"]
		}
		return []Problem{{s.file, s.line, Error, err.Error()}}
	}
	return nil
}

// unknownText names a parameter that was probably meant.
func (c *Config) unknownText(name string) string {
	if near := c.Nearest(name); near != "" {
		return fmt.Sprintf("unknown parameter %q: did you mean %s?", name, near)
	}
	return fmt.Sprintf("unknown parameter %q", name)
}

// Nearest returns the known parameter whose name is most like name, or "" when
// none is close.
func (c *Config) Nearest(name string) string {
	best, bestDistance := "", 1+max(1, min(3, len(name)/4))
	consider := func(candidate string) {
		if d := distance(name, candidate, bestDistance); d < bestDistance || d == bestDistance && best != "" && candidate < best {
			best, bestDistance = candidate, d
		}
	}
	for candidate := range paramTable() {
		consider(candidate)
	}
	for candidate := range c.service {
		consider(candidate)
	}
	return best
}

// distance is the number of letters to insert, drop, change or swap with
// their neighbour to get from a to b; anything above limit is the same.
func distance(a, b string, limit int) int {
	if len(a)-len(b) > limit || len(b)-len(a) > limit {
		return limit + 1
	}
	before, prev, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], before[j-2]+1)
			}
		}
		before, prev, cur = prev, cur, before
	}
	return prev[len(b)]
}

// Reference is a "$name" in a file for which nothing is defined.
type Reference struct {
	File string
	Name string
}

// Usage says how user-defined names are used: those that are neither
// Postfix's, nor ours, nor brought by a service.
type Usage struct {
	Undefined []Reference // every $name that nothing defines, once per occurrence
	Unused    []string    // names set in main.cf (or by With) that nothing refers to
	// UnusedOverrides are "name=value" of -o settings that nothing refers to.
	UnusedOverrides []Override
	User            []string // names set in main.cf that something refers to, sorted
	Errors          []error  // values whose $name syntax is wrong

	unknown         map[string]bool
	unknownOverride map[string]bool
}

// Usage looks through all values for references to parameters.
func (c *Config) Usage() Usage {
	u := Usage{unknown: map[string]bool{}, unknownOverride: map[string]bool{}}
	used := maps.Clone(legacyNames())
	mainFile, masterFile := c.dir+"/main.cf", c.dir+"/master.cf"
	names := c.SetNames()
	for _, s := range c.services {
		local := map[string]bool{}
		for _, o := range s.Overrides {
			local[o.Name] = true
		}
		for _, o := range s.Overrides {
			for _, ref := range u.references(c, o.Name, o.Value) {
				used[ref] = true
				if !c.defined(ref) && !local[ref] {
					u.Undefined = append(u.Undefined, Reference{masterFile, ref})
				}
			}
		}
	}
	for _, name := range names {
		value, _ := c.explicit(name)
		for _, ref := range u.references(c, name, value) {
			used[ref] = true
			if !c.defined(ref) {
				u.Undefined = append(u.Undefined, Reference{mainFile, ref})
			}
		}
	}
	for _, name := range names {
		switch {
		case c.builtin(name):
		case used[name] || c.databaseName(name):
			u.User = append(u.User, name)
		default:
			u.Unused = append(u.Unused, name)
			u.unknown[name] = !c.transportLike(name)
		}
	}
	for _, s := range c.services {
		for _, o := range s.Overrides {
			if !c.builtin(o.Name) && !used[o.Name] && !c.databaseName(o.Name) {
				u.UnusedOverrides = append(u.UnusedOverrides, o)
				u.unknownOverride[o.Name] = true
			}
		}
	}
	sort.Strings(u.User)
	return u
}

func (c *Config) builtin(name string) bool {
	_, known := c.Param(name)
	return known
}

// defined tells whether a reference to name means something.
func (c *Config) defined(name string) bool {
	return c.builtin(name) || c.IsSet(name) || legacyNames()[name]
}

// transportLike tells whether name is a transport's setting, although its
// transport is not in this master.cf (or runs a program of ours alone).
func (c *Config) transportLike(name string) bool {
	for suffix := range transportSuffixes() {
		if strings.HasSuffix(name, suffix) && len(name) > len(suffix) {
			return true
		}
	}
	return false
}

// references lists the parameters that a value refers to.
func (u *Usage) references(c *Config, name, value string) []string {
	if p, _ := c.Param(name); p.Type == TypeRaw {
		return nil
	}
	var refs []string
	e := expander{scan: true, value: func(ref string) string {
		refs = append(refs, ref)
		return ""
	}}
	if _, err := e.expand(value, 0); err != nil {
		u.Errors = append(u.Errors, err)
	}
	if name == "smtpd_restriction_classes" {
		words, _ := splitWords(value, ",")
		for _, w := range words {
			if nameLength(w) == len(w) {
				refs = append(refs, w)
			}
		}
	}
	return refs
}

// legacyNames are names that only defaults refer to: settings of old releases
// that still count. They are found once; nothing changes them afterwards.
var legacyNames = sync.OnceValue(func() map[string]bool {
	names := map[string]bool{}
	table := paramTable()
	e := expander{scan: true, value: func(ref string) string {
		if _, known := table[ref]; !known {
			names[ref] = true
		}
		return ""
	}}
	for _, p := range table {
		if p.Type != TypeRaw && strings.Contains(p.Default, "$") {
			_, _ = e.expand(p.Default, 0)
		}
	}
	return names
})

// databaseName tells whether name belongs to a table "ldap:prefix" and the
// like that some value mentions: prefix_server_host.
func (c *Config) databaseName(name string) bool {
	const suffixes = " server_host server_port search_base query_filter domain size_limit timeout dereference bind bind_dn bind_pw" +
		" result_format result_attribute special_result_attribute leaf_result_attribute terminal_result_attribute result_filter" +
		" expansion_limit recursion_limit debuglevel version chase_referrals start_tls cache cache_expiry cache_size" +
		" tls_ca_cert_dir tls_ca_cert_file tls_cert tls_key tls_require_cert tls_random_file tls_cipher_suite" +
		" sasl_mechs sasl_realm sasl_authz_id sasl_minssf" +
		" hosts user password dbname query dbpath select_field where_field table additional_conditions select_function" +
		" option_file option_group tls_cert_file tls_key_file tls_CAfile tls_CApath tls_verify_cert tls_ciphers require_result_set" +
		" idle_interval retry_interval charset encoding memcache backup key_format data_size_limit line_size_limit max_try retry_pause ttl flags "
	for _, set := range c.SetNames() {
		value, _ := c.explicit(set)
		for _, word := range strings.FieldsFunc(value, func(r rune) bool { return strings.ContainsRune(white+",{}", r) }) {
			word = strings.TrimPrefix(word, "proxy:")
			typ, prefix, ok := strings.Cut(word, ":")
			if !ok || prefix == "" || !strings.Contains(" ldap mysql pgsql sqlite memcache ", " "+typ+" ") {
				continue
			}
			if rest, ok := strings.CutPrefix(name, prefix+"_"); ok && strings.Contains(suffixes, " "+rest+" ") {
				return true
			}
		}
	}
	return false
}
