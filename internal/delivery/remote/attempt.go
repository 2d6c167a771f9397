package remote

import (
	"context"
	"errors"
	"strings"
	"time"

	"posthouse/internal/mail"
	"posthouse/internal/postfix/maillog"
	"posthouse/internal/queue"
	"posthouse/internal/smtp/client"
	"posthouse/internal/spool"
)

// attempt is one delivery on its way through hosts. It belongs to the
// goroutine of its Deliver call.
type attempt struct {
	a   *Agent
	cfg *Config
	ctx context.Context
	d   *queue.Delivery

	results []queue.Result
	left    []int         // positions in d.Recipients that are not decided yet
	content spool.Content // opened when first needed

	why   mail.Status // why the last host did not do; zero: none was tried
	relay string      // that host, "none" when it could not be reached
	ready time.Time   // when the last conversation was ready for mail; zero: never
	loops bool        // we are a mail exchanger of the next hop: no fallback
	spoke bool        // some host gave its word on a recipient: the destination is up
}

func (t *attempt) closeContent() {
	if t.content != nil {
		_ = t.content.Close()
	}
}

// run tries one next hop after the other until every recipient is decided.
func (t *attempt) run() {
	sites := splitSites(t.d.Destination.NextHop)
	own := len(sites)
	sites = append(sites, t.cfg.Fallback...)
	for i, site := range sites {
		if len(t.left) == 0 || t.stopped() || i >= own && t.loops {
			break
		}
		t.site(site, i == len(sites)-1)
	}
	if len(t.left) > 0 {
		t.giveUp(len(sites) > own && !t.loops)
	}
}

// stopped tells whether the delivery was canceled or the server is ending.
func (t *attempt) stopped() bool { return t.ctx.Err() != nil || t.d.Canceled() }

// site tries the hosts of one next hop. last: there is no other.
func (t *attempt) site(site string, last bool) {
	tgt, err := parseTarget(site, t.cfg)
	if err != nil {
		t.a.logText(t.cfg, maillog.Warning, err.Error())
		t.failed("none", mail.NewStatus("4.3.5", "%v", err))
		return
	}
	// A next hop that is an address is its own only host: asked by its
	// address below, its word is final, where a word from here is not.
	if !tgt.ip.IsValid() || t.cfg.TLS.Level >= TLSVerify {
		if s := t.usable(t.a.pool.takeSite(site)); s != nil {
			t.converse(s, false)
			if len(t.left) == 0 || t.stopped() {
				return
			}
		}
	}
	f := finder{t.cfg, &t.a.env}
	hosts := f.find(t.ctx, tgt)
	t.loops = t.loops || hosts.self
	if hosts.status != nil {
		t.failed("none", *hosts.status)
		return
	}
	o := opener{a: t.a, cfg: t.cfg, target: tgt}
	sessions := 0
	for i := 0; i < len(hosts.list); i++ {
		if len(t.left) == 0 || t.stopped() {
			return
		}
		final := last && i == len(hosts.list)-1
		s := t.session(&o, hosts.list[i], final)
		if s == nil {
			continue
		}
		sessions++ // those that failed in the handshake do not count
		limit := t.cfg.SessionLimit > 0 && sessions >= t.cfg.SessionLimit
		if !t.converse(s, final || last && limit) {
			i--
			sessions--
			continue
		}
		if limit {
			return
		}
	}
}

// failed notes why a host did not do.
func (t *attempt) failed(relay string, why mail.Status) { t.relay, t.why = relay, why }

// usable gives back a kept conversation unless it was made with other settings,
// which may have asked for less.
func (t *attempt) usable(s *session) *session {
	if s != nil && s.cfg != t.cfg {
		s.conn.Quit()
		return nil
	}
	return s
}

// session returns a conversation with a host, a kept one or a new one; nil
// after noting why there is none.
func (t *attempt) session(o *opener, c candidate, final bool) *session {
	if t.cfg.TLS.Level < TLSVerify { // else whom it was verified for matters, not the address
		if s := t.usable(t.a.pool.takeAddr(c.key())); s != nil {
			s.site, s.host = o.target.site, c
			return s
		}
	}
	s, trouble := o.open(t.ctx, c, true)
	if trouble != nil && trouble.inClear && !t.stopped() {
		t.a.logQueued(t.cfg, t.d.Envelope.ID, "skipped", trouble.status.Text)
		s, trouble = o.open(t.ctx, c, false)
	}
	if trouble == nil {
		return s
	}
	t.ready = t.a.env.Now()
	relay := "none"
	if trouble.connected {
		relay = c.relay()
	}
	t.failed(relay, trouble.status)
	switch {
	case t.stopped():
	case !trouble.connected:
		t.a.logText(t.cfg, maillog.Info, trouble.status.Text)
	case trouble.status.Permanent():
		t.finishAll(trouble.status, relay, 0, false)
	case !final:
		t.a.logQueued(t.cfg, t.d.Envelope.ID, "skipped", trouble.status.Text)
	}
	return nil
}

// converse offers the message to a host for all recipients that are left, and
// keeps or ends the conversation. final: no other host will be tried. It
// returns false when a kept conversation turned out to be dead, so that the
// host has yet to be asked; each time that happens one less is kept.
func (t *attempt) converse(s *session, final bool) bool {
	reused := s.conn.Uses() > 0
	t.ready = t.a.env.Now()
	if st := t.unfit(s); st != nil {
		t.failed(s.host.relay(), *st)
		t.settle(s, *st, final, false)
		t.release(s)
		return true
	}
	if err := t.openContent(); err != nil {
		t.finishAll(mail.NewStatus("4.3.0", "cannot read message content: %v", err), s.host.relay(), s.conn.Uses()+1, false)
		t.release(s)
		return true
	}
	tx, res := t.transaction(s)
	err := s.conn.Send(t.ctx, tx, res)
	if reused && stale(err, res) && !t.stopped() {
		s.conn.Close()
		return false
	}
	t.outcome(s, res, final)
	if err != nil && len(t.left) > 0 && (!t.stopped() || sentAll(err)) {
		final = final || t.stopped()
		st := t.a.brokenStatus(s.host.name(), err, t.cfg.LMTP, s.conn.ESMTP())
		t.failed(s.host.relay(), st)
		t.settle(s, st, final, ofDestination(err))
	}
	t.release(s)
	return true
}

// ofDestination tells whether a broken conversation speaks of the other side.
func ofDestination(err error) bool {
	var e *client.Error
	return errors.As(err, &e) && (e.Kind == client.Lost || e.Kind == client.TimedOut || e.Kind == client.OutOfStep)
}

// sentAll tells whether a conversation broke when everything had been said, so
// that the mail may have arrived.
func sentAll(err error) bool {
	var e *client.Error
	return errors.As(err, &e) && e.Step == client.StepDot
}

// stale tells whether a kept connection was found dead: nothing was answered,
// so nothing was accepted, and a fresh connection may say everything anew.
func stale(err error, res []client.Result) bool {
	var e *client.Error
	if !errors.As(err, &e) || e.Step != client.StepMail && e.Step != client.StepReset || e.Kind != client.Lost && e.Kind != client.Refused {
		return false
	}
	for i := range res {
		if res[i].Decided() {
			return false
		}
	}
	return true
}

// unfit tells why a host cannot take this message, whatever it would say.
func (t *attempt) unfit(s *session) *mail.Status {
	ext, env := s.conn.Extensions(), t.d.Envelope
	switch {
	case ext.Size && ext.MaxSize > 0 && env.Size > ext.MaxSize:
		st := mail.NewStatus("5.3.4", "message size %d exceeds size limit %d of server %s", env.Size, ext.MaxSize, s.host.name())
		return &st
	case env.SMTPUTF8 && !ext.SMTPUTF8:
		st := mail.NewStatus("5.6.7", "SMTPUTF8 is required, but was not offered by host %s", s.host.name())
		return &st
	}
	return nil
}

func (t *attempt) openContent() error {
	if t.content != nil {
		return nil
	}
	c, err := t.d.Open()
	if err == nil {
		t.content = c
	}
	return err
}

// transaction is the message for the recipients that are left.
func (t *attempt) transaction(s *session) (*client.Transaction, []client.Result) {
	env := t.d.Envelope
	dsn := s.conn.Extensions().DSN
	tx := &client.Transaction{
		From: env.Sender, Size: env.Size, Body8Bit: env.Body8Bit, SMTPUTF8: env.SMTPUTF8, Ret: env.Ret, EnvelopeID: env.EnvelopeID,
		Rcpts: make([]client.Rcpt, len(t.left)), Content: t.content, Commit: t.d.Commit,
	}
	for i, pos := range t.left {
		r := t.rcpt(pos)
		tx.Rcpts[i] = client.Rcpt{To: r.Address, Notify: r.Notify}
		if dsn {
			tx.Rcpts[i].DSNOriginal = original(r)
		}
	}
	return tx, make([]client.Result, len(t.left))
}

func (t *attempt) rcpt(pos int) *mail.Recipient {
	return &t.d.Envelope.Recipients[t.d.Recipients[pos]]
}

// original is what a recipient was in the beginning, so that a notice from
// further on means something to the sender (RFC 3461 §5.2.1).
func original(r *mail.Recipient) string {
	addr := r.OrigAddress
	if addr == "" {
		addr = r.Address
	}
	for i := range len(addr) {
		if addr[i] >= 0x80 {
			return r.DSNOriginal
		}
	}
	if r.DSNOriginal != "" {
		return r.DSNOriginal
	}
	return "rfc822;" + string(addr)
}

// outcome takes in what the host decided. What it put off stays left unless
// this was the final host.
func (t *attempt) outcome(s *session, res []client.Result, final bool) {
	left := t.left[:0]
	told := client.StepGreeting // the step whose refusal of all recipients has been logged
	for i, pos := range t.left {
		r := &res[i]
		t.spoke = t.spoke || r.Decided()
		switch {
		case !r.Decided():
			left = append(left, pos)
		case r.Delivered():
			t.finish(pos, sentStatus(s.host.host, r.Reply), s.host.relay(), s.conn.Uses(), false)
			t.results[pos].Action = t.action(s, pos)
		default:
			st := replyStatus(s.host.host, r.Reply, "host %s said: %s (in reply to "+commandWord(r.Step)+")", s.host.name())
			if st.Permanent() || final {
				t.finish(pos, st, s.host.relay(), s.conn.Uses(), false)
				break
			}
			t.failed(s.host.relay(), st)
			left = append(left, pos)
			if r.Step == client.StepRcpt || r.Step != told {
				t.a.logQueued(t.cfg, t.d.Envelope.ID, "skipped", st.Text)
			}
			told = r.Step
		}
	}
	t.left = left
}

// action is who is to tell a sender that asked to be told of success: the next
// host when it knows how (RFC 3461 §5.2.2), else we. An LMTP server is where
// the mail's way ends.
func (t *attempt) action(s *session, pos int) string {
	switch {
	case !t.rcpt(pos).Notify.WantsSuccess(), s.conn.Extensions().DSN:
		return ""
	case t.cfg.LMTP:
		return "delivered"
	default:
		return "relayed"
	}
}

// settle applies a failure that concerns every recipient left.
func (t *attempt) settle(s *session, st mail.Status, final, down bool) {
	if st.Permanent() || final {
		t.finishAll(st, s.host.relay(), s.conn.Uses(), down && st.Temporary() && !t.spoke)
		return
	}
	t.a.logQueued(t.cfg, t.d.Envelope.ID, "skipped", st.Text)
}

// giveUp ends what no host decided.
func (t *attempt) giveUp(fallback bool) {
	st := t.why
	switch {
	case t.stopped():
		t.finishAll(canceledStatus(), t.relayOrNone(), 0, false)
		return
	case st.Code == (mail.EnhancedCode{}):
		st = mail.NewStatus("4.3.0", "server unavailable or unable to receive mail")
	case st.Permanent() && fallback:
		t.a.logText(t.cfg, maillog.Warning, t.protocol()+"_fallback_relay configuration problem")
		st.Code = mail.EnhancedCode{4, 3, 5}
	case st.Permanent() && t.cfg.Relayhost != "" && strings.EqualFold(t.d.Destination.NextHop, t.cfg.Relayhost):
		t.a.logText(t.cfg, maillog.Warning, "relayhost configuration problem")
		st.Code = mail.EnhancedCode{4, 3, 5}
	}
	t.finishAll(st, t.relayOrNone(), 0, st.Temporary() && !t.spoke)
}

// protocol is the prefix of our parameters.
func (t *attempt) protocol() string {
	if t.cfg.LMTP {
		return "lmtp"
	}
	return "smtp"
}

func (t *attempt) relayOrNone() string {
	if t.relay == "" {
		return "none"
	}
	return t.relay
}

// finishAll gives every recipient that is left the same end.
func (t *attempt) finishAll(st mail.Status, relay string, uses int, down bool) {
	for _, pos := range t.left {
		t.finish(pos, st, relay, uses, down)
	}
	t.left = t.left[:0]
}

// finish records and logs the end for one recipient.
func (t *attempt) finish(pos int, st mail.Status, relay string, uses int, down bool) {
	r := t.rcpt(pos)
	status := "sent"
	switch {
	case st.Temporary():
		status = "deferred"
	case st.Permanent():
		status = "bounced"
	}
	t.results[pos] = queue.Result{Status: st, DestinationDown: down}
	t.log(r, &t.results[pos].Status, status, relay, uses)
}

func (t *attempt) log(r *mail.Recipient, st *mail.Status, word, relay string, uses int) {
	d, now := t.d, t.a.env.Now()
	ready := t.ready
	if ready.IsZero() {
		ready = now
	}
	t.a.env.Log.Log(t.cfg.Service, maillog.Info, &maillog.Delivery{
		ID: d.Envelope.ID, To: r.Address, OrigTo: r.OrigAddress, Relay: relay, ConnUse: uses,
		Delay: now.Sub(d.Envelope.Arrival),
		Delays: maillog.Delays{
			BeforeQueue: d.Due.Sub(d.Envelope.Arrival), InQueue: d.Started.Sub(d.Due),
			Setup: ready.Sub(d.Started), Transfer: now.Sub(ready),
		},
		DSN: st.Code, Status: word, Text: st.Text,
	})
}

// release keeps a conversation for the next message, or ends it.
func (t *attempt) release(s *session) {
	now := t.a.env.Now()
	more := t.a.pool.finished(s.site, now) || t.d.Backlog > 0
	cfg := t.cfg
	keep := more && cfg.CacheOnDemand && s.conn.Reusable() &&
		now.Sub(s.opened) < cfg.CacheTotal && (cfg.CacheUses <= 0 || s.conn.Uses() < cfg.CacheUses)
	if !keep || !t.a.pool.put(s, cfg.CacheIdle, cfg.CacheSize) {
		s.conn.Quit()
	}
}
