// Package lookup reads Postfix's "type:name" lookup tables.
//
// # Types
//
//	inline:{k=v, {k = v with spaces}}   pairs in the configuration itself
//	static:text, static:{text}          the same value for every key
//	texthash:/file                      "key value" lines
//	hash: btree: lmdb: cdb: dbm: sdbm:  the text file of that name, from which
//	                                    Postfix would build its database; no
//	                                    postmap run is needed
//	cidr:/file regexp:/file pcre:/file  patterns, tried in order; RE2 syntax,
//	                                    so no backreferences or lookaround
//	pipemap:{t1, t2} unionmap:{t1, t2}  tables put together
//	unix:passwd.byname                  the local users (group.byname: groups)
//	fail:text                           always a temporary error
//	proxy:type:name                     the same as type:name
//
// # Promises
//
// Keys are compared without case, as Postfix's own daemons do; pattern tables
// get the key as it is. Files are read again when their modification time,
// size or inode changes, looked at most once a second, and swapped in as a
// whole: a lookup sees the old file or the new one.
//
// # Errors
//
// Open fails only for a specification that is wrong (ErrType, ErrSyntax). A
// file that cannot be read makes Lookup fail (ErrUnavailable) until it can,
// and its old content is not used meanwhile: the administrator who broke a
// table must not be answered from memory. Bad lines are skipped and reported
// through Options.Warn, as Postfix does.
package lookup

import "context"

// Table maps keys to values. Implementations are safe for concurrent use.
type Table interface {
	// Lookup returns the value for key, and whether there is one. An error
	// means that the table cannot be consulted now: the caller must answer
	// with a temporary failure, never as if the key were absent.
	Lookup(ctx context.Context, key string) (value string, found bool, err error)
	// String is the table's name as configured: "texthash:/etc/postfix/transport".
	String() string
}
