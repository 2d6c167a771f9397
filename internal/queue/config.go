package queue

import (
	"posthouse/internal/queue/schedule"
	"posthouse/internal/queue/settings"
)

// Config are the settings of a Queue. Begin with DefaultConfig.
type Config = settings.Config

// TransportConfig are the settings of one transport.
type TransportConfig = settings.TransportConfig

// DefaultConfig is Postfix's, with jitter and trash.
func DefaultConfig() Config { return settings.Default() }

// limits are the scheduler's settings for a transport, the queue's own jobs
// included.
func (q *Queue) limits(name string) schedule.Limits {
	switch name {
	case noticeJobs.Transport, resubmitJobs.Transport:
		// Each of these is a commit to the spool: a few at a time fill a
		// group commit, more would only take turns from incoming mail.
		return schedule.Limits{Window: 20, Initial: 20, Processes: 20}
	case purgeJobs.Transport, unrouted.Transport:
		return schedule.Limits{Window: 100, Initial: 100, Processes: 100}
	}
	return q.cfg.Limits(name)
}
