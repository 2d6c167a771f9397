package source

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// ErrPattern is wrapped by what ParsePattern returns.
var ErrPattern = errors.New("bad address pattern")

// Pattern is an address with counters in it.
type Pattern struct {
	parts []part
}

// part is literal text and the counter behind it.
type part struct {
	text    string
	counter bool
	modulo  uint64 // 0 means the counter as it is
}

// ParsePattern reads an address in which each %d stands for a running number,
// each %Nd for that number modulo N, and %% for a percent sign:
// "user%d@dom%100d.example" spreads over 100 domains.
func ParsePattern(s string) (Pattern, error) {
	var p Pattern
	text := ""
	for {
		before, after, found := strings.Cut(s, "%")
		text += before
		if !found {
			break
		}
		if strings.HasPrefix(after, "%") {
			text, s = text+"%", after[1:]
			continue
		}
		digits := strings.TrimLeft(after, "0123456789")
		n := uint64(0)
		if width := after[:len(after)-len(digits)]; width != "" {
			var err error
			if n, err = strconv.ParseUint(width, 10, 32); err != nil || n == 0 {
				return Pattern{}, fmt.Errorf("%w: %%%sd", ErrPattern, width)
			}
		}
		if !strings.HasPrefix(digits, "d") {
			return Pattern{}, fmt.Errorf("%w: %q (want %%d, %%Nd or %%%%)", ErrPattern, "%"+after)
		}
		p.parts = append(p.parts, part{text: text, counter: true, modulo: n})
		text, s = "", digits[1:]
	}
	p.parts = append(p.parts, part{text: text})
	if strings.ContainsAny(p.String(), " \r\n<>") {
		return Pattern{}, fmt.Errorf("%w: space, line end or angle bracket", ErrPattern)
	}
	return p, nil
}

// Append writes the address with number n.
func (p Pattern) Append(b []byte, n uint64) []byte {
	for _, x := range p.parts {
		b = append(b, x.text...)
		if !x.counter {
			continue
		}
		v := n
		if x.modulo > 0 {
			v = n % x.modulo
		}
		b = strconv.AppendUint(b, v, 10)
	}
	return b
}

// String is the address with number 0.
func (p Pattern) String() string { return string(p.Append(nil, 0)) }
