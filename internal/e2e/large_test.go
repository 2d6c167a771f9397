package e2e_test

import (
	"bytes"
	"fmt"
	"regexp"
	"strconv"
	"testing"

	"posthouse/internal/testkit/program"
	"posthouse/internal/traffic/sink"
	"posthouse/internal/traffic/source"
)

// TestLargeMessage: 50 MB go through, several at a time, deferred on the way,
// and the relay never holds one in memory.
func TestLargeMessage(t *testing.T) {
	t.Parallel()
	const size, limit = 50 << 20, 120 << 20
	w := newWorld(t)
	h := w.host(sink.Config{Default: sink.Personality{Greylist: 1}}, "dest.example")
	p := w.relay("message_size_limit = 60M\n")
	r, err := source.Run(t.Context(), source.Config{Address: p.Addr(), Sessions: 3, Messages: 3, From: "a@sender.example", To: "u%d@dest.example", Length: size})
	if err != nil {
		t.Fatalf("%v: %v", err, r)
	}
	want := map[string]bool{}
	for _, d := range h.wait(t, 3) {
		_, body, _ := bytes.Cut(d.Content, []byte("\r\n\r\n"))
		if len(body) != size || len(bytes.Trim(body, "X\r\n")) > 0 {
			t.Errorf("a body of %d bytes came, or another one", len(body))
		}
		want[d.Recipients[0]] = true
	}
	if len(want) != 3 {
		t.Errorf("%v", want)
	}
	waitEmpty(t, p)
	peak := peakMemory(t, p)
	t.Logf("peak memory %d MB", peak>>20)
	if peak > limit {
		t.Errorf("peak memory %d MB, more than %d", peak>>20, limit>>20)
	}
}

// peakMemory is the most memory the relay has occupied so far (VmHWM), in bytes.
func peakMemory(t *testing.T, p *program.Instance) int64 {
	t.Helper()
	m := regexp.MustCompile(`(?m)^VmHWM:\s+(\d+) kB$`).FindStringSubmatch(readFile(t, fmt.Sprintf("/proc/%d/status", p.Pid())))
	if m == nil {
		t.Fatal("no VmHWM")
	}
	kb, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kb << 10
}
