// Package pickup takes the messages that local programs leave in the maildrop,
// and is how such programs leave them.
//
// # The protocol
//
// A writer makes a file under a name that no reader looks at, gives it the
// name it shall have, writes, and then, as the last thing, sets the mode that
// says "complete" (the owner's bits rwx) and syncs file and directory. A
// reader takes only regular files with one name and that mode. So a crash
// leaves either a message or a file that no one ever reads. Files are in the
// format of postdrop (package queuefile).
//
// # What it promises
//
// No complete message is dropped. A file is removed only after Submit has
// returned, which is after the message is on stable storage. A crash between
// the two leaves both the message and the file, and the message is sent
// twice; the directory is synced after each scan that removed files, so the
// window stays short. A file that is no message, or a message that intake will
// never take, is moved to the directory "corrupt" beside the maildrop, with a
// warning. A message that intake cannot take now stays, and is offered again.
//
// Deleted messages rest in the directory "saved" for a while.
//
// # What it assumes
//
// Everyone may write to the maildrop: the file's owner is believed, since the
// kernel sets it, and nothing else in it.
package pickup
