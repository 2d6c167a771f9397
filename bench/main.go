// Command bench runs Posthouse and the real Postfix side by side and prints
// how they compare. See README.md for what is measured and how it is kept fair.
//
//	go run ./bench                      everything, about a quarter of an hour
//	go run ./bench -quick               a first impression
//	go run ./bench -run relay           one part: accept, relay
//	go run ./bench -side postfix        one side
//
// Exit status: 0 done, 1 an error, 2 wrong usage.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"posthouse/internal/testkit/program"
)

// plan is what to measure.
type plan struct {
	parts    []string      // "accept", "relay"
	sides    []string      // "postfix", "posthouse"
	sessions []int         // of the accept part
	rounds   int           // each case is measured this often
	window   time.Duration // of one accept measurement
	warmup   time.Duration // before it
	messages int64         // of one relay measurement
	size     int           // bytes of each message's body
	relayers int           // sessions of the relay part
	dir      string        // where spools are made
	binary   string        // of Posthouse; "" builds it
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	p, err := parse(os.Args[1:], os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
	if err := p.run(ctx, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func parse(args []string, stderr io.Writer) (plan, error) {
	p := plan{rounds: 3, window: 8 * time.Second, warmup: time.Second, messages: 10000, size: 4096, relayers: 50}
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.SetOutput(stderr)
	parts := fs.String("run", "accept,relay", "parts to run")
	sides := fs.String("side", "postfix,posthouse", "sides to run")
	sessions := fs.String("sessions", "1,16,100", "sessions of the accept part")
	quick := fs.Bool("quick", false, "one short round: a first impression, not a result")
	fs.IntVar(&p.rounds, "rounds", p.rounds, "how often each case is measured")
	fs.DurationVar(&p.window, "window", p.window, "length of one accept measurement")
	fs.Int64Var(&p.messages, "messages", p.messages, "messages of one relay measurement")
	fs.IntVar(&p.size, "size", p.size, "bytes of each message")
	fs.StringVar(&p.dir, "dir", "", "directory for the spools, on the disk to measure; default the system's temporary one")
	fs.StringVar(&p.binary, "binary", "", "a posthouse binary to measure instead of building one")
	if err := fs.Parse(args); err != nil {
		return p, err
	}
	if *quick {
		p.rounds, p.window, p.warmup, p.messages = 1, 2*time.Second, 500*time.Millisecond, 2000
	}
	p.parts, p.sides = strings.Split(*parts, ","), strings.Split(*sides, ",")
	for _, s := range strings.Split(*sessions, ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			return p, fmt.Errorf("-sessions: %q is not a number of sessions", s)
		}
		p.sessions = append(p.sessions, n)
	}
	for _, s := range p.parts {
		if s != "accept" && s != "relay" {
			return p, fmt.Errorf("-run: %q (want accept, relay)", s)
		}
	}
	for _, s := range p.sides {
		if s != "postfix" && s != "posthouse" {
			return p, fmt.Errorf("-side: %q (want postfix, posthouse)", s)
		}
	}
	if p.rounds < 1 || p.messages < 1 || p.size < 0 || p.window <= 0 {
		return p, errors.New("-rounds, -messages, -size and -window must be positive")
	}
	return p, nil
}

// run measures everything. Spools of earlier measurements are left alone until
// the very end: deleting a big queue slows ext4 for whoever comes next.
func (p plan) run(ctx context.Context, stdout, stderr io.Writer) (err error) {
	base, err := os.MkdirTemp(p.dir, "posthouse-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(base)) }()
	if err := os.Chmod(base, 0o755); err != nil {
		return err
	}
	if slices.Contains(p.sides, "posthouse") && p.binary == "" {
		p.binary = filepath.Join(base, "posthouse")
		if err := program.Build(p.binary); err != nil {
			return err
		}
	}
	res := results{}
	cases := p.cases()
	for round := range p.rounds {
		for _, c := range cases {
			order := p.variants()
			if round%2 == 1 {
				slices.Reverse(order)
			}
			for _, v := range order {
				m, err := p.measure(ctx, base, c, v)
				if err != nil {
					return fmt.Errorf("%s, %s: %w", c, v, err)
				}
				fmt.Fprintf(stderr, "round %d  %-22s %-18s %s\n", round+1, c, v, m)
				res.add(c, v, m)
			}
		}
	}
	res.print(stdout, cases, p)
	return nil
}
