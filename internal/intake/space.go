package intake

import (
	"sync"
	"time"

	"posthouse/internal/postfix/maillog"
)

// How often the disk is asked, and how often its fullness is told.
const (
	spaceCheckEvery = time.Second
	spaceWarnEvery  = time.Minute
)

// spaceGauge remembers for a moment whether the spool's disk has room, so
// that a busy server does not ask for every message.
type spaceGauge struct {
	mu      sync.Mutex
	checked time.Time
	warned  time.Time
	full    bool
}

// hasSpace tells whether another message may come in: free space of at least
// 1.5 × the largest message, as Postfix wants, and above MinFree and the
// spool's reserve.
func (in *Intake) hasSpace(c *Config, service string) bool {
	now := in.deps.Now()
	g := &in.space
	g.mu.Lock()
	defer g.mu.Unlock()
	if since := now.Sub(g.checked); since >= 0 && since < spaceCheckEvery && !g.checked.IsZero() {
		return !g.full
	}
	g.checked = now
	space, err := in.deps.Store.Space()
	if err != nil {
		// Stage will say what is wrong; a disk that cannot be asked is not a full one.
		g.full = false
		return true
	}
	g.full = space.Free < c.MaxMessageSize+c.MaxMessageSize/2 || space.Free <= c.MinFree || space.Free < space.Reserve
	if g.full && now.Sub(g.warned) >= spaceWarnEvery {
		g.warned = now
		in.deps.Log.Log(service, maillog.Warning, lowSpace(space.Free))
	}
	return !g.full
}
