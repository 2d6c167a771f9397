// Package listing writes the queue as Postfix 3.7 lists it: the table of
// mailq (postqueue -p) and the JSON lines of postqueue -j.
//
// It promises the same bytes as Postfix for the same messages. What readers of
// these formats stumble over is kept on purpose: two blanks after the time in
// the short form, reasons that are never wrapped, the word Kbytes, a blank
// line before the footer, and nothing at all as the JSON of an empty queue.
//
// Both writers stream: an entry is written when it is added, through a buffer
// of fixed size, so that a million messages need no more memory than one.
//
// It assumes that addresses are in the form that goes between angle brackets
// (mail.Address), which is also how Postfix lists them. It does not sort:
// entries appear in the order in which they are added, and Postfix's order of
// queues is maildrop, active, incoming, deferred, hold (QueueOrder).
//
// Errors are those of the writer below. The first one sticks: later calls
// return it without writing.
package listing
