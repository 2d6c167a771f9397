package sink

import (
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// The texts of replies that have none of their own.
const (
	softReply = "450 4.3.0 Error: command failed"
	hardReply = "550 5.3.0 Error: command failed"
	byeReply  = "421 4.3.0 Service not available, closing connection"
	greyReply = "450 4.2.0 Greylisted, try again later"
	fullReply = "421 4.7.0 Too many connections, try again later"
	rateReply = "421 4.7.0 Too many messages, try again later"
)

// tally is what is counted, once for the server and once per personality.
type tally struct {
	connections  atomic.Int64
	open         atomic.Int64
	transactions atomic.Int64
	messages     atomic.Int64
	recipients   atomic.Int64
	bytes        atomic.Int64
	refused      atomic.Int64
}

// Counts is what happened since the start.
type Counts struct {
	Connections  int64 // taken, those turned away at once included
	Open         int64 // at this moment
	Transactions int64 // MAIL commands accepted
	Messages     int64 // taken with 250
	Recipients   int64 // of those messages
	Bytes        int64 // of content of those messages, dots unstuffed only when a ledger looks
	Refused      int64 // commands answered 4xx or 5xx, connections dropped or left hanging
}

func (t *tally) counts() Counts {
	return Counts{
		Connections: t.connections.Load(), Open: t.open.Load(), Transactions: t.transactions.Load(),
		Messages: t.messages.Load(), Recipients: t.recipients.Load(), Bytes: t.bytes.Load(), Refused: t.refused.Load(),
	}
}

func (c Counts) plus(d Counts) Counts {
	c.Connections += d.Connections
	c.Open += d.Open
	c.Transactions += d.Transactions
	c.Messages += d.Messages
	c.Recipients += d.Recipients
	c.Bytes += d.Bytes
	c.Refused += d.Refused
	return c
}

// persona is a Personality at work: with its counters and its memory.
type persona struct {
	Personality
	tally
	now func() time.Time

	mu          sync.Mutex
	windowStart time.Time            // of the running rate window
	inWindow    int                  // messages let in during it
	firstSeen   map[string]time.Time // of a greylisted triple
}

func newPersona(p Personality, now func() time.Time) *persona {
	if p.Interval <= 0 {
		p.Interval = time.Second
	}
	for s := range p.Steps {
		a := &p.Steps[s]
		if a.Reply != "" {
			continue
		}
		switch a.Kind {
		case Refuse:
			a.Reply = softReply
		case HangUp:
			a.Reply = byeReply
		}
	}
	return &persona{Personality: p, now: now, firstSeen: map[string]time.Time{}}
}

// overRate tells whether one more message now is one too many. The window is
// fixed, not sliding: good enough to provoke a client, and two words of state.
func (p *persona) overRate() bool {
	if p.MaxMessages == 0 {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if now := p.now(); now.Sub(p.windowStart) >= p.Interval {
		p.windowStart, p.inWindow = now, 0
	}
	p.inWindow++
	return p.inWindow > p.MaxMessages
}

// grey tells whether the triple must still wait.
func (p *persona) grey(client, sender, rcpt string) bool {
	key := client + "\x00" + sender + "\x00" + strings.ToLower(rcpt)
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	first, seen := p.firstSeen[key]
	if !seen {
		p.firstSeen[key] = now
		return true
	}
	return now.Sub(first) < p.Greylist
}

// early is the action a domain's personality takes at RCPT: its own for that
// stage, or else the first one it wanted to take before the domain was known.
func (p *persona) early() *Action {
	if a := &p.Steps[Rcpt]; a.Kind != Accept {
		return a
	}
	for _, s := range [...]Stage{Connect, Helo, Mail} {
		if a := &p.Steps[s]; a.Kind != Accept {
			return a
		}
	}
	return &p.Steps[Rcpt]
}
