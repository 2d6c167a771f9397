package fixed

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"posthouse/internal/mail"
	"posthouse/internal/postfix/maillog"
	"posthouse/internal/queue"
)

type logger struct {
	mu    sync.Mutex
	lines []string
}

func (l *logger) Log(service string, sev maillog.Severity, ev maillog.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, service+": "+sev.Word()+string(ev.AppendText(nil, mail.ShortIDs)))
}

// The lines are those of Postfix 3.7.11 for the same transport tables.
func TestOutcomes(t *testing.T) {
	now := time.Unix(1000, 0)
	const pre = "000005F5E100: to=<a@x>, relay=none, delay=5, delays=2/3/0/0, dsn="
	for _, c := range []struct {
		make    func(maillog.Logger, func() time.Time) *Agent
		nextHop string
		want    []string
	}{
		{NewError, "5.1.2 Bad Domain HERE", []string{"error: " + pre + "5.1.2, status=bounced (Bad Domain HERE)"}},
		{NewError, "4.1.2 soft in error", []string{`error: warning: bounce_append: ignoring dsn code "4.1.2"`, "error: " + pre + "5.0.0, status=bounced (soft in error)"}},
		{NewError, "just text", []string{"error: " + pre + "5.0.0, status=bounced (just text)"}},
		{NewRetry, "Come Back", []string{"error: " + pre + "4.0.0, status=deferred (Come Back)"}},
		{NewRetry, "4.3.2 come back later", []string{"error: " + pre + "4.3.2, status=deferred (come back later)"}},
		{NewRetry, "5.1.1 hard in retry", []string{`error: warning: defer_append: ignoring dsn code "5.1.1"`, "error: " + pre + "4.0.0, status=deferred (hard in retry)"}},
		{NewDiscard, "Silently Gone", []string{"discard: " + pre + "2.0.0, status=sent (Silently Gone)"}},
		{NewDiscard, "5.1.1 x", []string{"discard: " + pre + "2.0.0, status=sent (5.1.1 x)"}},
	} {
		var log logger
		a := c.make(&log, func() time.Time { return now })
		env := &mail.Envelope{ID: 100000000, Arrival: now.Add(-5 * time.Second), Recipients: []mail.Recipient{{Address: "other"}, {Address: "a@x", Notify: mail.NotifySuccess}}}
		d := queue.NewDelivery(mail.Destination{NextHop: c.nextHop}, env, []int{1}, nil)
		d.Due, d.Started = now.Add(-3*time.Second), now
		res := a.Deliver(t.Context(), d)
		if !slices.Equal(log.lines, c.want) {
			t.Errorf("%s:\n%s\nwant:\n%s", c.nextHop, strings.Join(log.lines, "\n"), strings.Join(c.want, "\n"))
		}
		if len(res) != 1 || res[0].Status.OK() != (res[0].Action == "delivered") || res[0].DestinationDown {
			t.Errorf("%s: %+v", c.nextHop, res)
		}
	}
}
