package testkit

import "strings"

// OnlyLast drops settings that a later line repeats: Postfix would take the
// last one but warn of each.
func OnlyLast(text string) string {
	lines := strings.Split(text, "\n")
	seen := map[string]bool{}
	keep := make([]bool, len(lines))
	for i := len(lines) - 1; i >= 0; i-- {
		j := i
		for j > 0 && (strings.HasPrefix(lines[j], " ") || strings.HasPrefix(lines[j], "\t")) {
			j-- // continuation lines go with their first
		}
		name, _, ok := strings.Cut(lines[j], "=")
		name = strings.TrimSpace(name)
		drop := ok && !strings.HasPrefix(name, "#") && seen[name]
		for k := j; k <= i; k++ {
			keep[k] = !drop
		}
		if ok {
			seen[name] = true
		}
		i = j
	}
	var out []string
	for i, l := range lines {
		if keep[i] {
			out = append(out, l)
		}
	}
	return strings.Join(out, "\n")
}
