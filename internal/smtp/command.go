package smtp

import "bytes"

// Verb is a command word. The order is the one in which Postfix counts
// commands when a session ends.
type Verb uint8

// The verbs. VerbUnknown is everything else and comes last.
const (
	HELO Verb = iota
	EHLO
	LHLO
	XCLIENT
	XFORWARD
	STARTTLS
	AUTH
	MAIL
	RCPT
	DATA
	BDAT
	RSET
	NOOP
	VRFY
	ETRN
	QUIT
	VerbUnknown

	// NumVerbs is the number of verbs, VerbUnknown included.
	NumVerbs = int(VerbUnknown) + 1
)

// String is the verb in upper case; "UNKNOWN" for VerbUnknown.
func (v Verb) String() string {
	switch v {
	case HELO:
		return "HELO"
	case EHLO:
		return "EHLO"
	case LHLO:
		return "LHLO"
	case XCLIENT:
		return "XCLIENT"
	case XFORWARD:
		return "XFORWARD"
	case STARTTLS:
		return "STARTTLS"
	case AUTH:
		return "AUTH"
	case MAIL:
		return "MAIL"
	case RCPT:
		return "RCPT"
	case DATA:
		return "DATA"
	case BDAT:
		return "BDAT"
	case RSET:
		return "RSET"
	case NOOP:
		return "NOOP"
	case VRFY:
		return "VRFY"
	case ETRN:
		return "ETRN"
	case QUIT:
		return "QUIT"
	default:
		return "UNKNOWN"
	}
}

// ParseCommand splits a command line, without its line end, into its first
// word and the rest, blanks trimmed. The verb is VerbUnknown when the word is
// none, and the word empty when the line is blank. Postfix allows blanks
// before the word, and so do we.
func ParseCommand(line []byte) (v Verb, word, args []byte) {
	line = trimBlanks(line)
	word = line
	if i := bytes.IndexByte(line, ' '); i >= 0 {
		word, args = line[:i], line[i+1:]
	}
	if i := bytes.IndexByte(word, '\t'); i >= 0 {
		word, args = line[:i], line[i+1:]
	}
	return lookupVerb(word), word, trimBlanks(args)
}

func lookupVerb(word []byte) Verb {
	if len(word) < 4 || len(word) > 8 {
		return VerbUnknown
	}
	var up [8]byte
	for i, c := range word {
		if 'a' <= c && c <= 'z' {
			c -= 'a' - 'A'
		}
		up[i] = c
	}
	switch string(up[:len(word)]) { // the compiler turns this into a search without allocation
	case "MAIL":
		return MAIL
	case "RCPT":
		return RCPT
	case "DATA":
		return DATA
	case "BDAT":
		return BDAT
	case "HELO":
		return HELO
	case "EHLO":
		return EHLO
	case "LHLO":
		return LHLO
	case "RSET":
		return RSET
	case "NOOP":
		return NOOP
	case "QUIT":
		return QUIT
	case "VRFY":
		return VRFY
	case "ETRN":
		return ETRN
	case "AUTH":
		return AUTH
	case "STARTTLS":
		return STARTTLS
	case "XCLIENT":
		return XCLIENT
	case "XFORWARD":
		return XFORWARD
	}
	return VerbUnknown
}

// LooksLikeHeader tells whether the first word of a line is the beginning of
// a message header ("Subject:"), which says that the client is sending mail to
// a server that did not ask for it, or is an HTTP client.
func LooksLikeHeader(word []byte) bool {
	i := bytes.IndexByte(word, ':')
	if i <= 0 {
		return false
	}
	for _, c := range word[:i] {
		if c <= ' ' || c >= 127 {
			return false
		}
	}
	return true
}

func trimBlanks(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}
