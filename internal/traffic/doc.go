// Package traffic is the far ends of the wire: what sends mail to a relay and
// what the relay sends its mail to. Both ends are tools of the product
// (`posthouse source` and `posthouse sink`) and the peers of its tests and
// benchmarks.
//
// Package sink is a destination with personalities: it accepts, refuses,
// hangs, dawdles, greylists or throttles. Package source is a load generator.
// Both have their own minimal SMTP, on purpose: they share no code with the
// server and client they are used to test, so that a misreading of the
// protocol on our side cannot cancel itself out.
package traffic
