package remote

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// TestReplyWithoutMeasure: what a host says about a recipient is kept for as
// long as the recipient waits, so it is not for the host to say how long it is.
func TestReplyWithoutMeasure(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		word := strings.Repeat("é", 900)
		endless := strings.Repeat("450-4.2.1 "+word+"\r\n", 400) + "450 4.2.1 later"
		w.serve("127.0.0.1:3000", manners{rcpt: []string{endless, strings.Replace(endless, "450", "250", -1)}})
		a := w.agent(nil)
		defer a.Close()
		res := a.Deliver(t.Context(), delivery("[127.0.0.1]:3000", "a@p.x", "b@p.x"))
		if got := codes(res); got != "4.2.1, 2.0.0" {
			t.Error(got)
		}
		for i := range res {
			for _, text := range []string{res[i].Status.Text, res[i].Status.DiagText} {
				if len(text) > maxReply+200 || !utf8.ValidString(text) {
					t.Errorf("recipient %d: %d bytes are kept, valid UTF-8: %v", i, len(text), utf8.ValidString(text))
				}
			}
		}
	})
}
