package local

import (
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"posthouse/internal/spool"
)

// spaceGauge knows the free disk space: measured at most once a second, less
// what was written since.
type spaceGauge struct {
	probe   func() (int64, error)
	now     func() time.Time
	reserve int64 // below this no mail is accepted

	mu   sync.Mutex
	at   time.Time
	free int64
	err  error
}

// measureEvery is how long a measured value is good for.
const measureEvery = time.Second

func (g *spaceGauge) init(o *Options) {
	g.probe, g.now = o.FreeSpace, o.Now
	// Postfix's rule: one and a half times the largest message must fit.
	g.reserve = max(o.MinFree, o.MaxMessageSize+o.MaxMessageSize/2)
	if g.probe == nil {
		g.probe = func() (int64, error) {
			u, err := o.FS.GetDiskUsage(o.Dir)
			if errors.Is(err, vfs.ErrUnsupported) {
				return math.MaxInt64, nil
			}
			return int64(min(u.AvailBytes, math.MaxInt64)), err
		}
	}
}

// measure returns the free space in bytes.
func (g *spaceGauge) measure() (int64, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if now := g.now(); g.at.IsZero() || now.Sub(g.at) >= measureEvery || now.Before(g.at) {
		g.at = now
		if g.free, g.err = g.probe(); g.err != nil {
			g.err = fmt.Errorf("free space of the spool: %w", g.err)
		}
	}
	return g.free, g.err
}

// took counts bytes written since the last measurement.
func (g *spaceGauge) took(n int64) {
	g.mu.Lock()
	g.free -= n
	g.mu.Unlock()
}

// check tells whether a content of size bytes may come in.
func (g *spaceGauge) check(size int64) error {
	free, err := g.measure()
	if err != nil {
		return err
	}
	if free < g.reserve || free-size < g.reserve/3 {
		return fmt.Errorf("%w: %d bytes are free, %d are kept in reserve", spool.ErrNoSpace, free, g.reserve)
	}
	return nil
}

// short tells whether mail is refused for lack of space.
func (g *spaceGauge) short() bool {
	free, err := g.measure()
	return err == nil && free < g.reserve
}
