package settings

import (
	"testing"
	"time"

	"posthouse/internal/mail"
)

func TestBackoffIsTheAgeWithinLimits(t *testing.T) {
	c := Default()
	born := time.Unix(1_800_000_000, 0)
	for _, x := range []struct {
		age    time.Duration
		random float64
		want   time.Duration
	}{
		{0, 0.5, 300 * time.Second},
		{-time.Hour, 0.5, 300 * time.Second}, // the clock was set back
		{1000 * time.Second, 0.5, 1000 * time.Second},
		{time.Hour * 9, 0.5, 4000 * time.Second},
		{1000 * time.Second, 0, 900 * time.Second},
		{1000 * time.Second, 1, 1100 * time.Second},
	} {
		if got := c.Backoff(born, born.Add(x.age), x.random); got != x.want {
			t.Errorf("age %v, random %v: waits %v, want %v", x.age, x.random, got, x.want)
		}
	}
	if got := c.Longest(); got != 4400*time.Second {
		t.Errorf("the longest wait is %v", got)
	}
}

func TestNoticesExpireNoLaterThanMail(t *testing.T) {
	c := Default()
	c.MaxLifetime, c.BounceLifetime = time.Hour, 2*time.Hour
	born := time.Unix(1_800_000_000, 0)
	for _, sender := range []mail.Address{mail.NullSender, "a@b.example"} {
		if got := c.Expires(born, sender).Sub(born); got != time.Hour {
			t.Errorf("mail from <%s> lives %v", sender, got)
		}
	}
	c.BounceLifetime = time.Minute
	if got := c.Expires(born, mail.NullSender).Sub(born); got != time.Minute {
		t.Errorf("a notice lives %v", got)
	}
}
