package sink

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

const usage = `Usage: posthouse sink [flags] [host]:port|unix:path ... [backlog]

A test destination: takes mail and throws it away, or misbehaves as told.

Examples:
  posthouse sink -c 127.0.0.1:2626                      accept everything, show running counts
  posthouse sink -r rcpt 127.0.0.1:2626                 450 to every RCPT
  posthouse sink --behave 'slow=200ms,rate=5/1s' :2626  slow and throttled
  posthouse sink --domain 'hard.example=550 5.1.1 no such user@rcpt' \
                 --domain '.gray.example=greylist=30s' :2626

A behaviour is a list of: accept, 4xx@STAGE, 5xx@STAGE, CODE TEXT@STAGE,
hang@STAGE, drop@STAGE, slow=TIME, slow@STAGE=TIME, greylist=TIME, conns=N,
rate=N/TIME. Stages: connect helo mail rcpt data end rset noop vrfy quit.

Flags:
`

const exits = `
Exit status: 0 ended by a signal or by -M; 1 an error; 2 wrong usage.
`

// options is the command line of `posthouse sink`.
type options struct {
	behave                 string
	domains                []string
	hard, soft, drop, bye  string
	wait                   int
	lmtp, counters         bool
	noPipe, noESMTP        bool
	no8Bit, noEnh, noDSN   bool
	hostname               string
	maxConns               int
	stopAfter, maxSize     int64
	certFile, keyFile      string
	hardReply, softReplyTo string
}

func (o *options) flags(fs *pflag.FlagSet) {
	fs.StringVar(&o.behave, "behave", "", "behaviour of the listeners, see above")
	fs.StringArrayVar(&o.domains, "domain", nil, "DOMAIN=BEHAVIOUR for recipients there; .DOMAIN includes subdomains; repeatable")
	fs.StringVarP(&o.hard, "hard-reject", "f", "", "refuse these commands with 5xx (list; '.' is the end of data)")
	fs.StringVarP(&o.soft, "soft-reject", "r", "", "refuse these commands with 4xx")
	fs.StringVarP(&o.drop, "disconnect", "q", "", "disconnect without a reply after these commands")
	fs.StringVarP(&o.bye, "bye", "Q", "", "reply 421 and disconnect after these commands")
	fs.StringVarP(&o.hardReply, "hard-reply", "B", hardReply, "reply for -f")
	fs.StringVarP(&o.softReplyTo, "soft-reply", "b", softReply, "reply for -r")
	fs.IntVarP(&o.wait, "delay", "w", 0, "seconds to wait before the reply to DATA")
	fs.BoolVarP(&o.counters, "counters", "c", false, "show running counters")
	fs.BoolVarP(&o.lmtp, "lmtp", "L", false, "LMTP instead of SMTP")
	fs.IntVarP(&o.maxConns, "max-connections", "m", 0, "421 beyond this many connections")
	fs.Int64VarP(&o.stopAfter, "stop-after", "M", 0, "end after this many messages")
	fs.BoolVarP(&o.noPipe, "no-pipelining", "p", false, "do not offer PIPELINING")
	fs.BoolVarP(&o.noESMTP, "no-esmtp", "e", false, "do not offer ESMTP")
	fs.BoolVarP(&o.no8Bit, "no-8bit", "8", false, "do not offer 8BITMIME")
	fs.BoolVarP(&o.noEnh, "no-enhanced", "E", false, "do not offer ENHANCEDSTATUSCODES")
	fs.BoolVarP(&o.noDSN, "no-dsn", "N", false, "do not offer DSN")
	fs.Int64Var(&o.maxSize, "size", 0, "largest message, announced with SIZE; 0 means no limit")
	fs.StringVar(&o.hostname, "hostname", "sink.example", "name in the greeting")
	fs.StringVar(&o.certFile, "tls-cert", "", "PEM certificate: offer STARTTLS")
	fs.StringVar(&o.keyFile, "tls-key", "", "PEM key of --tls-cert")
	// Accepted so that command lines written for smtp-sink keep working.
	for _, short := range []string{"4", "a", "C", "F", "v"} {
		fs.BoolP("ignored-"+short, short, false, "")
		fs.Lookup("ignored-" + short).Hidden = true
	}
	fs.StringP("ignored-user", "u", "", "")
	fs.Lookup("ignored-user").Hidden = true
}

// Main is the command `posthouse sink`. It serves until ctx ends.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var o options
	fs := pflag.NewFlagSet("sink", pflag.ContinueOnError)
	fs.SortFlags = false
	fs.SetOutput(io.Discard)
	o.flags(fs)
	err := fs.Parse(args)
	if errors.Is(err, pflag.ErrHelp) {
		io.WriteString(stdout, usage+fs.FlagUsages()+exits)
		return 0
	}
	addresses := withoutBacklog(fs.Args())
	if err == nil && len(addresses) == 0 {
		err = errors.New("no address to listen on")
	}
	var cfg Config
	if err == nil {
		cfg, err = o.config()
	}
	if err != nil {
		fmt.Fprintf(stderr, "posthouse sink: %v\nTry: posthouse sink --help\n", err)
		return 2
	}
	if err := serve(ctx, cfg, addresses, &o, stdout, stderr); err != nil {
		fmt.Fprintf(stderr, "posthouse sink: %v\n", err)
		return 1
	}
	return 0
}

// withoutBacklog drops smtp-sink's trailing backlog number and "inet:".
func withoutBacklog(args []string) []string {
	if n := len(args); n > 1 {
		if _, err := strconv.Atoi(args[n-1]); err == nil {
			args = args[:n-1]
		}
	}
	var out []string
	for _, a := range args {
		out = append(out, strings.TrimPrefix(a, "inet:"))
	}
	return out
}

func (o *options) config() (cfg Config, err error) {
	cfg = Config{Hostname: o.hostname, LMTP: o.lmtp, MaxSize: o.maxSize, Extensions: AllExtensions, Domains: map[string]Personality{}}
	for _, x := range []struct {
		on  bool
		ext Extension
	}{{o.noPipe, Pipelining}, {o.no8Bit, EightBit | UTF8}, {o.noEnh, EnhancedCodes}, {o.noDSN, DSN}} {
		if x.on {
			cfg.Extensions &^= x.ext
		}
	}
	if o.noESMTP {
		cfg.Extensions |= NoESMTP
	}
	if cfg.Default, err = o.listener(); err != nil {
		return cfg, err
	}
	for _, d := range o.domains {
		name, text, ok := strings.Cut(d, "=")
		if !ok {
			return cfg, fmt.Errorf("--domain %q: want DOMAIN=BEHAVIOUR", d)
		}
		name = strings.ToLower(name)
		if cfg.Domains[name], err = ParsePersonality(name, text); err != nil {
			return cfg, err
		}
	}
	if o.certFile != "" || o.keyFile != "" {
		cert, err := tls.LoadX509KeyPair(o.certFile, o.keyFile)
		if err != nil {
			return cfg, err
		}
		cfg.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	}
	return cfg, nil
}

// listener is the personality that --behave and smtp-sink's flags describe.
func (o *options) listener() (Personality, error) {
	p, err := ParsePersonality("default", o.behave)
	if err != nil {
		return p, err
	}
	if o.maxConns > 0 {
		p.MaxConnections = o.maxConns
	}
	p.Steps[Data].Delay += time.Duration(o.wait) * time.Second
	for _, f := range []struct {
		list string
		a    Action
	}{
		{o.soft, Action{Kind: Refuse, Reply: o.softReplyTo}},
		{o.hard, Action{Kind: Refuse, Reply: o.hardReply}},
		{o.bye, Action{Kind: HangUp, Reply: byeReply}},
		{o.drop, Action{Kind: Drop}},
	} {
		for _, name := range strings.FieldsFunc(f.list, func(r rune) bool { return r == ',' || r == ' ' }) {
			s, err := ParseStage(name)
			if err != nil {
				return p, err
			}
			f.a.Delay = p.Steps[s].Delay
			p.Steps[s] = f.a
		}
	}
	return p, nil
}

func serve(ctx context.Context, cfg Config, addresses []string, o *options, stdout, stderr io.Writer) error {
	srv, err := New(cfg)
	if err != nil {
		return err
	}
	defer srv.Close()
	for _, a := range addresses {
		at, err := srv.Listen(a)
		if err != nil {
			return err
		}
		fmt.Fprintf(stderr, "listening on %s\n", at)
	}
	done := make(chan struct{})
	if o.stopAfter > 0 {
		go func() {
			defer close(done)
			srv.WaitMessages(ctx, o.stopAfter)
		}()
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var last Counts
	for {
		select {
		case <-tick.C:
			if now := srv.Counters(); o.counters && now != last {
				fmt.Fprintf(stdout, "%s  +%d/s\n", now, now.Messages-last.Messages)
				last = now
			}
			continue
		case <-done:
		case <-ctx.Done():
		}
		fmt.Fprintf(stdout, "%s\n", srv.Counters())
		return nil
	}
}

// String is the counts on one line.
func (c Counts) String() string {
	return fmt.Sprintf("connections %d (open %d)  messages %d  recipients %d  bytes %d  refused %d",
		c.Connections, c.Open, c.Messages, c.Recipients, c.Bytes, c.Refused)
}
