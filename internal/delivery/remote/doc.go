// Package remote delivers to other hosts: the smtp and lmtp transports.
//
// # What it promises
//
//   - Hosts are chosen as Postfix chooses them: the next hop's mail exchangers
//     by preference, equal ones shuffled, this host and everything not better
//     than it left out, then the addresses of each, at most AddressLimit of
//     them and SessionLimit conversations; then the fallback relays.
//   - What a host says about a recipient for good (2xx, 5xx) is final. A 4xx,
//     a lost connection or a timeout leads to the next host, which gets only
//     the recipients that are still undecided.
//   - Reasons, status codes and log lines are Postfix's. The class of the SMTP
//     reply code decides, whatever the enhanced code beside it says.
//   - A delivery that fails for a reason in our own configuration (relayhost or
//     fallback relay that cannot be found, a next hop that cannot be read) is
//     deferred, never bounced.
//   - Nothing is sent in the clear where TLS was demanded. Where it is only
//     preferred, a failed handshake is followed by one try in the clear.
//   - Commit is asked before the final dot. A canceled delivery gets status
//     4.3.2 and no further host is tried. When the context ends after the dot,
//     the host has a few seconds to answer it.
//
// # Where it differs from Postfix, on purpose
//
//   - 8-bit content is sent as it is to a host without 8BITMIME, as Postfix
//     does with disable_mime_output_conversion = yes.
//   - What is no SMTP reply defers the mail (4.5.0); Postfix takes it for a
//     part of the next reply, and may bounce.
//   - A next hop that cannot be read (no such port, a missing bracket) defers
//     with 4.3.5; Postfix's process dies and the mail is deferred too.
//   - TLS connections are reused like others.
//   - Where TLS is only preferred, the try in the clear comes at once; Postfix
//     defers the mail first, and tries after minimal_backoff_time.
//
// # Connections
//
// Connections are kept for reuse, for a short idle time, while more mail waits
// for the destination or came less than a second ago. They are found again by
// next hop and by address. A kept connection that turns out to be dead costs
// nothing: the delivery begins anew with a fresh one, unlogged.
//
// An Agent is safe for concurrent use and belongs to one transport. It has no
// goroutine but the timers of kept connections, which Close ends.
package remote
