package lint

import (
	"go/ast"
	"go/token"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"posthouse/internal/postfix/config"
)

// parameterNames gathers string literals of the program: that is how code
// names a parameter. Left out are the lists of names that nothing is done with.
func parameterNames(t *testing.T, pattern string) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	eachSource(t, func(path string, _ *token.FileSet, f *ast.File) {
		switch path {
		case "internal/postfix/config/params.go", "internal/daemon/inert.go":
			return
		}
		if ok, err := filepath.Match(pattern, path); pattern != "" && (err != nil || !ok) || strings.HasPrefix(path, "internal/postfix/postconf/") {
			return
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				if s, err := strconv.Unquote(lit.Value); err == nil {
					names[s] = true
				}
			}
			return true
		})
	})
	return names
}

// TestParametersAreTrue: a parameter has a meaning exactly when the program
// acts on it. The meaning is what docs/configuration.md shows, and a parameter
// without one is warned about when it is set.
func TestParametersAreTrue(t *testing.T) {
	used := parameterNames(t, "")
	named := func(name string) bool {
		for _, prefix := range []string{"", "smtp_", "lmtp_", "default_"} {
			if rest, ok := strings.CutPrefix(name, prefix); ok && used[rest] {
				return true
			}
		}
		return name == "mail_version" // only ever referred to, as in smtpd_banner
	}
	referred := map[string]bool{}
	for _, p := range config.Params() {
		if p.Meaning == "" {
			continue
		}
		for _, q := range config.Params() {
			if strings.Contains(p.Default, "$"+q.Name) || strings.Contains(p.Default, "${"+q.Name) {
				referred[q.Name] = true
			}
		}
	}
	for _, p := range config.Params() {
		if p.Meaning != "" && !named(p.Name) && !referred[p.Name] {
			t.Errorf("%s is described as %q, but nothing reads it: take the description out of params.txt", p.Name, p.Meaning)
		}
	}
	for name := range parameterNames(t, "internal/daemon/settings*.go") {
		for _, prefix := range []string{"", "smtp_", "lmtp_"} {
			if p, ok := config.LookupParam(prefix + name); ok && p.Meaning == "" {
				t.Errorf("%s is read, but not described: say in params.txt what it means", p.Name)
			}
		}
	}
}
