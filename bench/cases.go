package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"posthouse/internal/testkit"
	"posthouse/internal/testkit/postfix"
	"posthouse/internal/testkit/program"
	"posthouse/internal/traffic/sink"
	"posthouse/internal/traffic/source"
)

// benchCase is one thing to measure on each side.
type benchCase struct {
	part     string
	sessions int
}

func (c benchCase) String() string {
	if c.sessions == 1 {
		return c.part + ", 1 session"
	}
	return fmt.Sprintf("%s, %d sessions", c.part, c.sessions)
}

func (p plan) cases() (cases []benchCase) {
	for _, part := range p.parts {
		if part == "relay" {
			cases = append(cases, benchCase{part, p.relayers})
			continue
		}
		for _, n := range p.sessions {
			cases = append(cases, benchCase{part, n})
		}
	}
	return cases
}

// variant is a side with its settings.
type variant struct {
	side   string
	raised bool
}

func (v variant) String() string {
	if v.raised {
		return v.side + " raised"
	}
	return v.side + " stock"
}

// variants are in alternating order: Postfix, Posthouse, Postfix, Posthouse.
func (p plan) variants() (vs []variant) {
	for _, raised := range []bool{false, true} {
		for _, side := range []string{"postfix", "posthouse"} {
			if slices.Contains(p.sides, side) {
				vs = append(vs, variant{side, raised})
			}
		}
	}
	return vs
}

// raisedLimits are what someone who tunes Postfix for throughput sets.
const raisedLimits = `default_process_limit = 400
smtp_destination_concurrency_limit = 200
default_destination_concurrency_limit = 200
initial_destination_concurrency = 100
in_flow_delay = 0
qmgr_message_active_limit = 100000
`

// server is a side that runs.
type server interface {
	Addr() string
	Pid() int
	Start(ctx context.Context) error
	Stop() error
}

// create makes a side on a fresh spool.
func (p plan) create(base string, v variant, main string) (server, error) {
	main += "mynetworks = 127.0.0.0/8\nmyhostname = bench.example\n"
	if v.raised {
		main += raisedLimits
	}
	if v.side == "postfix" {
		return postfix.Create(postfix.Options{Parent: base, Main: main})
	}
	dir, err := os.MkdirTemp(base, "posthouse-")
	if err != nil {
		return nil, err
	}
	return program.Create(dir, p.binary, program.Options{Main: main})
}

// measurement is one run of one case on one side.
type measurement struct {
	rate float64       // messages per second
	cpu  time.Duration // of the server's processes, per 1,000 messages
	pss  int64         // peak memory of the server's processes, bytes
	p99  time.Duration // latency of an accepted message
}

func (m measurement) String() string {
	return fmt.Sprintf("%7.0f msg/s  %6.3f CPU s/1,000  %5.0f MiB  p99 %v",
		m.rate, m.cpu.Seconds(), float64(m.pss)/(1<<20), m.p99.Round(10*time.Microsecond))
}

// measure starts a side on a fresh spool, measures one case, and stops it.
func (p plan) measure(ctx context.Context, base string, c benchCase, v variant) (m measurement, err error) {
	next := "default_transport = discard:\nrelayhost =\n"
	var dest *sink.Server
	if c.part == "relay" {
		if dest, err = sink.New(sink.Config{Extensions: sink.AllExtensions}); err != nil {
			return m, err
		}
		defer dest.Close()
		addr, err := dest.Listen("127.0.0.1:0")
		if err != nil {
			return m, err
		}
		host, port, _ := strings.Cut(addr.String(), ":")
		next = fmt.Sprintf("default_transport = smtp\nrelayhost = [%s]:%s\n", host, port)
	}
	srv, err := p.create(base, v, next)
	if err != nil {
		return m, err
	}
	if err := srv.Start(ctx); err != nil {
		return m, errors.Join(err, srv.Stop())
	}
	watch := watchMemory(srv.Pid())
	load := source.Config{
		Address: srv.Addr(), Sessions: c.sessions, Persistent: true, Length: p.size,
		From: "sender@bench.example", To: "user%d@dom%100d.example",
	}
	if c.part == "relay" {
		m, err = p.relay(ctx, srv, dest, load)
	} else {
		m, err = p.accept(ctx, srv, load)
	}
	m.pss = watch()
	if err = errors.Join(err, srv.Stop()); err != nil {
		err = fmt.Errorf("%w\n%s", err, logTail(srv))
	}
	return m, err
}

func logTail(srv server) string {
	switch s := srv.(type) {
	case *postfix.Instance:
		return s.Log.Tail(10)
	case *program.Instance:
		return s.Output() + s.Log.Tail(10)
	}
	return ""
}

// accept measures messages accepted per second over a window, after a warm-up
// in which processes are forked, connections cached and files created.
func (p plan) accept(ctx context.Context, srv server, load source.Config) (m measurement, err error) {
	load.Duration = p.warmup
	if _, err := source.Run(ctx, load); err != nil {
		return m, err
	}
	load.Duration = p.window
	before := testkit.GroupCPU(srv.Pid())
	res, err := source.Run(ctx, load)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil || res.Accepted == 0 {
		return m, errors.Join(err, fmt.Errorf("accepted %d messages", res.Accepted))
	}
	cpu := testkit.GroupCPU(srv.Pid()) - before
	return measurement{rate: res.PerSecond(), cpu: cpu * 1000 / time.Duration(res.Accepted), p99: res.P99}, nil
}

// relay measures the time from the first connection until the last message is
// at the sink.
func (p plan) relay(ctx context.Context, srv server, dest *sink.Server, load source.Config) (m measurement, err error) {
	load.Messages = p.messages
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	before, start := testkit.GroupCPU(srv.Pid()), time.Now()
	res, err := source.Run(ctx, load)
	if err != nil {
		return m, err
	}
	if err := dest.WaitMessages(ctx, res.Accepted); err != nil {
		return m, fmt.Errorf("%d of %d messages arrived: %w", dest.Counters().Messages, res.Accepted, err)
	}
	elapsed := time.Since(start)
	cpu := testkit.GroupCPU(srv.Pid()) - before
	return measurement{
		rate: float64(res.Accepted) / elapsed.Seconds(), cpu: cpu * 1000 / time.Duration(res.Accepted), p99: res.P99,
	}, nil
}

// watchMemory samples the memory of a process group until the function it
// returns is called, which gives the largest sample.
func watchMemory(group int) (peak func() int64) {
	stop, done := make(chan struct{}), make(chan int64)
	go func() {
		largest := testkit.GroupPSS(group)
		// Reading smaps costs the kernel a walk over the process's pages:
		// often enough to see a peak, rarely enough not to be one.
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				largest = max(largest, testkit.GroupPSS(group))
			case <-stop:
				done <- max(largest, testkit.GroupPSS(group))
				return
			}
		}
	}()
	return func() int64 {
		close(stop)
		return <-done
	}
}
