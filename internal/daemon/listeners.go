package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"

	"posthouse/internal/postfix/maillog"
	"posthouse/internal/smtp/server"
)

// listening is an open port.
type listening struct {
	listener
	socket  net.Listener
	server  *server.Server
	serving bool
}

func (l *listener) key() string { return listenerKey(l.network, l.address) }

// listenerKey names a port by what stays the same from reload to reload,
// whatever master.cf calls its service.
func listenerKey(network, address string) string { return network + " " + address }

// listen opens the ports that s wants and are not open yet. When one cannot be
// opened, those opened here are closed again, so that a failed reload leaves
// everything as it was.
func (d *Daemon) listen(s *settings) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var opened []string
	for i := range s.listeners {
		l := s.listeners[i]
		if _, ok := d.listening[l.key()]; ok {
			continue
		}
		socket, err := net.Listen(l.network, l.address)
		if err != nil {
			for _, key := range opened {
				err = errors.Join(err, d.listening[key].socket.Close())
				delete(d.listening, key)
			}
			return portError(&l, err)
		}
		d.listening[l.key()] = &listening{
			listener: l, socket: socket,
			server: server.New(l.server, d.intake, server.Deps{Log: d.log, Resolver: nameFinder{d}}),
		}
		opened = append(opened, l.key())
	}
	return nil
}

// portError says what to do about a port that cannot be had.
func portError(l *listener, err error) error {
	hint := ""
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		hint = "; another program has it (is Postfix running?): stop that one, or change the service's address in master.cf"
	case errors.Is(err, syscall.EACCES):
		hint = "; ports below 1024 need root or CAP_NET_BIND_SERVICE: start as root, or use a higher port in master.cf"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		hint = "; this host has no such address: see inet_interfaces and master.cf"
	}
	return fmt.Errorf("service %s: %w%s", l.name.Name, err, hint)
}

// serveAll starts serving every open port that is not served yet.
func (d *Daemon) serveAll(ctx context.Context) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, l := range d.listening {
		if l.serving {
			continue
		}
		l.serving = true
		d.sessions.Go(func() {
			if err := l.server.Serve(context.WithoutCancel(ctx), l.socket, l.name); err != nil {
				d.log.Log("master", maillog.Error, maillog.Text(fmt.Sprintf("service %s: %v", l.name.Name, err)))
				d.stop()
			}
		})
	}
}

// shutListeners closes every port and waits for the sessions, within reason.
func (d *Daemon) shutListeners() {
	d.mu.Lock()
	ending := make([]*listening, 0, len(d.listening))
	for key, l := range d.listening {
		ending = append(ending, l)
		delete(d.listening, key)
	}
	d.mu.Unlock()
	for _, l := range ending {
		d.sessions.Go(func() { d.shut(l) })
	}
	d.sessions.Wait()
}

func (d *Daemon) shut(l *listening) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(d.base), stopGrace)
	defer cancel()
	if err := l.server.Shutdown(ctx); err != nil {
		d.log.Log("master", maillog.Warning, maillog.Text(fmt.Sprintf("service %s: sessions cut off: %v", l.name.Name, err)))
	}
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// nameFinder looks clients up with the resolver of the settings in force.
type nameFinder struct{ d *Daemon }

// LookupAddr finds the names of an address.
func (f nameFinder) LookupAddr(ctx context.Context, addr string) ([]string, error) {
	return f.d.names.Load().LookupAddr(ctx, addr)
}

// LookupNetIP finds the addresses of a name.
func (f nameFinder) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	return f.d.names.Load().LookupNetIP(ctx, network, strings.TrimSuffix(host, "."))
}

var _ server.Resolver = nameFinder{}
