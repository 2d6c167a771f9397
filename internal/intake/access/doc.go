// Package access decides which recipients a client may send to: relay
// control, and whether a local user exists.
//
// # What it promises
//
// A recipient is accepted only when its domain is one of ours, or the client
// is trusted (inside MyNetworks, or authenticated). From everyone else, an
// address that carries a route in its local part ("user%elsewhere@ours",
// "elsewhere!user@ours", "user@elsewhere"@ours) is refused even for a domain
// of ours, since a system behind us might follow it (Postfix:
// allow_untrusted_routing = no). When something cannot be found out, the
// answer is "try again later", never "yes".
//
// # What it assumes
//
// Addresses were parsed by package smtp, so that only the last '@' outside
// quotes divides them, and source routes are gone.
//
// # Where restriction lists will go
//
// Check runs a list of steps, each of which permits, refuses or passes on.
// The steps of today are built in; configured ones join the same list.
package access
