package source

import (
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestPattern(t *testing.T) {
	for _, c := range []struct {
		text string
		n    uint64
		want string
	}{
		{"", 7, ""},
		{"a@b.example", 7, "a@b.example"},
		{"u%d@d%10d.example", 123, "u123@d3.example"},
		{"%%d%d", 5, "%d5"},
		{"a%%", 5, "a%"},
	} {
		p, err := ParsePattern(c.text)
		if err != nil || string(p.Append(nil, c.n)) != c.want {
			t.Errorf("%q: %q, %v", c.text, p.Append(nil, c.n), err)
		}
	}
}

func FuzzParsePattern(f *testing.F) {
	f.Add("user%d@dom%100d.example")
	f.Add("%%%d")
	f.Fuzz(func(t *testing.T, text string) {
		if p, err := ParsePattern(text); err != nil && !errors.Is(err, ErrPattern) {
			t.Fatal(err)
		} else if err == nil {
			p.Append(nil, 1<<63)
		}
	})
}

// TestHistogram compares quantiles with those of the sorted values: never
// below, and at most an eighth above.
func TestHistogram(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		us := rapid.SliceOfN(rapid.Uint64Range(0, 1<<40), 1, 50).Draw(t, "us")
		var h, half histogram
		for i, v := range us {
			if i%2 == 0 {
				h.add(time.Duration(v) * time.Microsecond)
			} else {
				half.add(time.Duration(v) * time.Microsecond)
			}
		}
		h.merge(&half)
		q := rapid.Float64Range(0, 0.999).Draw(t, "q")
		got := uint64(h.quantile(q) / time.Microsecond)
		below := 0
		for _, v := range us {
			if v <= got {
				below++
			}
		}
		if float64(below) < q*float64(len(us)) {
			t.Fatalf("quantile %v of %v is %d", q, us, got)
		}
	})
}
