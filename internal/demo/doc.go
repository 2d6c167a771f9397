// Package demo is a pretend internet for `posthouse demo`: a DNS server, a few
// hundred destinations and a handful of senders, all on loopback addresses of
// this machine.
//
// # What it promises
//
// Every destination has a domain under .example, an MX record in a DNS server
// on 127.0.0.1, and an address of its own in 127.77.0.0/16 with one SMTP port
// that all share. Most accept; some greylist, throttle, answer slowly, fall
// silent, refuse for now or for good, are closed, or do not exist. The same
// world is built each time, so what the hints say is true. Senders' own
// domains accept, so that bounces come home.
//
// Run puts everything into one temporary directory, the program under all its
// names included, and removes it when its context ends. Nothing ever listens on, or connects to, an address that is
// not loopback.
//
// # What it assumes
//
// Linux, where all of 127.0.0.0/8 is local. The relay is started by the caller
// through Options.StartRelay: this package knows it only by its configuration.
package demo
