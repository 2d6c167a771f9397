// Package dns asks the questions that mail delivery has for the domain name
// system: the mail exchangers of a domain, and the addresses of a host.
//
// # What it promises
//
//   - The answers a mailer must tell apart are told apart: a name that does
//     not exist (ErrNotFound), a name without such a record (ErrNoData), a
//     domain that takes no mail (ErrNullMX, RFC 7505), a failure that may pass
//     (ErrTemporary), and an answer that makes no sense (ErrMalformed).
//     Anything doubtful (SERVFAIL, REFUSED, no answer, a broken packet) is
//     temporary: only a server that says so makes a name not exist.
//   - The text of an *Error is the one Postfix logs and bounces with.
//   - A question is put to every configured server in turn, over UDP, and over
//     TCP when the answer was cut short. It ends with the context, or after
//     Attempts rounds of Timeout for each server.
//   - Answers are kept for their time to live, between bounds, in a cache of
//     bounded size. ErrTemporary is never kept.
//   - CNAMEs are followed, at most maxAliases of them.
//
// # What it assumes
//
// The servers are recursive resolvers that are trusted as much as the system's
// resolv.conf is; DNSSEC is left to them.
//
// A Resolver is safe for concurrent use and has no goroutines of its own.
package dns
