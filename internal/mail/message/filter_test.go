package message

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
)

// crlf writes a text of LF lines as stored content.
func crlf(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }

const added = "Added: here\n"

// filterCases are what the real Postfix did with the same input, its own
// fields replaced by one added line.
var filterCases = []struct {
	name, in, want string
	local          bool // as from a local program
}{
	{name: "plain", in: "Subject: x\r\nTo: a@b\r\n\r\nbody\r\n", want: "Subject: x\nTo: a@b\n" + added + "\nbody\n"},
	{name: "mailbox line over SMTP", in: "From alice Mon Jan\r\n>From bob\r\nSubject: x\r\n\r\nb\r\n", want: "X-Mailbox-Line: From alice Mon Jan\nX-Mailbox-Line: >From bob\nSubject: x\n" + added + "\nb\n"},
	{name: "mailbox line from a program", local: true, in: "From alice Mon\n>From z\nSubject: x\n\nb\n", want: "Subject: x\n" + added + "\nb\n"},
	{name: "mailbox line later is body", in: "Subject: x\r\nFrom alice\r\nTo: z\r\n", want: "Subject: x\n" + added + "\nFrom alice\nTo: z\n"},
	{name: "leading blank is body", in: " leading\r\nSubject: x\r\n\r\nb\r\n", want: added + "\n leading\nSubject: x\n\nb\n"},
	{name: "leading blank after mailbox line", in: "From a\r\n leading\r\n", want: "X-Mailbox-Line: From a\n" + added + "\n leading\n"},
	{name: "no separator", in: "Subject: x\r\nthis is body\r\nmore\r\n", want: "Subject: x\n" + added + "\nthis is body\nmore\n"},
	{name: "blanks before colon", in: "Subject : x\r\nX-A\t : y\r\nFoo Bar: z\r\nnext: 1\r\n\r\nbody\r\n", want: "Subject: x\nX-A: y\n" + added + "\nFoo Bar: z\nnext: 1\n\nbody\n"},
	{name: "no header", in: "just body\r\n", want: added + "\njust body\n"},
	{name: "nothing", in: "", want: added},
	{name: "only separator", in: "\r\n", want: added + "\n"},
	{name: "separator first", in: "\r\nbody\r\n", want: added + "\nbody\n"},
	{name: "only header", in: "Subject: x\r\n", want: "Subject: x\n" + added},
	{name: "only header, unended", in: "Subject: x", want: "Subject: x\n" + added},
	{name: "blank line of blanks folds", in: "Subject: x\r\n  \r\n\tfoo\r\nTo: a\r\n \r\n\r\nb\r\n", want: "Subject: x\n  \n\tfoo\nTo: a\n \n" + added + "\nb\n"},
	{name: "dropped fields", in: "Bcc: secret@x\r\nSubject: x\r\nbcc:\r\n more@x\r\nResent-Bcc: z@x\r\nReturn-Path: <a@b>\r\nContent-Length: 20\r\nTo: x@y\r\n\r\nBcc: stays\r\n", want: "Subject: x\nTo: x@y\n" + added + "\nBcc: stays\n"},
	{name: "dropped last", in: "Subject: x\r\nBCC : a\r\n\tb\r\n", want: "Subject: x\n" + added},
	{name: "colon first", in: ": foo\r\nSubject: a\r\n\r\nb\r\n", want: added + "\n: foo\nSubject: a\n\nb\n"},
	{name: "eight bits in name", in: "S\xfcb: a\r\nSubject: \xfc\r\n\r\nb\xfc\r\n", want: added + "\nS\xfcb: a\nSubject: \xfc\n\nb\xfc\n"},
	{name: "NUL in name", in: "Sub\x00ject: a\r\n\r\nb\x00d\r\n", want: added + "\nSub\x00ject: a\n\nb\x00d\n"},
	{name: "stray CR", in: "Subject: a\rb\r\n\r\nfoo\rbar\r\n\rx\r\r\n", want: "Subject: a b\n" + added + "\nfoo bar\n x \n"},
	{name: "bare LF", in: "Subject: a\n\nfoo\nbar\r\n", want: "Subject: a\n" + added + "\nfoo\nbar\n"},
	{name: "unended body", in: "Subject: x\n\nno newline", want: "Subject: x\n" + added + "\nno newline\n"},
	{name: "CR at the end", in: "Subject: x\n\nhalf\r", want: "Subject: x\n" + added + "\nhalf\n"},
	{name: "only CR", in: "\r", want: added + "\n"},
	{name: "CR ends the header", in: "A: b\r", want: "A: b\n" + added},
	{name: "empty fields", in: "From:\r\nDate:\r\n\r\nb\r\n", want: "From:\nDate:\n" + added + "\nb\n"},
}

func run(tb testing.TB, opt Options, chunks ...[]byte) string {
	tb.Helper()
	var out bytes.Buffer
	f := NewFilter(&out, opt)
	for _, c := range chunks {
		if _, err := f.Write(c); err != nil {
			tb.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		tb.Fatal(err)
	}
	return out.String()
}

// chop cuts b into pieces of n bytes.
func chop(b []byte, n int) (out [][]byte) {
	for ; len(b) > n; b = b[n:] {
		out = append(out, b[:n])
	}
	return append(out, b)
}

func TestFilterAsPostfix(t *testing.T) {
	for _, c := range filterCases {
		t.Run(c.name, func(t *testing.T) {
			opt := Options{DropMailboxLines: c.local, EndOfHeader: func() []byte { return []byte(crlf(added)) }}
			for n := 1; n <= len(c.in)+1; n++ {
				if got := run(t, opt, chop([]byte(c.in), n)...); got != crlf(c.want) {
					t.Fatalf("in pieces of %d:\n got %q\nwant %q", n, got, crlf(c.want))
				}
			}
		})
	}
}

func TestFilterCollectsAndCounts(t *testing.T) {
	in := "Received: one\r\nreceived: two\r\nMessage-ID:\r\n\t<a@b>\r\nTo: x@y,\r\n z@y\r\nResent-Date: \xfc\r\nBcc: h@y\r\nMessage-Id: <second@b>\r\n\r\nReceived: no\r\n"
	for n := 1; n <= len(in); n += 3 {
		var got []string
		f := NewFilter(io.Discard, Options{Collect: Fields(MessageID, To, Bcc), Value: func(k Field, v []byte) { got = append(got, fmt.Sprint(k, ":", string(v))) }})
		for _, c := range chop([]byte(in), n) {
			if _, err := f.Write(c); err != nil {
				t.Fatal(err)
			}
		}
		want := []string{fmt.Sprint(MessageID, ":\r\n\t<a@b>"), fmt.Sprint(To, ": x@y,\r\n z@y"), fmt.Sprint(Bcc, ": h@y"), fmt.Sprint(MessageID, ": <second@b>")}
		if strings.Join(got, "|") != strings.Join(want, "|") {
			t.Fatalf("in pieces of %d: collected %q, want %q", n, got, want)
		}
		h := f.Header()
		if h.Received != 2 || !h.Resent() || !h.NonASCII || !h.Seen.Has(To) || h.Seen.Has(Cc) {
			t.Errorf("header = %+v", *h)
		}
	}
}

// TestFilterMemory feeds lines and headers without end: what the filter
// itself keeps must not follow.
func TestFilterMemory(t *testing.T) {
	var n int64
	f := NewFilter(writerFunc(func(p []byte) (int, error) { n += int64(len(p)); return len(p), nil }), Options{Collect: Fields(To)})
	chunk := []byte("X-Long: " + strings.Repeat("x", 4000))
	write := func(p []byte, times int) {
		t.Helper()
		for range times {
			if _, err := f.Write(p); err != nil {
				t.Fatal(err)
			}
		}
	}
	write(chunk, 1000)                           // one field of 4 MB
	write([]byte("\r\nTo: a@b,\r\n"), 1)         // then a collected one
	write([]byte(" more@example,\r\n"), 1e5)     // folded a hundred thousand times
	write([]byte("Subject: some\r\n"), 1e5)      // and many fields
	write([]byte("\r\n"), 1)                     // the separator
	write(bytes.Repeat([]byte("y"), 64<<10), 64) // and a body of one line
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if held := cap(f.carry) + cap(f.out) + cap(f.value); held > 512<<10 {
		t.Errorf("the filter holds %d bytes after passing %d", held, n)
	}
	if n < 8<<20 {
		t.Errorf("only %d bytes came out", n)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestFilterKeepsFirstError(t *testing.T) {
	broken := errors.New("disk on fire")
	f := NewFilter(writerFunc(func([]byte) (int, error) { return 0, broken }), Options{})
	_, err := f.Write(append([]byte("A: b\r\n\r\n"), bytes.Repeat([]byte("x"), 64<<10)...))
	if !errors.Is(err, broken) {
		t.Errorf("Write: %v", err)
	}
	if _, err := f.Write([]byte("more")); !errors.Is(err, broken) {
		t.Errorf("second Write: %v", err)
	}
	if err := f.Close(); !errors.Is(err, broken) {
		t.Errorf("Close: %v", err)
	}
}

// TestFilterKeepsCRBetweenPieces: a CR was lost when it was the last byte of
// a piece, and the piece the first of an over-long line that begins the body.
func TestFilterKeepsCRBetweenPieces(t *testing.T) {
	in := []byte(strings.Repeat("\r", 9000) + "\n")
	whole := run(t, Options{}, in)
	for _, n := range []int{maxLine, maxLine + 96, 8999} {
		if got := run(t, Options{}, chop(in, n)...); got != whole {
			t.Errorf("in pieces of %d: %d bytes, want %d", n, len(got), len(whole))
		}
	}
}

func FuzzFilter(f *testing.F) {
	for _, c := range filterCases {
		f.Add([]byte(c.in), uint16(3), c.local)
	}
	f.Add([]byte("Subject"+strings.Repeat(" ", 9000)+": x\r\n"), uint16(4000), false)
	f.Add([]byte("A: "+strings.Repeat("\r", 9000)+"\n\r\n\r"), uint16(8191), false)
	f.Add([]byte(strings.Repeat("\r", 9000)+"\n"), uint16(8287), false)
	f.Fuzz(func(t *testing.T, in []byte, size uint16, local bool) {
		opt := Options{DropMailboxLines: local}
		once := run(t, opt, in)
		if got := run(t, opt, chop(in, int(size)+1)...); got != once {
			t.Fatalf("in pieces of %d:\n%q\nwhole:\n%q", int(size)+1, got, once)
		}
		rest := strings.ReplaceAll(once, "\r\n", "")
		if strings.ContainsAny(rest, "\r\n") || once != "" && !strings.HasSuffix(once, "\r\n") {
			t.Fatalf("not in canonical lines: %q", once)
		}
		if again := run(t, opt, []byte(once)); again != once {
			t.Fatalf("a second pass changed it:\n%q\n%q", once, again)
		}
		n, err := HeaderSize(strings.NewReader(once))
		if err != nil {
			t.Fatal(err)
		}
		head := run(t, opt, []byte(once[:n]))
		if head != once[:n] {
			t.Fatalf("HeaderSize cut at %d of %q", n, once)
		}
		if rest := once[n:]; rest != "" && !strings.HasPrefix(rest, "\r\n") {
			t.Fatalf("no separator at %d of %q", n, once)
		}
	})
}

func BenchmarkFilter4K(b *testing.B) {
	msg := []byte(crlf("Received: from x\n\tby y; date\nFrom: a@b\nTo: c@d\nSubject: hello\nMessage-ID: <x@y>\nDate: today\n\n") + strings.Repeat("A line of some seventy characters, as mail has them by the thousand.\r\n", 55))
	b.SetBytes(int64(len(msg)))
	b.ReportAllocs()
	f := NewFilter(io.Discard, Options{})
	for b.Loop() {
		f.Reset(io.Discard, Options{})
		if _, err := f.Write(msg); err != nil {
			b.Fatal(err)
		}
		if err := f.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
