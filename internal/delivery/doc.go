// Package delivery is the room of those who carry mail out; it has no code of
// its own.
//
//	route   recipient → transport and next hop
//	remote  the smtp and lmtp transports
//	fixed   the error, retry and discard transports
//	dns     what mail asks of the domain name system
//	bounce  notices to senders
//
// What they have in common is declared by package queue: a Router, Agents, a
// Bouncer. None of them changes a message; each says what became of it.
package delivery
