package schedule

import (
	"math"
	"time"
)

// Limits are the settings of one transport. The zero value limits nothing and
// never declares a destination dead; Defaults are Postfix's.
type Limits struct {
	// Window is the largest number of deliveries to one destination at a
	// time; 0 means no limit. Postfix: _destination_concurrency_limit, 20.
	Window int
	// Initial is the window of a destination that nothing is known about; at
	// least 1 is used. Postfix: initial_destination_concurrency, 5.
	Initial int
	// Positive and Negative say how much one success or failure counts.
	// Postfix: _destination_concurrency_positive_feedback and _negative_feedback, 1.
	Positive, Negative Feedback
	// CohortLimit is how many windows full of consecutive failures make a
	// destination dead; 0 means never.
	// Postfix: _destination_concurrency_failed_cohort_limit, 1.
	CohortLimit float64
	// DeadTime is how long a dead destination is left alone.
	// Postfix: minimal_backoff_time, 300s.
	DeadTime time.Duration
	// RateDelay, when above zero, allows one delivery to a destination at a
	// time and pauses the line for this long after each.
	// Postfix: _destination_rate_delay, 0.
	RateDelay time.Duration
	// Processes is the largest number of deliveries over the transport at a
	// time, all destinations together; 0 means no limit.
	// Postfix: default_process_limit, 100.
	Processes int
}

// Defaults are the limits of a transport that nothing is configured for.
func Defaults() Limits {
	return Limits{
		Window: 20, Initial: 5, Positive: Feedback{Value: 1}, Negative: Feedback{Value: 1},
		CohortLimit: 1, DeadTime: 300 * time.Second, Processes: 100,
	}
}

// Scale says what a Feedback's value is divided by.
type Scale uint8

// The scales, as in "1", "1/concurrency" and "1/sqrt_concurrency".
const (
	Constant Scale = iota
	PerConcurrency
	PerSqrtConcurrency
)

// Feedback is the weight of one success or failure, between 0 and 1.
type Feedback struct {
	Value float64
	By    Scale
}

// at is the weight at a window.
func (f Feedback) at(window int) float64 {
	switch f.By {
	case PerConcurrency:
		return f.Value / float64(max(window, 1))
	case PerSqrtConcurrency:
		return f.Value / math.Sqrt(float64(max(window, 1)))
	default:
		return f.Value
	}
}

// initial is the window to begin with.
func (l *Limits) initial() int {
	w := max(l.Initial, 1)
	if l.Window > 0 {
		w = min(w, l.Window)
	}
	return w
}

// bound limits a window from both sides.
func (l *Limits) bound(window int) int {
	if l.Window > 0 {
		window = min(window, l.Window)
	}
	return max(window, 1)
}
