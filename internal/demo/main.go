package demo

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/pflag"
)

const usage = `Usage: posthouse demo [flags]

Shows a relay at work on this machine, with nothing else installed: a pretend
internet on loopback addresses (destinations that accept, greylist, throttle,
hang and refuse), steady traffic, and hints to try in another terminal. Ctrl-C
stops it and removes what it made.

Examples:
  posthouse demo
  posthouse demo --rate 200 --destinations 1000
  posthouse demo --rate 0         a silent world, for your own mail

Flags:
`

const exits = `
Exit status: 0 stopped by Ctrl-C; 1 an error; 2 wrong usage.
`

// Main is the command `posthouse demo`. startRelay is Options.StartRelay.
func Main(ctx context.Context, args []string, startRelay func(ctx context.Context, configDir string) (func() error, error), stdout, stderr io.Writer) int {
	opt := Options{StartRelay: startRelay}
	fs := pflag.NewFlagSet("demo", pflag.ContinueOnError)
	fs.SortFlags = false
	fs.SetOutput(io.Discard)
	fs.StringVar(&opt.Listen, "listen", "", "SMTP address of the relay (default 127.0.0.1:2525, or a free port)")
	fs.IntVar(&opt.Destinations, "destinations", 300, "how many pretend domains")
	fs.Float64Var(&opt.Rate, "rate", 20, "messages per second; 0 means none but yours")
	fs.BoolVarP(&opt.Quiet, "quiet", "q", false, "no running report")
	err := fs.Parse(args)
	switch {
	case errors.Is(err, pflag.ErrHelp):
		io.WriteString(stdout, usage+fs.FlagUsages()+exits)
		return 0
	case err == nil && fs.NArg() > 0:
		err = fmt.Errorf("unexpected %q: it takes no arguments", fs.Arg(0))
	case err == nil && (opt.Rate < 0 || opt.Destinations < 0):
		err = errors.New("--rate and --destinations cannot be negative")
	}
	if err != nil {
		fmt.Fprintf(stderr, "posthouse demo: %v\nTry 'posthouse demo --help'.\n", err)
		return 2
	}
	if err := Run(ctx, opt, stdout); err != nil {
		fmt.Fprintf(stderr, "posthouse demo: %v\n", err)
		return 1
	}
	return 0
}
