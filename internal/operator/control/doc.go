// Package control puts an operator.Operator on a unix socket: a Server beside
// the real one, and a Client that is an Operator itself.
//
// # The protocol
//
// Both sides send frames: a length of four bytes in network order, a kind of
// one byte, and as many bytes as the length says. A client sends one request
// frame (JSON, with the version of the protocol); the server answers with any
// number of part frames and one last frame, a result or an error. Lists travel
// as parts of many messages each in a compact binary form: a million messages
// take a few seconds from one end to the other. What a slow client does not
// read is not produced: the socket is the only buffer. A connection may carry
// one request after another.
//
// # Who may do what
//
// The kernel tells the server the user at the other end (SO_PEERCRED); nothing
// a client says about itself is believed but through which command it acts.
// Root, the owner of the mail and the user the server runs as may do
// everything. Others may list, count and ask for the status if Access.List has
// them (authorized_mailq_users), retry if Access.Flush has them
// (authorized_flush_users), and anyone may say that there is something in the
// maildrop. Others are also bounded in number, each and together, and in the
// size of what they ask, so that no user can use the server up.
//
// # What its errors mean
//
// ErrUnreachable: no server listens there; the system's error is wrapped.
// ErrLost: the server went away in the middle; what was asked may have been
// done. ErrDenied: the server refused the user. operator.ErrNotFound and
// operator.ErrUnsupported come through as themselves; any other failure of the
// server is a *RemoteError. ErrProtocol: the other end speaks differently.
package control
