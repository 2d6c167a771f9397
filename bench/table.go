package main

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
)

// results are all measurements by case and variant.
type results map[benchCase]map[variant][]measurement

func (r results) add(c benchCase, v variant, m measurement) {
	if r[c] == nil {
		r[c] = map[variant][]measurement{}
	}
	r[c][v] = append(r[c][v], m)
}

// figure is one number of a measurement that the two sides are compared by.
type figure struct {
	name   string
	format string
	of     func(measurement) float64
	more   bool // more is better
}

func figures() []figure {
	return []figure{
		{"messages/s", "%.0f", func(m measurement) float64 { return m.rate }, true},
		{"CPU s/1,000", "%.3f", func(m measurement) float64 { return m.cpu.Seconds() }, false},
		{"peak MiB", "%.0f", func(m measurement) float64 { return float64(m.pss) / (1 << 20) }, false},
		{"p99 ms", "%.1f", func(m measurement) float64 { return m.p99.Seconds() * 1000 }, false},
	}
}

// summary is the median and the extremes of some measurements.
type summary struct{ median, low, high float64 }

func summarise(ms []measurement, of func(measurement) float64) summary {
	var v []float64
	for _, m := range ms {
		v = append(v, of(m))
	}
	slices.Sort(v)
	n := len(v)
	return summary{median: (v[(n-1)/2] + v[n/2]) / 2, low: v[0], high: v[n-1]}
}

// best returns the side's variant with the better median.
func (r results) best(c benchCase, side string, f figure) (s summary, v variant, ok bool) {
	for _, raised := range []bool{false, true} {
		cand := variant{side, raised}
		ms := r[c][cand]
		if len(ms) == 0 {
			continue
		}
		t := summarise(ms, f.of)
		if !ok || (t.median > s.median) == f.more && t.median != s.median {
			s, v, ok = t, cand, true
		}
	}
	return s, v, ok
}

// print writes the table of ratios: for each figure the better variant of
// each side.
func (r results) print(w io.Writer, cases []benchCase, p plan) {
	fmt.Fprintf(w, "\n%s, %d CPUs, %d-byte messages, %d round(s); median (lowest to highest)\n", system(), runtime.NumCPU(), p.size, p.rounds)
	fmt.Fprintln(w, "Each side was run with stock and with raised limits; the better of the two counts.")
	fmt.Fprintln(w, "accept: mail is discarded behind the queue on both sides; relay: time until the last message is at the sink.")
	fmt.Fprintln(w)
	tw := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(tw, "case\tfigure\tPostfix\tPosthouse\tPosthouse is")
	for _, c := range cases {
		for _, f := range figures() {
			a, va, okA := r.best(c, "postfix", f)
			b, vb, okB := r.best(c, "posthouse", f)
			fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\n", c, f.name, f.cell(a, va, okA), f.cell(b, vb, okB), f.ratio(a, b, okA && okB))
		}
	}
	tw.Flush()
}

func (f figure) cell(s summary, v variant, ok bool) string {
	if !ok {
		return "-"
	}
	text := fmt.Sprintf(f.format, s.median)
	if s.low != s.high {
		text += fmt.Sprintf(" ("+f.format+" to "+f.format+")", s.low, s.high)
	}
	if v.raised {
		text += " raised"
	}
	return text
}

// ratio says how many times better, in the direction that is better.
func (f figure) ratio(postfix, posthouse summary, ok bool) string {
	a, b := postfix.median, posthouse.median
	if !ok || a == 0 || b == 0 {
		return "-"
	}
	if f.more {
		return fmt.Sprintf("%.1f times as many", b/a)
	}
	if b <= a {
		return fmt.Sprintf("%.1f times less", a/b)
	}
	return fmt.Sprintf("%.1f times more", b/a)
}

// system names the processor.
func system() string {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	for line := range strings.Lines(string(b)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}
