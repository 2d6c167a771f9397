package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"posthouse/internal/mail"
	"posthouse/internal/operator"
	"posthouse/internal/operator/control"
	"posthouse/internal/postfix/config"
)

// settings are what the commands need of the configuration. All reading of
// main.cf happens in this file.
type settings struct {
	dir      string // configuration directory
	queueDir string
	socket   string // of the control server
	ids      mail.IDForm
	owner    int // user ID of mail_owner, -1 when there is no such user
	cfg      *config.Config
}

// configDir is the directory to read: the argument of -c, else MAIL_CONFIG,
// else the default.
func (p *process) configDir(option string) string {
	if option == "" {
		option = p.getenv("MAIL_CONFIG")
	}
	if option == "" {
		option = config.DefaultDir
	}
	return option
}

// settings reads the configuration. When it cannot, it says so and returns
// nil; the caller ends with its own status.
func (p *process) settings(option string) *settings {
	dir := p.configDir(option)
	if p.borrowed && !p.authorized(dir) {
		p.errorf("unauthorized configuration directory name: %s", dir)
		p.fatal(0, "specify \"alternate_config_directories = %s\" or \"multi_instance_directories = %s\" in %s",
			dir, dir, filepath.Join(config.DefaultDir, "main.cf"))
		return nil
	}
	cfg, _, err := config.Read(dir, config.Host{})
	if errors.Is(err, config.ErrNoMain) && p.name == "posthouse" {
		p.fatal(0, "%v", err)
		return nil
	} else if errors.Is(err, config.ErrNoMain) { // in Postfix's words
		p.fatal(0, "open %s: No such file or directory", filepath.Join(dir, "main.cf"))
		return nil
	} else if err != nil {
		p.fatal(0, "%s", withoutOp(err))
		return nil
	}
	s := &settings{dir: dir, cfg: cfg, queueDir: cfg.String("queue_directory"), owner: -1}
	s.socket = filepath.Join(s.queueDir, "public", "posthouse")
	s.ids = mail.IDForm(cfg.Bool("enable_long_queue_ids"))
	if u, err := user.Lookup(cfg.String("mail_owner")); err == nil {
		if uid, err := strconv.Atoi(u.Uid); err == nil {
			s.owner = uid
		}
	}
	p.journalTo(s)
	return s
}

// authorized tells whether a command with borrowed rights may use a
// configuration directory: only those that the system's own main.cf names.
func (p *process) authorized(dir string) bool {
	if p.uid == 0 || dir == config.DefaultDir {
		return true
	}
	cfg, _, err := config.Read(config.DefaultDir, config.Host{})
	if err != nil {
		return false
	}
	return slices.Contains(cfg.List("alternate_config_directories"), dir) || slices.Contains(cfg.List("multi_instance_directories"), dir)
}

// users reads one of the authorized_… parameters.
func (s *settings) users(param string) (control.Users, error) {
	u, err := control.ParseUsers(s.cfg.List(param))
	if err != nil {
		return u, fmt.Errorf("%s: %w", param, err)
	}
	return u, nil
}

// allowed tells whether the user is on a list of users, and his name.
func (p *process) allowed(s *settings, param string) (name string, ok bool, err error) {
	name = control.UserName(p.uid)
	if p.uid == 0 || p.uid == s.owner {
		return name, true, nil
	}
	list, err := s.users(param)
	return name, err == nil && list.Has(name), err
}

// mayAdminister tells whether the user may do everything: root, and whoever
// the spool belongs to, so that a server run by an ordinary user is
// administered by that user.
func (p *process) mayAdminister(s *settings) bool {
	if p.uid == 0 {
		return true
	}
	info, err := os.Stat(s.queueDir)
	if err != nil {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == p.uid
}

// client reaches the running server.
func (s *settings) client() *control.Client { return control.NewClient(s.socket) }

// offline opens the spool of a server that is not running.
func (p *process) offline(s *settings) (operator.Operator, func() error, error) {
	if p.prog.Offline == nil {
		return nil, nil, errors.New("this build cannot open a spool")
	}
	return p.prog.Offline(s.dir)
}

// actor is the user of this command.
func (p *process) actor() operator.Actor {
	return operator.Actor{User: control.UserName(p.uid), UID: p.uid, Via: p.name}
}

// reason is the system's words for why something failed, as C's strerror
// puts them: "Connection refused".
func reason(err error) string {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		text := []byte(errno.Error())
		if len(text) > 0 && text[0] >= 'a' && text[0] <= 'z' {
			text[0] -= 'a' - 'A'
		}
		return string(text)
	}
	return err.Error()
}

// withoutOp turns Go's "open /x: no such file" into C's "open /x: No such file".
func withoutOp(err error) string {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Op + " " + pe.Path + ": " + reason(pe.Err)
	}
	return err.Error()
}
