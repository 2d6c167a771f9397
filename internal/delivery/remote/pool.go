package remote

import (
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"posthouse/internal/smtp/client"
)

// session is a connection that is ready for mail, and where it leads.
type session struct {
	conn   *client.Conn
	host   candidate
	site   string    // next hop it was made for
	cfg    *Config   // the settings it was made with
	opened time.Time // when it was connected

	timer *time.Timer // while idle: ends it
}

// pool keeps idle sessions. Each is found by its next hop and by its address,
// the one used last first: the others then grow old and go.
type pool struct {
	mu     sync.Mutex
	bySite map[string][]*session
	byAddr map[string][]*session
	count  int
	closed bool
	last   map[string]time.Time // next hop → when a delivery to it ended
}

const (
	// backToBack is how close deliveries follow each other for a connection
	// to be worth keeping, as Postfix has it.
	backToBack = time.Second
	// rememberSites bounds pool.last.
	rememberSites = 10000
)

func newPool() *pool {
	return &pool{bySite: make(map[string][]*session), byAddr: make(map[string][]*session), last: make(map[string]time.Time)}
}

// takeSite returns an idle session for a next hop, nil when there is none.
func (p *pool) takeSite(site string) *session { return p.take(p.bySite, site) }

// takeAddr returns an idle session to an address, nil when there is none.
func (p *pool) takeAddr(key string) *session { return p.take(p.byAddr, key) }

func (p *pool) take(from map[string][]*session, key string) *session {
	for {
		p.mu.Lock()
		list := from[key]
		if len(list) == 0 {
			p.mu.Unlock()
			return nil
		}
		s := list[len(list)-1]
		p.remove(s)
		p.mu.Unlock()
		if alive(s.conn.NetConn()) {
			return s
		}
		s.conn.Close()
	}
}

// remove forgets an idle session; the caller holds the lock.
func (p *pool) remove(s *session) {
	s.timer.Stop()
	drop(p.bySite, s.site, s)
	drop(p.byAddr, s.host.key(), s)
	p.count--
}

func drop(m map[string][]*session, key string, s *session) {
	list := m[key]
	if i := slices.Index(list, s); i >= 0 {
		list = slices.Delete(list, i, i+1)
	}
	if len(list) == 0 {
		delete(m, key)
		return
	}
	m[key] = list
}

// put keeps a session for at most idle, and says whether it did.
func (p *pool) put(s *session, idle time.Duration, limit int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.count >= limit {
		return false
	}
	p.bySite[s.site] = append(p.bySite[s.site], s)
	p.byAddr[s.host.key()] = append(p.byAddr[s.host.key()], s)
	p.count++
	if s.timer == nil {
		s.timer = time.AfterFunc(idle, func() { p.expire(s) })
	} else {
		s.timer.Reset(idle)
	}
	return true
}

// expire ends a session unless someone took it in the meantime.
func (p *pool) expire(s *session) {
	p.mu.Lock()
	idle := slices.Contains(p.bySite[s.site], s)
	if idle {
		p.remove(s)
	}
	p.mu.Unlock()
	if idle {
		s.conn.Quit()
	}
}

// finished notes the end of a delivery, and tells whether the one before it
// ended so recently that another may be near.
func (p *pool) finished(site string, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	before, ok := p.last[site]
	if !ok && len(p.last) >= rememberSites {
		for k, t := range p.last {
			if now.Sub(t) > backToBack {
				delete(p.last, k)
			}
		}
		if len(p.last) >= rememberSites {
			clear(p.last) // costs a few connections, once
		}
	}
	p.last[site] = now
	return ok && now.Sub(before) <= backToBack
}

// empty ends all idle sessions; with closed set, none is kept any more.
func (p *pool) empty(closed bool) {
	p.mu.Lock()
	p.closed = p.closed || closed
	var all []*session
	for _, list := range p.bySite {
		all = append(all, list...)
	}
	for _, s := range all {
		p.remove(s)
	}
	p.mu.Unlock()
	for _, s := range all {
		s.conn.Quit()
	}
}

// alive tells whether the peer of an idle connection is still there, without
// waiting: a server that hung up has sent its end of file by now. Connections
// without a file descriptor are believed.
func alive(nc net.Conn) bool {
	if t, ok := nc.(interface{ NetConn() net.Conn }); ok {
		nc = t.NetConn() // TLS records may be waiting: they are not the end
	}
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return true
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	ok = false
	err = raw.Read(func(fd uintptr) bool {
		var b [1]byte
		n, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		ok = n > 0 || errors.Is(err, syscall.EAGAIN)
		return true
	})
	return ok && (err == nil || errors.Is(err, io.EOF))
}
