package client

import (
	"fmt"

	"posthouse/internal/smtp"
)

// Step is a part of the conversation: what was being sent or waited for.
type Step uint8

// The steps, in the order they happen.
const (
	StepGreeting Step = iota // the server's greeting
	StepHello                // EHLO, HELO or LHLO
	StepStartTLS             // STARTTLS command and handshake
	StepMail
	StepRcpt
	StepData // the DATA command
	StepBody // the content, up to the final dot
	StepDot  // the final dot and its replies
	StepReset
	StepQuit
)

// String names the step.
func (s Step) String() string {
	return [...]string{"greeting", "hello", "STARTTLS", "MAIL FROM", "RCPT TO", "DATA", "message body", "end of data", "RSET", "QUIT"}[s]
}

// Kind says how a conversation failed.
type Kind uint8

// The kinds of failure.
const (
	Lost       Kind = iota // the connection broke
	TimedOut               // no progress for the step's timeout
	OutOfStep              // what came is no reply, or an endless one (smtp.ErrReply)
	Refused                // the server does not want to talk to us: Reply says why
	Canceled               // Commit said no, or the context ended
	BadContent             // our own content could not be read
)

// Error is a conversation that failed; it wraps what the network, the context
// or the content reader said.
type Error struct {
	Step  Step
	Kind  Kind
	Reply *smtp.Reply // Refused: what the server said; else nil
	Err   error       // the cause; nil for Refused
}

// Error describes the failure for a log.
func (e *Error) Error() string {
	switch e.Kind {
	case Refused:
		return fmt.Sprintf("%v refused: %s", e.Step, e.Reply.String())
	default:
		return fmt.Sprintf("%v: %v", e.Step, e.Err)
	}
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }
