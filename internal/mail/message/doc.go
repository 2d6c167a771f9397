// Package message reads and makes the parts of a message's content that a
// relay has business with: the header fields it must know, the Received field
// it must add, address lists, and the end of the header.
//
// # What it promises
//
// Nothing is re-serialised. Content that passes through a Filter comes out
// byte for byte, but for these changes, each of which Postfix's cleanup makes
// too: fields that must not travel are left out (DroppedFields), blanks
// before the colon of a field name are removed (RFC 5322 §4.5.8), a leading
// mailbox line ("From alice Mon Jan …") becomes a field or goes, a separator
// is put in where the header ends without one, every line ends in CRLF, a
// carriage return anywhere else becomes a blank, and the last line is ended.
// Memory does not grow with the content.
//
// # Where the header ends
//
// At the first line that is neither shaped like a field (printable ASCII
// name, blanks, colon) nor begins with a blank or tab; a line with nothing at
// all is the separator. When the very first line begins with a blank there is
// no header.
//
// # What it assumes
//
// Lines end in LF or CRLF. Filters and parsers are for one goroutine at a
// time. ParseAddressList never fails: what cannot be an address is left out,
// as the header of a stranger is no reason to refuse a letter.
package message
