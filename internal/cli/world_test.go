package cli

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"posthouse/internal/intake/pickup"
	"posthouse/internal/mail"
	"posthouse/internal/operator"
	"posthouse/internal/operator/control"
	"posthouse/internal/testkit/oracle"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// noProcess is beyond every process ID that Linux gives (PID_MAX_LIMIT).
const noProcess = 4194999

// fakeQueue is an Operator over a list of messages that never moves by itself.
type fakeQueue struct {
	mu      sync.Mutex
	msgs    []*operator.View
	content string
	poked   int
	retried []mail.QueueID
	actors  []operator.Actor
	onStop  func()
	reload  error
}

func (q *fakeQueue) List(_ context.Context, each func(*operator.View) bool) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, m := range q.msgs {
		if !each(m) {
			break
		}
	}
	return nil
}

func (q *fakeQueue) Counts(context.Context) (operator.Counts, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	c := operator.Counts{Messages: map[mail.QueueName]int{}, Bytes: map[mail.QueueName]int64{}}
	for _, m := range q.msgs {
		c.Messages[m.Queue]++
		c.Bytes[m.Queue] += m.Size
	}
	return c, nil
}

func (q *fakeQueue) Status(ctx context.Context) (*operator.Status, error) {
	c, err := q.Counts(ctx)
	return &operator.Status{
		Version: "1.2", PID: noProcess, Uptime: time.Hour, ConfigDir: "/conf", Counts: c,
		Destinations: []operator.DestinationView{
			{Destination: mail.Destination{Transport: "smtp", NextHop: "quiet.example"}, Deferred: 1, Window: 5},
			{Destination: mail.Destination{Transport: "smtp", NextHop: "busy.example"}, Waiting: 7, Running: 2, Window: 2},
		}, Space: operator.Space{Free: 3 << 30},
	}, err
}

func (q *fakeQueue) Act(_ context.Context, verb operator.Verb, sel operator.Selection, who operator.Actor) (operator.Report, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.actors = append(q.actors, who)
	var rep operator.Report
	for _, m := range slices.Clone(q.msgs) {
		if !sel.All && !slices.Contains(sel.IDs, m.ID) || len(sel.Queues) > 0 && !slices.Contains(sel.Queues, m.Queue) {
			continue
		}
		from := m.Queue
		switch verb {
		case operator.Delete:
			q.msgs = slices.DeleteFunc(q.msgs, func(v *operator.View) bool { return v == m })
		case operator.Hold:
			m.Queue = mail.Hold
		case operator.Release:
			m.Queue = mail.Deferred
		case operator.Requeue:
			m.Queue = mail.Maildrop
		case operator.Expire:
			if m.ForceExpire {
				continue
			}
			m.ForceExpire = true
		case operator.Retry:
			q.retried = append(q.retried, m.ID)
		}
		rep.Outcomes = append(rep.Outcomes, operator.Outcome{ID: m.ID, From: from})
	}
	return rep, nil
}

type fakeContent struct{ *strings.Reader }

func (fakeContent) Close() error { return nil }

func (q *fakeQueue) Message(_ context.Context, id mail.QueueID) (*operator.Stored, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, v := range q.msgs {
		if v.ID == id {
			m := mail.NewMessage(mail.Envelope{ID: id, Arrival: v.Arrival, Sender: v.Sender, Recipients: []mail.Recipient{{Address: "r@y"}}})
			return &operator.Stored{Message: m, Queue: v.Queue, Content: fakeContent{strings.NewReader(q.content)}}, nil
		}
	}
	return nil, operator.ErrNotFound
}

func (q *fakeQueue) Pickup(context.Context) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.poked++
	return nil
}

func (q *fakeQueue) Reload(context.Context, operator.Actor) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.reload
}

func (q *fakeQueue) Stop(context.Context, operator.Actor) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.onStop != nil {
		q.onStop()
	}
	return nil
}

// world is a configuration, perhaps with a server.
type world struct {
	t     testing.TB
	dir   string // configuration
	spool string
	queue *fakeQueue
	prog  Programs
	uid   int
	env   []string
}

// newWorld makes a configuration without a server.
func newWorld(t testing.TB, extra ...string) *world {
	t.Helper()
	base := t.TempDir()
	w := &world{t: t, dir: filepath.Join(base, "etc"), spool: filepath.Join(base, "spool"), queue: &fakeQueue{}, uid: os.Getuid()}
	for _, d := range []string{w.dir, w.spool, filepath.Join(w.spool, "public")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := pickup.NewMaildrop(w.spool).Prepare(-1, -1); err != nil {
		t.Fatal(err)
	}
	main := fmt.Sprintf("queue_directory = %s\nmyhostname = mx.test.example\ncompatibility_level = 3.6\n%s\n", w.spool, strings.Join(extra, "\n"))
	for name, text := range map[string]string{"main.cf": main, "master.cf": "127.0.0.1:0 inet n - n - - smtpd\n"} {
		if err := os.WriteFile(filepath.Join(w.dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	w.env = []string{"MAIL_CONFIG=" + w.dir, "TZ=UTC"}
	return w
}

// serve starts a server over w.queue and returns how to end it.
func (w *world) serve() (stop func()) {
	w.t.Helper()
	l, err := control.Listen(filepath.Join(w.spool, "public", "posthouse"))
	if err != nil {
		w.t.Fatal(err)
	}
	s := control.NewServer(w.queue, control.Config{Access: control.Access{Owner: -1, List: control.Anyone(), Flush: control.Anyone()}})
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			s.Close()
			if err := <-done; err != nil {
				w.t.Error(err)
			}
		})
	}
	w.t.Cleanup(stop)
	return stop
}

// add puts a message into the fake queue.
func (w *world) add(q mail.QueueName, id mail.QueueID) *operator.View {
	w.queue.mu.Lock()
	defer w.queue.mu.Unlock()
	v := &operator.View{
		Queue: q, ID: id, Arrival: time.Unix(1795332820, 0), Size: 512, Sender: "alice@x.example",
		Recipients: []operator.RecipientView{{Address: "bob@y.example", Reason: "come back later"}},
	}
	w.queue.msgs = append(w.queue.msgs, v)
	return v
}

// change changes the queue while a server may be looking.
func (w *world) change(f func(*fakeQueue)) {
	w.queue.mu.Lock()
	defer w.queue.mu.Unlock()
	f(w.queue)
}

// run runs a command as main would.
func (w *world) run(stdin, name string, args ...string) oracle.Output {
	w.t.Helper()
	var out, errs bytes.Buffer
	status := Main(context.Background(), w.prog, append([]string{name}, args...), w.env, w.uid,
		Stdio{In: strings.NewReader(stdin), Out: &out, Err: &errs})
	return oracle.Output{Stdout: out.String(), Stderr: errs.String(), Status: status}
}
