package mail

import (
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestQueueIDForms(t *testing.T) {
	// The moment of Postfix's 4jXLW6512hz5vQ5 (reference §1.3): second
	// 1795333026, microsecond 705884, which our tick rounds to 705880.
	id := QueueID(1795333026*100_000 + 70_588)
	if got, want := id.Long(), "4jXLW6512cz0"; got != want {
		t.Errorf("Long = %s, want %s", got, want)
	}
	if got, want := id.Short(), "A348DABB24FC"; got != want {
		t.Errorf("Short = %s, want %s", got, want)
	}
	if got, want := id.Time(), time.Unix(1795333026, 705880000).UTC(); !got.Equal(want) {
		t.Errorf("Time = %v, want %v", got, want)
	}
}

func TestQueueIDRoundTripAndOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		// From 1996 to the end of 12 hex digits.
		a := QueueID(rapid.Uint64Range(1<<46, 1<<48-1).Draw(t, "a"))
		b := QueueID(rapid.Uint64Range(1<<46, 1<<48-1).Draw(t, "b"))
		for _, form := range []IDForm{ShortIDs, LongIDs} {
			s := form.Format(a)
			if back, err := ParseQueueID(s); err != nil || back != a {
				t.Fatalf("%s parses as %d, %v; want %d", s, back, err, a)
			}
			if !LegalQueueID(s) {
				t.Fatalf("%s is not legal", s)
			}
			if (a < b) != (s < form.Format(b)) && a != b {
				t.Fatalf("%s and %s do not sort like %d and %d", s, form.Format(b), a, b)
			}
		}
	})
}

func TestParseQueueIDRefuses(t *testing.T) {
	for _, s := range []string{"", "x", "B1247C00B0", "a6dfae9e69ac", "4jXLW6512hz5vQ5", "ALL", "000000000000000z", "0123456789az0"} {
		if id, err := ParseQueueID(s); err == nil {
			t.Errorf("ParseQueueID(%q) = %d, want an error", s, id)
		}
	}
}

func TestLegalQueueID(t *testing.T) {
	for s, want := range map[string]bool{"B1247C00B0": true, "a_b": true, "": false, "bad!": false, "a b": false, "ä": false} {
		if LegalQueueID(s) != want {
			t.Errorf("LegalQueueID(%q) = %v", s, !want)
		}
	}
}

func TestIDSourceNeverRepeats(t *testing.T) {
	stuck := time.Unix(1795333026, 0)
	src := NewIDSource(0, func() time.Time { return stuck })
	var mu sync.Mutex
	seen := map[QueueID]bool{}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 1000 {
				id := src.Next()
				mu.Lock()
				if seen[id] {
					t.Errorf("%d given twice", id)
				}
				seen[id] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	// The clock went back: the source counts on from the floor.
	floor := src.Next()
	again := NewIDSource(floor, func() time.Time { return stuck.Add(-time.Hour) })
	if id := again.Next(); id <= floor {
		t.Errorf("after a restart with an earlier clock: %d, not above %d", id, floor)
	}
}

func TestParseEnhancedCode(t *testing.T) {
	for _, c := range []struct {
		in   string
		want string
		n    int
	}{
		{"4.3.0 Error", "4.3.0", 5},
		{"5.7.123", "5.7.123", 7},
		{"2.0.0\r\n", "2.0.0", 5},
		{"3.0.0 no such class", "", 0},
		{"4.3 short", "", 0},
		{"4.3.0.1 long", "", 0},
		{"5.7.1234 wide", "", 0},
		{"4..0 x", "", 0},
		{"", "", 0},
		{"4.3.0text", "", 0},
	} {
		got, n := ParseEnhancedCode(c.in)
		if got.String() != c.want || n != c.n {
			t.Errorf("ParseEnhancedCode(%q) = %q, %d; want %q, %d", c.in, got, n, c.want, c.n)
		}
	}
}

func FuzzParseQueueID(f *testing.F) {
	for _, s := range []string{"A348F0B0372C", "4jXLW6512cz0", "zzzzzzzzzzzz", "FFFFFFFFFFFFFFF"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := ParseQueueID(s)
		if err != nil {
			return
		}
		if id.Short() != s && id.Long() != s {
			t.Errorf("%q parses as %d, which prints as %s or %s", s, id, id.Short(), id.Long())
		}
	})
}

func TestAddressSplit(t *testing.T) {
	for _, c := range [][3]string{
		{"a@b.example", "a", "b.example"},
		{"\"x@y\"@b.example", "\"x@y\"", "b.example"},
		{"postmaster", "postmaster", ""},
		{"", "", ""},
	} {
		if l, d := Address(c[0]).Split(); l != c[1] || d != c[2] {
			t.Errorf("Split(%q) = %q, %q", c[0], l, d)
		}
	}
}
