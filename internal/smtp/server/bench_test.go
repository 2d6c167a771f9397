package server

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
)

// benchClient sends messages over one connection of loopback, each DATA in
// the two round trips that a pipelining client needs, and BDAT in one.
func benchmark(b *testing.B, sessions int, chunking bool) {
	cfg := DefaultConfig("mx.test.local")
	cfg.MaxPerClient = 0
	addr := start(b, New(cfg, null{}, Deps{Log: silent{}}))
	body := bytes.Repeat([]byte(strings.Repeat("x", 62)+"\r\n"), 64)
	envelope := "MAIL FROM:<sender@example.com> SIZE=4096\r\nRCPT TO:<recipient@example.org>\r\n"
	work := make(chan struct{}, sessions)
	errs := make(chan error, sessions)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	b.ResetTimer()
	for range sessions {
		go func() { errs <- benchSession(addr, envelope, body, chunking, work) }()
	}
	for range b.N {
		work <- struct{}{}
	}
	close(work)
	for range sessions {
		if err := <-errs; err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
}

func benchSession(addr, envelope string, body []byte, chunking bool, work <-chan struct{}) error {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	r := bufio.NewReader(c)
	expect := func(lines int) error {
		for range lines {
			line, err := r.ReadSlice('\n')
			if err != nil || line[0] > '3' {
				return fmt.Errorf("%q, %w", line, err)
			}
		}
		return nil
	}
	if err := expect(1); err != nil {
		return err
	}
	if _, err := io.WriteString(c, "EHLO x\r\n"); err != nil {
		return err
	}
	if err := expect(10); err != nil {
		return err
	}
	head, tail := []byte(envelope+"DATA\r\n"), append(bytes.Clone(body), ".\r\n"...)
	if chunking {
		head, tail = append(fmt.Appendf([]byte(envelope), "BDAT %d LAST\r\n", len(body)), body...), nil
	}
	for range work {
		if _, err := c.Write(head); err != nil {
			return err
		}
		if err := expect(3); err != nil {
			return err
		}
		if tail == nil {
			continue
		}
		if _, err := c.Write(tail); err != nil {
			return err
		}
		if err := expect(1); err != nil {
			return err
		}
	}
	return nil
}

func BenchmarkDATA(b *testing.B) {
	for _, n := range []int{1, 16, 100} {
		b.Run(fmt.Sprint(n), func(b *testing.B) { benchmark(b, n, false) })
	}
}

func BenchmarkBDAT(b *testing.B) {
	for _, n := range []int{1, 16, 100} {
		b.Run(fmt.Sprint(n), func(b *testing.B) { benchmark(b, n, true) })
	}
}

// BenchmarkSession is the protocol alone, without a kernel: messages
// pipelined through memory.
func BenchmarkSession(b *testing.B) {
	body := strings.Repeat(strings.Repeat("x", 62)+"\r\n", 64)
	one := "MAIL FROM:<sender@example.com> SIZE=4096\r\nRCPT TO:<recipient@example.org>\r\nDATA\r\n" + body + ".\r\n"
	const batch = 1000
	in := []byte("EHLO x\r\n" + strings.Repeat(one, batch) + "QUIT\r\n")
	cfg := DefaultConfig("mx.test.local")
	cfg.ForbidEarly = false
	srv := New(cfg, null{}, Deps{Log: silent{}})
	conn := &script{piece: 1 << 20}
	b.SetBytes(int64(len(in) / batch))
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		if n++; n%batch == 0 {
			conn.in = bytes.NewReader(in)
			conn.out.Reset()
			srv.ServeConn(b.Context(), conn, listener)
			if got := bytes.Count(conn.out.Bytes(), []byte("queued as")); got != batch {
				b.Fatalf("%d messages", got)
			}
		}
	}
}
