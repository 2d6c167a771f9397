package sink_test

import (
	"errors"
	"testing"
	"time"

	"posthouse/internal/traffic/sink"
)

func TestParsePersonality(t *testing.T) {
	p, err := sink.ParsePersonality("x", "hang@data, slow@rcpt=2s, greylist=30s, conns=5, rate=10/1m")
	if err != nil {
		t.Fatal(err)
	}
	want := sink.Personality{Name: "x", Greylist: 30 * time.Second, MaxConnections: 5, MaxMessages: 10, Interval: time.Minute}.
		With(sink.Data, sink.Action{Kind: sink.HangMute}).
		With(sink.Rcpt, sink.Action{Delay: 2 * time.Second})
	if p != want {
		t.Errorf("got %+v", p)
	}
	for _, bad := range []string{
		"what", "what@rcpt", "4xx@nowhere", "slow=soon", "slow@rcpt", "slow@rcpt=-1s", "conns=0", "conns=many",
		"rate=5/x", "rate=x/1s", "greylist=1", "99 x@rcpt", "2500@rcpt", "hang",
	} {
		if _, err := sink.ParsePersonality("x", bad); !errors.Is(err, sink.ErrPersonality) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func FuzzParsePersonality(f *testing.F) {
	f.Add("4xx@rcpt,slow=2s,rate=1/5s")
	f.Add("421 4.7.0 no@connect=3s")
	f.Fuzz(func(t *testing.T, text string) {
		if _, err := sink.ParsePersonality("x", text); err != nil && !errors.Is(err, sink.ErrPersonality) {
			t.Fatal(err)
		}
	})
}
