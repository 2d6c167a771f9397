package maillog

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"posthouse/internal/mail"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func fixed() time.Time { return time.Date(2026, 11, 2, 7, 5, 16, 123456789, time.UTC) }

func testOptions() Options {
	return Options{Hostname: "mx.example.org", PID: 123, Now: fixed}
}

func logged(t *testing.T, opt Options, log func(l Logger)) string {
	t.Helper()
	var buf bytes.Buffer
	w := NewStream(&buf, opt)
	log(w)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.String()
}

func sampleDelivery() *Delivery {
	return &Delivery{
		ID: 0x1A2B3C4D5E6F, To: "bob@example.net", Relay: "mx[192.0.2.1]:25",
		Delay:  1230 * time.Millisecond,
		Delays: Delays{BeforeQueue: 20 * time.Millisecond, Setup: time.Second, Transfer: 210 * time.Millisecond},
		DSN:    mail.EnhancedCode{2, 0, 0}, Status: "sent", Text: "250 2.0.0 Ok",
	}
}

func TestLinesLookLikePostfix(t *testing.T) {
	got := logged(t, testOptions(), func(l Logger) {
		l.Log("smtp", Info, sampleDelivery())
		l.Log("submission/smtpd", Warning, Text("hostname x does not resolve"))
		l.Log("", Fatal, Text("bye"))
	})
	want := "Nov  2 07:05:16 mx postfix/smtp[123]: 1A2B3C4D5E6F: to=<bob@example.net>, relay=mx[192.0.2.1]:25, delay=1.2, delays=0.02/0/1/0.21, dsn=2.0.0, status=sent (250 2.0.0 Ok)\n" +
		"Nov  2 07:05:16 mx postfix/submission/smtpd[123]: warning: hostname x does not resolve\n" +
		"Nov  2 07:05:16 mx postfix[123]: fatal: bye\n"
	if got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestNoLineCanBeForged(t *testing.T) {
	for in, want := range map[string]string{
		"a\nNov  2 evil":       "a?Nov  2 evil",
		"cr\r\x00\x1b[31m\x7f": "cr???[31m?",
		"grüße 日本":             "grüße 日本",
		"bad\xff\xc3":          "bad??",
		"c1\u009b31m":          "c1??31m",
		"ls\u2028x":            "ls???x",
		"tab\tx":               "tab?x",
	} {
		got := logged(t, testOptions(), func(l Logger) { l.Log("smtpd", Info, Text(in)) })
		if want := "Nov  2 07:05:16 mx postfix/smtpd[123]: " + want + "\n"; got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
	got := logged(t, testOptions(), func(l Logger) { l.Log("x\ny", Info, Text("z")) })
	if strings.Count(got, "\n") != 1 {
		t.Errorf("a service name broke the line: %q", got)
	}
}

func TestJSONLines(t *testing.T) {
	opt := testOptions()
	opt.Format = JSON
	opt.IDs = mail.LongIDs
	evil := "say \"hi\"\n\\ \xff ü \u2028\u009b"
	got := logged(t, opt, func(l Logger) {
		l.Log("smtp", Info, sampleDelivery())
		l.Log("smtpd", Warning, Text(evil))
	})
	lines := strings.Split(strings.TrimSuffix(got, "\n"), "\n")
	if len(lines) != 2 {
		t.Fatalf("got %d lines: %q", len(lines), got)
	}
	var first, second map[string]any
	if err := errors.Join(json.Unmarshal([]byte(lines[0]), &first), json.Unmarshal([]byte(lines[1]), &second)); err != nil {
		t.Fatal(err)
	}
	if first["event"] != "delivery" || first["to"] != "bob@example.net" || first["delay"] != 1.23 || first["service"] != "smtp" || first["time"] != "2026-11-02T07:05:16.123456Z" {
		t.Errorf("delivery: %v", first)
	}
	if want := strings.ReplaceAll(evil, "\xff", "\ufffd"); second["message"] != want || second["severity"] != "warning" {
		t.Errorf("text: %q, want %q", second["message"], want)
	}
}

func TestFileFollowsRotationAndReopens(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "mail.log")
	var mu sync.Mutex
	now := fixed()
	opt := testOptions()
	opt.Now = func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	w, err := NewFile(path, opt)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	flush := func() { // a write takes ioMu, and Log signals before: wait for an empty buffer
		for {
			w.mu.Lock()
			idle := len(w.buf) == 0 && !w.writing
			w.mu.Unlock()
			if idle {
				return
			}
		}
	}
	w.Log("a", Info, Text("one"))
	flush()
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	w.Log("a", Info, Text("two: still the old file"))
	flush()
	mu.Lock()
	now = now.Add(2 * time.Second)
	mu.Unlock()
	w.Log("a", Info, Text("three: a new file"))
	flush()
	if err := os.Rename(path, path+".2"); err != nil {
		t.Fatal(err)
	}
	if err := w.Reopen(); err != nil {
		t.Fatal(err)
	}
	w.Log("a", Info, Text("four"))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	w.Log("a", Info, Text("too late"))
	if w.Dropped() != 1 {
		t.Errorf("dropped %d, want 1", w.Dropped())
	}
	for name, want := range map[string]int{".1": 2, ".2": 1, "": 1} {
		b, err := os.ReadFile(path + name)
		if err != nil || bytes.Count(b, []byte("\n")) != want {
			t.Errorf("mail.log%s: %v, %q", name, err, b)
		}
	}
	if _, err := NewFile(filepath.Join(dir, "no", "such"), opt); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing directory: %v", err)
	}
}

// blockedWriter accepts nothing until it is released.
type blockedWriter struct {
	entered chan struct{}
	release chan struct{}
	bytes.Buffer
}

func (b *blockedWriter) Write(p []byte) (int, error) {
	select {
	case b.entered <- struct{}{}:
	default:
	}
	<-b.release
	return b.Buffer.Write(p)
}

func TestFullBufferHoldsLoggersBackAndLosesNothing(t *testing.T) {
	sink := &blockedWriter{entered: make(chan struct{}, 1), release: make(chan struct{})}
	opt := testOptions()
	opt.Buffer = 1000
	w := NewStream(sink, opt)
	const loggers, each = 4, 100
	var wg sync.WaitGroup
	for g := range loggers {
		wg.Go(func() {
			for i := range each {
				w.Log("x", Info, Text(fmt.Sprintf("logger %d line %d", g, i)))
			}
		})
	}
	<-sink.entered
	w.mu.Lock()
	waiting := len(w.buf)
	w.mu.Unlock()
	if limit := opt.Buffer + loggers*200; waiting > limit {
		t.Errorf("%d bytes wait, more than %d", waiting, limit)
	}
	close(sink.release)
	wg.Wait()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(sink.String(), "\n"); n != loggers*each {
		t.Errorf("%d lines, want %d", n, loggers*each)
	}
	if w.Dropped() != 0 {
		t.Errorf("dropped %d", w.Dropped())
	}
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestLostLinesAreCounted(t *testing.T) {
	w := NewStream(failingWriter{}, testOptions())
	for range 5 {
		w.Log("x", Info, Text("y"))
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if w.Dropped() != 5 {
		t.Errorf("dropped %d, want 5", w.Dropped())
	}
}

func TestSyslogDatagrams(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	w := NewSyslog(path, testOptions())
	w.Log("smtp", Info, Text("one"))
	w.Log("smtp", Warning, Text("two"))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1000)
	for _, want := range []string{"<22>Nov  2 07:05:16 postfix/smtp[123]: one", "<20>Nov  2 07:05:16 postfix/smtp[123]: warning: two"} {
		n, err := conn.Read(buf)
		if err != nil || string(buf[:n]) != want {
			t.Errorf("got %q, %v; want %q", buf[:n], err, want)
		}
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	w = NewSyslog(path, testOptions())
	w.Log("smtp", Info, Text("nobody listens"))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if w.Dropped() != 1 {
		t.Errorf("dropped %d, want 1", w.Dropped())
	}
}

func TestRecorderAndMulti(t *testing.T) {
	var a, b Recorder
	changed := a.Changed()
	Multi(&a, &b, Discard()).Log("qmgr", Warning, &Queued{ID: 0x1A2B3C4D5E6F, What: "removed", Text: "removed"})
	<-changed
	want := "qmgr: warning: 1A2B3C4D5E6F: removed"
	if l, ok := a.Find("removed"); !ok || l != want || len(b.Lines()) != 1 {
		t.Errorf("got %q %v %v", l, ok, b.Lines())
	}
}

// The right-hand sides were printed by the system that AppendDelay imitates
// (2 significant digits, delay_logging_resolution_limit 2).
func TestAppendDelay(t *testing.T) {
	for us, want := range map[int64]string{
		0: "0", 1000: "0", 4999: "0", 5000: "0.01", 9999: "0.01", 149999: "0.15", 155000: "0.16",
		994999: "0.99", 995000: "1", 999999: "1", 1049999: "1", 1050000: "1.1", 1999999: "2",
		2100000: "2.1", 9949999: "9.9", 9950000: "10", 9999999: "10", 10499999: "10", 10500000: "11",
		99600000: "100", 100000000: "100", -5: "0",
	} {
		if got := string(AppendDelay(nil, time.Duration(us)*time.Microsecond)); got != want {
			t.Errorf("%d µs: got %s, want %s", us, got, want)
		}
	}
}

func TestParseNames(t *testing.T) {
	if n, err := ParseFacility("local3"); n != 19 || err != nil {
		t.Error(n, err)
	}
	if _, err := ParseFacility("post"); !errors.Is(err, ErrFacility) {
		t.Error(err)
	}
	if f, err := ParseFormat("JSON"); f != JSON || err != nil {
		t.Error(f, err)
	}
	if _, err := ParseFormat("xml"); !errors.Is(err, ErrFormat) {
		t.Error(err)
	}
}

func TestLoggingAllocatesNothing(t *testing.T) {
	opt := testOptions()
	opt.Buffer = 64 << 20
	w := NewStream(io.Discard, opt)
	d := sampleDelivery()
	for range 20000 { // grow both buffers
		w.Log("smtp", Info, d)
	}
	allocs := testing.AllocsPerRun(2000, func() { w.Log("smtp", Info, d) })
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	// A collection may empty the pool, and a buffer may grow once more.
	if allocs > 1 {
		t.Errorf("%v allocations a line", allocs)
	}
}

func FuzzSanitize(f *testing.F) {
	for _, s := range []string{"", "plain", "a\nb", "\xff\xfe", "ü\u009b\u2028", "\x1b[0m"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := string(sanitize([]byte(s)))
		if len(got) != len(s) || strings.ContainsAny(got, "\n\r\x00\x1b\x7f\u2028") {
			t.Errorf("%q became %q", s, got)
		}
		var back string
		if err := json.Unmarshal(appendJSONString(nil, s), &back); err != nil || back != strings.ToValidUTF8(s, "\ufffd") && len(s) == len(strings.ToValidUTF8(s, "")) {
			t.Errorf("%q as JSON: %q, %v", s, back, err)
		}
	})
}

func BenchmarkFile(b *testing.B) {
	w, err := NewFile(filepath.Join(b.TempDir(), "log"), Options{})
	if err != nil {
		b.Fatal(err)
	}
	d := sampleDelivery()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			w.Log("smtp", Info, d)
		}
	})
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "lines/s")
}
