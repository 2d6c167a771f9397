package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"posthouse/internal/postfix/maillog"
	"posthouse/internal/smtp/server"
)

// ErrRestart is wrapped by a reload's refusal to change what only a start can.
var ErrRestart = errors.New("needs a stop and a start")

// reloadOnHangup reloads at each SIGHUP until ctx ends.
func (d *Daemon) reloadOnHangup(ctx context.Context) {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangup:
			_ = d.Reload() // logged there, and a signal has no one to tell
		}
	}
}

// Reload reads the configuration again and swaps it in. It is checked whole
// before anything changes; an error means that the old one stays in force.
// Sessions and deliveries under way finish as they began.
func (d *Daemon) Reload() error {
	var problems lines
	err := d.reload(&problems)
	for _, p := range problems {
		d.log.Log("master", maillog.Warning, maillog.Text(p))
	}
	if err != nil {
		d.log.Log("master", maillog.Error, maillog.Text("reload refused, the old configuration stays: "+err.Error()))
		return fmt.Errorf("reload refused, the old configuration stays: %w", err)
	}
	d.log.Log("master", maillog.Info, maillog.Text(fmt.Sprintf("reload -- version %s, configuration %s", d.version, d.configDir)))
	return nil
}

func (d *Daemon) reload(problems io.Writer) error {
	s, err := load(d.configDir, problems)
	if err != nil {
		return err
	}
	d.mu.Lock()
	old := d.settings
	d.mu.Unlock()
	if s.paths != old.paths {
		return fmt.Errorf("queue_directory = %s: %w", s.paths.queue, ErrRestart)
	}
	w, err := s.log.open()
	if err != nil {
		return err
	}
	if err := d.listen(s); err != nil {
		return errors.Join(err, w.Close())
	}
	if err := d.setAgents(s); err != nil {
		return errors.Join(err, w.Close())
	}
	// From here on nothing can fail.
	d.access.Reconfigure(s.access)
	d.intake.Reconfigure(s.intake)
	d.bounce.Reconfigure(s.bounce)
	d.router.Reconfigure(s.route)
	d.queue.Reconfigure(s.queue, noticeSink{d.router, d.bounce})
	d.ctl.SetAccess(s.control.Access)
	for _, l := range d.adopt(s) {
		d.sessions.Go(func() { d.shut(l) })
	}
	d.serveAll(d.base)
	return d.log.replace(w)
}

// adopt puts s in force for the open ports, and returns those it has no use for.
func (d *Daemon) adopt(s *settings) (dropped []*listening) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.settings = s
	wanted := make(map[string]server.Config)
	for i := range s.listeners {
		wanted[s.listeners[i].key()] = s.listeners[i].server
	}
	for key, l := range d.listening {
		if cfg, ok := wanted[key]; ok {
			l.server.Reconfigure(cfg)
			continue
		}
		dropped = append(dropped, l)
		delete(d.listening, key)
	}
	return dropped
}

// lines gathers what is written to it, a string per Write: load writes whole lines.
type lines []string

// Write keeps a line.
func (l *lines) Write(p []byte) (int, error) {
	*l = append(*l, strings.TrimSuffix(string(p), "\n"))
	return len(p), nil
}
