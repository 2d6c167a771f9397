// Package smtp is the grammar that both ends of an SMTP or LMTP conversation
// share: commands, replies, addresses, ESMTP parameters, and the codecs of
// DATA (RFC 5321 §4.5.2) and BDAT (RFC 3030). It does no I/O but through the
// readers and writers it is given, keeps no state between calls but in the
// types that say so, and imports only package mail.
//
// # Line ends
//
// The world disagrees about what ends a line, and where a sending and a
// receiving server disagree about the end of a message, one message can be
// made to look like two (SMTP smuggling). This package never disagrees with
// anybody: coming in, only CRLF.CRLF ends a message, and a lone CR or LF
// becomes CRLF and is reported; going out, no lone CR, no lone LF and no
// unstuffed dot is ever written, whatever the content is. See ReadData,
// ChunkReader and DataWriter.
//
// # Addresses
//
// A mail.Address that this package returns is ready for the wire: its local
// part is quoted exactly where RFC 5321 §4.1.2 demands it, its source route is
// gone, it holds no control character, and it holds bytes above 127 only where
// SMTPUTF8 was declared. Like Postfix without strict_rfc821_envelopes, the
// parser takes addresses without angle brackets, without domain, with dots in
// odd places and with a stray '@' in the local part, and quotes what needs it.
//
// # Errors
//
// What is wrong with a client's command is returned as the *Reply it gets;
// nil means well formed. Errors of the codecs are those of the underlying
// reader or writer. ReadReply's errors wrap ErrReply when a server breaks the
// grammar of replies.
package smtp
