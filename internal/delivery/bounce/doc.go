// Package bounce tells senders what became of their mail: failure notices,
// delay notices and success reports (RFC 3464, RFC 3461, RFC 6533), and the
// copies that a postmaster asked for. The reports are Postfix's, word for
// word.
//
// # What it promises
//
//   - Notify returns nil only when the notice is durable, or when nobody is
//     to be told. Otherwise the caller keeps the message and asks again.
//   - Nothing is ever sent in answer to a notice: mail from the null sender
//     gets none (RFC 5321 §4.5.5), and mail from the double-bounce address,
//     which is where notices about notices come from, is dropped with a line
//     in the log.
//   - One notice covers all recipients given, less those that asked not to be
//     reported (NOTIFY).
//   - A notice is composed in bounded memory; the original is streamed into it.
//
// # What it assumes
//
// Recipient states hold the last status of each recipient, in the form that
// agents leave it: Text for people, RemoteMTA and DiagText when a remote
// system spoke. Copies to the postmaster are a courtesy: when only the copy
// fails, the log says so and Notify still succeeds, since asking again would
// tell the sender twice.
package bounce
