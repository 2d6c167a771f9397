// Package cli is the command line: Posthouse's own verbs and the commands that
// carry Postfix's names.
//
// One binary is all of them. Main looks at the base name it was started under
// ("mailq", "postsuper") and, when that is no command, at the first word
// ("posthouse mailq", "posthouse status").
//
// # What it promises
//
// The commands named after Postfix's take the options of Postfix 3.7, print
// its texts on the same streams and end with its exit statuses: postqueue 69
// for every failure, sendmail 75, postsuper 0 even when nothing matched and 1
// for usage. They never ask questions. Posthouse's own verbs end with 0 for
// success, 1 for an error, 2 for usage, 6 when no server answers and 7 when
// the user may not.
//
// Output goes to standard output, talk to standard error. A reader that goes
// away (mailq | head) is no error.
//
// # What it assumes
//
// Commands reach the running server through its control socket
// (operator/control). With no server running, root's listings, postsuper and
// postcat open the spool themselves through Programs.Offline, and sendmail
// writes into the maildrop all the same. What belongs to the server (serve,
// demo, the test programs, SMTP on standard input) is passed in by main as
// Programs, so that this package knows no part of the server.
//
// # How it is laid out
//
// A command is a function of type command in a file of its own. It gets the
// process it runs in and its arguments, without the program's name, and
// returns the exit status. Nothing here calls os.Exit or reads os.Args.
package cli
