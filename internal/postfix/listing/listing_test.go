package listing

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"posthouse/internal/mail"
)

func read(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// fromJSON reads the lines of postqueue -j with another reader than ours.
func fromJSON(t testing.TB, text string) []Entry {
	t.Helper()
	var entries []Entry
	for line := range strings.Lines(text) {
		var o struct {
			Queue   string `json:"queue_name"`
			ID      string `json:"queue_id"`
			Arrival int64  `json:"arrival_time"`
			Size    int64  `json:"message_size"`
			Expire  bool   `json:"forced_expire"`
			Sender  string `json:"sender"`
			Rcpts   []struct {
				Address string `json:"address"`
				Reason  string `json:"delay_reason"`
			} `json:"recipients"`
		}
		if err := json.Unmarshal([]byte(line), &o); err != nil {
			t.Fatal(err)
		}
		e := Entry{Queue: mail.QueueName(o.Queue), ID: o.ID, Arrival: time.Unix(o.Arrival, 0), Size: o.Size, ForcedExpire: o.Expire, Sender: mail.Address(o.Sender)}
		if e.Sender == nullSender {
			e.Sender = ""
		}
		for _, r := range o.Rcpts {
			e.Recipients = append(e.Recipients, Recipient{Address: mail.Address(r.Address), Reason: r.Reason})
		}
		entries = append(entries, e)
	}
	return entries
}

// fromText reads the table back.
func fromText(t testing.TB, text string, form mail.IDForm) []Entry {
	t.Helper()
	var entries []Entry
	layout := "Mon Jan 2 15:04:05"
	reason := ""
	sc := bufio.NewScanner(strings.NewReader(text))
	sc.Scan()
	for sc.Scan() {
		line := sc.Text()
		trimmed := strings.TrimLeft(line, " ")
		switch {
		case line == "" || strings.HasPrefix(line, "-- "):
		case line[0] != ' ' && line[0] != '(':
			f := strings.Fields(line)
			at, err := time.Parse(layout, strings.Join(f[2:6], " "))
			if err != nil {
				t.Fatal(err)
			}
			e := Entry{Queue: mail.Deferred, Arrival: at.AddDate(2026, 0, 0), Sender: mail.Address(strings.Join(f[6:], " "))}
			e.ID, e.ForcedExpire = strings.CutSuffix(f[0], "#")
			for mark, q := range map[string]mail.QueueName{"*": mail.Active, "!": mail.Hold} {
				if id, ok := strings.CutSuffix(e.ID, mark); ok {
					e.ID, e.Queue = id, q
				}
			}
			if _, err := fmt.Sscan(f[1], &e.Size); err != nil {
				t.Fatal(err)
			}
			entries, reason = append(entries, e), ""
		case trimmed[0] == '(':
			reason = strings.TrimSuffix(trimmed[1:], ")")
		default:
			e := &entries[len(entries)-1]
			e.Recipients = append(e.Recipients, Recipient{Address: mail.Address(trimmed), Reason: reason})
		}
	}
	return entries
}

func text(t testing.TB, entries []Entry, form mail.IDForm) string {
	t.Helper()
	var b bytes.Buffer
	w := NewText(&b, form, time.UTC)
	for i := range entries {
		if err := w.Add(&entries[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestCaptures writes what Postfix wrote for the same messages.
func TestCaptures(t *testing.T) {
	for _, name := range []string{"deferred", "active"} {
		want := read(t, name+".json")
		entries := fromJSON(t, want)
		var b bytes.Buffer
		j := NewJSON(&b)
		for i := range entries {
			if err := j.Add(&entries[i]); err != nil {
				t.Fatal(err)
			}
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, b.String()); diff != "" {
			t.Errorf("%s.json: %s", name, diff)
		}
		if diff := cmp.Diff(read(t, name+".txt"), text(t, entries, mail.ShortIDs)); diff != "" {
			t.Errorf("%s.txt: %s", name, diff)
		}
	}
	for name, form := range map[string]mail.IDForm{"expired.txt": mail.ShortIDs, "long.txt": mail.LongIDs} {
		want := read(t, name)
		if diff := cmp.Diff(want, text(t, fromText(t, want, form), form)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestEmptyQueue(t *testing.T) {
	if got := text(t, nil, mail.ShortIDs); got != "Mail queue is empty\n" {
		t.Errorf("table: %q", got)
	}
	var b bytes.Buffer
	if err := NewJSON(&b).Close(); err != nil || b.Len() != 0 {
		t.Errorf("JSON: %q, %v", b.String(), err)
	}
}

var at = time.Date(2026, 11, 2, 7, 3, 4, 0, time.UTC)

func TestText(t *testing.T) {
	long := strings.Repeat("r", 80)
	for _, c := range []struct {
		name string
		in   []Entry
		want string
	}{
		{
			"day padded, null sender, nothing to deliver, singular footer",
			[]Entry{{Queue: mail.Incoming, ID: "A", Arrival: at, Size: 1024}},
			shortHeader + "A              1024 Mon Nov  2 07:03:04  MAILER-DAEMON\n\n-- 1 Kbytes in 1 Request.\n",
		},
		{
			"over-long fields push the rest",
			[]Entry{{Queue: mail.Hold, ID: "0123456789AB", Arrival: at, Size: 123456789, ForcedExpire: true, Sender: "s@x"}},
			shortHeader + "0123456789AB!# 123456789 Mon Nov  2 07:03:04  s@x\n\n-- 120563 Kbytes in 1 Request.\n",
		},
		{
			"those with a reason first, then the others under their own words",
			[]Entry{{ID: "A", Arrival: at, Sender: "s@x", Recipients: []Recipient{{"a@x", ""}, {"b@x", "why"}, {"c@x", "why"}, {"d@x", long}}}},
			shortHeader + "A                 0 Mon Nov  2 07:03:04  s@x\n" +
				strings.Repeat(" ", 73) + "(why)\n" + strings.Repeat(" ", 41) + "b@x\n" + strings.Repeat(" ", 41) + "c@x\n" +
				"(" + long + ")\n" + strings.Repeat(" ", 41) + "d@x\n" +
				strings.Repeat(" ", 58) + "(reason unavailable)\n" + strings.Repeat(" ", 41) + "a@x\n\n-- 0 Kbytes in 1 Request.\n",
		},
		{
			"control characters and broken UTF-8",
			[]Entry{{ID: "A", Arrival: at, Sender: "\x1b[2J\xffü@x", Recipients: []Recipient{{"a\x7f@x", "tab\there"}}}},
			shortHeader + "A                 0 Mon Nov  2 07:03:04  ?[2J?ü@x\n" +
				strings.Repeat(" ", 68) + "(tab?here)\n" + strings.Repeat(" ", 41) + "a?@x\n\n-- 0 Kbytes in 1 Request.\n",
		},
	} {
		if diff := cmp.Diff(c.want, text(t, c.in, mail.ShortIDs)); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
}

// TestReasonsComeTogether holds the order that Postfix's log of deferrals has,
// one delivery after the other, against the order of the envelope.
func TestReasonsComeTogether(t *testing.T) {
	var got []string
	inOrder([]Recipient{{"a", "x"}, {"b", ""}, {"c", "y"}, {"d", "x"}, {"e", ""}, {"f", "y"}}, func(r *Recipient) { got = append(got, string(r.Address)) })
	if strings.Join(got, "") != "adcfbe" {
		t.Errorf("order %v", got)
	}
}

func TestJSONString(t *testing.T) {
	got := string(appendString(nil, "a\"\\\b\f\n\r\t/\x01\x7f\xffü\u2028"))
	want := `"a\"\\\b\f\n\r\t/\u0001\u007F?ü` + "\u2028" + `"`
	if got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

type failing struct{ after int }

func (f *failing) Write(p []byte) (int, error) {
	if f.after -= len(p); f.after < 0 {
		return 0, errors.New("gone")
	}
	return len(p), nil
}

// TestFirstErrorSticks makes sure that a reader who leaves ends the listing.
func TestFirstErrorSticks(t *testing.T) {
	e := Entry{ID: "A", Arrival: at, Sender: "s@x", Recipients: []Recipient{{"a@x", strings.Repeat("r", 1000)}}}
	w, j := NewText(&failing{after: 100 << 10}, mail.ShortIDs, time.UTC), NewJSON(&failing{after: 100 << 10})
	for name, add := range map[string]func(*Entry) error{"text": w.Add, "json": j.Add} {
		n := 0
		for ; n < 1000 && add(&e) == nil; n++ {
		}
		if n == 1000 || add(&e) == nil {
			t.Errorf("%s: no error after %d entries", name, n)
		}
	}
}

// FuzzJSON holds every line against another implementation of JSON.
func FuzzJSON(f *testing.F) {
	f.Add("deferred", "B1247C00B0", "alice@x", "bob@y", "reason")
	f.Add("", "", "", "\x00\xff", "\"\\\u2028")
	f.Fuzz(func(t *testing.T, queue, id, sender, rcpt, reason string) {
		e := Entry{Queue: mail.QueueName(queue), ID: id, Arrival: at, Sender: mail.Address(sender), Recipients: []Recipient{{mail.Address(rcpt), reason}}}
		line := AppendJSON(nil, &e)
		if !json.Valid(line) || bytes.IndexByte(line, '\n') != len(line)-1 {
			t.Fatalf("not one line of JSON: %q", line)
		}
		w := NewText(io.Discard, mail.LongIDs, time.UTC)
		if err := w.Add(&e); err != nil {
			t.Fatal(err)
		}
	})
}

func benchmarkEntry() *Entry {
	return &Entry{
		Queue: mail.Deferred, ID: "006543210ABC", Arrival: at, Size: 4096, Sender: "newsletter@sender.example",
		Recipients: []Recipient{{"someone@destination.example", "connect to mx.destination.example[192.0.2.1]:25: Connection timed out"}},
	}
}

func BenchmarkText(b *testing.B) {
	w, e := NewText(io.Discard, mail.ShortIDs, time.UTC), benchmarkEntry()
	b.ReportAllocs()
	for b.Loop() {
		_ = w.Add(e)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msgs/s")
}

func BenchmarkJSON(b *testing.B) {
	w, e := NewJSON(io.Discard), benchmarkEntry()
	b.ReportAllocs()
	for b.Loop() {
		_ = w.Add(e)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msgs/s")
}
