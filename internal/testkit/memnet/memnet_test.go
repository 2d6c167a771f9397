package memnet_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/nettest"

	"posthouse/internal/testkit/memnet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestBehavesLikeAConnection(t *testing.T) {
	nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
		a, b := memnet.Pipe()
		return a, b, func() { a.Close(); b.Close() }, nil
	})
}

// connect returns both ends of a connection through a network.
func connect(t *testing.T, n *memnet.Network) (client, server net.Conn) {
	t.Helper()
	l, err := n.Listen("tcp", "192.0.2.1:25")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	client, err = n.Dial("tcp", "192.0.2.1:25")
	if err != nil {
		t.Fatal(err)
	}
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return client, server
}

func TestDeadlineInVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, _ := connect(t, memnet.New())
		start := time.Now()
		client.SetReadDeadline(start.Add(5 * time.Minute))
		_, err := client.Read(make([]byte, 1))
		var ne net.Error
		if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &ne) || !ne.Timeout() {
			t.Fatalf("error %v", err)
		}
		if d := time.Since(start); d != 5*time.Minute {
			t.Fatalf("after %v", d)
		}
	})
}

func TestFaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		var link *memnet.Link
		n.OnConnect("192.0.2.1:25", func(l *memnet.Link) {
			link = l
			l.ToServer.StallAfter(3)
			l.ToClient.CutAfter(4)
		})
		client, server := connect(t, n)
		if _, err := client.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 10)
		if k, _ := server.Read(b); string(b[:k]) != "hel" {
			t.Fatalf("read %q before the stall", b[:k])
		}
		time.AfterFunc(time.Hour, link.ToServer.Resume)
		start := time.Now()
		if k, _ := server.Read(b); string(b[:k]) != "lo" || time.Since(start) != time.Hour {
			t.Fatalf("read %q after %v", b[:k], time.Since(start))
		}
		if k, err := server.Write([]byte("too long")); k != 4 || !errors.Is(err, syscall.ECONNRESET) {
			t.Fatalf("wrote %d, %v", k, err)
		}
		if k, _ := client.Read(b); string(b[:k]) != "too " {
			t.Fatalf("read %q", b[:k])
		}
		if _, err := client.Read(b); !errors.Is(err, syscall.ECONNRESET) {
			t.Fatalf("after the cut: %v", err)
		}
		if got := link.ToClient.Written(); got != 4 {
			t.Fatalf("written %d", got)
		}
	})
}

func TestWriterBlocksOnAStalledPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, _ := connect(t, memnet.New())
		client.SetWriteDeadline(time.Now().Add(time.Minute))
		k, err := client.Write(make([]byte, 1<<20))
		if !errors.Is(err, os.ErrDeadlineExceeded) || k == 0 || k == 1<<20 {
			t.Fatalf("wrote %d, %v", k, err)
		}
	})
}

func TestAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		if _, err := n.Dial("tcp", "192.0.2.9:25"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("nobody there: %v", err)
		}
		n.Blackhole("192.0.2.9:25", true)
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		if _, err := n.DialContext(ctx, "tcp", "192.0.2.9:25"); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("black hole: %v", err)
		}
		l, err := n.Listen("tcp", "[2001:db8::1]:25")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := n.Listen("tcp", "[2001:db8::1]:25"); !errors.Is(err, syscall.EADDRINUSE) {
			t.Fatalf("taken: %v", err)
		}
		c, err := n.DialFrom(t.Context(), "2001:db8::2", "tcp", "[2001:db8::1]:25")
		if err != nil || c.RemoteAddr().String() != "[2001:db8::1]:25" {
			t.Fatalf("%v, %v", c, err)
		}
		l.Close()
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Fatalf("never accepted: %v", err)
		}
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Fatalf("closed listener: %v", err)
		}
	})
}

func TestCloseLetsThePeerReadTheRest(t *testing.T) {
	a, b := memnet.Pipe()
	a.Write([]byte("221 bye"))
	a.Close()
	got, err := io.ReadAll(b)
	if string(got) != "221 bye" || err != nil {
		t.Fatalf("%q, %v", got, err)
	}
	if _, err := b.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
		t.Fatalf("write to a closed peer: %v", err)
	}
	b.Close()
}
