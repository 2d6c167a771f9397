package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"
)

// Options are what a demonstration needs. StartRelay must be set.
type Options struct {
	// StartRelay starts a relay with the main.cf and master.cf in configDir
	// and returns when it takes connections. ctx bounds the start alone; the
	// relay runs until stop is called.
	StartRelay func(ctx context.Context, configDir string) (stop func() error, err error)

	Parent       string        // where the temporary directory is made; "" means the system's place
	Listen       string        // SMTP address of the relay; "" means 127.0.0.1:2525, or a free port if that is taken
	Destinations int           // 0 means 300
	Rate         float64       // messages per second; 0 means no traffic
	Quiet        bool          // no running report
	Report       time.Duration // between two lines of the report; 0 means 10 s
}

// Run shows the relay at work until ctx ends, then stops everything and
// removes the temporary directory. The end of ctx is not an error.
func Run(ctx context.Context, opt Options, stdout io.Writer) (err error) {
	opt.defaults()
	dir, err := os.MkdirTemp(opt.Parent, "posthouse-demo-")
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, os.RemoveAll(dir)); err == nil {
			_, err = fmt.Fprintf(stdout, "\nStopped; %s is gone.\n", dir)
		}
	}()
	w, err := NewWorld(opt.Destinations)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	if err := w.configure(dir, opt); err != nil {
		return err
	}
	stop, err := opt.StartRelay(ctx, dir)
	if err != nil {
		return fmt.Errorf("starting the relay: %w", err)
	}
	defer func() { err = errors.Join(err, stop()) }()
	if _, err := io.WriteString(stdout, Hints(dir, opt)); err != nil {
		return err
	}
	return w.show(ctx, opt, stdout)
}

func (o *Options) defaults() {
	if o.Listen == "" {
		o.Listen = freeOr("127.0.0.1:2525")
	}
	if o.Destinations == 0 {
		o.Destinations = 300
	}
	if o.Report == 0 {
		o.Report = reportEvery
	}
}

// freeOr returns address, or the same host with a port that is free.
func freeOr(address string) string {
	host, _, _ := net.SplitHostPort(address)
	for _, a := range []string{address, net.JoinHostPort(host, "0")} {
		if l, err := net.Listen("tcp", a); err == nil {
			defer l.Close()
			return l.Addr().String()
		}
	}
	return address
}

// programs are the names under which the reader finds posthouse in dir/bin.
// Newcomers who came by "go run" have it nowhere else.
func programs() []string {
	return []string{"posthouse", "mailq", "postqueue", "postsuper", "postcat", "postconf", "postlog", "postfix", "sendmail"}
}

// install links programs to this one.
func install(bin string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := os.Mkdir(bin, 0o755); err != nil {
		return err
	}
	for _, name := range programs() {
		if err := os.Symlink(self, filepath.Join(bin, name)); err != nil {
			return err
		}
	}
	return nil
}

// configure writes the relay's configuration.
func (w *World) configure(dir string, opt Options) error {
	for _, d := range []string{"queue", "data"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	if err := install(filepath.Join(dir, "bin")); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "main.cf"), []byte(w.MainCF(dir)), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "master.cf"), []byte(w.MasterCF(opt.Listen)), 0o644)
}

// show keeps traffic going and reports until ctx ends.
func (w *World) show(ctx context.Context, opt Options, stdout io.Writer) error {
	var sent atomic.Int64
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		if opt.Rate == 0 {
			done <- nil
			return
		}
		done <- w.Traffic(ctx, opt.Listen, opt.Rate, func() { sent.Add(1) })
	}()
	// Whatever ends the show, the senders end before the relay does.
	finish := func(err error) error {
		cancel()
		return errors.Join(err, <-done)
	}
	tick := time.NewTicker(opt.Report)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return finish(nil)
		case <-tick.C:
		}
		if opt.Quiet {
			continue
		}
		c := w.Arrived()
		_, err := fmt.Fprintf(stdout, "%s  sent through the relay: %d messages; arrived: %d copies for %d recipients; turned away out there: %d times\n",
			time.Now().Format(time.TimeOnly), sent.Load(), c.Messages, c.Recipients, c.Refused)
		if err != nil {
			return finish(err)
		}
	}
}

// Hints is the page that is printed at the start.
func Hints(dir string, opt Options) string {
	return fmt.Sprintf(`
Posthouse is relaying mail between pretend senders and %[3]d pretend domains,
all on loopback addresses of this machine. Nothing leaves it.

  relay        %[2]s
  everything   %[1]s   (removed when you press Ctrl-C)

In another terminal, first this, so that the commands below mean this relay:

  export MAIL_CONFIG=%[1]s PATH=%[1]s/bin:$PATH

Look:
  posthouse status              queues, and the destinations with most mail
  mailq | tail                  what is waiting and why, as Postfix shows it
  postqueue -j | head -3        the same, one JSON object a line
  postcat -q ID                 one message, with its envelope
  tail -f $MAIL_CONFIG/maillog  the log your tools already read

Act:
  postsuper -h ID               hold it; -H releases, -d deletes
  postqueue -i ID               try it now; postqueue -f tries everything
  echo hello | sendmail -f you@office.example friend@bigmail.example

Clog it, and clean it up again:
  posthouse source -d -s 8 -m 5000 -f bulk@shop.example -t 'you%%d@closed.example' %[2]s
  posthouse status | head -14
  postqueue -j | grep -F '"bulk@shop.example"' | cut -d'"' -f8 | postsuper -d -

Who is out there:
  bigmail.example postbox.example         accept
  throttled.example                       421 beyond 20 messages in 10 s
  greylist.example                        450 at first, accepts after a minute
  slow.example hanging.example            two seconds per answer; none at all
  full.example                            452, the mailbox is full
  refusing.example blocklisted.example    550 no such user; 554 in the greeting
  dropping.example closed.example         hangs up at the end; nobody listens
  nosuchdomain.example nomail.example     NXDOMAIN; a null MX record
  brokendns.example backup.example        SERVFAIL; only the second MX host is up
  ... and small ones of all kinds. winner@office.example looks compromised.

`, dir, opt.Listen, opt.Destinations)
}
