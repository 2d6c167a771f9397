package pickup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"posthouse/internal/intake"
	"posthouse/internal/mail"
	"posthouse/internal/postfix/maillog"
	"posthouse/internal/postfix/queuefile"
)

// Submitter takes messages; *intake.Intake is one.
type Submitter interface {
	// Submit returns once the message is durable. An error for which
	// intake.AtFault is true will be the same for ever.
	Submit(ctx context.Context, s *intake.Submission, content io.Reader) (mail.QueueID, error)
}

// Config is how a Pickup behaves.
type Config struct {
	Interval    time.Duration // between scans without a trigger; 0 means 60 s
	KeepDeleted time.Duration // how long deleted messages rest in "saved"; 0 means 24 h
	Parallel    int           // messages submitted at once, so that they share syncs; 0 means 16
}

// Pickup moves messages from a maildrop to a Submitter.
type Pickup struct {
	drop *Maildrop
	to   Submitter
	log  maillog.Logger
	cfg  Config
	wake chan struct{} // of capacity 1: a trigger during a scan is remembered

	remove func(path string) error // os.Remove
	mu     sync.Mutex
	stuck  map[string]fs.FileInfo // files that were submitted and could not be got rid of
}

// service is the name in log lines.
const service = "pickup"

// New returns a Pickup. Run sets it to work.
func New(drop *Maildrop, to Submitter, log maillog.Logger, cfg Config) *Pickup {
	if cfg.Interval == 0 {
		cfg.Interval = time.Minute
	}
	if cfg.KeepDeleted == 0 {
		cfg.KeepDeleted = 24 * time.Hour
	}
	if cfg.Parallel == 0 {
		cfg.Parallel = 16
	}
	return &Pickup{drop: drop, to: to, log: log, cfg: cfg, wake: make(chan struct{}, 1), remove: os.Remove, stuck: make(map[string]fs.FileInfo)}
}

// Poke asks for a scan now. It never waits.
func (p *Pickup) Poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Run scans at once, then whenever it is poked and every Interval, until ctx
// ends; submissions under way are finished first.
func (p *Pickup) Run(ctx context.Context) {
	tick := time.NewTicker(p.cfg.Interval)
	defer tick.Stop()
	for {
		for p.scan(ctx) > 0 && ctx.Err() == nil {
			// More may have come while these were taken.
		}
		if err := p.drop.purge(time.Now().Add(-p.cfg.KeepDeleted)); err != nil {
			p.warn("purge deleted messages: %v", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-p.wake:
		}
	}
}

// scan offers every complete message once and returns how many left the maildrop.
func (p *Pickup) scan(ctx context.Context) int {
	names, err := p.drop.names()
	if err != nil {
		p.warn("scan maildrop: %v", err)
		return 0
	}
	var taken atomic.Int64
	// One message that intake cannot take now speaks for the others (no
	// space, a failed spool): they wait for the next scan.
	var blocked atomic.Bool
	work := make(chan string)
	var wg sync.WaitGroup
	for range min(p.cfg.Parallel, len(names)) {
		wg.Go(func() {
			for name := range work {
				gone, err := p.take(ctx, name)
				if gone {
					taken.Add(1)
				}
				if err != nil {
					blocked.Store(true)
				}
			}
		})
	}
	for _, name := range names {
		if ctx.Err() != nil || blocked.Load() {
			break
		}
		work <- name
	}
	close(work)
	wg.Wait()
	if taken.Load() > 0 {
		if err := syncDir(p.drop.dir); err != nil {
			p.warn("sync maildrop: %v", err)
		}
	}
	return int(taken.Load())
}

// take handles one file and tells whether it left the maildrop. An error means
// that nothing can be taken now.
func (p *Pickup) take(ctx context.Context, name string) (gone bool, err error) {
	f, info, err := p.drop.open(name)
	switch {
	case errors.Is(err, ErrNotReady), errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ELOOP):
		return false, nil
	case err != nil:
		p.warn("open input file maildrop/%s: %v", name, err)
		return false, nil
	}
	defer func() { _ = f.Close() }()
	if links(info) > 1 {
		// Whoever keeps another name of it could change it while it is read.
		p.warn("maildrop/%s: file has %d links", name, links(info))
		return false, nil
	}
	if !p.isStuck(name, info) {
		err = p.submit(ctx, f, info)
	}
	switch {
	case errors.Is(err, queuefile.ErrMalformed), intake.AtFault(err):
		return p.setAside(name, info, err), nil
	case err != nil:
		p.warn("maildrop/%s: %v; will be tried again", name, err)
		return false, err
	}
	if err := p.remove(filepath.Join(p.drop.dir, name)); err != nil {
		p.warn("remove maildrop/%s: %v", name, err)
		gone = p.setAside(name, info, errors.New("submitted, but could not be removed"))
		p.setStuck(name, info, !gone)
		return gone, nil
	}
	p.setStuck(name, info, false)
	return true, nil
}

// isStuck tells whether this very file was submitted before: it must not be
// sent once more with each scan.
func (p *Pickup) isStuck(name string, info fs.FileInfo) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	known, ok := p.stuck[name]
	return ok && os.SameFile(known, info)
}

func (p *Pickup) setStuck(name string, info fs.FileInfo, stuck bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if stuck {
		p.stuck[name] = info
		return
	}
	delete(p.stuck, name)
}

func (p *Pickup) submit(ctx context.Context, f *os.File, info fs.FileInfo) error {
	file, err := queuefile.Decode(f)
	if err != nil {
		return err
	}
	env := &file.Envelope
	s := &intake.Submission{
		Origin: mail.FromLocal, UID: ownerOf(info), FullName: env.FullName, Sender: env.Sender,
		Ret: env.Ret, EnvelopeID: env.EnvelopeID, Body8Bit: env.Body8Bit, SMTPUTF8: !ascii(string(env.Sender)), Arrival: p.arrival(env, info),
	}
	for i, r := range env.Recipients {
		if file.States[i].Phase.Final() {
			continue
		}
		if file.Report && r.Notify == 0 {
			// sendmail -v asks for a report of what becomes of the message.
			r.Notify = mail.NotifySuccess | mail.NotifyFailure | mail.NotifyDelay
		}
		s.SMTPUTF8 = s.SMTPUTF8 || !ascii(string(r.Address))
		s.Recipients = append(s.Recipients, r)
	}
	if len(s.Recipients) == 0 {
		return fmt.Errorf("%w: no recipients", queuefile.ErrMalformed)
	}
	// Not ctx: once begun, a submission is finished, since a file that stays
	// though its message became durable is a duplicate.
	_, err = p.to.Submit(context.WithoutCancel(ctx), s, file.Content())
	return err
}

// arrival is when the message was left, by its own word unless that is absurd.
func (p *Pickup) arrival(env *mail.Envelope, info fs.FileInfo) time.Time {
	at, now := env.Arrival, time.Now()
	if at.IsZero() {
		at = info.ModTime()
	}
	if at.After(now) {
		return now
	}
	return at
}

// setAside moves a file that is no message out of the way.
func (p *Pickup) setAside(name string, info fs.FileInfo, why error) bool {
	p.warn("uid=%d: maildrop/%s: %v", ownerOf(info), name, why)
	if err := os.Rename(filepath.Join(p.drop.dir, name), filepath.Join(p.drop.corrupt, name)); err != nil {
		p.warn("set aside maildrop/%s: %v", name, err)
		return false
	}
	p.warn("saving corrupt file %q from queue \"maildrop\" to queue \"corrupt\"", name)
	return true
}

func (p *Pickup) warn(format string, args ...any) {
	p.log.Log(service, maillog.Warning, maillog.Text(fmt.Sprintf(format, args...)))
}

func ownerOf(info fs.FileInfo) int {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(st.Uid)
	}
	return -1
}

func links(info fs.FileInfo) uint64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return uint64(st.Nlink)
	}
	return 1
}

func ascii(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}
