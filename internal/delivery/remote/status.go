package remote

import (
	"errors"
	"strings"

	"posthouse/internal/mail"
	"posthouse/internal/smtp"
	"posthouse/internal/smtp/client"
)

// maxReply is how much of a reply is kept, in bytes: Postfix's
// line_length_limit and one line more. It is kept for each recipient, in
// memory and in every record of an attempt, and the host decides what it says.
const maxReply = 4 << 10

// replyText is a reply as it is kept.
func replyText(r *smtp.Reply) string {
	text := r.String()
	if len(text) > maxReply {
		text = strings.Clone(text[:maxReply]) // or the rest would stay with it
	}
	return strings.ToValidUTF8(text, "?")
}

// replyStatus is what a host's refusal comes to. format gets the host's name
// and the reply. The class of the reply code decides; a host that answers
// something that is neither yes nor no is at fault for good.
func replyStatus(host string, r *smtp.Reply, format, name string) mail.Status {
	text := replyText(r)
	st := mail.NewStatus("5.5.0", format, name, text)
	st.RemoteMTA, st.DiagType, st.DiagText = host, "smtp", text
	switch r.Code / 100 {
	case 4, 5:
		st.Code = enhanced(r)
	case 2:
		st.Text = "Protocol error: " + st.Text
	}
	return st
}

// enhanced is the reply's enhanced code, or X.0.0.
func enhanced(r *smtp.Reply) mail.EnhancedCode {
	class := uint16(r.Code / 100)
	if r.Enhanced[0] == class {
		return r.Enhanced
	}
	return mail.EnhancedCode{class, 0, 0}
}

// sentStatus is what a host's acceptance comes to.
func sentStatus(host string, r *smtp.Reply) mail.Status {
	text := replyText(r)
	return mail.Status{Code: enhanced(r), Text: text, RemoteMTA: host, DiagType: "smtp", DiagText: text}
}

// commandWord names the command that a reply answered.
func commandWord(s client.Step) string {
	switch s {
	case client.StepMail:
		return "MAIL FROM command"
	case client.StepRcpt:
		return "RCPT TO command"
	case client.StepData:
		return "DATA command"
	default:
		return "end of DATA command"
	}
}

// activity says what was going on when a conversation broke.
func activity(s client.Step, lmtp, esmtp bool) string {
	switch s {
	case client.StepGreeting:
		return "receiving the initial server greeting"
	case client.StepHello:
		switch {
		case lmtp:
			return "performing the LHLO handshake"
		case esmtp:
			return "performing the EHLO handshake"
		default:
			return "performing the HELO handshake"
		}
	case client.StepStartTLS:
		return "sending the STARTTLS command"
	case client.StepMail:
		return "sending MAIL FROM"
	case client.StepRcpt:
		return "sending RCPT TO"
	case client.StepData:
		return "sending DATA command"
	case client.StepBody:
		return "sending message body"
	case client.StepDot:
		return "sending end of data -- message may be sent more than once"
	case client.StepReset:
		return "sending final RSET"
	default:
		return "sending QUIT"
	}
}

// brokenStatus is what a broken conversation comes to: always one to retry.
func (a *Agent) brokenStatus(name string, err error, lmtp, esmtp bool) mail.Status {
	var e *client.Error
	if !errors.As(err, &e) {
		return mail.NewStatus("4.3.0", "local data error while talking to %s", name)
	}
	doing := activity(e.Step, lmtp, esmtp)
	switch e.Kind {
	case client.TimedOut:
		return mail.NewStatus("4.4.2", "conversation with %s timed out while %s", name, doing)
	case client.OutOfStep:
		return mail.NewStatus("4.5.0", "protocol error: %s while %s with %s", strings.ToValidUTF8(e.Err.Error(), "?"), doing, name)
	case client.Canceled:
		return canceledStatus()
	case client.BadContent:
		return mail.NewStatus("4.3.0", "local data error while talking to %s", name)
	case client.Refused:
		return replyStatus(name, e.Reply, "host %s said: %s (in reply to "+doing+")", name)
	default:
		return mail.NewStatus("4.4.2", "lost connection with %s while %s", name, doing)
	}
}

// canceledStatus is what an operator's cancelation, or the end of the server,
// comes to.
func canceledStatus() mail.Status { return mail.NewStatus("4.3.2", "delivery canceled") }
