package source

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// ErrRefused is wrapped by the error for a reply that was not the one hoped for.
var ErrRefused = errors.New("refused")

// Config is what to send where. Address, From and To must be set.
type Config struct {
	Address string                                      // "host:port" or "unix:/path"
	Dial    func(ctx context.Context) (net.Conn, error) // how to connect; nil dials Address
	LMTP    bool                                        // speak LMTP
	Helo    string                                      // our name; "" means "source.example"

	Sessions   int           // at a time; 0 means 1
	Messages   int64         // in all; 0 means until Duration is over or the context ends
	Duration   time.Duration // stop after this long; 0 means no limit
	Persistent bool          // many messages per connection, else one
	Rate       float64       // messages per second over all sessions; 0 means as fast as possible
	Wait       time.Duration // of each session between two messages

	From         string // sender pattern, see ParsePattern; "" is the null sender
	To           string // recipient pattern
	Recipients   int    // per message; 0 means 1
	Length       int    // bytes of body, in lines of at most 80
	Subject      string // "" means none
	NoPipelining bool   // one command at a time, even where PIPELINING is offered
	Tolerate     bool   // go on after refusals and lost connections

	// Recipient, when set, replaces To: it appends the address with the
	// running number n to b.
	Recipient func(b []byte, n uint64) []byte
	// Acked is called with the Message-ID (angle brackets included) and the
	// final reply of each message that was taken; from many goroutines.
	Acked func(messageID, reply string)
	// Unknown is called for a message whose content was sent, at least in
	// part, but whose final reply was never read.
	Unknown func(messageID string)
}

// Result is what came of a run.
type Result struct {
	Accepted   int64         // messages taken with a final 250 (LMTP: for at least one recipient)
	Refused    int64         // messages refused at any stage
	Lost       int64         // connections that broke or could not be made
	Recipients int64         // accepted by RCPT, of accepted messages
	Elapsed    time.Duration // from the first connection to the last reply
	P50        time.Duration // of the time from MAIL to the final reply of accepted messages
	P90        time.Duration
	P99        time.Duration
	Max        time.Duration
}

// PerSecond is the number of messages accepted per second.
func (r Result) PerSecond() float64 {
	if r.Elapsed <= 0 {
		return 0
	}
	return float64(r.Accepted) / r.Elapsed.Seconds()
}

// String is the result on one line.
func (r Result) String() string {
	return fmt.Sprintf("%d messages in %.3fs: %.0f/s  refused %d  lost %d  latency p50 %s p90 %s p99 %s max %s",
		r.Accepted, r.Elapsed.Seconds(), r.PerSecond(), r.Refused, r.Lost,
		round(r.P50), round(r.P90), round(r.P99), round(r.Max))
}

func round(d time.Duration) time.Duration {
	if d > 10*time.Millisecond {
		return d.Round(100 * time.Microsecond)
	}
	return d.Round(time.Microsecond)
}

// run is one call of Run: what its sessions share.
type run struct {
	cfg      Config
	from, to Pattern
	id       string // makes Message-IDs unique across runs
	next     atomic.Uint64
	start    time.Time
	accepted atomic.Int64
	refused  atomic.Int64
	lost     atomic.Int64
	rcpts    atomic.Int64

	mu        sync.Mutex
	latencies histogram
	firstErr  error
}

// Run sends until all is sent, the time is over, or ctx ends (which is not an
// error). It returns when the last session has ended.
func Run(ctx context.Context, cfg Config) (Result, error) {
	r, err := prepare(cfg)
	if err != nil {
		return Result{}, err
	}
	end := ctx
	if r.cfg.Duration > 0 {
		var done context.CancelFunc
		end, done = context.WithTimeout(ctx, r.cfg.Duration)
		defer done()
	}
	// A failing session ends the others, unless failures are tolerated.
	end, cancel := context.WithCancel(end)
	defer cancel()
	r.start = time.Now()
	var wg sync.WaitGroup
	for range r.cfg.Sessions {
		wg.Go(func() {
			if err := r.session(end); err != nil {
				r.fail(err)
				cancel()
			}
		})
	}
	wg.Wait()
	h := &r.latencies
	return Result{
		Accepted: r.accepted.Load(), Refused: r.refused.Load(), Lost: r.lost.Load(), Recipients: r.rcpts.Load(),
		Elapsed: time.Since(r.start), P50: h.quantile(.5), P90: h.quantile(.9), P99: h.quantile(.99), Max: h.max,
	}, r.firstErr
}

func prepare(cfg Config) (*run, error) {
	cfg.Sessions = max(cfg.Sessions, 1)
	cfg.Recipients = max(cfg.Recipients, 1)
	if cfg.Helo == "" {
		cfg.Helo = "source.example"
	}
	if cfg.Dial == nil {
		if cfg.Address == "" {
			return nil, errors.New("source: no address to send to")
		}
		network, address := "tcp", cfg.Address
		if path, ok := strings.CutPrefix(address, "unix:"); ok {
			network, address = "unix", path
		}
		cfg.Dial = func(ctx context.Context) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, address)
		}
	}
	r := &run{cfg: cfg}
	var err error
	if r.from, err = ParsePattern(cfg.From); err != nil {
		return nil, fmt.Errorf("sender: %w", err)
	}
	if r.to, err = ParsePattern(cfg.To); err != nil {
		return nil, fmt.Errorf("recipient: %w", err)
	}
	if cfg.Recipient == nil {
		if cfg.To == "" {
			return nil, errors.New("source: no recipient")
		}
		r.cfg.Recipient = r.to.Append
	}
	var id [6]byte
	if _, err := rand.Read(id[:]); err != nil {
		return nil, err
	}
	r.id = hex.EncodeToString(id[:])
	return r, nil
}

func (r *run) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.firstErr == nil {
		r.firstErr = err
	}
}

// claim takes the number of the next message to send, counting from 0, and
// waits until it is due.
func (r *run) claim(ctx context.Context) (n uint64, ok bool) {
	if ctx.Err() != nil {
		return 0, false
	}
	n = r.next.Add(1) - 1
	if r.cfg.Messages > 0 && n >= uint64(r.cfg.Messages) {
		return 0, false
	}
	if r.cfg.Rate > 0 {
		due := r.start.Add(time.Duration(float64(n) / r.cfg.Rate * float64(time.Second)))
		return n, pause(ctx, time.Until(due))
	}
	return n, true
}

// pause waits and tells whether ctx is still alive.
func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
