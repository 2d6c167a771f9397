// Package config reads and edits main.cf and master.cf in Postfix's syntax.
//
// # Reading
//
// Read takes the two files of a directory apart; Load also checks every value
// and is what a server starts and reloads with. A Config never changes and is
// safe for concurrent use: a reload makes a new one. The typed accessors
// (String, Bool, Int, Duration, Size, List, …) expand $name and fall back to
// the parameter's default. Service.View gives a Config as one master.cf entry
// sees it, with its -o settings.
//
// # Parameters
//
// params.txt lists every parameter of Postfix 3.7 with its default, and ours
// beside them: name, type, default and, for those that Posthouse acts on, what
// it means. Defaults differ from Postfix's where that is safer:
// compatibility_level is 3.6 (so mynetworks is this host alone) and
// smtpd_forbid_bare_newline is normalize.
//
// Times are a number and one of s m h d w, sizes a number of bytes or one
// with K, M or G. A time without a letter counts in the unit of its default,
// as in Postfix: delay_warning_time = 4 means four hours.
//
// # Problems
//
// Load returns everything it finds as Problems. Warnings (an unknown name, an
// overridden entry) do not stop a start. Errors (a malformed value, a line
// without "=") do: Load then returns ErrInvalid as well. ErrNoMain says that
// there is no main.cf. Values are looked at only as far as their type goes:
// whether a certificate exists is for its user to find out.
//
// # Editing
//
// EditMain and EditMaster change a file as "postconf -e", "-X" and "-#" do:
// comments, order and everything not named stay byte for byte, and the file is
// replaced atomically with its mode and owner kept.
package config
