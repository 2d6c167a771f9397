// Package contents holds message contents outside the log: small ones in
// memory, in pooled buffers, while they are received and shortly after (Pool,
// Cache), and large ones in a file each (Dir).
//
// A reader of a Large gets spool.ErrCorrupt instead of bytes that fail their
// checksum. Pool and Dir are safe for concurrent use.
package contents
