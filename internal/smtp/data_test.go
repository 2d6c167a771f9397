package smtp

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"
)

// slowReadData is ReadData one byte at a time, to be compared with.
// It returns the content and how much of in was consumed; false when in ends
// before the data does.
func slowReadData(in []byte) (out []byte, used int, bareLF, bareCR, ok bool) {
	start, dotAllowed := true, true // at a line's beginning; after a true CRLF
	strip := true                   // a leading dot is stuffing
	for i := 0; i < len(in); i++ {
		rest := in[i:]
		if start && dotAllowed && bytes.HasPrefix(rest, []byte(".\r\n")) {
			return out, i + 3, bareLF, bareCR, true
		}
		if start && rest[0] == '.' && strip {
			start = false
			continue
		}
		switch {
		case bytes.HasPrefix(rest, crlf):
			out = append(out, crlf...)
			start, dotAllowed, strip = true, true, true
			i++
		case rest[0] == '\n':
			out = append(out, crlf...)
			start, dotAllowed, strip, bareLF = true, false, true, true
		case rest[0] == '\r':
			out = append(out, crlf...)
			start, dotAllowed, strip, bareCR = true, false, false, true
		default:
			out = append(out, rest[0])
			start = false
		}
	}
	return out, len(in), bareLF, bareCR, false
}

func TestReadData(t *testing.T) {
	for _, c := range []struct {
		in, want, rest string
		lf, cr         bool
	}{
		{".\r\nQUIT\r\n", "", "QUIT\r\n", false, false},
		{"\r\n.\r\n", "\r\n", "", false, false},
		{"a\r\nb\r\n.\r\nx", "a\r\nb\r\n", "x", false, false},
		{"a\r\n..\r\n...b\r\n.c\r\n.\r\n", "a\r\n.\r\n..b\r\nc\r\n", "", false, false},
		{"a\n.\nb\r\n.\r\n", "a\r\n\r\nb\r\n", "", true, false},
		{"a\n.\r\nb\r\n.\r\n", "a\r\n\r\nb\r\n", "", true, false},
		{"a\r.\r\nb\r\n.\r\n", "a\r\n.\r\nb\r\n", "", false, true},
		{"a\r\r\n.\r\n", "a\r\n\r\n", "", false, true},
		{".\n.\r\n.\r\n", "\r\n\r\n", "", true, false},
		{".\r.\r\n.\r\n", "\r\n.\r\n", "", false, true},
	} {
		for _, chop := range []func(io.Reader) io.Reader{func(r io.Reader) io.Reader { return r }, iotest.OneByteReader, iotest.DataErrReader} {
			r := bufio.NewReaderSize(chop(strings.NewReader(c.in)), 16)
			var out bytes.Buffer
			st, err := ReadData(&out, r, 0)
			rest, _ := io.ReadAll(r)
			if err != nil || out.String() != c.want || string(rest) != c.rest || st.BareLF != c.lf || st.BareCR != c.cr || st.Bytes != int64(len(c.want)) {
				t.Errorf("%q: %q, rest %q, %+v, %v", c.in, out.String(), rest, st, err)
			}
		}
	}
}

func TestReadDataErrors(t *testing.T) {
	for _, in := range []string{"", ".", ".\r", "a", "a\r", "a\r\n", "a\r\n.", "a\r\n.\r", "\n.\r\n"} {
		if _, err := ReadData(io.Discard, bufio.NewReader(strings.NewReader(in)), 0); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%q: %v", in, err)
		}
	}
	in := strings.Repeat("0123456\r\n", 1000) + ".\r\nQUIT"
	var out bytes.Buffer
	r := bufio.NewReader(strings.NewReader(in))
	st, err := ReadData(&out, r, 100)
	if err != nil || !st.TooBig || st.Bytes != 9000 || out.Len() > 100 || r.Buffered() != 4 {
		t.Errorf("limit: %+v, %v, %d bytes passed on", st, err, out.Len())
	}
	if st, err = ReadData(io.Discard, bufio.NewReader(strings.NewReader(in)), 9000); err != nil || st.TooBig {
		t.Errorf("just as big as allowed: %+v, %v", st, err)
	}
	r = bufio.NewReader(strings.NewReader(in))
	if _, err = ReadData(failing{}, r, 0); !errors.Is(err, errFull) || r.Buffered() != 4 {
		t.Errorf("writer's error: %v, %d left", err, r.Buffered())
	}
}

var errFull = errors.New("full")

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errFull }

// smuggling returns the corpus, by name.
func smuggling(t testing.TB) map[string]string {
	t.Helper()
	files, err := filepath.Glob("testdata/smuggling/*.txt")
	if err != nil || len(files) < 20 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	m := make(map[string]string)
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		s, err := strconv.Unquote(strings.TrimSpace(string(b)))
		if err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		m[filepath.Base(f)] = s
	}
	return m
}

func TestSmuggling(t *testing.T) {
	for name, in := range smuggling(t) {
		r := bufio.NewReader(strings.NewReader(in))
		var content bytes.Buffer
		if _, err := ReadData(&content, r, 0); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := r.Peek(1); !errors.Is(err, io.EOF) {
			t.Errorf("%s: ended early, %d bytes left", name, r.Buffered())
		}
		checkWire(t, dataWire(t, content.Bytes(), MaxTextLine, len(content.Bytes())))
		// And raw, as if a broken spool held it.
		checkWire(t, dataWire(t, []byte(in), MaxTextLine, 3))
	}
}

// dataWire is content as DataWriter writes it, given in pieces.
func dataWire(t testing.TB, content []byte, fold, piece int) []byte {
	t.Helper()
	var out bytes.Buffer
	bw := bufio.NewWriterSize(&out, 64)
	d := NewDataWriter(bw, fold)
	for len(content) > 0 {
		n := min(max(piece, 1), len(content))
		if m, err := d.Write(content[:n]); err != nil || m != n {
			t.Fatalf("%d, %v", m, err)
		}
		content = content[n:]
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := bw.Flush(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// checkWire verifies the promise of DataWriter.
func checkWire(t testing.TB, wire []byte) {
	t.Helper()
	lines := strings.Split(string(wire), "\r\n")
	if len(lines) < 2 || lines[len(lines)-1] != "" || lines[len(lines)-2] != "." {
		t.Fatalf("no end: %q", wire)
	}
	for _, l := range lines[:len(lines)-2] {
		if strings.ContainsAny(l, "\r\n") || l[:min(len(l), 1)] == "." && l[:min(len(l), 2)] != ".." {
			t.Fatalf("line %q in %q", l, wire)
		}
	}
}

func TestDataWriter(t *testing.T) {
	x := strings.Repeat("x", 10)
	for _, c := range []struct{ in, want string }{
		{"", ".\r\n"},
		{"a", "a\r\n.\r\n"},
		{"a\r\n", "a\r\n.\r\n"},
		{".\r\n..\r\n.a\r\n", "..\r\n...\r\n..a\r\n.\r\n"},
		{"a\nb\rc\r\r\n", "a\r\nb\r\nc\r\n\r\n.\r\n"},
		{"a\n.\n", "a\r\n..\r\n.\r\n"},
		{"a\r.\r", "a\r\n..\r\n.\r\n"},
		{x + "\r\n", x + "\r\n.\r\n"},
		{x + "yz\r\n", x + "\r\n yz\r\n.\r\n"},
		{x + x + "\r\nb\r\n", x + "\r\n " + x[:9] + "\r\n x\r\nb\r\n.\r\n"},
	} {
		for piece := 1; piece < 5; piece++ {
			if got := string(dataWire(t, []byte(c.in), 10, piece)); got != c.want {
				t.Errorf("%q by %d: %q, want %q", c.in, piece, got, c.want)
			}
		}
	}
	if got := string(dataWire(t, []byte("ab"), 1, 1)); got != "ab\r\n.\r\n" {
		t.Errorf("fold 1: %q", got)
	}
	d := NewDataWriter(bufio.NewWriterSize(failing{}, 16), 0)
	_, err1 := d.Write(bytes.Repeat([]byte("abc\r\n.x\n"), 10))
	if err2 := d.Close(); err1 == nil && err2 == nil {
		t.Error("an error of the writer was lost")
	}
}

func FuzzData(f *testing.F) {
	for _, s := range smuggling(f) {
		f.Add([]byte(s), uint8(7))
	}
	f.Add([]byte("a\r\n..b\r\n.\r\nrest"), uint8(1))
	f.Fuzz(func(t *testing.T, in []byte, chop uint8) {
		want, used, lf, cr, ok := slowReadData(in)
		src := bytes.NewReader(in)
		r := bufio.NewReaderSize(&pieces{r: src, max: int(chop%40) + 1}, 16)
		var got bytes.Buffer
		st, err := ReadData(&got, r, 0)
		if (err == nil) != ok {
			t.Fatalf("%q: %v, want ok=%v", in, err, ok)
		}
		if !ok {
			return
		}
		if !bytes.Equal(got.Bytes(), want) || st.BareLF != lf || st.BareCR != cr || st.Bytes != int64(len(want)) {
			t.Fatalf("%q: %q %+v, want %q %v %v", in, got.Bytes(), st, want, lf, cr)
		}
		if left := src.Len() + r.Buffered(); left != len(in)-used {
			t.Fatalf("%q: %d bytes left, want %d", in, left, len(in)-used)
		}
		// Round trip: what was stored goes out and comes in unchanged.
		wire := dataWire(t, want, 0, int(chop)+1)
		checkWire(t, wire)
		var back bytes.Buffer
		if st, err := ReadData(&back, bufio.NewReader(bytes.NewReader(wire)), 0); err != nil || st.BareCR || st.BareLF || !bytes.Equal(back.Bytes(), want) {
			t.Fatalf("%q went out as %q and came back as %q", want, wire, back.Bytes())
		}
		checkWire(t, dataWire(t, in, int(chop), 1+int(chop)%5))
	})
}

// pieces reads at most max bytes at a time.
type pieces struct {
	r   io.Reader
	max int
}

func (p *pieces) Read(b []byte) (int, error) { return p.r.Read(b[:min(len(b), p.max)]) }

// normalised is what a content of any line ends means, with a last line end.
func normalised(s string) string {
	s = strings.ReplaceAll(s, "\r\n", "\n")
	s = strings.ReplaceAll(s, "\r", "\n")
	if s != "" && !strings.HasSuffix(s, "\n") {
		s += "\n"
	}
	return strings.ReplaceAll(s, "\n", "\r\n")
}

func TestChunks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := rapid.StringOfN(rapid.SampledFrom([]rune("ab.\r\n\r\n")), 0, 60, -1).Draw(t, "content")
		var out bytes.Buffer
		c := ChunkReader{W: &out}
		r := bufio.NewReaderSize(&pieces{strings.NewReader(in + "NEXT"), rapid.IntRange(1, 20).Draw(t, "piece")}, 16)
		for left := in; ; {
			n := rapid.IntRange(0, len(left)).Draw(t, "chunk")
			last := n == len(left) && rapid.Bool().Draw(t, "last")
			if err := c.Read(r, int64(n), last); err != nil {
				t.Fatal(err)
			}
			left = left[n:]
			if last {
				break
			}
		}
		bare := strings.ReplaceAll(in, "\r\n", "")
		st := c.Stats()
		if out.String() != normalised(in) || st.BareCR != strings.Contains(bare, "\r") || st.BareLF != strings.Contains(bare, "\n") {
			t.Fatalf("%q became %q, %+v", in, out.String(), st)
		}
		if rest, _ := io.ReadAll(r); string(rest) != "NEXT" {
			t.Fatalf("left %q", rest)
		}
	})
}

func TestChunkErrors(t *testing.T) {
	c := ChunkReader{W: io.Discard}
	if err := c.Read(bufio.NewReader(strings.NewReader("abc")), 4, false); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%v", err)
	}
	if err := SkipChunk(bufio.NewReader(strings.NewReader("abc")), 4); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%v", err)
	}
	c = ChunkReader{W: failing{}}
	r := bufio.NewReader(strings.NewReader("abcdef"))
	if err := c.Read(r, 3, false); err != nil {
		t.Errorf("%v", err)
	}
	if err := c.Read(r, 3, true); !errors.Is(err, errFull) {
		t.Errorf("%v", err)
	}
	c = ChunkReader{W: io.Discard, Limit: 5}
	if err := c.Read(bufio.NewReader(strings.NewReader("abcdef")), 6, true); err != nil || !c.Stats().TooBig {
		t.Errorf("%v, %+v", err, c.Stats())
	}
}

// sample is mail-like text of CRLF lines, one in fifty beginning with a dot.
func sample(size int) []byte {
	rng := rand.New(rand.NewPCG(1, 2))
	var b bytes.Buffer
	for i := 0; b.Len() < size; i++ {
		if i%50 == 49 {
			b.WriteByte('.')
		}
		fmt.Fprintf(&b, "%s\r\n", strings.Repeat("x", 40+rng.IntN(38)))
	}
	return b.Bytes()
}

func BenchmarkReadData(b *testing.B) {
	for _, size := range []int{4 << 10, 1 << 20} {
		wire := dataWire(b, sample(size), 0, 1<<20)
		src := bytes.NewReader(nil)
		r := bufio.NewReaderSize(src, 8192)
		b.Run(strconv.Itoa(size), func(b *testing.B) {
			b.SetBytes(int64(len(wire)))
			b.ReportAllocs()
			for b.Loop() {
				src.Reset(wire)
				r.Reset(src)
				if _, err := ReadData(io.Discard, r, 0); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkDataWriter(b *testing.B) {
	content := sample(1 << 20)
	bw := bufio.NewWriterSize(io.Discard, 8192)
	b.SetBytes(int64(len(content)))
	b.ReportAllocs()
	for b.Loop() {
		d := NewDataWriter(bw, MaxTextLine)
		if _, err := d.Write(content); err != nil {
			b.Fatal(err)
		}
		if err := d.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkChunkReader(b *testing.B) {
	content := sample(1 << 20)
	src := bytes.NewReader(nil)
	r := bufio.NewReaderSize(src, 8192)
	b.SetBytes(int64(len(content)))
	for b.Loop() {
		src.Reset(content)
		r.Reset(src)
		c := ChunkReader{W: io.Discard}
		if err := c.Read(r, int64(len(content)), true); err != nil {
			b.Fatal(err)
		}
	}
}
