package source

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/pflag"
)

const usage = `Usage: posthouse source [flags] [inet:]host:port|unix:path

Sends test messages and says how fast they were taken.

Examples:
  posthouse source -d -s 16 -m 10000 -l 4096 127.0.0.1:2525
  posthouse source -d -s 4 -t 'user%d@dom%100d.example' --rate 200 --duration 1m 127.0.0.1:2525
  posthouse source -m 1 -r 50 -t 'list%d@example.com' 127.0.0.1:2525

In -f and -t, %d is a running number, %Nd that number modulo N, %% a percent sign.

Flags:
`

const exits = `
Exit status: 0 all sent (or stopped by a signal); 1 an error, or with -A a
message refused or lost; 2 wrong usage.
`

// Main is the command `posthouse source`.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var cfg Config
	var sequence, counter bool
	var wait int
	var ledger string
	fs := pflag.NewFlagSet("source", pflag.ContinueOnError)
	fs.SortFlags = false
	fs.SetOutput(io.Discard)
	fs.IntVarP(&cfg.Sessions, "sessions", "s", 1, "sessions at a time")
	fs.Int64VarP(&cfg.Messages, "messages", "m", 1, "messages in all; 0 means until --duration is over")
	fs.IntVarP(&cfg.Length, "length", "l", 300, "bytes of body")
	fs.BoolVarP(&cfg.Persistent, "persistent", "d", false, "keep the connection for the next message")
	fs.StringVarP(&cfg.From, "from", "f", "foo@source.example", "sender; may have counters")
	fs.StringVarP(&cfg.To, "to", "t", "foo@source.example", "recipient; may have counters")
	fs.IntVarP(&cfg.Recipients, "recipients", "r", 1, "recipients per message")
	fs.BoolVarP(&sequence, "sequence", "N", false, "put a running number before each recipient")
	fs.StringVarP(&cfg.Subject, "subject", "S", "", "Subject line")
	fs.StringVarP(&cfg.Helo, "helo", "M", "source.example", "our name")
	fs.BoolVarP(&cfg.LMTP, "lmtp", "L", false, "LMTP instead of SMTP")
	fs.BoolVarP(&cfg.Tolerate, "tolerate", "A", false, "go on after refusals and lost connections")
	fs.BoolVarP(&counter, "counter", "c", false, "show a running count")
	fs.IntVarP(&wait, "wait", "w", 0, "seconds each session waits between messages")
	fs.Float64Var(&cfg.Rate, "rate", 0, "messages per second over all sessions; 0 means as fast as possible")
	fs.DurationVar(&cfg.Duration, "duration", 0, "stop after this long")
	fs.BoolVar(&cfg.NoPipelining, "no-pipelining", false, "one command at a time")
	fs.StringVar(&ledger, "ledger", "", "write the Message-ID of each accepted message to this file")
	err := fs.Parse(args)
	switch {
	case errors.Is(err, pflag.ErrHelp):
		io.WriteString(stdout, usage+fs.FlagUsages()+exits)
		return 0
	case err == nil && fs.NArg() != 1:
		err = errors.New("want one address to send to")
	case err == nil && cfg.Messages == 0 && cfg.Duration == 0:
		err = errors.New("-m 0 needs --duration")
	}
	if err == nil {
		cfg.Address = strings.TrimPrefix(fs.Arg(0), "inet:")
		cfg.Wait = time.Duration(wait) * time.Second
		if sequence || (cfg.Recipients > 1 && !strings.Contains(cfg.To, "%")) {
			cfg.To = "%d" + cfg.To
		}
		_, err = prepare(cfg)
	}
	if err != nil {
		fmt.Fprintf(stderr, "posthouse source: %v\nTry: posthouse source --help\n", err)
		return 2
	}
	return send(ctx, cfg, ledger, counter, stdout, stderr)
}

func send(ctx context.Context, cfg Config, ledger string, counter bool, stdout, stderr io.Writer) int {
	var acked atomic.Int64
	note := func(string) {}
	finish := func() error { return nil }
	if ledger != "" {
		f, err := os.Create(ledger)
		if err != nil {
			fmt.Fprintf(stderr, "posthouse source: %v\n", err)
			return 1
		}
		var mu sync.Mutex
		w := bufio.NewWriter(f)
		note = func(id string) {
			mu.Lock()
			defer mu.Unlock()
			w.WriteString(id + "\n")
		}
		finish = func() error { return errors.Join(w.Flush(), f.Close()) }
	}
	if ledger != "" || counter {
		cfg.Acked = func(id, _ string) {
			acked.Add(1)
			note(id)
		}
	}
	if counter {
		running, done := context.WithCancel(ctx)
		defer done()
		go func() {
			for pause(running, time.Second) {
				fmt.Fprintf(stderr, "%d\n", acked.Load())
			}
		}()
	}
	res, err := Run(ctx, cfg)
	fmt.Fprintln(stdout, res)
	if err = errors.Join(err, finish()); err != nil {
		fmt.Fprintf(stderr, "posthouse source: %v\n", err)
		return 1
	}
	if res.Refused+res.Lost > 0 {
		return 1
	}
	return 0
}
