// Package server is the receiving end of SMTP and LMTP: listeners, sessions,
// TLS. It knows the protocol; what to accept it asks its Acceptor.
//
// # What it promises
//
//   - Replies, their codes and the log lines are Postfix's, so that clients,
//     log parsers and fail2ban rules cannot tell the difference.
//   - Only CRLF.CRLF ends a message, whatever the settings; see package smtp.
//   - A client can make a session end, never the server: every line, count
//     and wait has a bound. A session needs one goroutine and one read buffer,
//     and nothing of a message's content is kept.
//   - Replies to pipelined commands leave in one write (RFC 2920 §3.2): output
//     is flushed when, and only when, the session has to wait for input.
//   - Reconfigure applies to sessions that begin later. Shutdown lets a
//     message whose content is being received be finished and answered; other
//     sessions are told 421.
//   - Nothing that a client sent before TLS is seen after it (RFC 3207 §4.2).
//
// # What it assumes
//
// The Acceptor logs its own refusals and the client= line; this package logs
// what concerns the session, and the refusals it makes itself. What it passes
// to the Acceptor in MailArgs and RcptArgs is valid during the call only.
//
// # Errors
//
// Serve returns nil after Shutdown or when its context ends, and the
// listener's error otherwise. What goes wrong inside a session is the client's
// business: it is replied and logged, and not an error.
package server
