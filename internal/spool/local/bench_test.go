package local

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"posthouse/internal/mail"
	"posthouse/internal/spool"
	"posthouse/internal/spool/spooltest"
)

// benchDir is on the disk that temporary files are on; the figures mean
// nothing on a file system in memory.
func benchStore(b *testing.B) (*Store, string) {
	dir, err := os.MkdirTemp("", "spool")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = os.RemoveAll(dir) })
	return benchOpen(b, dir), dir
}

func benchOpen(b *testing.B, dir string) *Store {
	st, err := Open(Options{Dir: dir, Warn: func(s string) { b.Log(s) }})
	if err != nil {
		b.Fatal(err)
	}
	if _, err := st.Recover(context.Background(), func(*mail.Message) error { return nil }); err != nil {
		b.Fatal(err)
	}
	return st
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// run calls work b.N times from some callers, each time with a new ID, and
// reports messages per second and processor time per message.
func run(b *testing.B, callers int, work func(id mail.QueueID) error) {
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ReportAllocs()
	b.ResetTimer()
	cpu, start := cpuTime(), time.Now()
	for range callers {
		wg.Go(func() {
			for n := next.Add(1); n <= int64(b.N); n = next.Add(1) {
				if err := work(mail.QueueID(n)); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "msg/s")
	b.ReportMetric(float64((cpuTime()-cpu).Microseconds())/float64(b.N), "cpu-µs/msg")
}

const benchSize = 4 << 10

func benchCommit(st *Store, content []byte) func(id mail.QueueID) error {
	return func(id mail.QueueID) error {
		env := spooltest.Envelope(id, len(content), 1)
		s, err := st.Stage(int64(len(content)))
		if err != nil {
			return err
		}
		if _, err := s.Write(content); err != nil {
			return err
		}
		return st.Commit(context.Background(), &env, s)
	}
}

func BenchmarkEnqueue(b *testing.B) {
	for _, callers := range []int{1, 16, 128} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			st, _ := benchStore(b)
			run(b, callers, benchCommit(st, spooltest.Body(1, benchSize)))
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			b.ReportMetric(float64(m.Sys>>20), "sys-MiB")
			if err := st.Close(); err != nil {
				b.Fatal(err)
			}
		})
	}
}

func BenchmarkLifeCycle(b *testing.B) {
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			st, _ := benchStore(b)
			commit := benchCommit(st, spooltest.Body(1, benchSize))
			run(b, callers, func(id mail.QueueID) error {
				if err := commit(id); err != nil {
					return err
				}
				c, err := st.Content(id)
				if err != nil {
					return err
				}
				if err := c.Close(); err != nil {
					return err
				}
				return st.Apply(context.Background(), (&spool.Batch{}).Add(spool.Remove{ID: id}))
			})
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			b.ReportMetric(float64(m.Sys>>20), "sys-MiB")
			if err := st.Close(); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// BenchmarkOpen opens a spool with many messages, after a clean close.
func BenchmarkOpen(b *testing.B) {
	const messages = 100_000
	st, dir := benchStore(b)
	commit := benchCommit(st, spooltest.Body(1, 512))
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			for id := i; id < messages; id += 64 {
				if err := commit(mail.QueueID(id + 1)); err != nil {
					b.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if err := st.Close(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		st := benchOpen(b, dir)
		if err := st.Close(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(messages, "messages")
}
