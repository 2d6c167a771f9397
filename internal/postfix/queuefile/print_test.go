package queuefile

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"posthouse/internal/testkit/oracle"
)

// flagSets are the option sets that are compared with the real postcat.
var flagSets = []string{"", "-b", "-h", "-e", "-bh", "-eh", "-eb", "-o", "-d", "-od", "-oe", "-obh", "-r", "-v", "-vo", "-ve", "-vh", "-vr", "-s 97", "-e -s 97", "-bho"}

func printer(flags string) *Printer {
	p := &Printer{Location: time.UTC}
	fields := strings.Fields(flags)
	for i := 0; i < len(fields); i++ {
		if fields[i] == "-s" {
			i++
			fmt.Sscan(fields[i], &p.Start)
			continue
		}
		for _, c := range fields[i][1:] {
			switch c {
			case 'b':
				p.Body = true
			case 'h':
				p.Header = true
			case 'e':
				p.Envelope = true
			case 'o':
				p.Offsets = true
			case 'd':
				p.Decimal = true
			case 'r':
				p.Raw = true
			case 'v':
				p.Verbose = true
			}
		}
	}
	if !p.Body && !p.Header && !p.Envelope {
		p.Body, p.Header, p.Envelope = true, true, true
	}
	return p
}

// postcat prints file as the command does: warnings and the end included.
func postcat(file []byte, path, flags string) oracle.Output {
	var out bytes.Buffer
	var o oracle.Output
	err := printer(flags).Print(&out, bytes.NewReader(file), path, func(w string) {
		o.Stderr += "postcat: warning: " + w + "\n"
	})
	var re *ReadError
	switch {
	case errors.As(err, &re):
		o.Stderr += "postcat: warning: " + path + ": " + re.Problem + "\npostcat: fatal: record read error\n"
		o.Status = 1
	case errors.Is(err, ErrNotQueueFile):
		o.Stderr += "postcat: warning: " + path + ": input is not a valid queue file\n"
	case err != nil:
		o.Stderr += "postcat: fatal: " + strings.TrimPrefix(err.Error(), ErrMalformed.Error()+": ") + "\n"
		o.Status = 1
	}
	o.Stdout = out.String()
	return o
}

// compare holds our output against the real postcat's for every flag set.
func compare(t *testing.T, p *oracle.Instance, name string, file []byte) {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, file, 0o644); err != nil {
		t.Fatal(err)
	}
	// All at once: Postfix's commands sleep for a second before they fail.
	wants := make([]oracle.Output, len(flagSets))
	var wg sync.WaitGroup
	for i, flags := range flagSets {
		wg.Go(func() { wants[i] = p.Run("", "postcat", append(strings.Fields(flags), path)...) })
	}
	wg.Wait()
	for i, flags := range flagSets {
		want, got := wants[i], postcat(file, path, flags)
		if strings.Contains(flags, "v") {
			// With -v the command also logs how it reads its configuration.
			want.Stderr, got.Stderr = "", ""
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: postcat %s (- Postfix, + ours):\n%s", name, flags, diff)
		}
	}
}

func sample(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/sample-queue-file.bin")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestPostcat compares with the real command on files good and bad.
func TestPostcat(t *testing.T) {
	t.Parallel()
	p := oracle.New(t)
	good := sample(t)
	rec := func(parts ...string) []byte {
		var b []byte
		for _, part := range parts {
			b = AppendString(b, Type(part[0]), part[1:])
		}
		return b
	}
	var every []string
	for c := range 256 {
		if strings.IndexByte("MXEpCA", byte(c)) < 0 {
			every = append(every, string([]byte{byte(c)})+"1")
		}
	}
	for name, file := range map[string][]byte{
		"sample":        good,
		"cut":           good[:300],
		"cut-in-length": good[:265],
		"empty":         {},
		"not":           []byte("root:x:0:0"),
		"every-type":    rec(append([]string{"Ss"}, every...)...),
		"bad-size":      rec("Cnonsense", "Ss", "E"),
		"attributes":    rec("Aa=b", "A c = d ", "Anovalue", "A=noname", "Acreate_time=1", "Ss", "M", "X", "E"),
		"folded":        rec("Ss", "M", "NSubject: a", "N\tb", "Ntext: ", "Nnot a header", "Nx: y", "X", "E"),
		"pieces":        rec("Ss", "M", "LSubject: a", "Nb", "Lxx", "Lyy", "X", "E"),
		"unfinished":    rec("Ss", "M", "N", "Lxx", "X", "E"),
		"disorder":      rec("Ss", "X", "M", "M", "Na: b", "E", "Sx"),
		"no-end":        rec("Ss", "M", "Na: b"),
		"padding":       rec("Ss", "wxx", "M", "wxx", "Na: b", "N", "Nc", "X", "E", "Rlater"),
		"nul":           rec("Ss\x00t", "M", "Na: b\x00c", "X", "E"),
		"spaces":        rec("Ss", "M", "N a", "Na : b", "N: c", "Na b: c", "X", "E"),
		"time":          rec("T12 x", "Tx", "T-5", "W          12345", "Ss", "E"),
		"two-sizes":     rec("C              3             104", "C              3             104", "Ss", "M", "Na", "X", "E"),
		"pointer":       rec("Ss", "p             20", "Rr"+strings.Repeat("x", 20), "Tafter", "M", "X", "E"),
		"huge":          append(rec("Ss"), 'R', 0xff, 0xff, 0xff, 0xff, 0xff, 0xff),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			compare(t, p, name, file)
		})
	}
}

// TestPostcatRealFiles compares on files that a running Postfix made.
func TestPostcatRealFiles(t *testing.T) {
	t.Parallel()
	p := oracle.New(t)
	p.Start()
	long := string(longText())
	for _, c := range []struct {
		args  []string
		input string
	}{
		{[]string{"-f", "a b@x.example", "u@y.example", "v@z.example"}, "Subject: one\n\nbody\n"},
		{[]string{"-t", "-f", "", "-N", "never", "-V", "envid", "-R", "hdrs", "extra@w.example"}, "To: q@w.example\nBcc: hidden@w.example\n\nbody\n"},
		{[]string{"-f", "s@x.example", "-F", "A Name", "r@y.example"}, "From: x@y\nX-Long: " + long + "\n\n" + long + "\nend without newline"},
		{[]string{"-f", "s@x.example", "-B", "8BITMIME", "r@y.example"}, "\n\nno header, ünï\n"},
	} {
		if out := p.Run(c.input, "sendmail", c.args...); out.Status != 0 {
			t.Fatalf("sendmail: %+v", out)
		}
	}
	var files []string
	p.Wait("four deferred messages", func() bool {
		files, _ = filepath.Glob(filepath.Join(p.Spool, "deferred", "*", "*"))
		return len(files) == 4
	})
	for _, path := range files {
		file, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		compare(t, p, filepath.Base(path), file)
		checkRealFile(t, file)
	}
}

// checkRealFile decodes a file that cleanup made and holds it against its own
// C record.
func checkRealFile(t *testing.T, file []byte) {
	t.Helper()
	f, err := Decode(bytes.NewReader(file))
	if err != nil {
		t.Errorf("Decode: %v", err)
		return
	}
	first, err := NewReader(bytes.NewReader(file)).Next()
	if err != nil {
		t.Fatal(err)
	}
	var size, offset, rcpts int64
	if _, err := fmt.Sscan(string(first.Data), &size, &offset, &rcpts); err != nil {
		t.Fatal(err)
	}
	if f.contentAt != offset || int64(len(f.Envelope.Recipients)) != rcpts || f.Created.IsZero() || f.Envelope.Arrival.IsZero() {
		t.Errorf("decoded %+v, C record says %q", f, first.Data)
	}
	content := readAll(t, f.Content())
	if int64(len(content)) != f.Envelope.Size {
		t.Errorf("content of %d bytes, Size %d", len(content), f.Envelope.Size)
	}
	// How a line too long for one record is split is the writer's choice.
	if got, err := contentSize(bytes.NewReader(content)); err != nil || got != size && !bytes.Contains(content, longText()) {
		t.Errorf("content would take %d bytes of records (%v), the C record says %d", got, err, size)
	}
}

func longText() []byte { return bytes.Repeat([]byte("0123456789"), 500) }
