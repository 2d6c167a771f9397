package demo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"posthouse/internal/testkit/fakedns"
	"posthouse/internal/traffic/sink"
	"posthouse/internal/traffic/source"
)

// World is the running pretend internet, without the relay.
type World struct {
	dns     *fakedns.Server
	sinks   *sink.Server
	port    int           // of every destination
	targets []destination // what traffic goes to
	weights []int         // running sums of their weights
}

// NewWorld starts the DNS server and n destinations (at least the named ones).
func NewWorld(n int) (*World, error) {
	w := &World{targets: cast(n)}
	sum := 0
	for _, d := range w.targets {
		sum += d.weight
		w.weights = append(w.weights, sum)
	}
	var err error
	if w.dns, err = fakedns.Start("127.0.0.1:0"); err != nil {
		return nil, err
	}
	// One port must be free on every address; another program may hold the
	// one we drew on one of them, so draw again.
	for range 10 {
		if err = w.open(); err == nil {
			return w, nil
		}
	}
	return nil, errors.Join(err, w.dns.Close())
}

// open starts all destinations on one port.
func (w *World) open() (err error) {
	srv, err := sink.New(sink.Config{Hostname: "mx.example", Extensions: sink.AllExtensions})
	if err != nil {
		return err
	}
	port := 0
	for i, d := range append(homes(), w.targets...) {
		ip := address(i)
		w.publish(d, ip, address(i+1<<15))
		if d.kind == closed || d.kind == noDomain || d.kind == noAnswer || d.kind == nullMX {
			continue
		}
		at, err := srv.ListenAs(net.JoinHostPort(ip, fmt.Sprint(port)), d.kind.personality(d.domain))
		if err != nil {
			return errors.Join(err, srv.Close())
		}
		port = at.(*net.TCPAddr).Port
	}
	w.sinks, w.port = srv, port
	return nil
}

// address is the i-th of the pretend internet.
func address(i int) string { return fmt.Sprintf("127.77.%d.%d", i/250, 1+i%250) }

// publish sets the DNS records of a destination. spare is an address where
// nobody listens.
func (w *World) publish(d destination, ip, spare string) {
	w.dns.Remove(d.domain)
	mx := "mx." + d.domain
	w.dns.Remove(mx)
	switch d.kind {
	case noDomain:
		return
	case noAnswer:
		w.dns.Fault(d.domain, fakedns.ServFail)
		return
	case nullMX:
		w.dns.NullMX(d.domain)
		return
	case backupOnly:
		w.dns.Remove("mx0." + d.domain)
		w.dns.MX(d.domain, 5, "mx0."+d.domain)
		w.dns.A("mx0."+d.domain, spare)
	}
	w.dns.MX(d.domain, 10, mx)
	w.dns.A(mx, ip)
}

// Close ends everything the world runs.
func (w *World) Close() error { return errors.Join(w.sinks.Close(), w.dns.Close()) }

// DNSAddr is the DNS server's "IP:port".
func (w *World) DNSAddr() string { return w.dns.Addr() }

// SMTPPort is the port of all destinations.
func (w *World) SMTPPort() int { return w.port }

// Arrived is what all destinations counted.
func (w *World) Arrived() sink.Counts { return w.sinks.Counters() }

// ByDomain is what each destination counted, by its domain.
func (w *World) ByDomain() map[string]sink.Counts { return w.sinks.ByPersonality() }

// MainCF is the main.cf of a relay in this world, with its files below dir.
func (w *World) MainCF(dir string) string {
	return fmt.Sprintf(`# A relay in a pretend internet. Times are short so that there is something to see.
compatibility_level = 3.6
queue_directory = %[1]s/queue
data_directory = %[1]s/data
maillog_file = %[1]s/maillog
myhostname = relay.demo.example
mydomain = demo.example
myorigin = $myhostname
mydestination =
relay_domains =
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
smtp_tls_security_level = none
smtpd_tls_security_level = none

# The pretend internet: its name server, and the port where all its hosts listen.
dns_servers = %[2]s
smtp_tcp_port = %[3]d
smtp_host_lookup = dns

minimal_backoff_time = 10s
maximal_backoff_time = 2m
maximal_queue_lifetime = 15m
bounce_queue_lifetime = 5m
smtp_connect_timeout = 10s
smtp_helo_timeout = 30s
smtp_mail_timeout = 30s
smtp_rcpt_timeout = 30s
smtp_data_init_timeout = 30s
smtp_data_done_timeout = 30s
`, dir, w.dns.Addr(), w.port)
}

// MasterCF is its master.cf, listening on address ("127.0.0.1:2525").
func (w *World) MasterCF(address string) string {
	return address + ` inet n - n - - smtpd
smtp    unix - - n - - smtp
relay   unix - - n - - smtp
lmtp    unix - - n - - lmtp
discard unix - - n - - discard
error   unix - - n - - error
retry   unix - - n - - error
bounce  unix - - n - 0 bounce
`
}

// Traffic sends through the relay at address, about perSecond messages a
// second, until ctx ends. Refusals and lost connections are part of the show.
func (w *World) Traffic(ctx context.Context, address string, perSecond float64, acked func()) error {
	var wg sync.WaitGroup
	errs := make([]error, len(senders()))
	for i, s := range senders() {
		wg.Go(func() {
			_, errs[i] = source.Run(ctx, source.Config{
				Address: address, Helo: "app." + s.address[strings.IndexByte(s.address, '@')+1:],
				Sessions: 2, Persistent: true, Tolerate: true, Rate: perSecond * s.share,
				From: s.address, Recipients: s.recipients, Length: s.length, Subject: s.subject,
				Recipient: func(b []byte, n uint64) []byte { return w.recipient(b, n, s.skew) },
				Acked:     func(string, string) { acked() },
			})
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// recipient appends the n-th recipient of a sender: a name at a destination
// drawn by weight, the same each time.
func (w *World) recipient(b []byte, n, skew uint64) []byte {
	// splitmix64: consecutive numbers give unrelated draws, without state.
	x := n + skew<<40 + 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	x ^= x >> 31
	names := [...]string{"alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi", "ivan", "judy", "mallory", "olivia", "peggy", "trent", "victor", "walter"}
	b = append(b, names[x%16]...)
	b = fmt.Appendf(b, "%d@", x>>4%100)
	draw := int((x >> 16) % uint64(w.weights[len(w.weights)-1]))
	lo, hi := 0, len(w.weights)-1
	for lo < hi {
		if mid := (lo + hi) / 2; w.weights[mid] > draw {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	return append(b, w.targets[lo].domain...)
}

// reportEvery is how often Run says how it goes.
const reportEvery = 10 * time.Second
