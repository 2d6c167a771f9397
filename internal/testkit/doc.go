// Package testkit is what tests are built from:
//
//	memnet     a network in memory that works under testing/synctest and can
//	           be told to stall, cut and swallow
//	fakedns    a DNS server with programmable zones
//	dialogue   SMTP conversations as readable scripts, for either side
//	program    the real posthouse binary on loopback: start, kill -9, restart,
//	           Postfix-named commands, the mail log
//	postfix    a private instance of the real Postfix beside it
//
// Nothing here touches a mail system that runs on the machine: every instance
// has its own directories and loopback ports, and only processes started here
// are ever signalled. This package itself holds the few helpers they share.
package testkit
