// Package daemon builds the relay out of a configuration and runs it: the one
// room that knows all the others.
//
// # What it promises
//
// Run returns when the relay has stopped, in this order: no new connections,
// sessions told 421 (content under way may finish), deliveries stopped (those
// past the final dot awaited), results recorded, spool closed. A configuration
// that cannot be used never gets as far as touching the spool or a port, and a
// reload that cannot be used changes nothing.
//
// Offline opens the spool without starting anything, for commands that work
// while no relay runs.
//
// # How it is laid out
//
// settings.go and its neighbours (settings_*.go) are the only place where
// main.cf names meet the typed settings of the rooms. daemon.go builds and
// ends; reload.go swaps settings in place; listeners.go opens ports.
//
// # What its errors mean
//
// Every error ends a start, and its text is for the person at the terminal: it
// says what to do next.
package daemon
