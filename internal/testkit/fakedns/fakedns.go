// Package fakedns is a DNS server for tests and for the demonstration: it
// answers on one loopback port, UDP and TCP, from records set by program.
//
// # What it promises
//
// It answers authoritatively for every name there is: a name without records
// does not exist (NXDOMAIN), a name with records of other types gives NOERROR
// without answers, each with an SOA as RFC 2308 wants. CNAMEs are followed. Records can be changed while it
// runs and count from the next query on. Faults are per name: SERVFAIL,
// silence, truncation (so that the client must come again over TCP), delay.
//
// # What it assumes
//
// Names are compared without case. TTLs are zero so that nothing is cached.
package fakedns

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// Fault is how a name misbehaves.
type Fault uint8

// The faults.
const (
	None     Fault = iota
	ServFail       // answer SERVFAIL
	NXDomain       // answer NXDOMAIN even though there are records
	Silent         // never answer
	Truncate       // over UDP answer only with the truncation bit
	Refused        // answer REFUSED
)

// Server is a running DNS server. Its methods may be called from any goroutine.
type Server struct {
	udp, tcp *dns.Server
	addr     string
	serving  sync.WaitGroup

	mu      sync.Mutex
	records map[string][]dns.RR // by lower-case name with final dot
	faults  map[string]Fault
	delays  map[string]time.Duration
	queries map[string]int // by "name. TYPE"
	done    chan struct{}
}

// Start opens address ("127.0.0.1:0" picks a port) for UDP and TCP.
func Start(address string) (*Server, error) {
	pc, l, err := listen(address)
	if err != nil {
		return nil, fmt.Errorf("fakedns: %w", err)
	}
	s := &Server{
		addr: l.Addr().String(), records: map[string][]dns.RR{}, faults: map[string]Fault{},
		delays: map[string]time.Duration{}, queries: map[string]int{}, done: make(chan struct{}),
	}
	s.udp = &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(s.handle)}
	s.tcp = &dns.Server{Listener: l, Handler: dns.HandlerFunc(s.handle)}
	for _, srv := range []*dns.Server{s.udp, s.tcp} {
		up := make(chan struct{})
		srv.NotifyStartedFunc = func() { close(up) }
		s.serving.Go(func() { srv.ActivateAndServe() })
		<-up
	}
	return s, nil
}

// listen finds one port that is free for both protocols.
func listen(address string) (net.PacketConn, net.Listener, error) {
	var errs []error
	for range 20 {
		pc, err := net.ListenPacket("udp", address)
		if err != nil {
			return nil, nil, err
		}
		l, err := net.Listen("tcp", pc.LocalAddr().String())
		if err == nil {
			return pc, l, nil
		}
		errs = append(errs, err, pc.Close())
	}
	return nil, nil, errors.Join(errs...)
}

// Addr is "IP:port" of the server.
func (s *Server) Addr() string { return s.addr }

// Close stops the server and waits for its goroutines.
func (s *Server) Close() error {
	s.mu.Lock()
	select {
	case <-s.done:
		s.mu.Unlock()
		return nil
	default:
		close(s.done)
	}
	s.mu.Unlock()
	err := errors.Join(s.udp.Shutdown(), s.tcp.Shutdown())
	s.serving.Wait()
	return err
}

func fqdn(name string) string { return dns.Fqdn(strings.ToLower(name)) }

// Add adds records in zone file form: "example.com MX 10 mx.example.com.".
// Names without a final dot are taken as complete.
func (s *Server) Add(lines ...string) error {
	for _, line := range lines {
		rr, err := dns.NewRR("$ORIGIN .\n$TTL 0\n" + line)
		if err != nil || rr == nil {
			return fmt.Errorf("fakedns: record %q: %w", line, errors.Join(err, errBadRecord))
		}
		s.add(rr)
	}
	return nil
}

var errBadRecord = errors.New("want NAME TYPE DATA")

func (s *Server) add(rr dns.RR) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := fqdn(rr.Header().Name)
	s.records[n] = append(s.records[n], rr)
}

func head(name string, t uint16) dns.RR_Header {
	return dns.RR_Header{Name: fqdn(name), Rrtype: t, Class: dns.ClassINET}
}

// MX adds a mail exchanger.
func (s *Server) MX(name string, preference uint16, host string) {
	s.add(&dns.MX{Hdr: head(name, dns.TypeMX), Preference: preference, Mx: fqdn(host)})
}

// NullMX says that a domain takes no mail (RFC 7505).
func (s *Server) NullMX(name string) { s.MX(name, 0, ".") }

// A adds an address record, AAAA for an IPv6 address.
func (s *Server) A(name, ip string) {
	addr := net.ParseIP(ip)
	if addr.To4() == nil {
		s.add(&dns.AAAA{Hdr: head(name, dns.TypeAAAA), AAAA: addr})
		return
	}
	s.add(&dns.A{Hdr: head(name, dns.TypeA), A: addr.To4()})
}

// TXT adds a text record.
func (s *Server) TXT(name, text string) {
	s.add(&dns.TXT{Hdr: head(name, dns.TypeTXT), Txt: []string{text}})
}

// CNAME makes name an alias.
func (s *Server) CNAME(name, target string) {
	s.add(&dns.CNAME{Hdr: head(name, dns.TypeCNAME), Target: fqdn(target)})
}

// PTR names an IP address.
func (s *Server) PTR(ip, name string) error {
	arpa, err := dns.ReverseAddr(ip)
	if err != nil {
		return fmt.Errorf("fakedns: %w", err)
	}
	s.add(&dns.PTR{Hdr: head(arpa, dns.TypePTR), Ptr: fqdn(name)})
	return nil
}

// Remove forgets everything about a name.
func (s *Server) Remove(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := fqdn(name)
	delete(s.records, n)
	delete(s.faults, n)
	delete(s.delays, n)
}

// Fault makes a name misbehave; None ends it.
func (s *Server) Fault(name string, f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults[fqdn(name)] = f
}

// Delay makes answers about a name slow.
func (s *Server) Delay(name string, d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.delays[fqdn(name)] = d
}

// Queries tells how often a name was asked for a type, "MX" say.
func (s *Server) Queries(name, rrtype string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.queries[fqdn(name)+" "+rrtype]
}

func (s *Server) handle(w dns.ResponseWriter, q *dns.Msg) {
	if len(q.Question) != 1 {
		return
	}
	_, overUDP := w.RemoteAddr().(*net.UDPAddr)
	m, delay := s.answer(q, overUDP)
	if m == nil {
		return
	}
	if delay > 0 {
		t := time.NewTimer(delay)
		defer t.Stop()
		select {
		case <-t.C:
		case <-s.done:
			return
		}
	}
	// A client that went away is its own affair.
	_ = w.WriteMsg(m)
}

// answer composes the reply, nil for silence.
func (s *Server) answer(q *dns.Msg, overUDP bool) (*dns.Msg, time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	question := q.Question[0]
	name := fqdn(question.Name)
	s.queries[name+" "+dns.TypeToString[question.Qtype]]++
	m := new(dns.Msg)
	m.SetReply(q)
	m.Authoritative, m.RecursionAvailable = true, true
	delay := s.delays[name]
	switch f := s.faults[name]; {
	case f == Silent:
		return nil, 0
	case f == ServFail:
		m.Rcode = dns.RcodeServerFailure
		return m, delay
	case f == Refused:
		m.Rcode = dns.RcodeRefused
		return m, delay
	case f == NXDomain:
		m.Rcode = dns.RcodeNameError
		m.Ns = []dns.RR{soa()}
		return m, delay
	case f == Truncate && overUDP:
		m.Truncated = true
		return m, delay
	}
	exists := s.follow(m, name, question.Qtype)
	if len(m.Answer) == 0 {
		m.Ns = []dns.RR{soa()}
	}
	if !exists {
		m.Rcode = dns.RcodeNameError
	}
	if overUDP {
		size := dns.MinMsgSize
		if opt := q.IsEdns0(); opt != nil {
			size = int(opt.UDPSize())
			m.SetEdns0(opt.UDPSize(), false)
		}
		m.Truncate(size)
	}
	return m, delay
}

// follow appends the records of a type, through at most eight aliases, and
// tells whether the last name exists.
func (s *Server) follow(m *dns.Msg, name string, want uint16) bool {
	for range 8 {
		rrs := s.records[name]
		next := ""
		for _, rr := range rrs {
			if t := rr.Header().Rrtype; t == want || want == dns.TypeANY {
				m.Answer = append(m.Answer, rr)
			} else if c, ok := rr.(*dns.CNAME); ok {
				m.Answer = append(m.Answer, rr)
				next = fqdn(c.Target)
			}
		}
		if next == "" {
			return len(rrs) > 0 || s.parent(name)
		}
		name = next
	}
	return true
}

// parent tells whether there are names below this one: an empty
// non-terminal exists (RFC 8020).
func (s *Server) parent(name string) bool {
	for n := range s.records {
		if strings.HasSuffix(n, "."+name) {
			return true
		}
	}
	return false
}

func soa() dns.RR {
	return &dns.SOA{Hdr: head(".", dns.TypeSOA), Ns: "ns.example.", Mbox: "hostmaster.example.", Serial: 1, Refresh: 1, Retry: 1, Expire: 1}
}
