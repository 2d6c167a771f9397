package remote

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"posthouse/internal/delivery/dns"
	"posthouse/internal/mail"
	"posthouse/internal/postfix/maillog"
	"posthouse/internal/queue"
	"posthouse/internal/spool"
	"posthouse/internal/testkit/memnet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// manners are what a pretend server says, by stage; absent ones are polite.
// "DROP" hangs up, "HANG" says nothing any more.
type manners struct {
	greet, ehlo, helo, mail, data, starttls string

	caps  []string // EHLO keywords; nil: PIPELINING SIZE 8BITMIME
	rcpt  []string // one for each RCPT, the last for all further ones
	dot   []string // one for each reply after the final dot
	idle  time.Duration
	tls   *tls.Config
	noQPC bool // hangs up after each message
}

// world is a network in memory with servers and names.
type world struct {
	t     *testing.T
	net   *memnet.Network
	mx    map[string][]dns.MX
	addrs map[string][]netip.Addr
	fail  map[string]error
	hosts map[string][]netip.Addr
	log   logger

	mu    sync.Mutex
	wire  []string // lines of all clients, in order
	stops []io.Closer
	wait  sync.WaitGroup
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, net: memnet.New(), mx: map[string][]dns.MX{}, addrs: map[string][]netip.Addr{}, fail: map[string]error{}, hosts: map[string][]netip.Addr{}}
	return w
}

func (w *world) close() {
	for _, s := range w.stops {
		s.Close()
	}
	w.wait.Wait()
}

// serve opens a server at "ip:port".
func (w *world) serve(address string, m manners) {
	w.t.Helper()
	l, err := w.net.Listen("tcp", address)
	if err != nil {
		w.t.Fatal(err)
	}
	w.stops = append(w.stops, l)
	w.wait.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			w.wait.Go(func() { w.talk(c, m) })
		}
	})
}

var errEnd = errors.New("end")

func (w *world) talk(c net.Conn, m manners) {
	defer func() { c.Close() }()
	in := bufio.NewReader(c)
	say := func(reply, polite string) error {
		switch reply {
		case "":
			reply = polite
		case "DROP":
			return errEnd
		case "HANG":
			io.Copy(io.Discard, in) // until the client goes
			return errEnd
		}
		_, err := io.WriteString(c, reply+"\r\n")
		if strings.HasPrefix(reply, "421") {
			return errEnd
		}
		return err
	}
	rcpts, dots := 0, 0
	nth := func(list []string, n *int) string {
		if len(list) == 0 {
			return ""
		}
		*n++
		return list[min(*n, len(list))-1]
	}
	err := say(m.greet, "220 fake.test ESMTP")
	for err == nil {
		var line string
		if m.idle > 0 {
			c.SetReadDeadline(time.Now().Add(m.idle))
		}
		if line, err = in.ReadString('\n'); err != nil {
			return
		}
		w.note(line)
		switch strings.ToUpper(line[:4]) {
		case "EHLO", "LHLO":
			caps := m.caps
			if caps == nil {
				caps = []string{"PIPELINING", "SIZE", "8BITMIME"}
			}
			lines := append([]string{"fake.test"}, caps...)
			for i := range lines {
				sep := "-"
				if i == len(lines)-1 {
					sep = " "
				}
				lines[i] = "250" + sep + lines[i]
			}
			err = say(m.ehlo, strings.Join(lines, "\r\n"))
		case "HELO":
			err = say(m.helo, "250 fake.test")
		case "STAR":
			if err = say(m.starttls, "220 go"); err == nil && m.starttls == "" {
				if m.tls == nil {
					io.WriteString(c, "this is no tls at all\r\n")
					return
				}
				s := tls.Server(c, m.tls)
				if err = s.Handshake(); err == nil {
					c, in = s, bufio.NewReader(s)
					m.caps = []string{"PIPELINING", "8BITMIME"}
				}
			}
		case "MAIL":
			err = say(m.mail, "250 2.1.0 Ok")
		case "RCPT":
			err = say(nth(m.rcpt, &rcpts), "250 2.1.5 Ok")
		case "DATA":
			if err = say(m.data, "354 go"); err != nil || m.data != "" && m.data[0] != '3' {
				break
			}
			for err == nil && line != ".\r\n" {
				line, err = in.ReadString('\n')
				w.note(line)
			}
			replies := 1
			if len(m.dot) > 1 {
				replies = len(m.dot)
			}
			for range replies {
				if err == nil {
					err = say(nth(m.dot, &dots), "250 2.0.0 Ok: queued as F")
				}
			}
			if m.noQPC {
				return
			}
		case "QUIT":
			say("221 bye", "")
			return
		default:
			err = say("250 Ok", "")
		}
	}
}

func (w *world) note(line string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wire = append(w.wire, strings.TrimSuffix(line, "\r\n"))
}

// said counts the lines that clients said with this prefix.
func (w *world) said(prefix string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, l := range w.wire {
		if strings.HasPrefix(l, prefix) {
			n++
		}
	}
	return n
}

func (w *world) lookup(name, kind string) error {
	if err := w.fail[name+"/"+kind]; err != nil {
		return &dns.Error{Name: name, Type: kind, Err: err}
	}
	if w.mx[name] != nil || w.addrs[name] != nil {
		return &dns.Error{Name: name, Type: kind, Err: dns.ErrNoData}
	}
	return &dns.Error{Name: name, Type: kind, Err: dns.ErrNotFound}
}

func (w *world) MX(_ context.Context, name string) ([]dns.MX, error) {
	if len(w.mx[name]) > 0 {
		return w.mx[name], nil
	}
	return nil, w.lookup(name, "MX")
}

func (w *world) byFamily(name, kind string, v4 bool) ([]netip.Addr, error) {
	var out []netip.Addr
	for _, a := range w.addrs[name] {
		if a.Is4() == v4 {
			out = append(out, a)
		}
	}
	if len(out) == 0 {
		return nil, w.lookup(name, kind)
	}
	return out, nil
}

func (w *world) A(_ context.Context, name string) ([]netip.Addr, error) {
	return w.byFamily(name, "A", true)
}

func (w *world) AAAA(_ context.Context, name string) ([]netip.Addr, error) {
	return w.byFamily(name, "AAAA", false)
}
func (w *world) Hosts(name string) []netip.Addr { return w.hosts[name] }

// names sets records: "ok.test MX 10 a.test", "a.test A 127.0.1.1".
func (w *world) names(lines ...string) {
	for _, l := range lines {
		f := strings.Fields(l)
		if f[1] == "MX" {
			n, err := strconv.Atoi(f[2])
			if err != nil {
				w.t.Fatal(err)
			}
			w.mx[f[0]] = append(w.mx[f[0]], dns.MX{Preference: uint16(n), Host: f[3]})
			continue
		}
		w.addrs[f[0]] = append(w.addrs[f[0]], netip.MustParseAddr(f[2]))
	}
}

// agent returns an Agent in this world, IPv4 only unless changed.
func (w *world) agent(change func(*Config)) *Agent {
	cfg := DefaultConfig("smtp", "oracle.test")
	cfg.IPv6 = false
	cfg.Own = []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	if change != nil {
		change(&cfg)
	}
	return New(cfg, w.env())
}

func (w *world) env() Env {
	return Env{
		Resolver: w, Log: &w.log,
		Dial: func(ctx context.Context, network, address string, _ net.Addr) (net.Conn, error) {
			if network == "unix" {
				var d net.Dialer
				return d.DialContext(ctx, network, address)
			}
			return w.net.DialContext(ctx, network, address)
		},
		Shuffle: func(int, func(i, j int)) {},
	}
}

// logger keeps lines as "service: text".
type logger struct {
	mu    sync.Mutex
	lines []string
}

func (l *logger) Log(service string, sev maillog.Severity, ev maillog.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, service+": "+sev.Word()+string(ev.AppendText(nil, mail.ShortIDs)))
}

var variable = regexp.MustCompile(`delay=[^,]*, delays=[^,]*, |[0-9A-F]{12}: `)

// take returns what was logged, without IDs and delays, and forgets it.
func (l *logger) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]string, len(l.lines))
	for i, s := range l.lines {
		out[i] = variable.ReplaceAllStringFunc(s, func(m string) string {
			if m[len(m)-2] == ':' {
				return "ID: "
			}
			return ""
		})
	}
	l.lines = nil
	return out
}

// stored is content in memory.
type stored struct{ text string }

func (s stored) ReadAt(p []byte, off int64) (int, error) {
	return strings.NewReader(s.text).ReadAt(p, off)
}
func (s stored) Size() int64   { return int64(len(s.text)) }
func (s stored) Bytes() []byte { return []byte(s.text) }
func (s stored) Close() error  { return nil }

// delivery is a message to rcpts by next hop.
func delivery(nextHop string, rcpts ...mail.Address) *queue.Delivery {
	now := time.Now()
	env := &mail.Envelope{ID: mail.QueueID(now.UnixMicro() / 10), Arrival: now, Sender: "s@x.test", Size: 258}
	var idx []int
	for i, r := range rcpts {
		env.Recipients = append(env.Recipients, mail.Recipient{Address: r})
		idx = append(idx, i)
	}
	return queue.NewDelivery(mail.Destination{Transport: "smtp", NextHop: nextHop}, env, idx,
		func() (spool.Content, error) { return stored{"Subject: t\r\n\r\nhello\r\n.dot\r\n"}, nil })
}

// in runs f in a bubble with a world.
func in(t *testing.T, f func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		f(t, w)
	})
}

func compare(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("log:\n  %s\nwant:\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

func codes(res []queue.Result) string {
	var out []string
	for _, r := range res {
		s := r.Status.Code.String()
		if r.DestinationDown {
			s += " down"
		}
		out = append(out, s)
	}
	return strings.Join(out, ", ")
}

func errTemporary() error { return dns.ErrTemporary }
