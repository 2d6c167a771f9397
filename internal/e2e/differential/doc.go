// Package differential does the same things to a real Postfix and to
// Posthouse, and compares what they say, byte for byte.
//
// # What it promises
//
// Every file testdata/*.txt is one script. The test performs it on a private
// Postfix (testkit/postfix) and on the posthouse binary (testkit/program),
// which have the same main.cf and each their own pretend destinations, and
// fails when the two transcripts differ. A transcript holds the standard
// output, error and exit status of every command, every SMTP reply, the mail
// log lines asked for, and the messages that destinations received.
//
// Only what cannot be equal is normalised: queue IDs become ID1, ID2 in order
// of appearance (and sizes and offsets lose as many bytes as the IDs in them
// are long), times, ports, process numbers and durations become words. The
// width rules of listings are checked before they are normalised away.
//
// # How to add a case
//
// Write a file of these lines; # begins a comment, and `# because:` is where
// an accepted difference is explained:
//
//	run COMMAND ARGS…             a command; 'quotes' and $VARIABLES as in a shell
//	run COMMAND ARGS… {           the same with standard input, up to a line }
//	smtp {                        a conversation, up to a line }:
//	    EHLO client.example         sends a line and waits for the reply
//	    > text                      sends a line and waits for nothing
//	    raw "text\n"                sends bytes, Go escapes, and waits for nothing
//	    read                        waits for one more reply
//	    fill N                      sends N bytes of lines
//	smtp from 127.0.0.9 {         the same from another client address
//	id NAME SENDER                $NAME is the ID of the queued message from SENDER
//	wait queue NAME N             until N messages are in a queue ("all 0": in none)
//	wait log N REGEXP             until N log lines of this script match
//	wait sink N                   until destinations have accepted N messages
//	log SERVICE…                  puts log lines of services into the transcript
//	sink                          puts the messages accepted there
//	pickup                        has mail that was put back looked at now
//	expect REGEXP                 what the step before said must match, normalised
//	stop, start, restart {        the server; restart adds lines to main.cf
//	replace /REGEXP/TEXT/ REASON  an accepted difference, with its reason
//	ignore /REGEXP/ REASON        lines that are accepted on one side only
//
// A replace or ignore that no line needs fails the test, so that none
// outlives its reason.
//
// # What is not compared
//
// Recipients are named in the order of their domains, since Postfix sorts them
// in the queue and Posthouse delivers to them in the order of the envelope;
// the RCPT lines of a received message are sorted. Whether a connection was
// used before (conn_use=) depends on the moment, and is left out. Actions on
// mail that is being delivered differ on purpose: Postfix lets the delivery
// run on, Posthouse cancels it.
//
// # Destinations
//
//	ok.example     accepts, offers all extensions, DSN too
//	plain.example  accepts, offers no extension but ESMTP's own
//	soft.example   450 to RCPT        hard.example   550 to RCPT
//	softdata.example, harddata.example  refuse at the end of data
//	hang.example   never answers RCPT down.example   nothing listens
//
// What is between them in one message to ok, soft and hard goes over one
// connection, since these three share a port.
package differential
