// Package seglog is an append-only log in segment files, with group commit.
//
// Records are made durable in the order they are submitted. One goroutine, the
// committer, takes whatever requests have arrived while its last sync ran,
// lays them out in one buffer, writes it with one call, syncs once, has the
// Sink apply them, and tells their callers. There is no timer: a lone caller
// waits for one sync, and under load batches grow by themselves.
//
// Each record says where it belongs (mark of the log, segment, offset, batch)
// under its own checksum, so that stale bytes of a reused file, of a torn
// write, or of a message that imitates a record are never taken for one.
//
// # Damage
//
// After a crash the log may end in a torn batch, of which nothing was
// acknowledged: Replay cuts it off, durably. A bad record in front of a later
// batch is another thing, because a batch is written only after the one before
// it was synced: Replay reports it as damage and goes on behind it. Only in
// the very last batch the two cannot be told apart; it is taken for torn.
//
// # Space
//
// The owner keeps account of what lives in a segment (Link, Unlink), and says
// when one is no longer needed for replay (Free). A few dead segments are kept
// and written over again: overwriting syncs several times as fast as growing a
// file, since no metadata has to be journaled. For the same reason a new file
// is extended with zeros some way ahead of the writer.
//
// # Errors
//
// The first error of a sync, or of a write other than for lack of space, is
// final: from then on every request gets spool.ErrFailed. For lack of space
// messages get spool.ErrNoSpace, and other records are tried once more
// without them.
package seglog
