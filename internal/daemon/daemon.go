package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"posthouse/internal/delivery/bounce"
	"posthouse/internal/delivery/dns"
	"posthouse/internal/delivery/fixed"
	"posthouse/internal/delivery/remote"
	"posthouse/internal/delivery/route"
	"posthouse/internal/intake"
	"posthouse/internal/intake/access"
	"posthouse/internal/intake/pickup"
	"posthouse/internal/mail"
	"posthouse/internal/operator"
	"posthouse/internal/operator/control"
	"posthouse/internal/postfix/config"
	"posthouse/internal/postfix/maillog"
	"posthouse/internal/queue"
	"posthouse/internal/spool"
	"posthouse/internal/spool/local"
)

// stopGrace is how long sessions may take to finish a message at a stop.
const stopGrace = 10 * time.Second

// Daemon is a relay: everything that one configuration directory says.
type Daemon struct {
	configDir string
	version   string
	started   time.Time

	log      *switchLog
	store    *local.Store
	queue    *queue.Queue
	intake   *intake.Intake
	access   *access.Checker
	bounce   *bounce.Bouncer
	router   *route.Router
	pickup   *pickup.Pickup
	maildrop *pickup.Maildrop
	ctl      *control.Server
	names    atomic.Pointer[net.Resolver] // for clients' names

	base context.Context    // what Run was given
	stop context.CancelFunc // begins an orderly end

	mu        sync.Mutex               // guards what follows: reloads are one at a time
	settings  *settings                // those in force
	agents    atomic.Pointer[agentSet] // by transport; read without the lock
	listening map[string]*listening    // by network and address
	sessions  sync.WaitGroup           // the Serve calls of listeners
}

// agentSet are the agents of one configuration.
type agentSet struct {
	servers  []string                 // name servers that resolver asks
	resolver *dns.Resolver            // shared by all remote agents
	byName   map[string]queue.Agent   // every transport
	remote   map[string]*remote.Agent // those with connections
}

// all are the agents to close at the end.
func (s *agentSet) all() []*remote.Agent {
	if s == nil {
		return nil
	}
	return slices.Collect(maps.Values(s.remote))
}

// Program is what Run and Offline are told about the program they are part of.
type Program struct {
	Version string    // shown in the log and by status
	Diag    io.Writer // for what must be seen at the terminal
}

// Run is the relay, until ctx ends or it is told to stop.
func Run(ctx context.Context, p Program, configDir string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	d, err := start(ctx, cancel, p, configDir)
	if err != nil {
		return err
	}
	d.announce(p.Diag)
	go d.reloadOnHangup(ctx)
	return errors.Join(d.run(ctx), d.close())
}

// announce tells who started it at a terminal that all is well, and where to
// look next.
func (d *Daemon) announce(diag io.Writer) {
	var ports []string
	for _, l := range d.settings.listeners {
		ports = append(ports, l.address)
	}
	where := "syslog, or standard error where there is none"
	if d.settings.log.file != "" {
		where = d.settings.log.file
	}
	fmt.Fprintf(diag, "posthouse: running with %s; SMTP on %s; log: %s\n", d.configDir, cmp.Or(strings.Join(ports, ", "), "no port: see master.cf"), where)
}

// Start is Run in the background: it returns once the relay takes connections,
// with how to stop it. ctx bounds the start alone.
func Start(ctx context.Context, p Program, configDir string) (stop func() error, err error) {
	base, cancel := context.WithCancel(context.WithoutCancel(ctx))
	d, err := start(base, cancel, p, configDir)
	if err != nil {
		cancel()
		return nil, err
	}
	return d.background(base, cancel), nil
}

// background runs a built relay, and returns how to stop it.
func (d *Daemon) background(base context.Context, cancel context.CancelFunc) (stop func() error) {
	ended := make(chan error, 1)
	go func() { ended <- errors.Join(d.run(base), d.close()) }()
	return func() error {
		cancel()
		return <-ended
	}
}

// start builds a relay. base lives as long as the relay, cancel ends it.
func start(base context.Context, cancel context.CancelFunc, p Program, configDir string) (*Daemon, error) {
	configDir, err := filepath.Abs(configDir)
	if err != nil {
		return nil, err
	}
	s, err := load(configDir, p.Diag)
	if err != nil {
		return nil, err
	}
	d := &Daemon{
		configDir: configDir, version: p.Version, started: time.Now(),
		log: new(switchLog), base: base, stop: cancel, listening: make(map[string]*listening),
	}
	if err := d.build(base, s); err != nil {
		return nil, errors.Join(err, d.close())
	}
	return d, nil
}

// load reads and translates a configuration, telling diag what is wrong.
func load(dir string, diag io.Writer) (*settings, error) {
	cfg, problems, err := config.Load(dir)
	for _, p := range problems {
		if p.Severity == config.Warning { // the others are in err
			fmt.Fprintf(diag, "posthouse: warning: %s\n", p)
		}
	}
	if err != nil {
		return nil, err
	}
	return translate(cfg, func(text string) { fmt.Fprintf(diag, "posthouse: warning: %s\n", text) })
}

// build makes the rooms and joins them, inside out: log, spool, intake, queue,
// agents, and last the doors.
func (d *Daemon) build(ctx context.Context, s *settings) error {
	d.settings = s
	if err := s.paths.create(); err != nil {
		return err
	}
	w, err := s.log.open()
	if err != nil {
		return err
	}
	d.log.to.Store(w)
	if d.store, err = openStore(s, d.log); err != nil {
		return err
	}
	if err := d.buildHeart(ctx, s); err != nil {
		return err
	}
	return d.openDoors(s)
}

// buildHeart makes intake, queue and what they ask for, and reads the spool.
func (d *Daemon) buildHeart(ctx context.Context, s *settings) error {
	d.router = route.New(s.route, d.log, time.Now)
	if err := d.setAgents(s); err != nil {
		return err
	}
	late := new(lateQueue)
	d.access = access.New(s.access)
	ids := mail.NewIDSource(0, time.Now)
	d.intake = intake.New(s.intake, intake.Deps{
		Store: d.store, IDs: ids, Queue: late, Log: d.log, Now: time.Now, Access: d.access,
	})
	d.bounce = bounce.New(s.bounce, d.intake, bounce.Deps{Log: d.log, Now: time.Now, Open: d.store.Content})
	d.queue = queue.New(s.queue, queue.Deps{
		Store: d.store, Router: noticeSink{d.router, d.bounce}, Agents: d.agent, Bouncer: d.bounce, Resubmitter: d.intake, Log: d.log,
	})
	late.q = d.queue
	found, err := d.queue.Recover(ctx)
	if err != nil {
		return fmt.Errorf("read the spool: %w", err)
	}
	ids.Raise(found.LastID)
	if found.Corrupt > 0 {
		d.log.Log("qmgr", maillog.Warning, maillog.Text(fmt.Sprintf(
			"%d corrupt messages are set aside in queue \"corrupt\"; see \"posthouse status\"", found.Corrupt)))
	}
	d.maildrop = pickup.NewMaildrop(s.paths.queue)
	d.pickup = pickup.New(d.maildrop, d.intake, d.log, pickup.Config{Interval: s.pickup, KeepDeleted: s.queue.TrashRetention})
	return nil
}

// agent finds the agent of a transport.
func (d *Daemon) agent(transport string) (queue.Agent, bool) {
	a, ok := d.agents.Load().byName[transport]
	return a, ok
}

// setAgents makes agents for the transports in s. Those that exist keep their
// connections and learn the new settings, unless the name servers changed.
// What is no longer used finishes its deliveries and is closed.
func (d *Daemon) setAgents(s *settings) error {
	old := d.agents.Load()
	before := old.all()
	if old == nil || !slices.Equal(old.servers, s.dns.Servers) {
		resolver, err := dns.New(s.dns)
		if err != nil {
			return fmt.Errorf("name servers: %w", err)
		}
		d.names.Store(systemResolver(s.dns.Servers))
		old = &agentSet{servers: s.dns.Servers, resolver: resolver}
	}
	set := &agentSet{servers: old.servers, resolver: old.resolver, remote: make(map[string]*remote.Agent), byName: map[string]queue.Agent{
		"discard": fixed.NewDiscard(d.log, time.Now),
		"error":   fixed.NewError(d.log, time.Now),
		"retry":   fixed.NewRetry(d.log, time.Now),
	}}
	for i := range s.transport {
		t := &s.transport[i]
		switch {
		case t.remote != nil:
			a := old.remote[t.name]
			if a == nil {
				a = remote.New(*t.remote, remote.Env{Resolver: old.resolver, Log: d.log})
			} else {
				a.Reconfigure(*t.remote)
			}
			set.byName[t.name], set.remote[t.name] = a, a
		case t.command == "discard":
			set.byName[t.name] = set.byName["discard"]
		case t.name != "retry":
			set.byName[t.name] = set.byName["error"]
		}
	}
	d.agents.Store(set)
	for _, a := range before {
		if !slices.Contains(set.all(), a) {
			a.Close() // deliveries under way go on
		}
	}
	return nil
}

// openDoors opens the ports and the control socket.
func (d *Daemon) openDoors(s *settings) error {
	if err := d.listen(s); err != nil {
		return err
	}
	op := operator.New(operator.Parts{
		Queue: d.queue, Spool: d.store, Maildrop: d.maildrop,
		Version: d.version, PID: os.Getpid(), Started: d.started, ConfigDir: d.configDir,
		Pickup: d.pickup.Poke,
		Reload: func(context.Context) error { return d.Reload() },
		Stop: func(context.Context) error {
			d.stop()
			return nil
		},
	})
	d.ctl = control.NewServer(op, s.control)
	return nil
}

// run serves until ctx ends, and then stops in order.
func (d *Daemon) run(ctx context.Context) error {
	socket, err := control.Listen(d.settings.paths.socket)
	if err != nil {
		return err
	}
	if err := d.settings.paths.writePID(); err != nil {
		return errors.Join(err, socket.Close())
	}
	d.log.Log("master", maillog.Info, maillog.Text(fmt.Sprintf("daemon started -- version %s, configuration %s", d.version, d.configDir)))

	// Each part reports how it ended; the first that ends before it is told
	// to takes the others with it.
	heart, stopHeart := context.WithCancel(context.WithoutCancel(ctx))
	defer stopHeart()
	ended := make(chan error, 2)
	go func() { ended <- d.queue.Run(heart) }()
	go func() { ended <- d.ctl.Serve(socket) }()
	scans := make(chan struct{})
	go func() {
		defer close(scans)
		d.pickup.Run(heart)
	}()
	d.serveAll(ctx)

	var first error
	running := 2
	select {
	case <-ctx.Done():
	case first = <-ended:
		running--
	}
	d.log.Log("master", maillog.Info, maillog.Text("terminating"))
	d.ctl.Close()
	d.shutListeners()
	stopHeart()
	<-scans
	for ; running > 0; running-- {
		first = errors.Join(first, <-ended)
	}
	return errors.Join(first, os.Remove(d.settings.paths.pid))
}

// close gives back what build took, in reverse; what was never made is nil.
func (d *Daemon) close() error {
	var errs []error
	d.mu.Lock()
	for _, l := range d.listening {
		errs = append(errs, ignoreClosed(l.socket.Close()))
	}
	d.mu.Unlock()
	for _, a := range d.agents.Load().all() {
		a.Close()
	}
	if d.store != nil {
		errs = append(errs, d.store.Close())
	}
	if w := d.log.to.Load(); w != nil {
		errs = append(errs, w.Close())
	}
	return errors.Join(errs...)
}

// openStore opens the embedded spool.
func openStore(s *settings, log maillog.Logger) (*local.Store, error) {
	opt := s.spool
	opt.Warn = func(text string) { log.Log("spool", maillog.Warning, maillog.Text(text)) }
	store, err := local.Open(opt)
	if errors.Is(err, spool.ErrLocked) {
		return nil, fmt.Errorf("%w; the server seems to run already: see posthouse status -c %s", err, s.cfg.Dir())
	} else if err != nil {
		return nil, fmt.Errorf("open spool: %w", err)
	}
	return store, nil
}

// systemResolver looks up clients' names: with our own servers when some are
// configured, else as the system does.
func systemResolver(servers []string) *net.Resolver {
	r := &net.Resolver{PreferGo: true}
	if len(servers) > 0 {
		r.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, servers[0])
		}
	}
	return r
}

// noticeSink is the router, but for answers to notices about notices, which
// would otherwise go round for ever: they are discarded, and the log says so.
type noticeSink struct {
	queue.Router
	bounce *bounce.Bouncer
}

// Route routes a recipient.
func (n noticeSink) Route(rcpt mail.Address, env *mail.Envelope) (mail.Destination, *mail.Status) {
	if n.bounce.Discards(rcpt) {
		return mail.Destination{Transport: "discard", NextHop: "undeliverable postmaster notification discarded"}, nil
	}
	return n.Router.Route(rcpt, env)
}

// lateQueue ties a knot of building: intake needs the queue, whose bouncer
// needs intake. It is not used before build has finished.
type lateQueue struct{ q *queue.Queue }

// Enqueue passes a committed message on.
func (l *lateQueue) Enqueue(m *mail.Message) { l.q.Enqueue(m) }
