package server

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// The dialogues in testdata/dialogues, line by line:
//
//	set KEY[=VALUE]   change the configuration (see dialogueConfig)
//	C: TEXT           the client sends TEXT CRLF; adjacent lines go in one packet
//	C" TEXT"          the client sends a Go string as it is
//	S: TEXT           the server must answer exactly this line
//	EOF               the server must have hung up
//	CLOSE             the client hangs up
//	L: TEXT           the log must have this line next; the whole log counts
//	M: SIZE TEXT      a message must have been accepted, as a Go string
func TestDialogues(t *testing.T) {
	files, err := filepath.Glob("testdata/dialogues/*.txt")
	if err != nil || len(files) < 10 {
		t.Fatalf("%d dialogues, %v", len(files), err)
	}
	for _, f := range files {
		script, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { runDialogue(t, string(script)) })
		})
	}
}

func dialogueConfig(t *testing.T, cfg *Config, set string) {
	key, value, _ := strings.Cut(set, "=")
	n, _ := strconv.Atoi(value)
	switch key {
	case "newlines":
		cfg.Newlines = RejectNewlines
	case "early-allowed":
		cfg.ForbidEarly = false
	case "lmtp":
		cfg.LMTP = true
	case "encrypt":
		cfg.TLS = TLSEncrypt
	case "may":
		cfg.TLS = TLSMay
	case "no-vrfy":
		cfg.DisableVRFY = true
	case "require-helo":
		cfg.RequireHELO = true
	case "bare-offer":
		cfg.Offer = 0
	case "max-size":
		cfg.MaxMessageSize = int64(n)
	case "max-rcpts":
		cfg.MaxRecipients = n
	case "overshoot":
		cfg.RecipientOvershoot = n
	case "hard":
		cfg.HardErrorLimit = n
	case "junk":
		cfg.JunkCommandLimit = n
	default:
		t.Fatalf("set %s?", set)
	}
}

func runDialogue(t *testing.T, script string) {
	cfg := DefaultConfig("mx.test.local")
	var wantLog, wantMail, steps []string
	for line := range strings.SplitSeq(strings.TrimSuffix(script, "\n"), "\n") {
		switch {
		case line == "" || line[0] == '#':
		case strings.HasPrefix(line, "set "):
			dialogueConfig(t, &cfg, line[4:])
		case strings.HasPrefix(line, "L: "):
			wantLog = append(wantLog, "smtpd: "+line[3:])
		case strings.HasPrefix(line, "M: "):
			wantMail = append(wantMail, line[3:])
		default:
			steps = append(steps, line)
		}
	}
	log, acc := &recorder{}, &memory{}
	srv := New(cfg, acc, Deps{Log: log})
	client, conn := net.Pipe()
	done := make(chan struct{})
	go func() { srv.ServeConn(t.Context(), conn, listener); close(done) }()
	playClient(t, client, steps)
	_ = client.Close()
	<-done
	if len(wantLog) > 0 {
		if d := cmp.Diff(wantLog, log.all()); d != "" {
			t.Errorf("log: %s", d)
		}
	}
	var got []string
	for _, m := range acc.messages {
		got = append(got, strconv.Quote(m.content.String()))
	}
	if d := cmp.Diff(wantMail, got); d != "" {
		t.Errorf("messages: %s", d)
	}
	acc.check(t)
}

func playClient(t *testing.T, conn net.Conn, steps []string) {
	r := bufio.NewReader(conn)
	_ = conn.SetDeadline(time.Now().Add(time.Hour))
	pending := ""
	for i, step := range steps {
		if text, ok := strings.CutPrefix(step, "C:"); ok {
			pending += strings.TrimPrefix(text, " ") + "\r\n"
		} else if text, ok := strings.CutPrefix(step, `C"`); ok {
			raw, err := strconv.Unquote(`"` + text)
			if err != nil {
				t.Fatalf("%s: %v", step, err)
			}
			pending += raw
		}
		if pending != "" && (i == len(steps)-1 || steps[i+1][0] != 'C' || steps[i+1] == "CLOSE") {
			if _, err := io.WriteString(conn, pending); err != nil {
				t.Fatalf("step %d, %s: %v", i, step, err)
			}
			pending = ""
		}
		if want, ok := strings.CutPrefix(step, "S: "); ok {
			got, err := r.ReadString('\n')
			if err != nil || got != want+"\r\n" {
				t.Fatalf("step %d:\n got %q, %v\nwant %q", i, got, err, want+"\r\n")
			}
		}
		switch step {
		case "EOF":
			if b, err := r.ReadByte(); !errors.Is(err, io.EOF) {
				t.Fatalf("step %d: %q, %v instead of the end", i, b, err)
			}
		case "CLOSE":
			_ = conn.Close()
		}
	}
}

func TestEHLOVariants(t *testing.T) {
	cfg := DefaultConfig("h")
	cfg.TLS, cfg.MaxMessageSize = TLSMay, 0
	st := newSettings(cfg)
	want := "250-h\r\n250-PIPELINING\r\n250-SIZE\r\n250-VRFY\r\n250-ETRN\r\n250-STARTTLS\r\n250-ENHANCEDSTATUSCODES\r\n250-8BITMIME\r\n250-DSN\r\n250-SMTPUTF8\r\n250 CHUNKING\r\n"
	if got := string(st.ehloClear); got != want {
		t.Errorf("%q", got)
	}
	if got := string(st.ehloTLS); got != strings.Replace(want, "250-STARTTLS\r\n", "", 1) {
		t.Errorf("%q", got)
	}
	cfg.Offer, cfg.TLS = 0, TLSNone
	if got := string(newSettings(cfg).ehloClear); got != "250 h\r\n" {
		t.Errorf("%q", got)
	}
}

func TestExempt(t *testing.T) {
	nets := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")}
	for a, want := range map[string]bool{"127.9.9.9": true, "10.0.0.1": false, "2001:db8::5": true, "::1": false} {
		if exempt(nets, netip.MustParseAddr(a)) != want {
			t.Errorf("%s", a)
		}
	}
}
