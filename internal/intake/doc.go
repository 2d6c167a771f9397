// Package intake makes complete, committed messages out of what comes in:
// SMTP transactions, local submissions, our own notices, and messages that an
// operator puts back. It does the work of Postfix's cleanup and pickup.
//
// # What it promises
//
//   - A positive answer (the reply to the end of the data, or a queue ID) is
//     given only after the spool has the message on stable storage. The
//     message is handed to the queue right then, from memory.
//   - A message that cannot be stored is answered 4xx, and nothing of it stays.
//   - Content is streamed: what intake itself holds of a message does not grow
//     with the message.
//   - Content is kept as it came but for what package message says, the
//     Received field put before it, and the fields a local message lacks.
//   - Log lines are Postfix's: those of the session under the session's
//     service, the rest under "cleanup" and "pickup".
//
// # What it assumes
//
// Addresses of SMTP commands were parsed by package smtp. Submissions are not
// trusted that far: their addresses are checked here. The Access checker
// decides who may relay; without one, nothing is accepted over SMTP.
//
// # Errors
//
// Peers get Postfix's replies. Submit returns ErrNoRecipients, ErrTooBig,
// ErrTooManyHops or ErrAddress when the message itself is at fault (trying
// again is of no use), and the spool's error, wrapped, otherwise.
package intake
