package server

import (
	"context"
	"net/netip"
	"sync"
)

// gate admits a number of holders that may change while they hold.
type gate struct {
	mu    sync.Mutex
	limit int           // 0 is none
	held  int           // may exceed limit after it was lowered
	waits int           // callers waiting for freed
	freed chan struct{} // closed and replaced when those who wait should look again
}

func newGate(limit int) *gate { return &gate{limit: limit, freed: make(chan struct{})} }

// enter waits for a place. The error is the context's.
func (g *gate) enter(ctx context.Context) error {
	for {
		g.mu.Lock()
		if g.limit <= 0 || g.held < g.limit {
			g.held++
			g.mu.Unlock()
			return nil
		}
		freed := g.freed
		g.waits++
		g.mu.Unlock()
		var err error
		select {
		case <-freed:
		case <-ctx.Done():
			err = ctx.Err()
		}
		g.mu.Lock()
		g.waits--
		g.mu.Unlock()
		if err != nil {
			return err
		}
	}
}

func (g *gate) leave() {
	g.mu.Lock()
	g.held--
	g.wake()
	g.mu.Unlock()
}

func (g *gate) resize(limit int) {
	g.mu.Lock()
	g.limit = limit
	g.wake()
	g.mu.Unlock()
}

// wake lets everybody who waits look again. Only listeners wait, one each.
func (g *gate) wake() {
	if g.waits == 0 {
		return
	}
	close(g.freed)
	g.freed = make(chan struct{})
}

// clientCounts counts sessions per client address.
type clientCounts struct {
	mu sync.Mutex
	n  map[netip.Addr]int
}

// add counts one more and returns how many there are now.
func (c *clientCounts) add(a netip.Addr) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n[a]++
	return c.n[a]
}

func (c *clientCounts) remove(a netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n[a]--; c.n[a] <= 0 {
		delete(c.n, a)
	}
}

func exempt(nets []netip.Prefix, a netip.Addr) bool {
	for _, p := range nets {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
