// Package spool is the durability contract: what the queue may rely on from
// whatever keeps its messages, and nothing about how.
//
// # What a Store promises
//
//   - When Commit or Apply returns nil, its effect survives a crash of the
//     process and of the machine. An effect is whole or absent, never partial.
//   - What one goroutine did in order is recovered in order: if the effect of
//     a call is there, so is that of every call that returned before it began.
//     ApplyAsync calls take effect in the order they were made.
//   - Recover yields every message that was committed and not removed, once,
//     with its latest recorded state. A message that was never acknowledged
//     may be yielded too, or not, but never without its complete content.
//   - A message whose row or content fails its checksum is yielded with
//     State.Corrupt set (and what could be read of it); it is never silently
//     dropped and never stops recovery.
//   - The first error of a sync is final (ErrFailed from then on, for every
//     write): after it, what the page cache holds cannot be believed.
//   - When the disk is nearly full, Stage and Commit fail with ErrNoSpace
//     while a reserve is left; Apply keeps working in the reserve, so that
//     what is inside can be finished.
//   - One Store at a time holds a spool: Open fails with ErrLocked otherwise.
//
// # What it assumes
//
// Only package queue changes a committed message, and never concurrently for
// the same message; Commit is called once for an ID. A Store never looks
// inside a key of the KV space. All methods are safe for concurrent use.
package spool

import (
	"context"
	"errors"
	"io"

	"posthouse/internal/mail"
)

// Errors of a Store; test with errors.Is.
var (
	// ErrFailed: an earlier sync failed, and nothing more is accepted until a
	// restart. The first cause is wrapped.
	ErrFailed = errors.New("spool has failed")
	// ErrNoSpace: too little free space to accept a message; try again later.
	ErrNoSpace = errors.New("not enough free space in mail queue")
	// ErrLocked: another process has the spool open.
	ErrLocked = errors.New("spool is in use by another process")
	// ErrNotFound: no such message or key.
	ErrNotFound = errors.New("not in the spool")
	// ErrCorrupt: the content fails its checksum.
	ErrCorrupt = errors.New("corrupt spool entry")
	// ErrFormat: written by a version that this one cannot read.
	ErrFormat = errors.New("spool format not supported")
	// ErrClosed: the store was closed.
	ErrClosed = errors.New("spool is closed")
)

// Store keeps messages. See the package comment for its promises.
type Store interface {
	// Stage opens a place for the content of a message that is being
	// received. Content is wire format: CRLF line ends, not dot-stuffed, kept
	// byte for byte. Small contents stay in memory; large ones go to disk as
	// they come. ErrNoSpace when the disk is nearly full; size is the
	// announced size in bytes, 0 when unknown.
	Stage(size int64) (Staged, error)

	// Commit makes env and the staged content durable under env.ID. The
	// staged content is used up, whatever the outcome. env.Size must equal
	// the staged size. Many callers share one sync. The context only bounds
	// the wait: when it ends first the message may still become durable.
	Commit(ctx context.Context, env *mail.Envelope, content Staged) error

	// Apply makes a batch durable as a unit.
	Apply(ctx context.Context, b *Batch) error

	// ApplyAsync is Apply that returns at once; done (which may be nil) is
	// called with the outcome from a goroutine of the store and must be quick.
	// The batch must not be changed until then.
	ApplyAsync(b *Batch, done func(error))

	// Content opens the content of a live message for reading. A reader stays
	// valid after the message is removed, until it is closed. ErrNotFound,
	// ErrCorrupt.
	Content(id mail.QueueID) (Content, error)

	// Recover calls each for every live message, in order of ID, and returns
	// what it learnt. It is called once, before anything else. The message is
	// the callee's to keep. An error of each ends it and is returned.
	Recover(ctx context.Context, each func(*mail.Message) error) (Recovered, error)

	// Message reads one live message with its current state. For tools and
	// rare paths: the queue answers from memory. ErrNotFound.
	Message(id mail.QueueID) (*mail.Message, error)

	// Get reads one key of the KV space. ErrNotFound.
	Get(key []byte) ([]byte, error)
	// Scan calls each for every key in [from, to) in order until it returns
	// false. The slices are only valid during the call.
	Scan(from, to []byte, each func(key, value []byte) bool) error

	// Space tells how the disk stands.
	Space() (Space, error)

	// Err is nil while the store works, and wraps ErrFailed after a sync failed.
	Err() error

	// Close waits for what was submitted, and closes. Calls after it return ErrClosed.
	Close() error
}

// Staged is content on its way in. Exactly one of Commit (of the Store) and
// Discard ends it.
type Staged interface {
	io.Writer
	// Size is the number of bytes written so far.
	Size() int64
	// Discard gives the place back. Harmless after Commit.
	Discard()
}

// Content is the stored content of a message, CRLF line ends.
type Content interface {
	io.ReaderAt
	io.Closer
	// Size in bytes.
	Size() int64
	// Bytes is the whole content when it is at hand in memory, nil otherwise.
	// It must not be changed.
	Bytes() []byte
}

// Recovered is what opening a spool found.
type Recovered struct {
	LastID   mail.QueueID // at least the largest ID ever committed or reserved here
	Messages int          // live messages, corrupt ones included
	Corrupt  int          // of them, set aside
}

// Space is how the disk stands, in bytes.
type Space struct {
	Free    int64 // available to us
	Reserve int64 // kept for finishing what is inside; Stage fails when Free is below it
	Used    int64 // taken by contents, dead ones awaiting reclaim included
	Live    int64 // taken by contents of live messages
}

// Batch is a list of changes that take effect together. The zero value is an
// empty batch. Changes apply in the order they were added.
type Batch struct {
	Ops []Op
}

// Op is one change; exactly one of the kinds, told by its type: SetState,
// SetRecipients, Remove, Put, Delete.
type Op interface{ op() }

// SetState replaces the state of a message.
type SetState struct {
	ID    mail.QueueID
	State mail.State
}

// SetRecipients replaces the state of some recipients of a message.
type SetRecipients struct {
	ID      mail.QueueID
	Changes []RecipientChange
}

// RecipientChange is the new state of Envelope.Recipients[Index].
type RecipientChange struct {
	Index int
	State mail.RecipientState
}

// Remove ends a message: its row, its states and its content.
type Remove struct{ ID mail.QueueID }

// Put sets a key of the KV space.
type Put struct{ Key, Value []byte }

// Delete removes a key of the KV space; a missing one is no error.
type Delete struct{ Key []byte }

func (SetState) op()      {}
func (SetRecipients) op() {}
func (Remove) op()        {}
func (Put) op()           {}
func (Delete) op()        {}

// Add appends changes and returns b.
func (b *Batch) Add(ops ...Op) *Batch {
	b.Ops = append(b.Ops, ops...)
	return b
}
