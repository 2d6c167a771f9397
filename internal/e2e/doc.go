// Package e2e tests Posthouse as a whole: the real binary on loopback, with a
// name server, destinations and clients around it that the tests control. It
// holds tests only.
//
//	relay_test.go     a message's way: delivered, deferred, bounced, delayed, expired
//	operator_test.go  hold, release, delete, requeue and reload while mail flows
//	local_test.go     sendmail, the maildrop, LMTP
//	tls_test.go       STARTTLS in and out, submission and smtps
//	crash_test.go     kill -9 under load, with a ledger of what was acknowledged
//	hostile_test.go   clients and next hops that do not keep the rules
//	damage_test.go    a damaged, foreign, full, missing or forbidden spool
//	config_test.go    configurations that cannot be used
//
// # What the tests rely on
//
// Everything runs on 127.0.0.0/8, every instance with directories and ports of
// its own, and only processes started here are signalled. There are no sleeps:
// a test waits for a log line, a delivery or a counter. Clocks are real, so
// the relay is given short times (one second of back-off and the like).
//
// As root, one test mounts a small tmpfs and others run the relay as an
// unprivileged user; what that needs is cleaned up even after a failure.
//
// # Environment
//
// POSTHOUSE_CRASH_ROUNDS is how often the crash test kills the relay, and
// POSTHOUSE_BINARY names a binary to test instead of building one.
package e2e
