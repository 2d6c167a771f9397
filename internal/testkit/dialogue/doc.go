// Package dialogue plays SMTP conversations written as they look on the wire.
//
//	# A client that sends everything at once.
//	S: 220 mx.example ESMTP ...
//	C: EHLO client.example
//	S: 250-mx.example
//	S: ...
//	C: MAIL FROM:<a@b.example>
//	C: RCPT TO:<c@d.example>
//	C: DATA
//	S: 250 2.1.0 Ok
//	S: 250 2.1.5 Ok
//	S: 354 ...
//	C: Subject: hello
//	C:
//	C: .
//	S: 250 2.0.0 Ok: queued as {id=[0-9A-F]+}
//	C: QUIT
//	S: 221 2.0.0 Bye
//	S# closes
//
// Each line begins with a side, C for the client and S for the server, and a
// mark:
//
//	C: text    a line, sent or expected with CRLF
//	C> text    bytes without a line end; \r \n \t \\ \xNN are understood
//	C# closes  the side closes the connection
//	C# starttls  both sides do a TLS handshake here (write it with C)
//	# text     a comment; empty lines are ignored too
//
// Lines of our side that follow each other are sent in one write, which is
// how pipelining is tested. In a line that is expected, {regexp} matches as a
// regular expression and {name=regexp} remembers what it matched; $name in a
// later line stands for that. "..." matches any text to the end of the line,
// and "S: ..." alone any number of lines until the next expected one
// matches or, if none is expected, the last line of the reply.
//
// A failure says which line of which script, what was expected and what came,
// and what had been said before.
package dialogue
