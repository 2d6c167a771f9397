// Package sink is a test destination for mail: an SMTP or LMTP server that
// takes messages and throws them away, or refuses them in every way a real
// destination does.
//
// # What it promises
//
// How it answers is a Personality: an Action for every Stage of a session
// (accept, a reply of your choice, hang, drop the connection, each after a
// delay), and on top of that greylisting and throttling. A listener has a
// personality, and recipient domains can have their own. A domain is only
// known at RCPT, so what a domain's personality wants to do at an earlier
// stage it does there.
//
// A message is complete at CRLF "." CRLF and nowhere else; a bare LF or CR
// never ends it. Replies to pipelined commands go out together (RFC 2920
// §3.1): output is written when no complete command is left to read.
//
// Counters are exact. With a Ledger every accepted message is reported, with
// its envelope and the SHA-256 of its content, before the final 250 is
// written, so whoever has seen the 250 can count on the entry.
//
// # What it assumes
//
// The peer is a client under test, on a trusted network: there is no limit on
// the number of recipients, and a message is held in memory when a Ledger
// wants to see it. It does not authenticate, log or check addresses.
//
// # Errors
//
// Errors of one connection end that connection and are counted, never
// reported: the peer is expected to hang up in odd places. New and Parse
// return errors that say what is wrong with the configuration.
package sink
