package smtp

import (
	"bufio"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"posthouse/internal/mail"
)

func TestReadReply(t *testing.T) {
	for _, c := range []struct {
		in     string
		want   *Reply
		quoted string
		err    error
	}{
		{"250 2.1.0 Ok\r\n", &Reply{Code: 250, Enhanced: mail.EnhancedCode{2, 1, 0}, Lines: []string{"Ok"}}, "250 2.1.0 Ok", nil},
		{"354 go\n", &Reply{Code: 354, Lines: []string{"go"}}, "354 go", nil},
		{"250\r\n", &Reply{Code: 250, Lines: []string{""}}, "250", nil},
		{"250 \r\n", &Reply{Code: 250, Lines: []string{""}}, "250 ", nil},
		{
			"550-5.1.1 no such\r\n550 5.1.1 user\r\n", &Reply{Code: 550, Enhanced: mail.EnhancedCode{5, 1, 1}, Lines: []string{"no such", "user"}},
			"550-5.1.1 no such 550 5.1.1 user", nil,
		},
		{
			"550-see\r\n550 5.7.1 there\r\n", &Reply{Code: 550, Enhanced: mail.EnhancedCode{5, 7, 1}, Lines: []string{"see", "there"}},
			"550-see 550 5.7.1 there", nil,
		},
		{"250-host\r\n250-SIZE 10\r\n250 DSN\r\n", &Reply{Code: 250, Lines: []string{"host", "SIZE 10", "DSN"}}, "250-host 250-SIZE 10 250 DSN", nil},
		{"550 4.1.1 odd class\r\n", &Reply{Code: 550, Lines: []string{"4.1.1 odd class"}}, "550 4.1.1 odd class", nil},
		{"250 bell\a\x00\r\n", &Reply{Code: 250, Lines: []string{"bell??"}}, "250 bell??", nil},
		{"", nil, "", io.EOF},
		{"250", nil, "", io.ErrUnexpectedEOF},
		{"250-a\r\n", nil, "", io.ErrUnexpectedEOF},
		{"hello\r\n", nil, "", ErrReply},
		{"\r\n", nil, "", ErrReply},
		{"25\r\n", nil, "", ErrReply},
		{"2500 x\r\n", nil, "", ErrReply},
		{"650 x\r\n", nil, "", ErrReply},
		{"250-a\r\n550 b\r\n", nil, "", ErrReply},
		{strings.Repeat("250-x\r\n", 10000), nil, "", ErrReply},
		{"250 " + strings.Repeat("x", 3<<20), nil, "", ErrReply},
	} {
		got, err := ReadReply(bufio.NewReader(strings.NewReader(c.in)))
		if !errors.Is(err, c.err) {
			t.Errorf("%.50q: error %v, want %v", c.in, err, c.err)
			continue
		}
		if got != nil {
			if got.String() != c.quoted {
				t.Errorf("%.50q: String %q, want %q", c.in, got, c.quoted)
			}
			got.Quoted = ""
		}
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%.50q: %s", c.in, d)
		}
	}
	long, err := ReadReply(bufio.NewReader(strings.NewReader("250 " + strings.Repeat("x", 5000) + "\r\n")))
	if err != nil || len(long.String()) != maxReplyLine {
		t.Errorf("long line: %d bytes, %v", len(long.String()), err)
	}
	many, err := ReadReply(bufio.NewReader(strings.NewReader(strings.Repeat("250-x\r\n", 1000) + "250 end\r\n")))
	if err != nil || len(many.Lines) > maxReplyLines+1 || many.Lines[len(many.Lines)-1] != "end" {
		t.Errorf("many lines: %v", err)
	}
}

func TestReplyString(t *testing.T) {
	r := &Reply{Code: 550, Enhanced: mail.EnhancedCode{5, 1, 1}, Lines: []string{"no such", "user"}}
	if got := r.String(); got != "550-5.1.1 no such 550 5.1.1 user" {
		t.Errorf("%q", got)
	}
	if got := NewReply(220, "", "hi").String(); got != "220 hi" {
		t.Errorf("%q", got)
	}
}

func TestParseExtensions(t *testing.T) {
	r := &Reply{Code: 250, Lines: []string{
		"PIPELINING", "pipelining", "SIZE 1000", "8BITMIME", "smtputf8", "DSN", "ENHANCEDSTATUSCODES",
		"CHUNKING", "STARTTLS", "AUTH plain LOGIN", "X-OTHER foo", "",
	}}
	want := Extensions{
		Pipelining: true, Size: true, MaxSize: 1000, EightBitMIME: true, SMTPUTF8: true, DSN: true, EnhancedStatusCodes: true,
		Chunking: true, StartTLS: true, Auth: []string{"PLAIN", "LOGIN"},
	}
	if d := cmp.Diff(want, ParseExtensions(r)); d != "" {
		t.Error(d)
	}
	r = &Reply{Code: 250, Lines: []string{"x", "SIZE", "AUTH=LOGIN"}}
	if d := cmp.Diff(Extensions{Size: true, Auth: []string{"LOGIN"}}, ParseExtensions(r)); d != "" {
		t.Error(d)
	}
}

func FuzzReply(f *testing.F) {
	for _, s := range []string{"250 ok\r\n", "250-a\r\n250 2.0.0 b\r\n", "5", "550-5.1.1 x\n550 5.1.1\n", "250 \r\r\n", "250-\x00\r\n250\r\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		r, err := ReadReply(bufio.NewReader(strings.NewReader(string(in))))
		if err != nil {
			return
		}
		if r.Code < 200 || r.Code > 599 || len(r.Lines) == 0 || strings.ContainsAny(r.String(), "\r\n") {
			t.Fatalf("%+v", r)
		}
		ParseExtensions(r)
		again, err := ReadReply(bufio.NewReader(strings.NewReader(string(r.Append(nil)))))
		if err != nil || again.Code != r.Code || len(again.Lines) != len(r.Lines) {
			t.Fatalf("%+v reads back as %+v, %v", r, again, err)
		}
	})
}
