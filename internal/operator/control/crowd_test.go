package control

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// exhausted is a listener that is out of file descriptors a few times.
type exhausted struct {
	net.Listener
	left atomic.Int32
}

func (e *exhausted) Accept() (net.Conn, error) {
	if e.left.Add(-1) >= 0 {
		return nil, &net.OpError{Op: "accept", Net: "unix", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
	}
	return e.Listener.Accept()
}

// crowded starts a server whose clients have the user ID that uid holds when
// they connect.
func crowded(t *testing.T, shortages int32) (path string, uid *atomic.Int64) {
	t.Helper()
	path, uid = filepath.Join(t.TempDir(), "socket"), new(atomic.Int64)
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(&fake{}, Config{Access: Access{Owner: -1, List: Anyone()}})
	s.self = 0
	s.peer = func(net.Conn) (int, error) { return int(uid.Load()), nil }
	e := &exhausted{Listener: l}
	e.left.Store(shortages)
	done := make(chan error, 1)
	go func() { done <- s.Serve(e) }()
	t.Cleanup(func() {
		s.Close()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if len(s.guests) != 0 || s.crowd != 0 {
			t.Errorf("left behind: %v, %d", s.guests, s.crowd)
		}
	})
	return path, uid
}

// TestOutOfFileDescriptors: what any local user can bring about for a moment
// once ended the server, and with it the relay.
func TestOutOfFileDescriptors(t *testing.T) {
	path, _ := crowded(t, 3)
	if _, err := NewClient(path).Counts(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestCrowdOfGuests: a user who opens connection after connection keeps
// neither other users nor root from being heard.
func TestCrowdOfGuests(t *testing.T) {
	path, uid := crowded(t, 0)
	open := func(as int64) *link {
		uid.Store(as)
		conn, err := dial(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return newLink(conn, time.Minute)
	}
	counts := func(l *link) error {
		_, err := (&Client{patience: time.Minute}).exchange(l, request{Version: protocolVersion, Op: opCounts}, nil)
		return err
	}
	var mine []*link
	for range oneGuest {
		l := open(1000)
		if err := counts(l); err != nil {
			t.Fatal(err)
		}
		mine = append(mine, l)
	}
	refused := func(as int64) {
		t.Helper()
		kind, text, err := open(as).receive()
		if kind != kindError || err != nil {
			t.Errorf("user %d: %q, %s, %v", as, kind, text, err)
		}
	}
	refused(1000)
	for n := int64(oneGuest); n < guestsAtOnce; n++ {
		if err := counts(open(1001 + n/oneGuest)); err != nil {
			t.Fatalf("guest %d: %v", n, err)
		}
	}
	refused(2000)
	if err := counts(open(0)); err != nil {
		t.Errorf("root: %v", err)
	}
	if err := mine[0].conn.Close(); err != nil {
		t.Fatal(err)
	}
	// The place is free as soon as the server has noticed.
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for counts(open(1000)) != nil {
		if ctx.Err() != nil {
			t.Fatal("no place for a guest after one has left")
		}
	}
}

// TestGuestWithLongRequest: the length that a guest announces is not believed
// enough to make room for it.
func TestGuestWithLongRequest(t *testing.T) {
	path, uid := crowded(t, 0)
	uid.Store(1000)
	conn, err := dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	head := binary.BigEndian.AppendUint32(nil, guestRequest+1)
	if _, err := conn.Write(append(head, kindRequest)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the server waits for it: %v", err)
	}
}
