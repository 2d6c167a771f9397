// Package fixed has the transports whose outcome stands in the next hop: error
// bounces, retry defers, discard says that all is well and forgets the
// message.
//
// For error and retry the next hop is "X.Y.Z text" or just "text": the status
// and the reason. A code of the wrong class is ignored, with a warning, for
// 5.0.0 and 4.0.0, since the transport decides the class. For discard the next
// hop is the text of the log line.
//
// No agent here opens the content, reaches out to anything, or fails.
package fixed

import (
	"context"
	"strings"
	"time"

	"posthouse/internal/mail"
	"posthouse/internal/postfix/maillog"
	"posthouse/internal/queue"
)

// Agent carries out one of the transports. It implements queue.Agent and is
// safe for concurrent use.
type Agent struct {
	log     maillog.Logger
	now     func() time.Time
	service string // in log lines
	class   uint16 // 2, 4 or 5
}

var _ queue.Agent = (*Agent)(nil)

// NewError returns the agent of the error transport. now is the clock.
func NewError(log maillog.Logger, now func() time.Time) *Agent {
	return &Agent{log: log, now: now, service: "error", class: 5}
}

// NewRetry returns the agent of the retry transport; like Postfix's it logs as
// "error".
func NewRetry(log maillog.Logger, now func() time.Time) *Agent {
	return &Agent{log: log, now: now, service: "error", class: 4}
}

// NewDiscard returns the agent of the discard transport.
func NewDiscard(log maillog.Logger, now func() time.Time) *Agent {
	return &Agent{log: log, now: now, service: "discard", class: 2}
}

// Deliver implements queue.Agent. A delivery that was canceled before it began
// is deferred: nothing is discarded that an operator wanted back.
func (a *Agent) Deliver(_ context.Context, d *queue.Delivery) []queue.Result {
	begun := a.now()
	st := a.status(d.Destination.NextHop)
	if a.class == 2 && !d.Commit() {
		st = mail.NewStatus("4.3.2", "delivery canceled")
	}
	results := make([]queue.Result, len(d.Recipients))
	for i, index := range d.Recipients {
		results[i].Status = st
		r := &d.Envelope.Recipients[index]
		if st.OK() && r.Notify.WantsSuccess() {
			results[i].Action = "delivered"
		}
		now := a.now()
		a.log.Log(a.service, maillog.Info, &maillog.Delivery{
			ID: d.Envelope.ID, To: r.Address, OrigTo: r.OrigAddress, Relay: "none",
			Delay: now.Sub(d.Envelope.Arrival),
			Delays: maillog.Delays{
				BeforeQueue: d.Due.Sub(d.Envelope.Arrival), InQueue: d.Started.Sub(d.Due),
				Setup: begun.Sub(d.Started), Transfer: now.Sub(begun),
			},
			DSN: st.Code, Status: word(st), Text: st.Text,
		})
	}
	return results
}

func word(st mail.Status) string {
	switch {
	case st.OK():
		return "sent"
	case st.Temporary():
		return "deferred"
	default:
		return "bounced"
	}
}

// status reads the outcome from the next hop.
func (a *Agent) status(nextHop string) mail.Status {
	st := mail.Status{Code: mail.EnhancedCode{a.class, 0, 0}, Text: nextHop}
	if a.class == 2 {
		return st
	}
	code, n := mail.ParseEnhancedCode(nextHop)
	if n == 0 {
		return st
	}
	st.Text = strings.TrimLeft(nextHop[n:], " ")
	if code[0] == a.class {
		st.Code = code
		return st
	}
	who := "bounce_append"
	if a.class == 4 {
		who = "defer_append"
	}
	a.log.Log(a.service, maillog.Warning, maillog.Text(who+`: ignoring dsn code "`+code.String()+`"`))
	return st
}
