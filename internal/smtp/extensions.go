package smtp

import (
	"strconv"
	"strings"
)

// Extensions is what a server offers in its reply to EHLO or LHLO.
type Extensions struct {
	Pipelining          bool     // RFC 2920
	Size                bool     // RFC 1870
	MaxSize             int64    // bytes; 0 when the server names no limit
	EightBitMIME        bool     // RFC 6152
	SMTPUTF8            bool     // RFC 6531
	DSN                 bool     // RFC 3461
	EnhancedStatusCodes bool     // RFC 2034
	Chunking            bool     // RFC 3030
	StartTLS            bool     // RFC 3207
	Auth                []string // mechanisms in upper case, RFC 4954
}

// ParseExtensions reads a positive reply to EHLO. The first line is the
// server's greeting and offers nothing; unknown keywords are ignored.
func ParseExtensions(r *Reply) Extensions {
	var e Extensions
	for i, line := range r.Lines {
		if i == 0 {
			continue
		}
		keyword, params := cutWord(strings.Trim(line, " \t"))
		switch strings.ToUpper(keyword) {
		case "PIPELINING":
			e.Pipelining = true
		case "SIZE":
			e.Size = true
			if n, err := strconv.ParseInt(params, 10, 64); err == nil && n > 0 {
				e.MaxSize = n
			}
		case "8BITMIME":
			e.EightBitMIME = true
		case "SMTPUTF8":
			e.SMTPUTF8 = true
		case "DSN":
			e.DSN = true
		case "ENHANCEDSTATUSCODES":
			e.EnhancedStatusCodes = true
		case "CHUNKING":
			e.Chunking = true
		case "STARTTLS":
			e.StartTLS = true
		case "AUTH":
			e.Auth = append(e.Auth, strings.Fields(strings.ToUpper(params))...)
		default:
			// Some old servers still write "AUTH=LOGIN".
			if len(keyword) > 5 && strings.EqualFold(keyword[:5], "AUTH=") {
				e.Auth = append(e.Auth, strings.Fields(strings.ToUpper(keyword[5:]+" "+params))...)
			}
		}
	}
	return e
}
