package config

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

var (
	// ErrNoMain is returned when the directory has no main.cf.
	ErrNoMain = errors.New("no main.cf")
	// ErrInvalid is returned by Load when a Problem is an Error.
	ErrInvalid = errors.New("invalid configuration")
)

// Config is what main.cf and master.cf say. It never changes.
type Config struct {
	dir       string
	host      Host
	order     []string           // names set in main.cf, in order of appearance
	main      map[string]setting // main.cf
	services  []Service
	hasMaster bool
	service   map[string]Param  // names that master.cf's services bring
	over      map[string]string // above main.cf: a service's -o, a command's -o
	name      string            // service_name of a view
	fixed     map[string]string // while a default is computed: what it counts as itself
}

// Read takes apart main.cf and master.cf in dir without checking values. The
// error is a file that cannot be read: ErrNoMain, or the operating system's. A
// missing master.cf is a warning, and the built-in services apply.
func Read(dir string, host Host) (*Config, []Problem, error) {
	c := &Config{dir: dir, host: host.withDefaults()}
	mainFile := filepath.Join(dir, "main.cf")
	data, err := os.ReadFile(mainFile)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil, fmt.Errorf("%w in %s; say where it is with -c DIR or MAIL_CONFIG", ErrNoMain, dir)
	} else if err != nil {
		return nil, nil, fmt.Errorf("read the configuration: %w", err)
	}
	var problems []Problem
	c.order, c.main, problems = parseMain(mainFile, string(data))
	more, err := c.readMaster()
	return c, append(problems, more...), err
}

// ReadDefaults is Read without main.cf: a Config in which everything has its
// default, with the parameters that dir's master.cf brings.
func ReadDefaults(dir string, host Host) (*Config, []Problem, error) {
	c := &Config{dir: dir, host: host.withDefaults(), main: map[string]setting{}}
	problems, err := c.readMaster()
	c.dir = DefaultDir
	return c, problems, err
}

func (c *Config) readMaster() ([]Problem, error) {
	file := filepath.Join(c.dir, "master.cf")
	data, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		c.services = defaultServices()
		return []Problem{{Severity: Warning, Text: fmt.Sprintf("open %s: No such file or directory", file)}}, nil
	} else if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	var problems []Problem
	c.services, problems = parseMaster(file, string(data))
	c.hasMaster = true
	c.service = serviceParams(c.services)
	return problems, nil
}

// DefaultDir is where the configuration is when nothing says otherwise.
const DefaultDir = "/etc/postfix"

// HasMaster tells whether there is a master.cf; without one, built-in
// services apply.
func (c *Config) HasMaster() bool { return c.hasMaster }

// Load reads the configuration in dir and checks every value. The error is
// ErrInvalid (with every Problem of severity Error in its words) when it
// cannot be used; the Config is not nil then, so that more can be said of it.
func Load(dir string) (*Config, []Problem, error) {
	return LoadFor(dir, Host{})
}

// LoadFor is Load with facts about the host given, for tests.
func LoadFor(dir string, host Host) (*Config, []Problem, error) {
	c, problems, err := Read(dir, host)
	if err != nil {
		return nil, problems, err
	}
	problems = append(problems, c.Check()...)
	var errs []string
	for _, p := range problems {
		if p.Severity == Error {
			errs = append(errs, p.String())
		}
	}
	if len(errs) > 0 {
		return c, problems, fmt.Errorf("%w: %s", ErrInvalid, strings.Join(errs, "; "))
	}
	return c, problems, nil
}

// Dir is the directory the configuration was read from.
func (c *Config) Dir() string { return c.dir }

// With returns a Config in which the given settings apply above main.cf, as
// with -o on a command line. Values are unexpanded.
func (c *Config) With(settings map[string]string) *Config {
	v := *c
	v.over = make(map[string]string, len(c.over)+len(settings))
	for n, s := range c.over {
		v.over[n] = s
	}
	for n, s := range settings {
		v.over[n] = s
	}
	return &v
}

// View returns cfg as the service sees it: with its -o settings, and
// $service_name.
func (s *Service) View(cfg *Config) *Config {
	settings := make(map[string]string, len(s.Overrides))
	for _, o := range s.Overrides {
		settings[o.Name] = o.Value
	}
	v := cfg.With(settings)
	v.name = s.Name
	return v
}

// Services are the entries of master.cf, in order; built-in ones when there
// is no master.cf.
func (c *Config) Services() []Service { return append([]Service(nil), c.services...) }

// Service finds an entry by name and type ("smtp", "unix").
func (c *Config) Service(name, typ string) (Service, bool) {
	for _, s := range c.services {
		if s.Name == name && s.Type == typ {
			return s, true
		}
	}
	return Service{}, false
}

// Param describes a parameter, those of this master.cf's services included.
func (c *Config) Param(name string) (Param, bool) {
	if p, ok := LookupParam(name); ok {
		return p, true
	}
	p, ok := c.service[name]
	return p, ok
}

// ServiceParams lists the parameters that master.cf's services bring.
func (c *Config) ServiceParams() map[string]Param { return c.service }

// IsSet tells whether main.cf or an override gives the parameter a value.
func (c *Config) IsSet(name string) bool {
	_, ok := c.explicit(name)
	return ok
}

// Where is the place of main.cf that sets a parameter, "FILE, line N", and ""
// when it has its default or an override's value.
func (c *Config) Where(name string) string {
	s, ok := c.main[name]
	if _, over := c.over[name]; over || !ok {
		return ""
	}
	return fmt.Sprintf("%s, line %d", s.file, s.line)
}

// explicit returns a value that was set, unexpanded.
func (c *Config) explicit(name string) (string, bool) {
	if v, ok := c.over[name]; ok {
		return v, true
	}
	s, ok := c.main[name]
	return s.value, ok
}

// SetNames are the names that main.cf sets, in order of appearance, then those
// of With that it does not.
func (c *Config) SetNames() []string {
	names := append([]string(nil), c.order...)
	for _, n := range slices.Sorted(maps.Keys(c.over)) {
		if _, ok := c.main[n]; !ok {
			names = append(names, n)
		}
	}
	return names
}

// Raw returns a parameter's value without expanding $name in it: what was
// set, else the default. It is "" for a name that is not known.
func (c *Config) Raw(name string) string {
	if v, ok := c.fixed[name]; ok {
		return v
	}
	if v, ok := c.explicit(name); ok {
		return v
	}
	switch name {
	case "myhostname":
		return c.defaultHostname()
	case "mydomain":
		return c.defaultDomain()
	case "mynetworks":
		return c.defaultNetworks()
	case "process_id":
		return fmt.Sprint(c.host.PID)
	case "process_name":
		return c.host.Process
	case "config_directory":
		return c.dir
	case "service_name":
		return c.name
	}
	p, _ := c.Param(name)
	return p.Default
}

// Expand replaces $name in text by the values of parameters.
func (c *Config) Expand(text string) (string, error) {
	e := expander{value: c.Raw}
	return e.expand(text, 0)
}

// String returns a parameter's value with $name expanded. A value that cannot
// be expanded, which Load refuses, is returned as it is.
func (c *Config) String(name string) string {
	raw := c.Raw(name)
	if p, _ := c.Param(name); p.Type == TypeRaw {
		return raw
	}
	if v, err := c.Expand(raw); err == nil {
		return v
	}
	return raw
}

// Origin is myorigin; a file name stands for the first line of that file.
func (c *Config) Origin() (string, error) {
	v := c.String("myorigin")
	if !filepath.IsAbs(v) {
		return v, nil
	}
	data, err := os.ReadFile(v)
	if err != nil {
		return "", fmt.Errorf("myorigin: %w", err)
	}
	line, _, _ := strings.Cut(string(data), "\n")
	return strings.TrimSpace(line), nil
}
