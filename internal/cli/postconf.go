package cli

import "posthouse/internal/postfix/postconf"

// runPostconf is the postconf command; see package postconf.
func runPostconf(p *process, args []string) int {
	return postconf.Run(args, p.std.Out, p.std.Err, p.getenv)
}
