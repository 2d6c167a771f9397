// Package queue is the queue manager: it owns every live message, and it is
// the one place where a message's state changes.
package queue
