package row

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"posthouse/internal/mail"
)

func drawTime(t *rapid.T, label string) time.Time {
	if rapid.Bool().Draw(t, label+" is zero") {
		return time.Time{}
	}
	return time.Unix(0, rapid.Int64Range(1, 4e18).Draw(t, label))
}

// TestMessageSurvives: what goes into a row comes out of it unchanged.
func TestMessageSurvives(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text, flip := rapid.StringN(0, 8, 40), rapid.Bool()
		m := mail.NewMessage(mail.Envelope{
			ID: 7, Arrival: drawTime(t, "arrival"), Sender: mail.Address(text.Draw(t, "sender")), Size: rapid.Int64().Draw(t, "size"),
			Recipients: make([]mail.Recipient, rapid.IntRange(1, 4).Draw(t, "recipients")),
		})
		m.State = mail.State{
			Created: drawTime(t, "created"), Hold: flip.Draw(t, "hold"), HoldReason: text.Draw(t, "reason"),
			ForceExpire: flip.Draw(t, "expire"), Requeue: flip.Draw(t, "requeue"), Warned: flip.Draw(t, "warned"),
			Corrupt: text.Draw(t, "corrupt"),
		}
		if m.State.DeletedAt = drawTime(t, "deleted"); m.State.Trashed() {
			m.State.DeletedBy = text.Draw(t, "by")
		}
		for i := range m.RcptState {
			m.Recipients[i].Address = mail.Address(text.Draw(t, "rcpt"))
			m.RcptState[i] = mail.RecipientState{
				Phase: mail.Phase(rapid.IntRange(0, 4).Draw(t, "phase")), Attempts: rapid.Uint32().Draw(t, "attempts"),
				LastAttempt: drawTime(t, "last"), NextAttempt: drawTime(t, "next"), Notified: flip.Draw(t, "notified"),
				Last: mail.Status{Code: mail.EnhancedCode{4, 2, 1}, Text: text.Draw(t, "text"), RemoteMTA: text.Draw(t, "mta")},
			}
		}
		for _, share := range []bool{false, true} {
			r := New(m, share)
			if diff := cmp.Diff(m, r.Message(&m.Envelope)); diff != "" {
				t.Fatalf("share %v: %s", share, diff)
			}
			r.Own()
			if diff := cmp.Diff(m, r.Message(&m.Envelope)); diff != "" {
				t.Fatalf("after Own: %s", diff)
			}
		}
	})
}

func TestNoRecipients(t *testing.T) {
	r := New(mail.NewMessage(mail.Envelope{ID: 1}), true)
	if !r.Is(Corrupt) || r.State().Corrupt == "" {
		t.Error("a message without recipients would end at once: it must be set aside")
	}
}

func TestTable(t *testing.T) {
	var tab Table[int]
	at := map[uint32]*int{}
	for n := range 3000 {
		i, p := tab.Alloc()
		if i == 0 || at[i] != nil || *p != 0 {
			t.Fatalf("place %d twice, or not zero", i)
		}
		*p, at[i] = n, p
	}
	for i := uint32(1); i <= 3000; i += 3 {
		tab.Release(i)
	}
	for range 1000 {
		i, p := tab.Alloc()
		if i%3 != 1 || *p != 0 {
			t.Fatalf("place %d was not free, or not zero", i)
		}
		if at[i] != p {
			t.Fatal("an element moved")
		}
	}
	if tab.Len() != 3000 {
		t.Errorf("grew to %d", tab.Len())
	}
}

func TestPlaces(t *testing.T) {
	seen := map[mail.QueueName]bool{}
	for p := range Places {
		seen[p.Name()] = true
	}
	if len(seen) != int(Places) {
		t.Errorf("names %v", seen)
	}
}
