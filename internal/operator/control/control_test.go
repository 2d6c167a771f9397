package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"posthouse/internal/mail"
	"posthouse/internal/operator"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is an Operator that remembers what it was asked.
type fake struct {
	n       int // messages that List shows
	content []byte

	mu    sync.Mutex
	calls []string
	who   operator.Actor
}

func (f *fake) note(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, fmt.Sprintf(format, args...))
}

func view(i int) operator.View {
	return operator.View{
		Queue: mail.Deferred, ID: mail.QueueID(i + 1), Arrival: time.Unix(1795332820, 0).UTC(), Size: 4096, Sender: "newsletter@sender.example",
		Attempts: 3, NextAttempt: time.Unix(1795332999, 0).UTC(), Expires: time.Unix(1795999999, 0).UTC(),
		Recipients: []operator.RecipientView{{
			Address: "someone@destination.example", Reason: "connect to mx.destination.example[192.0.2.1]:25: Connection timed out",
			Destination: mail.Destination{Transport: "smtp", NextHop: "destination.example"},
		}},
	}
}

func (f *fake) List(ctx context.Context, each func(*operator.View) bool) error {
	v := view(0)
	for i := range f.n {
		v.ID = mail.QueueID(i + 1)
		if !each(&v) {
			f.note("list stopped")
			break
		}
	}
	return ctx.Err()
}

func (f *fake) Counts(context.Context) (operator.Counts, error) {
	return operator.Counts{Messages: map[mail.QueueName]int{mail.Hold: 2}, Bytes: map[mail.QueueName]int64{mail.Hold: 99}}, nil
}

func (f *fake) Status(context.Context) (*operator.Status, error) {
	return &operator.Status{Version: "1", PID: 7, Uptime: time.Hour, Started: time.Unix(5, 0).UTC(), Destinations: []operator.DestinationView{{Waiting: 1}}}, nil
}

func (f *fake) Act(_ context.Context, verb operator.Verb, sel operator.Selection, who operator.Actor) (operator.Report, error) {
	f.mu.Lock()
	f.who = who
	f.mu.Unlock()
	rep := operator.Report{Missed: 1}
	if sel.All {
		for i := range 25000 {
			rep.Outcomes = append(rep.Outcomes, operator.Outcome{ID: mail.QueueID(i), From: mail.Hold})
		}
	}
	if verb == operator.Requeue {
		return rep, errors.New("spool on fire")
	}
	return rep, nil
}

type content struct{ *bytes.Reader }

func (content) Close() error { return nil }

func (f *fake) Message(_ context.Context, id mail.QueueID) (*operator.Stored, error) {
	if id != 1 {
		return nil, fmt.Errorf("%w: 2", operator.ErrNotFound)
	}
	m := mail.NewMessage(mail.Envelope{ID: 1, Sender: "s@x", Arrival: time.Unix(5, 6).UTC(), Recipients: []mail.Recipient{{Address: "r@y"}}})
	m.RcptState[0].Last = mail.NewStatus("4.4.1", "later")
	return &operator.Stored{Message: m, Queue: mail.Hold, Content: content{bytes.NewReader(f.content)}}, nil
}

func (f *fake) Pickup(context.Context) error { f.note("pickup"); return nil }
func (f *fake) Reload(context.Context, operator.Actor) error {
	f.note("reload")
	return operator.ErrUnsupported
}
func (f *fake) Stop(context.Context, operator.Actor) error { f.note("stop"); return nil }

// serve starts a server and returns a client for it.
func serve(t testing.TB, f *fake, cfg Config, uid int) *Client {
	t.Helper()
	// Deep on purpose: the path is too long for a socket address.
	path := filepath.Join(t.TempDir(), strings.Repeat("d", 100), "socket")
	if err := os.Mkdir(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(f, cfg)
	if uid >= 0 {
		s.peer = func(net.Conn) (int, error) { return uid, nil }
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Close()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if _, err := NewClient(path).Counts(context.Background()); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("after the end: %v", err)
		}
	})
	return NewClient(path)
}

func TestVerbs(t *testing.T) {
	f := &fake{n: 5000, content: bytes.Repeat([]byte("0123456789"), 300000)}
	c := serve(t, f, Config{Access: Access{Owner: -1}}, 0)
	ctx := t.Context()

	n := 0
	if err := c.List(ctx, func(v *operator.View) bool {
		if diff := cmp.Diff(view(n), *v); diff != "" {
			t.Fatal(diff)
		}
		n++
		return true
	}); err != nil || n != f.n {
		t.Errorf("List: %d, %v", n, err)
	}
	n = 0
	if err := c.List(ctx, func(*operator.View) bool { n++; return n < 10 }); err != nil || n != 10 {
		t.Errorf("List that is stopped: %d, %v", n, err)
	}
	want, _ := f.Counts(ctx)
	if got, err := c.Counts(ctx); err != nil || !cmp.Equal(want, got) {
		t.Errorf("Counts: %v, %v", got, err)
	}
	wantStatus, _ := f.Status(ctx)
	if got, err := c.Status(ctx); err != nil || !cmp.Equal(wantStatus, got) {
		t.Errorf("Status: %v, %v", got, err)
	}
	rep, err := c.Act(ctx, operator.Delete, operator.Selection{All: true}, operator.Actor{User: "liar", UID: 99, Via: "postsuper"})
	if err != nil || len(rep.Outcomes) != 25000 || rep.Outcomes[24999].ID != 24999 || rep.Missed != 1 {
		t.Errorf("Act: %d outcomes, %v", len(rep.Outcomes), err)
	}
	if f.who != (operator.Actor{User: "root", UID: 0, Via: "postsuper"}) {
		t.Errorf("the server believed %+v", f.who)
	}
	m, err := c.Message(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	wantMessage, _ := f.Message(ctx, 1)
	if diff := cmp.Diff(wantMessage.Message, m.Message); diff != "" || m.Queue != mail.Hold {
		t.Error(diff)
	}
	got, err := io.ReadAll(io.NewSectionReader(m.Content, 0, m.Content.Size()))
	if err != nil || !bytes.Equal(got, f.content) {
		t.Errorf("content: %d bytes, %v", len(got), err)
	}
	if err := errors.Join(c.Pickup(ctx), c.Stop(ctx, operator.Actor{})); err != nil {
		t.Error(err)
	}
}

func TestErrorsComeThrough(t *testing.T) {
	c := serve(t, &fake{}, Config{Access: Access{Owner: -1}}, 0)
	if _, err := c.Message(t.Context(), 2); !errors.Is(err, operator.ErrNotFound) {
		t.Errorf("not found: %v", err)
	}
	if err := c.Reload(t.Context(), operator.Actor{}); !errors.Is(err, operator.ErrUnsupported) {
		t.Errorf("unsupported: %v", err)
	}
	rep, err := c.Act(t.Context(), operator.Requeue, operator.Selection{All: true}, operator.Actor{})
	var remote *RemoteError
	if !errors.As(err, &remote) || remote.Text != "spool on fire" || len(rep.Outcomes) == 0 {
		t.Errorf("what was done before the failure must be told: %d, %v", len(rep.Outcomes), err)
	}
}

func TestUnreachable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	_, err := NewClient(path).Counts(t.Context())
	if !errors.Is(err, ErrUnreachable) || !errors.Is(err, syscall.ENOENT) {
		t.Errorf("no socket: %v", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err = NewClient(path).Counts(t.Context()); !errors.Is(err, ErrUnreachable) || !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dead socket: %v", err)
	}
	fresh, err := Listen(path)
	if err != nil {
		t.Fatalf("a stale socket must not be in the way: %v", err)
	}
	if _, err := Listen(path); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("second server: %v", err)
	}
	if err := fresh.Close(); err != nil {
		t.Error(err)
	}
}

func TestAccess(t *testing.T) {
	const stranger = 4294967 // no user has this ID
	nobody, err := ParseUsers([]string{"root"})
	if err != nil {
		t.Fatal(err)
	}
	ops := map[string]func(context.Context, *Client) error{
		"list": func(ctx context.Context, c *Client) error {
			return c.List(ctx, func(*operator.View) bool { return true })
		},
		"status":  func(ctx context.Context, c *Client) error { _, err := c.Status(ctx); return err },
		"retry":   func(ctx context.Context, c *Client) error { return act(ctx, c, operator.Retry) },
		"delete":  func(ctx context.Context, c *Client) error { return act(ctx, c, operator.Delete) },
		"message": func(ctx context.Context, c *Client) error { _, err := c.Message(ctx, 1); return err },
		"stop":    func(ctx context.Context, c *Client) error { return c.Stop(ctx, operator.Actor{}) },
		"pickup":  func(ctx context.Context, c *Client) error { return c.Pickup(ctx) },
	}
	for _, c := range []struct {
		name   string
		access Access
		uid    int
		may    string
	}{
		{"root", Access{Owner: -1}, 0, "list status retry delete message stop pickup"},
		{"owner", Access{Owner: stranger}, stranger, "list status retry delete message stop pickup"},
		{"anyone", Access{Owner: -1, List: Anyone(), Flush: Anyone()}, stranger, "list status retry pickup"},
		{"not on the lists", Access{Owner: -1, List: nobody, Flush: nobody}, stranger, "pickup"},
		{"looking only", Access{Owner: -1, List: Anyone()}, stranger, "list status pickup"},
	} {
		client := serve(t, &fake{}, Config{Access: c.access}, c.uid)
		for op, run := range ops {
			err := run(t.Context(), client)
			if may := strings.Contains(" "+c.may+" ", " "+op+" "); may && err != nil || !may && !errors.Is(err, ErrDenied) {
				t.Errorf("%s, %s: %v", c.name, op, err)
			}
		}
	}
}

func act(ctx context.Context, c *Client, v operator.Verb) error {
	_, err := c.Act(ctx, v, operator.Selection{IDs: []mail.QueueID{1}}, operator.Actor{})
	return err
}

func TestUsers(t *testing.T) {
	file := filepath.Join(t.TempDir(), "users")
	if err := os.WriteFile(file, []byte("# ours\nalice, bob\n!carol # not her\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		list []string
		has  string
		not  string
	}{
		{nil, "", "alice"},
		{[]string{"static:anyone"}, "alice bob", ""},
		{[]string{"alice", "bob"}, "alice bob", "carol"},
		{[]string{"!alice", "static:all"}, "bob", "alice"},
		{[]string{file, "static:all"}, "alice bob dave", "carol"},
		{[]string{"!" + file}, "carol", "alice bob"},
	} {
		u, err := ParseUsers(c.list)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range strings.Fields(c.has) {
			if !u.Has(name) {
				t.Errorf("%v lacks %s", c.list, name)
			}
		}
		for _, name := range strings.Fields(c.not) {
			if u.Has(name) {
				t.Errorf("%v has %s", c.list, name)
			}
		}
	}
	for _, bad := range []string{"hash:/etc/x", "/nonexistent/list"} {
		if _, err := ParseUsers([]string{bad}); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
}

// TestSilentReader: a client that asks for a list and never reads it is
// dropped, and holds nothing but its own session.
func TestSilentReader(t *testing.T) {
	f := &fake{n: 10_000_000}
	c := serve(t, f, Config{Access: Access{Owner: -1}, Patience: 50 * time.Millisecond}, 0)
	conn, err := dial(t.Context(), c.path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := newLink(conn, time.Minute).sendJSON(kindRequest, request{Version: protocolVersion, Op: opList}); err != nil {
		t.Fatal(err)
	}
	for {
		f.mu.Lock()
		stopped := len(f.calls) > 0
		f.mu.Unlock()
		if stopped {
			break
		}
		if _, err := c.Counts(t.Context()); err != nil {
			t.Fatalf("another client: %v", err)
		}
	}
}

func TestNonsense(t *testing.T) {
	c := serve(t, &fake{}, Config{Access: Access{Owner: -1}}, 0)
	for name, bytes := range map[string]string{
		"too long": "\xff\xff\xff\xffq", "not JSON": "\x00\x00\x00\x01q{", "wrong kind": "\x00\x00\x00\x02r{}", "cut": "\x00\x00", "http": "GET / HTTP/1.1\r\n\r\n",
	} {
		conn, err := dial(t.Context(), c.path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, bytes); err != nil {
			t.Fatal(err)
		}
		if err := conn.(*net.UnixConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if rest, err := io.ReadAll(conn); len(rest) > 0 || err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: %q, %v", name, rest, err)
		}
		conn.Close()
	}
	var old *RemoteError
	_, err := c.exchange(mustLink(t, c), request{Version: 0, Op: "dance"}, nil)
	if !errors.As(err, &old) {
		t.Errorf("unknown operation: %v", err)
	}
}

func mustLink(t *testing.T, c *Client) *link {
	t.Helper()
	conn, err := dial(t.Context(), c.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return newLink(conn, time.Minute)
}

// TestServerThatGoes: a stop that is not answered for its own success is one.
func TestServerThatGoes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 2 {
			if conn, err := l.Accept(); err == nil {
				_, _, _ = newLink(conn, time.Minute).receive()
				conn.Close()
			}
		}
	}()
	if _, err := NewClient(path).Counts(t.Context()); !errors.Is(err, ErrLost) {
		t.Errorf("counts: %v", err)
	}
	if err := NewClient(path).Stop(t.Context(), operator.Actor{}); err != nil {
		t.Errorf("stop: %v", err)
	}
	<-done
}

func TestCanceled(t *testing.T) {
	c := serve(t, &fake{n: 1_000_000}, Config{Access: Access{Owner: -1}}, 0)
	ctx, cancel := context.WithCancel(t.Context())
	err := c.List(ctx, func(*operator.View) bool { cancel(); return true })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestViewsRoundTrip(t *testing.T) {
	instant := rapid.Map(rapid.Int64Range(0, 1<<50), func(n int64) time.Time {
		if n == 0 {
			return time.Time{}
		}
		return time.Unix(0, n).UTC()
	})
	rapid.Check(t, func(t *rapid.T) {
		str := func(label string) string { return rapid.String().Draw(t, label) }
		want := operator.View{
			Queue: mail.QueueName(str("queue")), ID: mail.QueueID(rapid.Uint64().Draw(t, "id")), Arrival: instant.Draw(t, "arrival"), Size: rapid.Int64().Draw(t, "size"),
			Sender: mail.Address(str("sender")), ForceExpire: rapid.Bool().Draw(t, "expire"), Origin: mail.Origin(rapid.Byte().Draw(t, "origin")), User: str("user"),
			NextAttempt: instant.Draw(t, "next"), Expires: instant.Draw(t, "expires"), Attempts: rapid.Uint32().Draw(t, "attempts"),
		}
		for range rapid.IntRange(0, 3).Draw(t, "rcpts") {
			want.Recipients = append(want.Recipients, operator.RecipientView{
				Address: mail.Address(str("a")), OrigAddress: mail.Address(str("o")), Reason: str("r"),
				NextAttempt: instant.Draw(t, "n"), Destination: mail.Destination{Transport: str("t"), NextHop: str("h")},
			})
		}
		b := appendView(nil, &want)
		b = appendView(b, &want)
		n := 0
		more, err := newDecoder().decode(b, func(v *operator.View) bool {
			n++
			if diff := cmp.Diff(want, *v, cmp.Transformer("nil", func(r []operator.RecipientView) []operator.RecipientView {
				return append([]operator.RecipientView{}, r...)
			})); diff != "" {
				t.Fatal(diff)
			}
			return true
		})
		if err != nil || !more || n != 2 {
			t.Fatalf("%d views, %v", n, err)
		}
		if _, err := newDecoder().decode(b[:len(b)-1], func(*operator.View) bool { return true }); !errors.Is(err, ErrProtocol) {
			t.Fatalf("cut list: %v", err)
		}
	})
}

func FuzzDecodeViews(f *testing.F) {
	v := view(1)
	f.Add(appendView(nil, &v))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(_ *testing.T, b []byte) {
		_, _ = newDecoder().decode(b, func(*operator.View) bool { return true })
	})
}

// BenchmarkList is a list from one end of the socket to the other.
func BenchmarkList(b *testing.B) {
	f := &fake{n: b.N}
	c := serve(b, f, Config{Access: Access{Owner: -1}}, 0)
	b.ReportAllocs()
	b.ResetTimer()
	n := 0
	if err := c.List(b.Context(), func(*operator.View) bool { n++; return true }); err != nil || n != f.n {
		b.Fatal(n, err)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msgs/s")
}
