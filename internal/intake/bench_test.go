package intake

import (
	"context"
	"strings"
	"testing"
	"time"

	"posthouse/internal/mail"
	"posthouse/internal/postfix/maillog"
	"posthouse/internal/smtp"
	"posthouse/internal/smtp/server"
	"posthouse/internal/spool"
)

// nothing is a store, queue, log and checker that do nothing: what remains is
// intake's own cost.
type nothing struct{}

type nowhere struct{ n int64 }

func (w *nowhere) Write(p []byte) (int, error) { w.n += int64(len(p)); return len(p), nil }
func (w *nowhere) Size() int64                 { return w.n }
func (w *nowhere) Discard()                    {}

func (nothing) Stage(int64) (spool.Staged, error)                          { return &nowhere{}, nil }
func (nothing) Commit(context.Context, *mail.Envelope, spool.Staged) error { return nil }
func (nothing) Apply(context.Context, *spool.Batch) error                  { return nil }
func (nothing) Space() (spool.Space, error)                                { return spool.Space{Free: 1 << 40}, nil }
func (nothing) Enqueue(*mail.Message)                                      {}
func (nothing) Log(string, maillog.Severity, maillog.Event)                {}
func (nothing) Rcpt(context.Context, *server.Peer, mail.Address, mail.Address, mail.Address) *smtp.Reply {
	return nil
}

func BenchmarkAccept4K(b *testing.B) {
	n := nothing{}
	in := New(Config{Hostname: "mx.test.local", MaxMessageSize: 10240000, MaxRecipients: 1000},
		Deps{Store: n, IDs: mail.NewIDSource(0, time.Now), Queue: n, Log: n, Now: time.Now, Access: n})
	msg := []byte("Received: from x\r\n\tby y; date\r\nFrom: a@b\r\nTo: c@d\r\nSubject: hello\r\nMessage-ID: <x@y>\r\nDate: today\r\n\r\n" +
		strings.Repeat("A line of some seventy characters, as mail has them by the thousand.\r\n", 56))
	b.SetBytes(int64(len(msg)))
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		p := peer()
		ctx := context.Background()
		for pb.Next() {
			tx, _ := in.Mail(ctx, p, &smtp.MailArgs{From: "alice@a.example"})
			tx.Rcpt(ctx, &smtp.RcptArgs{To: "bob@b.example"})
			out, _ := tx.Data(ctx)
			if _, err := out.Write(msg); err != nil {
				b.Error(err)
			}
			if r := tx.Commit(ctx); r.Code != 250 {
				b.Error(r)
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
}
