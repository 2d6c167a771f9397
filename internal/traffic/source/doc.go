// Package source is a load generator for mail: it sends numbered messages to
// an SMTP or LMTP server over many sessions at once and says how fast they
// were taken.
//
// # What it promises
//
// Every message has a Message-ID that no other message of this or any other
// run has. Config.Acked is called for a message exactly when the server's
// final 250 for it has been read, so the calls are a ledger of what the server
// answers for; what happened to a message whose reply was lost is unknown, and
// Config.Unknown is called for it. Neither is called for a message the server
// refused.
//
// MAIL, all RCPTs and DATA go out in one write when the server offers
// PIPELINING (RFC 2920), the content and its final dot in another.
// A session sends its next message only after the reply to the last one.
//
// # What it assumes
//
// A trusted server under test. It does no TLS and no AUTH.
//
// # Errors
//
// Run returns an error when it could not do its work: no connection, a lost
// one, or, unless Config.Tolerate is set, a reply other than the one hoped for
// (wrapped ErrRefused). The Result is valid with an error too.
package source
