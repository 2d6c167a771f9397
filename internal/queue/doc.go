// Package queue is the queue manager: it owns every live message, and it is
// the one place where a message's state changes.
//
// # What it promises
//
//   - A message that Enqueue or Recover was given stays until every recipient
//     is final and every notice owed has been committed; only then is it
//     removed from the spool, and only when that is durable is "removed"
//     logged and the message forgotten.
//   - A result is durable before the next attempt for the same recipients
//     begins. A recipient whose delivery was recorded as Sent is never
//     delivered again. The one window for duplicates is that of SMTP itself:
//     the next hop said yes, and we crashed before that was recorded. (For a
//     requeue: the new message was committed, and we crashed before the old
//     one was removed.)
//   - An operator's hold or delete stops a running delivery that has not
//     reached the final dot; one that has is waited for, and the Report says
//     which. After it returns no attempt is made.
//   - What Act reports is durable. (A retry changes no state that lasts: it
//     is an attempt, made now; after a crash the old schedule holds.)
//   - Listings come from memory, are consistent message by message, and hold
//     the lock for a few hundred messages at a time.
//
// # How it works
//
// A message is a compact row, a recipient a small struct in it; the envelope
// itself is kept only while the message is being delivered, and is read back
// from the spool for a retry. Recipients that go to the same destination form
// a group of at most the transport's recipient limit. The group is what
// package schedule schedules, what an agent gets as a Delivery, and what
// waits for its own next attempt.
//
// A round of a message is the time in which at least one of its groups is due
// or running: it is in queue "active". At the end of a round all failures of
// that round are reported in one notice. Notices, resubmissions and the end
// of the trash's retention are jobs that wait in the same scheduler, each
// kind behind a destination of its own, so there is one set of timers and
// limits for everything.
//
// All state is behind one mutex. The alternative, a goroutine that owns the
// state and is sent events, would cost two context switches for every result
// and every question; the critical sections are a few microseconds, no I/O
// happens in them, and logging, spool writes and deliveries are handed out of
// them in order: log lines through the journal, spool changes through the outbox,
// deliveries through starts. There is a goroutine for each running delivery,
// and there are two for the queue: the clock (Run) and the recorder.
//
// State changes in memory first. Package record takes the change to the spool
// in order and in batches; what depends on durability (the next attempt, a
// notice, "removed", an operator's answer) is a note that comes back when the
// change is durable.
//
// # What it assumes
//
// Agents return soon after their context ends. The Store keeps the contract
// of package spool. Enqueue is called once for an ID, after Commit.
//
// # Errors
//
// When the spool cannot record a change, memory and disk no longer agree and
// nothing can be promised: the queue starts nothing more, logs one fatal line,
// and Err, Act and Run return the cause (wrapping spool.ErrFailed when it was
// a sync). What was delivered meanwhile may be delivered again after a
// restart; nothing is lost.
package queue
