// Package queuefile reads and writes Postfix's own queue files: those of the
// queues proper, as cleanup(8) makes them, and those of the maildrop, as
// postdrop(1) makes them. It also prints them as postcat(1) does.
//
// A queue file is a row of records: a type byte, a length in little-endian
// base 128, the data. Three groups follow each other: the envelope up to M,
// the content up to X, what was extracted from the header up to E.
//
//	queue file   C T A… S A… (A… O R)…  M  N…        X        E
//	maildrop     T A… F S A… R…         M  N… L…     X  R…    E
//
// The C record comes first in a file that cleanup made and holds sizes and
// offsets that later programs rely on; Encode gets them right.
//
// # What it promises
//
// Decode accepts every file that Postfix 3.7 makes, pointer records and edited
// headers included, and never reads more than one record into memory. Encode
// writes files that Postfix's programs read; content survives byte for byte
// but for the line ends, which are CRLF outside and implied inside. Print
// writes what postcat writes.
//
// # What it assumes
//
// Addresses in queue files are unquoted, those of package mail are quoted as
// in SMTP: External and Internal go between the two. Files are hostile input:
// anyone may write to the maildrop. Lengths, pointers and the order of records
// are checked; a file that breaks the rules yields an error that wraps
// ErrMalformed and says where.
package queuefile
