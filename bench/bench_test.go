package main

import (
	"bytes"
	"errors"
	"flag"
	"io"
	"strings"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	p, err := parse([]string{"-quick", "-run", "relay", "-sessions", "2,3"}, io.Discard)
	if err != nil || p.rounds != 1 || len(p.cases()) != 1 || len(p.variants()) != 4 || p.sessions[1] != 3 {
		t.Errorf("%+v, %v", p, err)
	}
	for _, bad := range []string{"-run=x", "-side=exim", "-sessions=0", "-sessions=a", "-rounds=0", "-what"} {
		if _, err := parse([]string{bad}, io.Discard); err == nil || errors.Is(err, flag.ErrHelp) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestTable(t *testing.T) {
	p, err := parse([]string{"-run", "accept", "-sessions", "16"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	c := p.cases()[0]
	r := results{}
	for _, rate := range []float64{900, 1000, 800} {
		r.add(c, variant{"postfix", false}, measurement{rate: rate, cpu: 2 * time.Second, pss: 50 << 20})
		r.add(c, variant{"postfix", true}, measurement{rate: rate / 2, cpu: time.Second, pss: 60 << 20})
		r.add(c, variant{"posthouse", false}, measurement{rate: rate * 10, cpu: 100 * time.Millisecond, pss: 100 << 20, p99: time.Millisecond})
	}
	var b bytes.Buffer
	r.print(&b, p.cases(), p)
	for _, want := range []string{
		"900 (800 to 1000) ", "9000 (8000 to 10000)", "10.0 times as many", "1.000 raised", "10.0 times less", "2.0 times more",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, &b)
		}
	}
	if s := summarise([]measurement{{rate: 1}, {rate: 4}}, figures()[0].of); s.median != 2.5 {
		t.Errorf("median %v", s.median)
	}
}
