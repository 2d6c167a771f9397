package server

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"posthouse/internal/smtp"
)

// script is a connection whose client says everything in pieces and hangs up.
type script struct {
	net.Conn // nil: what is not overridden is not used
	in       *bytes.Reader
	piece    int
	out      bytes.Buffer
}

func (s *script) Read(p []byte) (int, error)     { return s.in.Read(p[:min(len(p), s.piece)]) }
func (s *script) Write(p []byte) (int, error)    { return s.out.Write(p) }
func (*script) Close() error                     { return nil }
func (*script) LocalAddr() net.Addr              { return nil }
func (*script) RemoteAddr() net.Addr             { return nil }
func (*script) SetDeadline(time.Time) error      { return nil }
func (*script) SetReadDeadline(time.Time) error  { return nil }
func (*script) SetWriteDeadline(time.Time) error { return nil }

// Whatever a client says, the session ends, its replies are replies, every
// transaction is ended, and what was accepted is made of CRLF lines.
func FuzzSession(f *testing.F) {
	files, err := filepath.Glob("testdata/dialogues/*.txt")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		var in strings.Builder
		for line := range strings.SplitSeq(string(b), "\n") {
			if text, ok := strings.CutPrefix(line, "C: "); ok {
				in.WriteString(text + "\r\n")
			}
		}
		f.Add([]byte(in.String()), uint8(0))
		f.Add([]byte(in.String()), uint8(2))
	}
	f.Add([]byte("EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 3\r\nab\rBDAT 2 LAST\r\n\nx"), uint8(0))
	f.Add([]byte("EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\na\n.\n.\r\r\n.\r\nQUIT\r\n"), uint8(2))
	f.Fuzz(func(t *testing.T, in []byte, mode uint8) {
		cfg := DefaultConfig("h")
		cfg.ErrorSleep, cfg.MaxMessageSize, cfg.TLS = 0, 1000, TLSMay
		cfg.Newlines = BareNewlines(mode & 1)
		cfg.ForbidEarly = mode&2 == 0
		cfg.LMTP = mode&4 != 0
		acc := &memory{}
		conn := &script{in: bytes.NewReader(in), piece: int(mode)*17 + 1}
		New(cfg, acc, Deps{Log: &recorder{}}).ServeConn(context.Background(), conn, listener)
		acc.check(t)
		for _, m := range acc.messages {
			c := strings.ReplaceAll(m.content.String(), "\r\n", "")
			if strings.ContainsAny(c, "\r\n") || m.content.Len() > 1000 {
				t.Fatalf("accepted %q", m.content.String())
			}
			if mode&1 == 1 && (bytes.Contains(in, []byte("\n\n")) && !bytes.Contains(in, []byte("\r\n"))) {
				t.Fatalf("accepted %q from bare lines", m.content.String())
			}
		}
		r := bufio.NewReader(&conn.out)
		for {
			if _, err := smtp.ReadReply(r); err != nil {
				if !errors.Is(err, io.EOF) {
					t.Fatalf("%v after %q", err, in)
				}
				break
			}
		}
	})
}
