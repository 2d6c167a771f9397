// Package schedule decides who goes next. It is a pure state machine: no
// clock, no I/O, no goroutine, no lock. Whoever owns a State feeds it events
// together with the time, and asks Next for decisions until there are none.
//
// # What it schedules
//
// An Item is a small number that the owner chose; it stands for a delivery:
// one message on its way to one destination. Every destination has a line of
// its own, so a backlog in one never occupies room that another needs:
//
//	            Add                    due                 Next: Start
//	(nothing) ──────► later (a heap) ──────► ready (a heap) ──────────► running
//	    ▲                                        │                        │
//	    └────────────── Remove, Next: Refuse ────┴──────── Finished ──────┘
//
// # What it promises
//
//   - An item never starts before it is due, never while its destination is
//     dead or paused by a rate delay, and never beyond its destination's
//     window or its transport's process limit.
//   - Inside a line the item that has been due for longest goes first.
//     Between the destinations of a transport, and between transports, it is
//     round robin: one item, then the next destination's turn.
//   - A destination that is alive and has room is always offered: nothing
//     starves.
//   - Wake is the exact next moment at which Next has something new to say
//     without another event. There are no scans.
//   - Every operation costs O(log n) in the number of items of one line and
//     in the number of destinations. A waiting item takes 28 bytes.
//
// # The concurrency window
//
// A window grows with success and shrinks with failures of the destination
// itself, by Postfix's rules, since operators have tuned for them:
//
//	positive  cohorts = 0; if the destination was dead, it is alive with
//	          window = running (or initial). Else, if window < limit and
//	          window < running + initial: success += g(window), and each full
//	          unit of success widens the window by one.
//	negative  cohorts += 1/window; at the cohort limit the destination is
//	          dead for DeadTime. Else failure -= f(window), and each unit
//	          below zero narrows the window by one, never below one.
//
// Postfix forgets all of this the moment a destination has nothing to do.
// Here the failures are forgotten then as well (a trickle of mail to a poor
// host must not add up to a death sentence), but a widened window is kept for
// a minute: a relay that drains faster than it receives is idle many times a
// second, and would otherwise fall back to the initial window each time.
//
// # What it assumes
//
// Time does not have to move forwards: an event with an earlier time than the
// last only makes things happen later. An Item is used for one thing at a
// time; events about items in a state that does not allow them are ignored
// and reported as false.
package schedule
