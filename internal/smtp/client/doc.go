// Package client is the sending end of one SMTP or LMTP connection: greeting,
// EHLO, STARTTLS, and any number of mail transactions.
//
// # What it promises
//
//   - Every recipient of a transaction gets the reply that decided it, with
//     the command it answered. Recipients not yet decided when the connection
//     fails are left undecided, and the *Error says during which step it
//     failed and how (lost, timed out, out of step, canceled, content).
//   - Where PIPELINING is offered, MAIL, RCPT and DATA leave in one write
//     (RFC 2920). No more than batchBytes of commands are ever unanswered, so
//     that a peer which does not read while its own replies pile up cannot
//     bring about the deadlock of RFC 2920 §3.1: the commands fit into any
//     send buffer, and replies are read as soon as they are out.
//   - Content is sent with CRLF line ends only, dot-stuffed, lines folded at
//     the limit that was asked for: whatever is in it, the peer sees one
//     message. The last of it and the final dot are one write.
//   - Commit is asked exactly once, right before the write that holds the
//     final dot. If it says no, the dot is not sent and the connection is of
//     no further use.
//   - No reply takes more than its stage's timeout, nor more memory than
//     smtp.ReadReply allows, whatever the peer sends. What is no reply ends the
//     conversation: after it nobody can tell which answer belongs to which
//     command.
//   - An ended context ends whatever is going on, at once; but once the final
//     dot is on its way the server gets dotGrace more to answer it.
//
// # What it assumes
//
// A Conn is used by one goroutine at a time. Addresses come from package smtp
// and are ready for the wire; one that holds a control character all the same
// is refused (StepMail, StepRcpt) without being sent.
//
// # Errors
//
// Every failure of the conversation is an *Error. A refusal (a 4xx or 5xx
// reply) of the greeting, EHLO or STARTTLS is an *Error of kind Refused with
// the reply in it; refusals within a transaction are results, not errors.
package client
