// Package help has the texts that explain the commands: what each does, an
// example or two, and its exit statuses.
package help

// Root explains the program as a whole.
const Root = `Posthouse takes mail over SMTP, keeps it safe, and delivers it. It reads
Postfix's main.cf and master.cf, answers to the names of Postfix's commands,
and writes its log lines.

First steps:
  posthouse demo                 see everything at work, on this machine alone
  posthouse serve -c DIR         run the server with DIR/main.cf
  posthouse status -c DIR        how it stands
  posthouse mailq                the queue, as Postfix lists it

The commands with Postfix's names also run under those names: make links such
as /usr/local/sbin/postqueue to this program.`

// Serve explains "posthouse serve".
const Serve = `Run the server in the foreground until it is told to stop: by SIGTERM, SIGINT,
'posthouse stop' or 'postfix stop'. SIGHUP reloads.

Examples:
  posthouse serve -c /etc/posthouse
  MAIL_CONFIG=./conf posthouse serve

Exit status: 0 after an orderly end; 1 when the configuration, the spool or an
address to listen on is unusable, or the spool failed.`

// Reload explains "posthouse reload".
const Reload = `Make the running server read main.cf and master.cf again. They are checked
first; if something is wrong, it is said here and the server goes on as it was.

Examples:
  posthouse reload -c /etc/posthouse
  postconf -e 'relayhost = [mail.example.com]' && posthouse reload

Exit status: 0 reloaded; 1 refused; 6 no server answers; 7 not permitted.`

// Stop explains "posthouse stop".
const Stop = `End the server: no new connections, deliveries under way are finished or
given up for later, then it closes the spool. Waits until it is gone.

Example:
  posthouse stop -c /etc/posthouse

Exit status: 0 it is gone; 1 it is still stopping; 6 no server answers;
7 not permitted.`

// Status explains "posthouse status".
const Status = `Show the version, the sizes of the queues, the disk, and the destinations with
mail, the busiest first.

Examples:
  posthouse status
  posthouse status -o json | jq '.queues[] | select(.messages > 0)'

Exit status: 0 the server answered; 6 no server answers; 7 not permitted.`

// Version explains "posthouse version".
const Version = `Print the version, the Go release it was built with, and the platform.

Example:
  posthouse version

Exit status: 0.`

// Postfix explains a command that carries a name of Postfix's.
func Postfix(name string) (short, long string) {
	switch name {
	case "postqueue":
		return "list the queue, or try to deliver now", `postqueue -p | -j | -f | -i QUEUE_ID | -s SITE   [-c DIR] [-v]

  -p   list the queue as mailq does        -f   try to deliver all of it now
  -j   list it as JSON, one line each      -i   try to deliver one message now
                                           -s   try what waits for a site (fast_flush_domains)

Examples:
  postqueue -p | tail -1
  postqueue -j | jq -r 'select(.sender == "ceo@example.com") | .queue_id'

Exit status: 0 done; 69 anything else. Without a server, root's -p and -j read
the spool directly.`
	case "mailq":
		return "list the queue (postqueue -p)", `mailq

The same as 'postqueue -p'.

Example:
  mailq | grep -B2 @example.com

Exit status: 0 done; 69 anything else.`
	case "postsuper":
		return "delete, hold, release, requeue or expire messages", `postsuper [-d|-h|-H|-r|-e|-f QUEUE_ID|ALL|-]... [-psSv] [-c DIR] [QUEUE...]

  -d   delete (to the trash)    -r   requeue: through intake again, new ID
  -h   put on hold              -e   expire: return to the sender
  -H   release from hold        -f   expire, and release if held

ALL means every message (of the QUEUEs named), "-" reads IDs from standard
input. Options apply in order.

Examples:
  postsuper -h 006543210ABC
  postsuper -h ALL deferred
  postqueue -j | jq -r 'select(.sender == "bulk@example.com") | .queue_id' | postsuper -d -

Exit status: 0, even when nothing matched; 1 for usage and failures.`
	case "postcat":
		return "show a message", `postcat [-q] [-b] [-h] [-e] [-d] [-o] [-v] [-c DIR] [FILE or QUEUE_ID...]

  -q   operands are queue IDs     -e   envelope       -o   with offsets
  -h   header                     -b   body           -d   with record types

Examples:
  postcat -q 006543210ABC
  postcat -bhq 006543210ABC > message.eml

Exit status: 0 shown; 1 no such message, or not permitted.`
	default:
		return postfixMore(name)
	}
}

func postfixMore(name string) (short, long string) {
	switch name {
	case "sendmail", "newaliases":
		return "send a message from standard input", `sendmail [options] [RECIPIENT...]

  -t        recipients from To, Cc and Bcc     -i   a lone dot is text
  -f ADDR   envelope sender                    -F   full name
  -N LIST   notify: never, or success,failure,delay
  -V ID     envelope ID                        -R   hdrs or full
  -bp       list the queue (mailq)             -bs  SMTP on standard input
  -q        try to deliver now                 -qIID, -qRSITE

The message waits in the maildrop if no server runs.

Example:
  printf 'Subject: hi\n\nhello\n' | sendmail -f me@example.com you@example.net

Exit status: 0 accepted; 75 not accepted, try again; 69 from -bp and -q.`
	case "postconf":
		return "show or change the configuration", `postconf [-n] [-d] [-h] [-e NAME=VALUE] [-c DIR] [NAME...]

Examples:
  postconf -n
  postconf -e 'relayhost = [mail.example.com]:587' && posthouse reload

Exit status: 0 done; 1 otherwise.`
	case "postfix":
		return "start, stop, reload or check the server", `postfix [-c DIR] start | start-fg | stop | reload | flush | status | check | abort

Examples:
  postfix -c /etc/posthouse start
  postfix check && postfix reload

Exit status: 0 done; 1 otherwise (status: not running); flush as postqueue -f.`
	default:
		return "write to the mail log", `postlog [-p info|warn|error|fatal] [-t TAG] [-c DIR] [TEXT]

Example:
  postlog -p warn -t backup 'queue is being copied'

Exit status: 0 written; 1 otherwise.`
	}
}
