package e2e_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"posthouse/internal/testkit/program"
	"posthouse/internal/traffic/sink"
	"posthouse/internal/traffic/source"
)

// crashRounds is how often the relay is killed unless the environment says
// otherwise.
const crashRounds = 7

// ledger is what was acknowledged to the clients.
type ledger struct {
	mu      sync.Mutex
	acked   map[string]bool
	unknown map[string]bool // sent, and the answer never read: may arrive or not
}

// moment passes a random time up to limit: the point of the crash test is that
// nothing, and no event waited for, decides when the relay dies.
func moment(ctx context.Context, limit time.Duration) {
	timer := time.NewTimer(time.Duration(rand.Int64N(int64(limit))))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// TestKilledUnderLoad kills the relay (kill -9) at random moments while
// clients send and mail goes out, some of it after having been deferred, some
// to be refused and returned. At the end every message that was acknowledged
// has arrived, or its sender was told. A message may have
// arrived twice, when the next hop had said yes and the relay died before that
// was recorded; such messages are few, since only as many can be in that state
// as are being delivered.
func TestKilledUnderLoad(t *testing.T) {
	t.Parallel()
	rounds := crashRounds
	if s := os.Getenv("POSTHOUSE_CRASH_ROUNDS"); s != "" {
		var err error
		if rounds, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	w := newWorld(t)
	quickly := w.host(sink.Config{}, "dest.example")
	grey := w.host(sink.Config{Default: sink.Personality{Greylist: 500 * time.Millisecond}}, "grey.example")
	bad := sink.Personality{}.With(sink.Rcpt, sink.Action{Kind: sink.Refuse, Reply: "550 5.1.1 No such user"})
	w.host(sink.Config{Default: bad}, "bad.example")
	back := w.host(sink.Config{}, "sender.example")
	p := program.New(t, w.options("smtp_destination_concurrency_limit = 20\n"))
	p.MustStart(t)

	l := &ledger{acked: map[string]bool{}, unknown: map[string]bool{}}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	sent := make(chan source.Result, 1)
	go func() {
		r, err := source.Run(ctx, source.Config{
			Address: p.Addr(), Sessions: 6, Rate: 700, Persistent: true, Tolerate: true,
			From: "a@sender.example", Length: 2000,
			Recipient: func(b []byte, n uint64) []byte {
				domain := "@dest.example"
				switch {
				case n%4 == 0:
					domain = "@grey.example"
				case n%10 == 1:
					domain = "@bad.example"
				}
				return append(strconv.AppendUint(append(b, 'u'), n, 10), domain...)
			},
			Acked: func(id, _ string) {
				l.mu.Lock()
				defer l.mu.Unlock()
				l.acked[id] = true
			},
			Unknown: func(id string) {
				l.mu.Lock()
				defer l.mu.Unlock()
				l.unknown[id] = true
			},
		})
		if err != nil {
			t.Error(err)
		}
		sent <- r
	}()
	starts := 1
	for round := range rounds {
		moment(t.Context(), 2500*time.Millisecond)
		if err := p.Kill(); err != nil {
			t.Fatal(err)
		}
		if round%3 == 2 { // and again, while it reads its spool
			if err := p.Launch(); err != nil {
				t.Fatal(err)
			}
			starts++
			moment(t.Context(), 60*time.Millisecond)
			if err := p.Kill(); err != nil {
				t.Fatal(err)
			}
		}
		p.MustStart(t)
		starts++
	}
	moment(t.Context(), time.Second)
	cancel()
	r := <-sent
	waitEmpty(t, p)
	judge(t, l, starts, r, back, quickly, grey)
	if strings.Contains(p.Log.Text(), "corrupt") {
		t.Error("the log speaks of corrupt messages")
	}
}

// judge holds what arrived against what was acknowledged.
func judge(t *testing.T, l *ledger, starts int, r source.Result, back *host, hosts ...*host) {
	t.Helper()
	arrived := map[string]int{}
	returned := regexp.MustCompile(`(?mi)^Message-ID: (<.*@source\.example>)\r$`)
	for _, d := range back.deliveries() {
		if m := returned.FindSubmatch(d.Content); m != nil && d.Sender == "" {
			arrived[string(m[1])]++
		}
	}
	notices := len(arrived)
	for _, h := range hosts {
		for _, d := range h.deliveries() {
			arrived[d.MessageID]++
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	lost, twice, uncertain := 0, 0, 0
	for id := range l.acked {
		if arrived[id] == 0 {
			if lost++; lost <= 5 {
				t.Errorf("acknowledged and lost: %s", id)
			}
		}
	}
	for id, n := range arrived {
		twice += n - 1
		switch {
		case l.unknown[id]:
			uncertain++
		case !l.acked[id]:
			t.Errorf("arrived and never sent: %s", id)
		}
	}
	t.Logf("%d starts, %d messages acknowledged, %d returned, %d lost, %d delivered twice, %d arrived of %d whose answer was cut off, %d refused, %d connections lost",
		starts, len(l.acked), notices, lost, twice, uncertain, len(l.unknown), r.Refused, r.Lost)
	// 20 deliveries to each of four destinations may be under way at a kill; what
	// they finish within one group commit of the recorder counts as well.
	if limit := starts * 100; twice > limit {
		t.Errorf("%d duplicates, more than %d", twice, limit)
	}
	if lost > 0 {
		t.Errorf("%d messages lost", lost)
	}
	if len(l.acked) < 100*starts || notices < 10*starts {
		t.Errorf("only %d messages were acknowledged: this was no load", len(l.acked))
	}
}

// TestKilledAfterAck: a single message, acknowledged, and the relay killed the
// very moment the answer is read.
func TestKilledAfterAck(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	addr := w.address("dest.example")
	p := program.New(t, w.options(""))
	const n = 5
	for i := range n {
		p.MustStart(t)
		c := dial(t, p.Addr())
		c.begin(fmt.Sprintf("x%d@dest.example", i))
		c.say(".\r\n", "250 2.0.0 Ok: queued as")
		if err := p.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	h := listen(t, addr, sink.Config{})
	p.MustStart(t)
	h.wait(t, n)
	waitEmpty(t, p)
	if got := h.Counters().Messages; got != n {
		t.Errorf("%d messages", got)
	}
}
