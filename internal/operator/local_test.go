package operator

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"posthouse/internal/mail"
	"posthouse/internal/spool"
)

type fakeQueue struct {
	views []View
	acted []Verb
}

func (q *fakeQueue) Act(_ context.Context, v Verb, sel Selection, _ Actor) (Report, error) {
	q.acted = append(q.acted, v)
	return Report{Missed: len(sel.IDs)}, nil
}

func (q *fakeQueue) List(each func(*View) bool) {
	for i := range q.views {
		if !each(&q.views[i]) {
			return
		}
	}
}

func (q *fakeQueue) Counts() Counts {
	return Counts{Messages: map[mail.QueueName]int{mail.Hold: 1}, Bytes: map[mail.QueueName]int64{mail.Hold: 10}}
}
func (q *fakeQueue) Destinations() []DestinationView { return []DestinationView{{Waiting: 3}} }
func (q *fakeQueue) Message(id mail.QueueID) (*mail.Message, mail.QueueName, error) {
	if id != 1 {
		return nil, "", fmt.Errorf("queue: %w", spool.ErrNotFound)
	}
	return &mail.Message{Envelope: mail.Envelope{ID: 1}}, mail.Hold, nil
}

type fakeSpool struct{}

func (fakeSpool) Content(mail.QueueID) (spool.Content, error) { return nil, spool.ErrCorrupt }
func (fakeSpool) Space() (spool.Space, error)                 { return spool.Space{Free: 7, Reserve: 3}, nil }

type fakeMaildrop struct{ envs []mail.Envelope }

func (m *fakeMaildrop) List(each func(*mail.Envelope) bool) error {
	for i := range m.envs {
		if !each(&m.envs[i]) {
			break
		}
	}
	return nil
}

func (m *fakeMaildrop) Delete(id mail.QueueID) (bool, error) {
	for i := range m.envs {
		if m.envs[i].ID == id {
			m.envs = append(m.envs[:i], m.envs[i+1:]...)
			return true, nil
		}
	}
	return false, nil
}

func fixture() (*fakeQueue, *fakeMaildrop, Parts) {
	q := &fakeQueue{views: []View{{ID: 1, Queue: mail.Hold}}}
	m := &fakeMaildrop{envs: []mail.Envelope{{ID: 5, Size: 4, Recipients: []mail.Recipient{{Address: "a@b"}}}, {ID: 6, Size: 4}}}
	return q, m, Parts{Queue: q, Spool: fakeSpool{}, Maildrop: m, Version: "1", PID: 42, Started: time.Unix(100, 0), Now: func() time.Time { return time.Unix(160, 0) }}
}

func TestListShowsMaildropFirst(t *testing.T) {
	_, _, parts := fixture()
	op := New(parts)
	var got []mail.QueueID
	each := func(v *View) bool { got = append(got, v.ID); return true }
	if err := op.List(t.Context(), each); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]mail.QueueID{5, 6, 1}, got); diff != "" {
		t.Error(diff)
	}
	n := 0
	if err := op.List(t.Context(), func(*View) bool { n++; return false }); err != nil || n != 1 {
		t.Errorf("stopped list: %d views, %v", n, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := op.List(ctx, func(*View) bool { cancel(); return true }); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled list: %v", err)
	}
}

func TestDeleteReachesTheMaildrop(t *testing.T) {
	for name, c := range map[string]struct {
		verb   Verb
		sel    Selection
		left   int
		missed int
		done   int
	}{
		"by id":                {Delete, Selection{IDs: []mail.QueueID{5, 9}}, 1, 1, 1},
		"all":                  {Delete, Selection{All: true}, 0, 0, 2},
		"all of another queue": {Delete, Selection{All: true, Queues: []mail.QueueName{mail.Hold}}, 2, 0, 0},
		"hold leaves it alone": {Hold, Selection{IDs: []mail.QueueID{5}}, 2, 1, 0},
	} {
		_, m, parts := fixture()
		rep, err := New(parts).Act(t.Context(), c.verb, c.sel, Actor{})
		if err != nil || len(m.envs) != c.left || rep.Missed != c.missed || len(rep.Outcomes) != c.done {
			t.Errorf("%s: %+v, %v, %d left", name, rep, err, len(m.envs))
		}
	}
}

func TestStatus(t *testing.T) {
	_, _, parts := fixture()
	s, err := New(parts).Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := &Status{
		Version: "1", PID: 42, Started: time.Unix(100, 0), Uptime: time.Minute,
		Counts: Counts{Messages: map[mail.QueueName]int{mail.Hold: 1, mail.Maildrop: 2}, Bytes: map[mail.QueueName]int64{mail.Hold: 10, mail.Maildrop: 8}},
		Space:  Space{Free: 7, Reserve: 3}, Destinations: []DestinationView{{Waiting: 3}},
	}
	if diff := cmp.Diff(want, s); diff != "" {
		t.Error(diff)
	}
}

func TestErrors(t *testing.T) {
	_, _, parts := fixture()
	op := New(parts)
	if _, err := op.Message(t.Context(), 2); !errors.Is(err, ErrNotFound) {
		t.Errorf("unknown message: %v", err)
	}
	if _, err := op.Message(t.Context(), 1); !errors.Is(err, spool.ErrCorrupt) {
		t.Errorf("corrupt message: %v", err)
	}
	for name, err := range map[string]error{"pickup": op.Pickup(t.Context()), "reload": op.Reload(t.Context(), Actor{}), "stop": op.Stop(t.Context(), Actor{})} {
		if !errors.Is(err, ErrUnsupported) {
			t.Errorf("%s without a server: %v", name, err)
		}
	}
	woken := 0
	parts.Pickup = func() { woken++ }
	op = New(parts)
	if err := op.Pickup(t.Context()); err != nil || woken != 1 {
		t.Errorf("pickup: %v, %d", err, woken)
	}
	if _, err := op.Act(t.Context(), Retry, Selection{All: true}, Actor{}); err != nil || woken != 2 {
		t.Errorf("retry must look into the maildrop too: %v, %d", err, woken)
	}
}
