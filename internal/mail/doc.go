// Package mail says what a message is: its envelope, its recipients and their
// states, its queue ID, and what an attempt to deliver it came to.
//
// It holds values only. Nothing here does I/O, reads a clock or keeps state,
// and it imports nothing of Posthouse, so that every other room can speak of
// the same things in the same words.
//
// # The life of a message
//
// A message is committed once (spool.Store.Commit) and from then on only its
// State and the states of its recipients change. A recipient begins Pending
// and ends in exactly one of Sent, Bounced, Expired or Canceled; it never
// leaves a final state. When all recipients are final (and every notice owed
// has been committed) the message is removed.
//
//	           accepted                 due, slot free
//	(intake) ───────────► Pending ───────────────────────► an attempt
//	                        ▲                                 │
//	                        │ 4xx, lost connection, DNS       │
//	                        └──────── deferred ◄──────────────┤
//	                                                          ├─ 2xx ──► Sent
//	                                                          ├─ 5xx ──► Bounced
//	   lifetime over, after an attempt or by force ───────────┴────────► Expired
//	   deleted by an operator ─────────────────────────────────────────► Canceled
//
// Only package queue applies these transitions.
package mail
