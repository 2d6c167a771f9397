package differential

import (
	"context"
	"errors"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"posthouse/internal/testkit"
	"posthouse/internal/testkit/postfix"
	"posthouse/internal/testkit/program"
	"posthouse/internal/traffic/sink"
)

// limit is for everything that is waited for. It is long because the machine
// may be busy, and only a failing test waits that long.
const limit = 20 * time.Second

// server is what both kinds of instance can do.
type server interface {
	Start(ctx context.Context) error
	Stop() error
	WriteMain(extra string) error
	Addr() string
	RunInput(ctx context.Context, stdin, name string, args ...string) (testkit.Output, error)
}

// side is one server with its destinations.
type side struct {
	name  string
	srv   server
	dir   string
	log   testkit.LogFile
	main  string
	ports map[string]string // port number → word

	mu       sync.Mutex
	accepted []sink.Delivery
}

// newSide opens the destinations and starts the server.
func newSide(tb testing.TB, name string) *side {
	tb.Helper()
	s := &side{name: name, ports: map[string]string{}}
	s.main = commonMain(s.destinations(tb))
	switch name {
	case "postfix":
		// Its daemons forget our time zone otherwise; ours keep it.
		s.main += "import_environment = MAIL_CONFIG TZ LC_ALL\n"
		p := postfix.New(tb, postfix.Options{Main: s.main})
		s.srv, s.dir, s.log = p, p.Dir, p.Log
		s.ports[strconv.Itoa(p.Port)] = "SMTPD"
	default:
		p := program.New(tb, program.Options{Main: s.main, Master: master})
		p.MustStart(tb)
		s.srv, s.dir, s.log = p, p.Dir, p.Log
		s.ports[strconv.Itoa(p.Port)] = "SMTPD"
	}
	return s
}

// destinations opens the pretend destinations and returns transport_maps.
func (s *side) destinations(tb testing.TB) string {
	tb.Helper()
	person := func(text string) sink.Personality {
		p, err := sink.ParsePersonality("", text)
		if err != nil {
			tb.Fatal(err)
		}
		return p
	}
	var routes []string
	open := func(name string, ext sink.Extension, domains map[string]sink.Personality) {
		srv, err := sink.New(sink.Config{Extensions: ext, Domains: domains, KeepContent: true, Ledger: func(d sink.Delivery) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.accepted = append(s.accepted, d)
		}})
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { srv.Close() })
		addr, err := srv.Listen("127.0.0.1:0")
		if err != nil {
			tb.Fatal(err)
		}
		port := strconv.Itoa(addr.(*net.TCPAddr).Port)
		s.ports[port] = name
		for d := range domains {
			routes = append(routes, fmt.Sprintf("{%s = smtp:[127.0.0.1]:%s}", d, port))
		}
	}
	open("SINK", sink.AllExtensions, map[string]sink.Personality{
		"ok.example":       person("accept"),
		"soft.example":     person("450 4.2.0 try again@rcpt"),
		"hard.example":     person("550 5.1.1 no such user@rcpt"),
		"softdata.example": person("451 4.3.0 no room at the moment@end"),
		"harddata.example": person("554 5.7.1 we do not like this@end"),
		"hang.example":     person("hang@rcpt"),
	})
	open("PLAIN", sink.Pipelining, map[string]sink.Personality{"plain.example": person("accept")})
	// A port of our own that is bound and closed again stays free for the
	// moment, and nothing else connects to it.
	down, err := testkit.FreePort()
	if err != nil {
		tb.Fatal(err)
	}
	s.ports[strconv.Itoa(down)] = "DOWN"
	routes = append(routes, fmt.Sprintf("{down.example = smtp:[127.0.0.1]:%d}", down))
	return "inline:{ " + strings.Join(routes, " ") + " }"
}

// master is Postfix's stock list of services, as testkit/postfix has it.
const master = `127.0.0.1:$PORT inet n - n - - smtpd
pickup    unix  n  -  n  60    1  pickup
cleanup   unix  n  -  n  -     0  cleanup
qmgr      unix  n  -  n  300   1  qmgr
rewrite   unix  -  -  n  -     -  trivial-rewrite
bounce    unix  -  -  n  -     0  bounce
defer     unix  -  -  n  -     0  bounce
trace     unix  -  -  n  -     0  bounce
flush     unix  n  -  n  1000? 0  flush
smtp      unix  -  -  n  -     -  smtp
relay     unix  -  -  n  -     -  smtp
showq     unix  n  -  n  -     -  showq
error     unix  -  -  n  -     -  error
retry     unix  -  -  n  -     -  error
discard   unix  -  -  n  -     -  discard
`

func commonMain(transports string) string {
	return `transport_maps = ` + transports + `
relayhost =
default_transport = error:5.1.2 no such destination in this world
mynetworks = 127.0.0.1/32
smtpd_relay_restrictions = permit_mynetworks, permit_sasl_authenticated, reject_unauth_destination
smtp_dns_support_level = disabled
smtp_host_lookup = native
smtpd_error_sleep_time = 0s
message_size_limit = 200000
local_recipient_maps =
`
}

// ends is what has happened up to a moment: where a script begins.
type ends struct {
	log      int
	accepted int
}

func (s *side) now() ends {
	s.mu.Lock()
	defer s.mu.Unlock()
	return ends{log: len(s.log.Text()), accepted: len(s.accepted)}
}

func (s *side) logSince(e ends) string { return s.log.Text()[e.log:] }

func (s *side) acceptedSince(e ends) []sink.Delivery {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]sink.Delivery(nil), s.accepted[e.accepted:]...)
}

func poll(ready func() error) error { return testkit.Poll(context.Background(), limit, ready) }

func (s *side) waitLog(from ends, n int, expr string) error {
	re, err := regexp.Compile("(?m)" + expr)
	if err != nil {
		return err
	}
	return poll(func() error {
		if got := len(re.FindAllString(s.logSince(from), -1)); got < n {
			return fmt.Errorf("%d of %d log lines match %q:\n%s", got, n, expr, s.logSince(from))
		}
		return nil
	})
}

// clear leaves nothing behind for the next script: no message, no memory of
// dead destinations, and no log line still to come from a removed message.
func (s *side) clear() error {
	ctx := context.Background()
	return poll(func() error {
		for _, args := range [][]string{{"postsuper", "-d", "ALL"}, {"postqueue", "-f"}} {
			if out, err := s.srv.RunInput(ctx, "", args[0], args[1:]...); err != nil || out.Code != 0 {
				return fmt.Errorf("%v: %v %+v", args, err, out)
			}
		}
		out, err := s.srv.RunInput(ctx, "", "postqueue", "-j")
		if err != nil || out.Stdout != "" || out.Code != 0 {
			return errors.Join(err, fmt.Errorf("left in the queue: %+v", out))
		}
		return nil
	})
}
