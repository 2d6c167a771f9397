package queuefile

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"posthouse/internal/mail"
	"posthouse/internal/testkit/oracle"
)

func readAll(t testing.TB, r io.Reader) []byte {
	t.Helper()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func message() *mail.Message {
	at := time.Date(2026, 11, 22, 7, 36, 26, 472033000, time.UTC)
	return mail.NewMessage(mail.Envelope{
		ID: mail.NewIDSource(0, func() time.Time { return at }).Next(), Arrival: at, Sender: `"a b"@x.example`, Origin: mail.FromSMTP,
		Client: mail.Client{
			Name: "client.example", ReverseName: "unknown", Addr: "2001:db8::1", Port: 4711, Helo: "helo.example", Protocol: "ESMTP",
			ServerAddr: "2001:db8::2", ServerPort: 25, SASLMethod: "plain", SASLUser: "alice", SASLSender: "alice@x.example", UID: -1,
		},
		Body8Bit: true, EnvelopeID: "e+x", Ret: mail.RetHeaders,
		Recipients: []mail.Recipient{
			{Address: "u@y.example", OrigAddress: "U@y.example", DSNOriginal: "rfc822;U@y.example", Notify: mail.NotifySuccess | mail.NotifyFailure},
			{Address: "v@y.example", DSNOriginal: "rfc822;v@y.example"},
			{Address: "w@y.example", DSNOriginal: "rfc822;w@y.example"},
		},
	})
}

// TestEncodeForPostfix lets the real postcat read what Encode wrote.
func TestEncodeForPostfix(t *testing.T) {
	t.Parallel()
	m := message()
	m.RcptState[1].Phase, m.RcptState[2].Phase = mail.Sent, mail.Canceled
	content := "Subject: x\r\n\r\nhello\r\n" + strings.Repeat("y", 5000) + "\r\n"
	var b bytes.Buffer
	if err := Encode(&b, m, strings.NewReader(content), mail.LongIDs); err != nil {
		t.Fatal(err)
	}
	p := oracle.New(t)
	compare(t, p, "encoded", b.Bytes())
	checkRealFile(t, b.Bytes())
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	// Postfix finds the text through the offsets of the C record.
	out := p.Run("", "postcat", "-bh", path)
	if want := strings.ReplaceAll(content, "\r\n", "\n"); out.Stdout != want || out.Stderr != "" {
		t.Errorf("postcat -bh: %s", cmp.Diff(want, out.Stdout))
	}
	for _, line := range []string{
		"named_attribute: log_ident=" + m.ID.Long(), "sender: a b@x.example", "named_attribute: notify_flags=6", "original_recipient: U@y.example",
		"recipient: u@y.example", "done_recipient: v@y.example", "canceled_recipient: w@y.example", "named_attribute: client_address_type=10",
	} {
		if env := p.Run("", "postcat", "-e", path).Stdout; !strings.Contains(env, "\n"+line+"\n") {
			t.Errorf("no %q in %s", line, env)
		}
	}
}

// TestPostfixTakesOurFile hands an encoded message to a real Postfix, in its
// maildrop, as postsuper -r does.
func TestPostfixTakesOurFile(t *testing.T) {
	t.Parallel()
	p := oracle.New(t)
	p.Start()
	m := message()
	m.Origin = mail.FromLocal
	m.RcptState[1].Phase = mail.Sent
	var b bytes.Buffer
	if err := Encode(&b, m, strings.NewReader("Subject: taken\r\n\r\nhello\r\n"), mail.ShortIDs); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(p.Spool, "maildrop", "ABCDEF12345"), b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	// 0744 says that the file is complete.
	if err := os.Chmod(filepath.Join(p.Spool, "maildrop", "ABCDEF12345"), 0o744); err != nil {
		t.Fatal(err)
	}
	p.Run("", "postqueue", "-f")
	var files []string
	p.Wait("the message to be deferred", func() bool {
		files, _ = filepath.Glob(filepath.Join(p.Spool, "deferred", "*", "*"))
		return len(files) == 1
	})
	out := p.Run("", "postcat", files[0]).Stdout
	for _, want := range []string{"\nsender: a b@x.example\n", "\nrecipient: u@y.example\n", "\nSubject: taken\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in %s", want, out)
		}
	}
}

func TestRoundTrip(t *testing.T) {
	m := message()
	m.RcptState[1].Phase, m.RcptState[1].Notified = mail.Sent, true
	const content = "a: b\r\n\r\nx\r\n\r\n"
	var b bytes.Buffer
	if err := Encode(&b, m, strings.NewReader(content), mail.ShortIDs); err != nil {
		t.Fatal(err)
	}
	f, err := Decode(bytes.NewReader(b.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	want := m.Envelope
	want.ID, want.Origin, want.Size = 0, 0, int64(len(content))
	if diff := cmp.Diff(want, f.Envelope); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(m.RcptState, f.States); diff != "" {
		t.Error(diff)
	}
	if got := string(readAll(t, iotest.OneByteReader(f.Content()))); got != content {
		t.Errorf("content %q", got)
	}
	if !f.SizeRecord || f.Created.IsZero() || f.Warned {
		t.Errorf("%+v", f)
	}
}

// TestContentSurvives: whatever the lines, they come back.
func TestContentSurvives(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		lines := rapid.SliceOf(rapid.OneOf(
			rapid.StringMatching(`[^\r\n]{0,40}`),
			rapid.Map(rapid.IntRange(2040, 2060), func(n int) string { return strings.Repeat("x", n) }),
			rapid.Map(rapid.IntRange(4090, 4110), func(n int) string { return strings.Repeat("\ry", n/2) }),
		)).Draw(t, "lines")
		content := ""
		for _, l := range lines {
			content += strings.TrimSuffix(l, "\r") + "\r\n"
		}
		var b bytes.Buffer
		if err := Encode(&b, message(), strings.NewReader(content), mail.ShortIDs); err != nil {
			t.Fatal(err)
		}
		f, err := Decode(bytes.NewReader(b.Bytes()))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(f.Content())
		if err != nil || string(got) != content || f.Envelope.Size != int64(len(content)) {
			t.Fatalf("got %d bytes (%v), Size %d, want %d bytes", len(got), err, f.Envelope.Size, len(content))
		}
	})
}

func TestAddresses(t *testing.T) {
	for internal, external := range map[string]mail.Address{
		"": "", "root": "root", "a@b": "a@b", "a b@c": `"a b"@c`, `a b"c@d`: `"a b\"c"@d`, `a\b@c`: `"a\\b"@c`,
		"a..b@c": `"a..b"@c`, ".a@c": `".a"@c`, "@c": `""@c`, "ünï@c": "ünï@c", "a@b@c": `"a@b"@c`, "plus+ext@d": "plus+ext@d",
	} {
		if got := External(internal); got != external {
			t.Errorf("External(%q) = %q, want %q", internal, got, external)
		}
		if got := Internal(external); got != internal {
			t.Errorf("Internal(%q) = %q, want %q", external, got, internal)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	rec := func(parts ...string) []byte {
		var b []byte
		for _, part := range parts {
			b = AppendString(b, Type(part[0]), part[1:])
		}
		return b
	}
	for name, file := range map[string][]byte{
		"empty":            {},
		"no sender":        rec("Rr", "M", "X", "E"),
		"no content":       rec("Ss", "Rr"),
		"no end":           rec("Ss", "Rr", "M", "Nx", "X"),
		"envelope twice":   rec("Ss", "Rr", "M", "Ss", "X", "E"),
		"text in envelope": rec("Ss", "Nx", "M", "X", "E"),
		"pointer loop":     rec("Ss", "p              3"),
		"pointer nonsense": rec("Ss", "px", "M", "X", "E"),
		"pointer beyond":   rec("Ss", "p999999", "M", "X", "E"),
		"huge record":      append(rec("Ss"), 'R', 0xff, 0xff, 0xff, 0x7f),
		"truncated":        sample(t)[:400],
	} {
		if f, err := Decode(bytes.NewReader(file)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v, %v", name, f, err)
		}
	}
}

// FuzzDecode: no file may do harm, and what Decode takes, Encode and Decode
// agree on.
func FuzzDecode(f *testing.F) {
	f.Add(sample(f))
	f.Add(sample(f)[:300])
	f.Add([]byte("S\x00R\x01rM\x00L\x01xX\x00E\x00"))
	f.Add([]byte("S\x00p\x013M\x00N\x00X\x00E\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		p := &Printer{Envelope: true, Header: true, Body: true, Offsets: true}
		_ = p.Print(io.Discard, bytes.NewReader(data), "file", func(string) {})
		file, err := Decode(bytes.NewReader(data))
		if err != nil {
			return
		}
		content := readAll(t, file.Content())
		if int64(len(content)) != file.Envelope.Size {
			t.Fatalf("content of %d bytes, Size %d", len(content), file.Envelope.Size)
		}
		m := mail.NewMessage(file.Envelope)
		m.RcptState = file.States
		var b bytes.Buffer
		if err := Encode(&b, m, bytes.NewReader(content), mail.ShortIDs); err != nil {
			t.Fatal(err)
		}
		again, err := Decode(bytes.NewReader(b.Bytes()))
		if err != nil {
			t.Fatal(err)
		}
		if len(again.Envelope.Recipients) != len(file.Envelope.Recipients) {
			t.Fatalf("%d recipients, then %d", len(file.Envelope.Recipients), len(again.Envelope.Recipients))
		}
	})
}
