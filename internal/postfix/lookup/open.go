package lookup

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"
)

var (
	// ErrType is returned for a table type that does not exist here.
	ErrType = errors.New("unsupported lookup table type")
	// ErrSyntax is returned for a malformed table specification.
	ErrSyntax = errors.New("malformed lookup table")
	// ErrUnavailable is wrapped by every error of Lookup.
	ErrUnavailable = errors.New("lookup table is unavailable")
)

// Options for Open. The zero value works.
type Options struct {
	// DefaultType is used for a specification that has no type
	// (default_database_type); default "hash".
	DefaultType string
	// Warn is told about lines that are skipped; default: nobody is.
	Warn func(text string)
	// Aliases says that indexed files have the form of an alias file:
	// "name: value". Default: "key value".
	Aliases bool
	// Now is the clock that spaces the checks for changed files; default time.Now.
	Now func() time.Time
}

// Types lists the table types that Open knows, sorted.
func Types() []string {
	return []string{"btree", "cdb", "cidr", "dbm", "fail", "hash", "inline", "lmdb", "pcre", "pipemap", "proxy", "regexp", "sdbm", "static", "texthash", "unionmap", "unix"}
}

// Open returns the table that spec names. It reads no file yet: see Check.
func Open(spec string, opt Options) (Table, error) {
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.Warn == nil {
		opt.Warn = func(string) {}
	}
	if opt.DefaultType == "" {
		opt.DefaultType = "hash"
	}
	typ, name, ok := strings.Cut(spec, ":")
	if !ok || strings.ContainsAny(typ, "/{") {
		typ, name = opt.DefaultType, spec
	}
	if name == "" {
		return nil, fmt.Errorf("%w: %q: expected type:name", ErrSyntax, spec)
	}
	switch strings.ToLower(typ) {
	case "hash", "btree", "lmdb", "cdb", "dbm", "sdbm", "texthash":
		parse := parsePairs
		if opt.Aliases {
			parse = parseAliases
		}
		return openFile(spec, name, parse, opt)
	case "cidr":
		return openFile(spec, name, parseCIDR, opt)
	case "regexp", "pcre":
		return openFile(spec, name, parseRegexp, opt)
	case "unix":
		return openUnix(spec, name, opt)
	case "inline":
		return openInline(spec, name)
	case "static":
		return staticTable{spec: spec, value: unbrace(name)}, nil
	case "fail":
		return failTable{spec}, nil
	case "pipemap", "unionmap":
		return openCombined(spec, strings.ToLower(typ), name, opt)
	case "proxy":
		return Open(name, opt)
	}
	return nil, fmt.Errorf("%w: %q in %q: known types are %s", ErrType, typ, spec, strings.Join(Types(), " "))
}

// Check tells whether t can be consulted now. It looks up a key that no table
// has, so it costs what a lookup costs.
func Check(ctx context.Context, t Table) error {
	_, _, err := t.Lookup(ctx, "\x00")
	return err
}

// IsPattern tells whether t matches patterns against the whole key. Callers
// that try parts of an address in turn ask such a table only once.
func IsPattern(t Table) bool {
	switch t := t.(type) {
	case *fileTable:
		return t.pattern
	case staticTable, failTable:
		return true
	}
	return false
}

func openUnix(spec, name string, opt Options) (Table, error) {
	switch name {
	case "passwd.byname":
		return openFile(spec, "/etc/passwd", parseAccounts, opt)
	case "group.byname":
		return openFile(spec, "/etc/group", parseAccounts, opt)
	}
	return nil, fmt.Errorf("%w: %q: expected unix:passwd.byname or unix:group.byname", ErrSyntax, spec)
}

func openFile(spec, path string, parse parser, opt Options) (Table, error) {
	if !filepath.IsAbs(path) && strings.ContainsAny(path, " \t,{}") {
		return nil, fmt.Errorf("%w: %q: not a file name", ErrSyntax, spec)
	}
	typ, _, _ := strings.Cut(spec, ":")
	typ = strings.ToLower(typ)
	return &fileTable{spec: spec, path: path, parse: parse, opt: opt, pattern: typ == "cidr" || typ == "regexp" || typ == "pcre"}, nil
}

// unbrace removes one pair of braces around s, and the space inside them.
func unbrace(s string) string {
	if strings.HasPrefix(s, "{") && strings.HasSuffix(s, "}") {
		return strings.TrimSpace(s[1 : len(s)-1])
	}
	return s
}

type staticTable struct{ spec, value string }

func (t staticTable) Lookup(context.Context, string) (string, bool, error) { return t.value, true, nil }
func (t staticTable) String() string                                       { return t.spec }

type failTable struct{ spec string }

func (t failTable) Lookup(context.Context, string) (string, bool, error) {
	return "", false, fmt.Errorf("%w: %s", ErrUnavailable, t.spec)
}
func (t failTable) String() string { return t.spec }

// inlineTable is a map that never changes.
type inlineTable struct {
	spec  string
	pairs pairs
}

func openInline(spec, name string) (Table, error) {
	if !strings.HasPrefix(name, "{") || !strings.HasSuffix(name, "}") {
		return nil, fmt.Errorf("%w: %q: expected inline:{key=value, …}", ErrSyntax, spec)
	}
	words, err := splitBraced(name[1 : len(name)-1])
	if err != nil {
		return nil, fmt.Errorf("%w: %q: %v", ErrSyntax, spec, err)
	}
	t := inlineTable{spec: spec, pairs: pairs{}}
	for _, word := range words {
		key, value, ok := strings.Cut(unbrace(word), "=")
		key = strings.TrimSpace(key)
		if !ok || key == "" {
			return nil, fmt.Errorf("%w: %q: expected key=value, not %q", ErrSyntax, spec, word)
		}
		t.pairs.add(key, strings.TrimSpace(value))
	}
	if len(t.pairs) == 0 {
		return nil, fmt.Errorf("%w: %q: empty; expected inline:{key=value, …}", ErrSyntax, spec)
	}
	return t, nil
}

func (t inlineTable) Lookup(_ context.Context, key string) (string, bool, error) {
	v, ok := t.pairs.find(key)
	return v, ok, nil
}
func (t inlineTable) String() string { return t.spec }

// errBraces is wrapped into ErrSyntax by its callers.
var errBraces = errors.New("unbalanced braces")

// splitBraced splits at commas and white space outside braces.
func splitBraced(s string) ([]string, error) {
	var words []string
	depth, start := 0, -1
	for i := 0; i <= len(s); i++ {
		sep := i == len(s) || depth == 0 && strings.IndexByte(", \t\r\n", s[i]) >= 0
		switch {
		case sep && start >= 0:
			words = append(words, s[start:i])
			start = -1
		case !sep && start < 0:
			start = i
		}
		if i < len(s) && s[i] == '{' {
			depth++
		} else if i < len(s) && s[i] == '}' {
			if depth--; depth < 0 {
				return nil, errBraces
			}
		}
	}
	if depth != 0 {
		return nil, errBraces
	}
	return words, nil
}

// combinedTable is a pipemap (each result is the next key) or a unionmap (all
// results, separated by commas).
type combinedTable struct {
	spec   string
	union  bool
	tables []Table
}

func openCombined(spec, typ, name string, opt Options) (Table, error) {
	if !strings.HasPrefix(name, "{") || !strings.HasSuffix(name, "}") {
		return nil, fmt.Errorf("%w: %q: expected %s:{type:name, …}", ErrSyntax, spec, typ)
	}
	words, err := splitBraced(name[1 : len(name)-1])
	if err != nil || len(words) == 0 {
		return nil, fmt.Errorf("%w: %q: expected %s:{type:name, …}", ErrSyntax, spec, typ)
	}
	t := &combinedTable{spec: spec, union: typ == "unionmap"}
	for _, w := range words {
		sub, err := Open(unbrace(w), opt)
		if err != nil {
			return nil, err
		}
		t.tables = append(t.tables, sub)
	}
	return t, nil
}

func (t *combinedTable) Lookup(ctx context.Context, key string) (string, bool, error) {
	var all []string
	for _, sub := range t.tables {
		v, ok, err := sub.Lookup(ctx, key)
		switch {
		case err != nil:
			return "", false, err
		case t.union && ok:
			all = append(all, v)
		case !t.union && !ok:
			return "", false, nil
		case !t.union:
			key = v
		}
	}
	if t.union {
		return strings.Join(all, ","), len(all) > 0, nil
	}
	return key, true, nil
}
func (t *combinedTable) String() string { return t.spec }
