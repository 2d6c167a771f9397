// Package settings has the settings of the queue and the arithmetic that
// follows from them alone: how long a message waits, when it is too old, how
// much may run at a time. It keeps no state and reads no clock.
package settings

import (
	"time"

	"posthouse/internal/mail"
	"posthouse/internal/queue/schedule"
)

// Config is how the queue behaves. Start from DefaultConfig.
type Config struct {
	// MinBackoff is the shortest wait between attempts, and how long a dead
	// destination is left alone. Default 300s (minimal_backoff_time).
	MinBackoff time.Duration
	// MaxBackoff is the longest wait between attempts. Default 4000s
	// (maximal_backoff_time).
	MaxBackoff time.Duration
	// Jitter spreads each wait by up to this fraction in both directions, so
	// that what failed together does not come back together. Default 0.1; 0
	// waits exactly as Postfix does.
	Jitter float64
	// MaxLifetime is the age past which a message is returned after one more
	// failed attempt; 0 means one attempt only. Default 5 days
	// (maximal_queue_lifetime).
	MaxLifetime time.Duration
	// BounceLifetime is the same for the null sender; MaxLifetime caps it.
	// Default 5 days (bounce_queue_lifetime).
	BounceLifetime time.Duration
	// DelayWarning is the age past which a failed attempt is followed by the
	// one delay notice; 0 means none. Default 0 (delay_warning_time).
	DelayWarning time.Duration
	// ActiveLimit is how many messages keep their envelope in memory while
	// they wait for a slot; others are read back from the spool. It limits
	// memory, not who is served. Default 20000 (qmgr_message_active_limit).
	ActiveLimit int
	// TrashRetention is how long a deleted message can be undone; 0 deletes
	// for good at once. Default 24h.
	TrashRetention time.Duration
	// Grace is how long a stop waits for deliveries past the final dot.
	// Default 30s.
	Grace time.Duration
	// Default is for transports not in Transports.
	Default TransportConfig
	// Transports are settings by transport name.
	Transports map[string]TransportConfig
}

// TransportConfig are the settings of one transport.
type TransportConfig struct {
	Concurrency int               // deliveries to one destination at a time, 0: no limit; default 20 (_destination_concurrency_limit)
	Initial     int               // the same for a destination nothing is known of; default 5 (initial_destination_concurrency)
	Positive    schedule.Feedback // default 1 (_destination_concurrency_positive_feedback)
	Negative    schedule.Feedback // default 1 (_destination_concurrency_negative_feedback)
	CohortLimit float64           // windows full of failures until a destination is dead, 0: never; default 1 (_destination_concurrency_failed_cohort_limit)
	Recipients  int               // per delivery, 0: no limit; default 50 (_destination_recipient_limit)
	RateDelay   time.Duration     // pause after each delivery to a destination; default 0 (_destination_rate_delay)
	Processes   int               // deliveries over the transport at a time, 0: no limit; default 100 (default_process_limit)
}

// Default is Postfix's, with jitter and trash.
func Default() Config {
	d := schedule.Defaults()
	return Config{
		MinBackoff: 300 * time.Second, MaxBackoff: 4000 * time.Second, Jitter: 0.1,
		MaxLifetime: 5 * 24 * time.Hour, BounceLifetime: 5 * 24 * time.Hour,
		ActiveLimit: 20000, TrashRetention: 24 * time.Hour, Grace: 30 * time.Second,
		Default: TransportConfig{
			Concurrency: d.Window, Initial: d.Initial, Positive: d.Positive, Negative: d.Negative,
			CohortLimit: d.CohortLimit, Recipients: 50, Processes: d.Processes,
		},
	}
}

// Transport is the settings of a transport.
func (c *Config) Transport(name string) TransportConfig {
	if t, ok := c.Transports[name]; ok {
		return t
	}
	return c.Default
}

// Limits are the scheduler's settings for a transport.
func (c *Config) Limits(name string) schedule.Limits {
	t := c.Transport(name)
	return schedule.Limits{
		Window: t.Concurrency, Initial: t.Initial, Positive: t.Positive, Negative: t.Negative,
		CohortLimit: t.CohortLimit, DeadTime: c.MinBackoff, RateDelay: t.RateDelay, Processes: t.Processes,
	}
}

// Backoff is how long a message waits for its next attempt: as long as it is
// old, within limits. Waiting as long again as one has waited already doubles
// the age at each attempt, without a counter. random is between 0 and 1.
func (c *Config) Backoff(created, now time.Time, random float64) time.Duration {
	wait := min(max(now.Sub(created), c.MinBackoff), c.MaxBackoff)
	return wait + time.Duration(float64(wait)*c.Jitter*(2*random-1))
}

// Longest is the longest that Backoff can be.
func (c *Config) Longest() time.Duration {
	return c.MaxBackoff + time.Duration(float64(c.MaxBackoff)*c.Jitter)
}

// Expires is when a message is too old for another attempt after the next.
func (c *Config) Expires(created time.Time, sender mail.Address) time.Time {
	if sender == mail.NullSender {
		return created.Add(min(c.BounceLifetime, c.MaxLifetime))
	}
	return created.Add(c.MaxLifetime)
}
