package source

import (
	"math/bits"
	"time"
)

// histogram counts durations in buckets that grow with them: eight to each
// power of two microseconds, so a percentile is off by at most an eighth.
// A session fills its own; they are added up at the end.
type histogram struct {
	count [40 * 8]uint64
	n     uint64
	max   time.Duration
}

func bucket(us uint64) int {
	if us < 8 {
		return int(us)
	}
	e := bits.Len64(us) - 4 // us>>e is in 8..15
	return min((e+1)*8+int(us>>e)-8, len(histogram{}.count)-1)
}

// upper is the largest number of microseconds that falls into bucket i.
func upper(i int) uint64 {
	if i < 8 {
		return uint64(i)
	}
	e := i/8 - 1
	return (uint64(i%8)+8+1)<<e - 1
}

func (h *histogram) add(d time.Duration) {
	h.count[bucket(uint64(max(d, 0)/time.Microsecond))]++
	h.n++
	h.max = max(h.max, d)
}

func (h *histogram) merge(o *histogram) {
	for i, c := range o.count {
		h.count[i] += c
	}
	h.n += o.n
	h.max = max(h.max, o.max)
}

// quantile returns a duration that the fraction q of all does not exceed.
func (h *histogram) quantile(q float64) time.Duration {
	rank := uint64(q * float64(h.n))
	seen := uint64(0)
	for i, c := range h.count {
		if seen += c; seen > rank {
			return min(time.Duration(upper(i))*time.Microsecond, h.max)
		}
	}
	return h.max
}
