package remote

import (
	"context"
	"crypto/tls"
	"sync/atomic"

	"posthouse/internal/mail"
	"posthouse/internal/postfix/maillog"
	"posthouse/internal/queue"
	"posthouse/internal/smtp/client"
)

// Agent delivers to other hosts over SMTP or LMTP. It implements queue.Agent.
type Agent struct {
	env         Env
	cfg         atomic.Pointer[Config]
	pool        *pool
	buffers     client.Buffers
	tlsSessions tls.ClientSessionCache
}

var _ queue.Agent = (*Agent)(nil)

// tlsSessionCount is how many servers' TLS sessions are remembered.
const tlsSessionCount = 1000

// New returns an Agent for one transport. Close ends it.
func New(cfg Config, env Env) *Agent {
	a := &Agent{env: env.withDefaults(), pool: newPool(), tlsSessions: tls.NewLRUClientSessionCache(tlsSessionCount)}
	a.store(cfg)
	return a
}

func (a *Agent) store(cfg Config) {
	cfg.Timeouts = cfg.Timeouts.WithDefaults()
	a.cfg.Store(&cfg)
}

// Reconfigure changes the settings for deliveries that begin from now on.
// Idle connections, made with the old ones, are ended.
func (a *Agent) Reconfigure(cfg Config) {
	a.store(cfg)
	a.pool.empty(false)
}

// Close says goodbye on all idle connections. Deliveries under way go on, and
// end theirs when they are done.
func (a *Agent) Close() { a.pool.empty(true) }

// Deliver implements queue.Agent.
func (a *Agent) Deliver(ctx context.Context, d *queue.Delivery) []queue.Result {
	t := &attempt{
		a: a, cfg: a.cfg.Load(), ctx: ctx, d: d,
		results: make([]queue.Result, len(d.Recipients)), left: make([]int, len(d.Recipients)),
	}
	for i := range t.left {
		t.left[i] = i
	}
	defer t.closeContent()
	t.run()
	return t.results
}

func (a *Agent) logText(cfg *Config, sev maillog.Severity, text string) {
	a.env.Log.Log(cfg.Service, sev, maillog.Text(text))
}

func (a *Agent) logQueued(cfg *Config, id mail.QueueID, what, text string) {
	a.env.Log.Log(cfg.Service, maillog.Info, &maillog.Queued{ID: id, What: what, Text: text})
}
