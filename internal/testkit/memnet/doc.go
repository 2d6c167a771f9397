// Package memnet is a network in memory: Listen and Dial with connections
// that behave like TCP's and can be told to misbehave.
//
// # What it promises
//
// A Conn is a full-duplex byte stream with a send buffer, deadlines, half
// close and TCP addresses. All waiting is on condition variables and timers
// of package time, so a goroutine blocked here is durably blocked in the sense
// of testing/synctest, and virtual time passes: a five-minute SMTP timeout is
// tested in no time. Use a Network inside the bubble it was created in.
//
// Faults are set on a Link, one direction at a time: Stall holds bytes back
// (the peer has gone quiet), Cut breaks the connection with ECONNRESET, both
// at once or after a number of bytes. Whole addresses can refuse connections
// (the default when nobody listens) or swallow them.
//
// # Errors
//
// They are those of package net: *net.OpError around ECONNREFUSED, ECONNRESET,
// os.ErrDeadlineExceeded, net.ErrClosed; io.EOF after the peer closed.
package memnet
