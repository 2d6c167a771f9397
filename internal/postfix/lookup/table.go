// Package lookup reads Postfix's "type:name" lookup tables.
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
