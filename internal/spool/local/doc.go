// Package local is the embedded Store: one directory, one process, no server.
//
// # On disk
//
//	FORMAT          version of the layout, and a random mark that its log records carry
//	lock            held while the spool is open
//	log/N.seg       segments of the log: everything that was ever acknowledged
//	large/ID        contents too large for the log, one file each
//	rows/           Pebble: a checkpoint of the log, for a quick start; and the KV space
//
// # The log is the truth
//
// The log is the only thing that is synced before a caller hears of success: a
// message is one record (envelope and content), a Batch is one record. One
// goroutine, the committer, takes whatever requests have arrived while its
// last sync ran, lays them out in one buffer, writes it with one call and
// syncs once. There is no timer: a lone caller waits for one sync only, and
// under load batches grow by themselves.
//
// Every record says where it belongs (mark of the spool, segment, offset,
// batch) under its own checksum, so stale bytes of a recycled file, of a torn
// write, or of a message that imitates a record are never taken for one.
//
// # Pebble is a checkpoint of it
//
// What the log did is kept in memory as an index (where each live message
// lies; 32 bytes each and no pointers, so that a million of them cost the
// garbage collector nothing) and as the changes since the last checkpoint.
// About every 64 MiB of log, the rows of what is still alive by then are
// written to Pebble, without a write-ahead log, together with the log
// position they are true for, and flushed. At open, rows are read and the log
// after that position is replayed over them. Rows may be ahead of the position
// when a crash interrupts a checkpoint; replay sets each row again to what it
// was and then to what it became, so it ends at the same state.
//
// This was chosen over writing each change to Pebble as it happens because
// most messages live for milliseconds: one that was committed and removed
// between two checkpoints costs Pebble nothing at all. It also keeps Pebble's
// write stalls away from the commit path. The price is a replay of at most
// about 64 MiB at start, a few hundred milliseconds.
//
// The KV space is the exception: its changes are logged like all others, but
// go to Pebble at once, whose memtable is the sorted map that Scan needs.
//
// # Space
//
// A segment is reused when no live message lies in it and a durable checkpoint
// lies behind it; by then every removal in question is durable, for a removal
// takes effect only after its sync. Segments that are mostly dead have their
// live rest copied to the head of the log, in small steps at a limited rate.
// A few dead segments are kept and written over again, since overwriting
// syncs several times as fast as growing a file: no metadata has to be
// journaled. For the same reason a new file is extended with zeros some way
// ahead of the writer.
//
// # Damage
//
// After a crash the log may end in a torn batch, of which nothing was
// acknowledged: it is cut off. A bad record in front of a later batch is
// another thing, because a batch is written only after the one before it was
// synced: it is damage to acknowledged data, and is reported as a message with
// State.Corrupt, never dropped. Only in the very last batch the two cannot be
// told apart; it is taken for torn.
//
// Contents behind the checkpoint were synced and are not read again at open
// (Options.VerifyAll does); Content checks the checksum on every read from
// disk and returns ErrCorrupt.
//
// The envelope of a message is in the log and, as a copy, in its row: a message
// is corrupt only when neither can be made sense of. A disk that fails to read,
// or a record of a newer version, is an error of the call and says nothing
// about the message.
//
// # Errors
//
// Besides those of package spool, Open returns errors that say what to do
// about a missing directory, missing permissions, or a directory that is
// something else. A write error other than a full disk counts as a sync error.
package local
