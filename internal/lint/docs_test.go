package lint

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"posthouse/internal/postfix/config"
)

// The generated parts of docs/configuration.md are between lines of this form.
const generated = "<!-- %s: generated, see internal/lint/docs_test.go -->\n"

// parameterTable is the table of parameters that Posthouse acts on: ours, or
// Postfix's. What holds for smtp_… and lmtp_… alike is shown once.
func parameterTable(ours bool) string {
	var b strings.Builder
	b.WriteString("\n| parameter | default | meaning |\n|---|---|---|\n")
	for _, p := range config.Params() {
		if p.Meaning == "" || ours != strings.Contains(p.Meaning, "(Posthouse)") {
			continue
		}
		if rest, ok := strings.CutPrefix(p.Name, "lmtp_"); ok {
			if twin, ok := config.LookupParam("smtp_" + rest); ok && twin.Meaning != "" {
				continue
			}
		}
		value := "(empty)"
		if p.Default != "" {
			value = "`" + strings.ReplaceAll(p.Default, "|", `\|`) + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", p.Name, value, strings.TrimSuffix(p.Meaning, " (Posthouse)"))
	}
	b.WriteString("\n")
	return b.String()
}

// replaceGenerated puts text between the lines that name a part.
func replaceGenerated(page, part, text string) (string, bool) {
	begin, end := fmt.Sprintf(generated, part), fmt.Sprintf(generated, "end of "+part)
	before, rest, ok := strings.Cut(page, begin)
	_, after, found := strings.Cut(rest, end)
	return before + begin + text + end + after, ok && found
}

// TestConfigurationPage holds docs/configuration.md against the parameters the
// program knows. UPDATE_DOCS=1 rewrites it.
func TestConfigurationPage(t *testing.T) {
	file := filepath.Join(root, "docs/configuration.md")
	old, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	page := string(old)
	for part, ours := range map[string]bool{"our parameters": true, "parameters of Postfix": false} {
		var ok bool
		if page, ok = replaceGenerated(page, part, parameterTable(ours)); !ok {
			t.Fatalf("no place for %s", part)
		}
	}
	if page == string(old) {
		return
	}
	if os.Getenv("UPDATE_DOCS") == "" {
		t.Fatal("docs/configuration.md is stale: UPDATE_DOCS=1 go test ./internal/lint -run ConfigurationPage")
	}
	if err := os.WriteFile(file, []byte(page), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestPagesNameWhatExists: links between pages lead somewhere, and a parameter
// written with a value exists and has an effect.
func TestPagesNameWhatExists(t *testing.T) {
	pages, err := filepath.Glob(filepath.Join(root, "docs/*.md"))
	if err != nil || len(pages) < 5 {
		t.Fatalf("pages %v, %v", pages, err)
	}
	link, setting := regexp.MustCompile(`\]\(([^)#:]+)\)`), regexp.MustCompile(`(?m)^([a-z][a-z0-9_]+) = `)
	for _, page := range append(pages, filepath.Join(root, "README.md")) {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), m[1])); err != nil {
				t.Errorf("%s: %v", page, err)
			}
		}
		for _, m := range setting.FindAllStringSubmatch(string(text), -1) {
			if p, ok := config.LookupParam(m[1]); !ok || p.Meaning == "" {
				t.Errorf("%s sets %s, which has no effect", page, m[1])
			}
		}
	}
}

// TestDependenciesAreWrittenDown: DEPENDENCIES.md names every module that our
// packages or their tests import, and no other.
func TestDependenciesAreWrittenDown(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(root, "DEPENDENCIES.md"))
	if err != nil {
		t.Fatal(err)
	}
	written := map[string]bool{} // by module; true once an import of it was seen
	for _, m := range regexp.MustCompile("[| ]`?([a-z]+\\.[a-z./0-9-]+/[a-z./0-9-]+)`?[ ,|]").FindAllStringSubmatch(string(page), -1) {
		written[m[1]] = false
	}
	out, err := exec.Command("go", "list", "-f", `{{join .Imports "\n"}}{{"\n"}}{{join .TestImports "\n"}}{{"\n"}}{{join .XTestImports "\n"}}`, "posthouse/...").Output()
	if err != nil {
		t.Fatal(err)
	}
imports:
	for _, path := range strings.Fields(string(out)) {
		if first, _, _ := strings.Cut(path, "/"); !strings.Contains(first, ".") {
			continue // ours, or the standard library's
		}
		for module := range written {
			if within(path, module) {
				written[module] = true
				continue imports
			}
		}
		t.Errorf("%s is imported, but not written down", path)
	}
	for module, used := range written {
		// The tools have a go.mod of their own.
		if !used && module != "honnef.co/go/tools" && module != "mvdan.cc/gofumpt" {
			t.Errorf("%s is written down, but nothing imports it", module)
		}
	}
}
