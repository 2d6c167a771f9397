package source_test

import (
	"context"
	"testing"

	"posthouse/internal/traffic/sink"
	"posthouse/internal/traffic/source"
)

// BenchmarkSourceToSink is the ceiling of both tools together: neither may be
// what a benchmark of the relay between them measures.
func BenchmarkSourceToSink(b *testing.B) {
	srv, err := sink.New(sink.Config{Extensions: sink.AllExtensions})
	if err != nil {
		b.Fatal(err)
	}
	defer srv.Close()
	addr, err := srv.Listen("127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.ResetTimer()
	res, err := source.Run(context.Background(), source.Config{
		Address: addr.String(), Sessions: 16, Messages: int64(b.N), Persistent: true,
		From: "a@b.example", To: "user%d@dom%100d.example", Length: 4096,
	})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(res.PerSecond(), "msg/s")
}
