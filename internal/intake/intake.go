package intake

import (
	"context"
	"errors"
	"net/netip"
	"sync/atomic"
	"time"

	"posthouse/internal/mail"
	"posthouse/internal/postfix/maillog"
	"posthouse/internal/smtp"
	"posthouse/internal/smtp/server"
	"posthouse/internal/spool"
)

// Errors that say that a submission itself is at fault.
var (
	ErrNoRecipients = errors.New("no recipients specified")
	ErrTooBig       = errors.New("message file too big")
	ErrTooManyHops  = errors.New("too many hops")
	ErrAddress      = errors.New("bad address syntax")
)

// Config is what intake is told. The zero value of a limit means none.
type Config struct {
	Hostname string      // our name in Received fields and message identifiers; required
	MailName string      // name of the software there; "" means "Postfix", which log and header readers expect
	Origin   string      // domain of addresses that have none; "" means Hostname
	IDs      mail.IDForm // how queue IDs are shown

	MaxMessageSize       int64 // bytes of content as received; Postfix's default is 10240000
	MaxRecipients        int   // recipients of one SMTP transaction; Postfix's default is 1000
	HopLimit             int   // Received fields, ours included, at which mail must be looping; 0 means 50
	DuplicateFilterLimit int   // addresses remembered to drop duplicates; 0 means 1000
	MinFree              int64 // bytes that must be free on the spool's disk, beside 1.5 × MaxMessageSize

	// LocalClients are the SMTP clients whose messages get missing fields
	// added as local mail does: our own addresses
	// (local_header_rewrite_clients = permit_inet_interfaces).
	LocalClients []netip.Prefix
	// AlwaysAddMissingHeaders adds missing fields to everyone's messages.
	AlwaysAddMissingHeaders bool
	// ReceivedTLS and ReceivedAuth put the TLS version and the authenticated
	// user into the Received field (default: not told).
	ReceivedTLS, ReceivedAuth bool

	UID int // the user the daemon runs as, named when a message is put back
}

// defaults fills in what was left empty.
func (c Config) defaults() Config {
	if c.MailName == "" {
		c.MailName = "Postfix"
	}
	if c.Origin == "" {
		c.Origin = c.Hostname
	}
	if c.HopLimit <= 0 {
		c.HopLimit = 50
	}
	if c.DuplicateFilterLimit <= 0 {
		c.DuplicateFilterLimit = 1000
	}
	return c
}

// Store is what intake needs of the spool; spool.Store has it all.
type Store interface {
	Stage(size int64) (spool.Staged, error)
	Commit(ctx context.Context, env *mail.Envelope, content spool.Staged) error
	Apply(ctx context.Context, b *spool.Batch) error
	Space() (spool.Space, error)
}

// Queue takes messages that were just committed.
type Queue interface {
	// Enqueue is given the message to keep. It must not block for long.
	Enqueue(m *mail.Message)
}

// Checker decides about recipients that clients offer.
type Checker interface {
	// Rcpt returns nil to accept, or the reply that refuses. to is the
	// recipient with its domain, asGiven what the client wrote.
	Rcpt(ctx context.Context, peer *server.Peer, sender, to, asGiven mail.Address) *smtp.Reply
}

// Deps are the parts that intake works with. All are required.
type Deps struct {
	Store  Store
	IDs    *mail.IDSource
	Queue  Queue
	Log    maillog.Logger
	Now    func() time.Time // time.Now outside tests; its zone is the one shown in fields
	Access Checker
}

// Intake accepts messages. Its methods are safe for concurrent use.
type Intake struct {
	deps  Deps
	cfg   atomic.Pointer[Config]
	space spaceGauge
}

var _ server.Acceptor = (*Intake)(nil)

// New returns an Intake.
func New(cfg Config, deps Deps) *Intake {
	in := &Intake{deps: deps}
	in.Reconfigure(cfg)
	return in
}

// Reconfigure replaces the configuration. Transactions that have begun
// finish under the one they began with.
func (in *Intake) Reconfigure(cfg Config) {
	cfg = cfg.defaults()
	in.cfg.Store(&cfg)
}

// qualify appends our domain to an address without one
// (append_at_myorigin). The null sender stays what it is.
func (c *Config) qualify(a mail.Address) mail.Address {
	if a == mail.NullSender || a.Domain() != "" {
		return a
	}
	return a + mail.Address("@"+c.Origin)
}

// isLocal tells whether a client's messages are treated as local mail.
func (c *Config) isLocal(addr string) bool {
	if len(c.LocalClients) == 0 {
		return false
	}
	ip, err := netip.ParseAddr(addr)
	if err != nil {
		return false
	}
	ip = ip.Unmap().WithZone("")
	for _, p := range c.LocalClients {
		if p.Contains(ip) {
			return true
		}
	}
	return false
}

// refusal maps an error of the spool to what the peer is told. Out of space
// and out of order are both for later: the peer keeps the message.
func refusal(err error) *smtp.Reply {
	if errors.Is(err, spool.ErrNoSpace) {
		return noSpace()
	}
	return smtp.NewReply(451, "4.3.0", "Error: queue file write error")
}

func noSpace() *smtp.Reply {
	return smtp.NewReply(452, "4.3.1", "Insufficient system storage")
}

func tooBig() *smtp.Reply {
	return smtp.NewReply(552, "5.3.4", "Error: message file too big")
}
