package smtp

import (
	"bytes"
	"strconv"
	"strings"

	"posthouse/internal/mail"
)

// Reply is one SMTP reply. The zero Enhanced is not written (RFC 2034 forbids
// it on greetings, EHLO and 354).
type Reply struct {
	Code     int // 200 to 599
	Enhanced mail.EnhancedCode
	Lines    []string // text of each line, without codes; at least one
	Close    bool     // the server hangs up after sending it

	Quoted string // a received reply as it came, on one line; see ReadReply
}

// NewReply returns a one-line reply. enhanced is "X.Y.Z" or "".
func NewReply(code int, enhanced, text string) *Reply {
	e, _ := mail.ParseEnhancedCode(enhanced)
	return &Reply{Code: code, Enhanced: e, Lines: []string{text}}
}

// Append writes the reply in wire form, CRLF line ends, every line with its codes.
func (r *Reply) Append(b []byte) []byte {
	for i, line := range r.Lines {
		b = strconv.AppendInt(b, int64(r.Code), 10)
		if i < len(r.Lines)-1 {
			b = append(b, '-')
		} else {
			b = append(b, ' ')
		}
		if r.Enhanced != (mail.EnhancedCode{}) {
			b = append(r.Enhanced.Append(b), ' ')
		}
		b = append(b, line...)
		b = append(b, '\r', '\n')
	}
	return b
}

// String is the reply on one line, as logs quote it: "450 4.3.0 try later".
// Of several lines each keeps its codes: "550-5.1.1 no such 550 5.1.1 user".
func (r *Reply) String() string {
	if r.Quoted != "" {
		return r.Quoted
	}
	b := r.Append(nil)
	return strings.ReplaceAll(string(bytes.TrimSuffix(b, []byte("\r\n"))), "\r\n", " ")
}

// MailArgs is a parsed MAIL FROM command.
type MailArgs struct {
	From       mail.Address
	Size       int64 // SIZE=, 0 when not given
	Body8Bit   bool  // BODY=8BITMIME
	SMTPUTF8   bool
	Ret        mail.Ret
	EnvelopeID string // ENVID=, decoded
	Auth       string // AUTH=, decoded; "<>" and "" both mean none
}

// RcptArgs is a parsed RCPT TO command.
type RcptArgs struct {
	To          mail.Address
	Notify      mail.Notify
	DSNOriginal string // ORCPT=, decoded: "rfc822;addr"
}
