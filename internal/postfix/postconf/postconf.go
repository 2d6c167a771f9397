// Package postconf is the postconf command: it shows and edits main.cf and
// master.cf.
//
// Options, output, warnings and exit statuses are those of Postfix 3.7, so
// that scripts which configure a Postfix work unchanged. Settings go to
// standard output; everything else to standard error as "postconf: warning: …"
// or "postconf: fatal: …". The exit status is 0, and 1 after a fatal error: an
// unknown parameter name is a warning and status 0.
//
// It differs where Posthouse does: -m lists our table types, -a and -A name no
// SASL plug-ins, there are no bounce templates (-b, -t), and an edit keeps the
// file's mode and owner.
package postconf

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"runtime"
	"slices"
	"strings"

	"posthouse/internal/postfix/config"
	"posthouse/internal/postfix/lookup"
)

// Run executes the command with its arguments (without the program's name)
// and returns the exit status. getenv is os.Getenv outside tests.
func Run(args []string, stdout, stderr io.Writer, getenv func(string) string) int {
	c := &command{out: stdout, err: stderr}
	if !c.options(args) {
		return 1
	}
	if c.dir == "" {
		c.dir = getenv("MAIL_CONFIG")
	}
	c.explicitDir = c.dir != ""
	if c.dir == "" {
		c.dir = config.DefaultDir
	}
	if err := c.run(); err != nil {
		fmt.Fprintf(c.err, "postconf: fatal: %s\n", printable(err.Error()))
		return 1
	}
	return 0
}

// command is one run of postconf.
type command struct {
	out, err    io.Writer
	dir         string // configuration directory
	explicitDir bool   // it was named with -c or MAIL_CONFIG
	flags       map[byte]bool
	class       map[string]bool   // of -C
	override    map[string]string // of -o
	tlsMode     string            // of -T
	args        []string
}

const (
	flagLetters  = "aAbdefhHlmMnpPtvxXF#"
	valueLetters = "cCoT"
	usage        = "usage: postconf [-a (server SASL types)] [-A (client SASL types)] [-b (bounce templates)] [-c config_dir] [-c param_class] [-d (parameter defaults)] [-e (edit configuration)] [-f (fold lines)] [-F (master.cf fields)] [-h (no names)] [-H (no values)] [-l (lock types)] [-m (map types)] [-M (master.cf)] [-n (non-default parameters)] [-o name=value (override parameter value)] [-p (main.cf, default)] [-P (master.cf parameters)] [-t (bounce templates)] [-T compile-version|run-version|public-key-algorithms] [-v (verbose)] [-x (expand parameter values)] [-X (exclude)] [-# (comment-out)] [name...]"
)

func (c *command) warn(format string, args ...any) {
	fmt.Fprintf(c.err, "postconf: warning: %s\n", printable(fmt.Sprintf(format, args...)))
}

// printable keeps what a file says from steering a terminal, as Postfix does.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, s)
}

// options reads the command line and complains about what is wrong with it.
func (c *command) options(args []string) bool {
	c.flags, c.override = map[byte]bool{}, map[string]string{}
	fatal := func(format string, args ...any) bool {
		fmt.Fprintf(c.err, "postconf: fatal: %s\n", fmt.Sprintf(format, args...))
		return false
	}
	for len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' {
		word := args[0][1:]
		args = args[1:]
		if word == "-" {
			break
		}
		for i := 0; i < len(word); i++ {
			switch {
			case strings.IndexByte(flagLetters, word[i]) >= 0:
				c.flags[word[i]] = true
			case strings.IndexByte(valueLetters, word[i]) < 0:
				fmt.Fprintf(c.err, "postconf: invalid option -- '%c'\n", word[i])
				return fatal("%s", usage)
			default:
				letter, value := word[i], word[i+1:]
				if value == "" && len(args) > 0 {
					value, args = args[0], args[1:]
				} else if value == "" {
					fmt.Fprintf(c.err, "postconf: option requires an argument -- '%c'\n", letter)
					return fatal("%s", usage)
				}
				if err := c.valueOption(letter, value); err != nil {
					return fatal("%v", err)
				}
				i = len(word)
			}
		}
	}
	c.args = args
	if err := c.conflicts(); err != nil {
		return fatal("%v", err)
	}
	return true
}

func (c *command) valueOption(letter byte, value string) error {
	switch letter {
	case 'c':
		c.dir = value
	case 'C':
		c.class = map[string]bool{}
		for _, w := range strings.FieldsFunc(value, func(r rune) bool { return strings.ContainsRune(", \t", r) }) {
			switch w {
			case "builtin", "service", "user":
				c.class[w] = true
			case "all":
				c.class["builtin"], c.class["service"], c.class["user"] = true, true, true
			default:
				return fmt.Errorf("unknown -C option value %q in %q", w, value)
			}
		}
	case 'o':
		change, err := config.ParseChange(value)
		if err != nil {
			return fmt.Errorf("invalid parameter override: %s: missing '=' after attribute name", value)
		}
		c.override[change.Name] = change.Value
	case 'T':
		c.tlsMode = value
	}
	return nil
}

// conflicts finds options that do not go together, and -e where it is implied.
func (c *command) conflicts() error {
	if len(c.args) > 0 && strings.Contains(c.args[0], "=") {
		c.flags['e'] = true
	}
	for _, group := range []string{"FMpP", "dn", "eX#", "hH"} {
		if err := c.atMostOne(group); err != nil {
			return err
		}
	}
	master := byte(0)
	for _, f := range []byte("MFP") {
		if c.flags[f] {
			master = f
		}
	}
	forbidden := map[byte]string{'M': "ndhH", 'F': "ndX#", 'P': "nd#"}[master]
	for _, f := range []byte(forbidden) {
		if c.flags[f] {
			return fmt.Errorf("with option -%c, do not specify -%c", master, f)
		}
	}
	if c.flags['e'] {
		for _, f := range []string{"de", "en", "ex", "eh", "eH"} {
			if err := c.atMostOne(f); err != nil {
				return err
			}
		}
	}
	if c.class == nil {
		c.class = map[string]bool{"builtin": true, "service": true, "user": true}
	}
	return nil
}

func (c *command) atMostOne(group string) error {
	var given []string
	for _, f := range []byte(group) {
		if c.flags[f] {
			given = append(given, "-"+string(f))
		}
	}
	if len(given) > 1 {
		return fmt.Errorf("specify one of %s", strings.Join(given, " "))
	}
	return nil
}

func (c *command) run() error {
	switch {
	case c.flags['l']:
		fmt.Fprint(c.out, "flock\nfcntl\ndotlock\n")
		return nil
	case c.flags['m']:
		for _, typ := range lookup.Types() {
			fmt.Fprintln(c.out, typ)
		}
		return nil
	case c.flags['a'], c.flags['A']:
		return nil
	case c.flags['b'], c.flags['t']:
		return errors.New("bounce messages are built in: there are no templates")
	case c.tlsMode == "compile-version", c.tlsMode == "run-version":
		fmt.Fprintf(c.out, "crypto/tls %s\n", runtime.Version())
		return nil
	case c.tlsMode == "public-key-algorithms":
		fmt.Fprint(c.out, "rsa\necdsa\ned25519\n")
		return nil
	case c.tlsMode != "":
		return fmt.Errorf("unknown 'postconf -T' mode: %s", c.tlsMode)
	case c.flags['e'], c.flags['X'], c.flags['#']:
		return c.edit()
	}
	return c.show()
}

// sysError writes an error of the operating system in its own words.
func sysError(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		text := pe.Err.Error()
		return fmt.Errorf("%s %s: %s", pe.Op, pe.Path, strings.ToUpper(text[:1])+text[1:])
	}
	return err
}

// read loads the files and repeats what is wrong with them.
func (c *command) read() (*config.Config, error) {
	host := config.Host{Process: "postconf"}
	load := config.Read
	if c.flags['d'] {
		load = config.ReadDefaults
	}
	cfg, problems, err := load(c.dir, host)
	if errors.Is(err, config.ErrNoMain) {
		return nil, fmt.Errorf("open %s/main.cf: No such file or directory", c.dir)
	} else if err != nil {
		return nil, sysError(err)
	}
	for _, p := range problems {
		text := p.String()
		if strings.HasSuffix(p.File, "/master.cf") && p.Line > 0 {
			// Postfix speaks of entries here, not of lines.
			if text = p.Text; p.Severity == config.Warning {
				text = "master.cf: " + text
			} else if text == "bad field count" {
				text = fmt.Sprintf("file %s: line %d: bad field count", p.File, p.Line)
			}
		}
		if p.Severity == config.Error {
			return nil, errors.New(text)
		}
		if p.File == "" && c.masterMode() {
			return nil, errors.New(text)
		}
		c.warn("%s", text)
	}
	return cfg.With(c.override), nil
}

func (c *command) masterMode() bool { return c.flags['M'] || c.flags['F'] || c.flags['P'] }

func (c *command) show() error {
	cfg, err := c.read()
	if err != nil {
		return err
	}
	if c.flags['d'] {
		return c.showMain(cfg, config.Usage{})
	}
	if _, _, err := cfg.Families(); err != nil {
		return err
	}
	usage := cfg.Usage()
	for _, ref := range usage.Undefined {
		c.warn("%s: undefined parameter: %s", ref.File, ref.Name)
	}
	for _, err := range usage.Errors {
		c.warn("%v", err)
		return errMacro
	}
	if c.masterMode() {
		err = c.showMaster(cfg)
	} else {
		err = c.showMain(cfg, usage)
		if err == nil {
			for _, name := range usage.Unused {
				c.warn("%s/main.cf: unused parameter: %s=%s", c.dir, name, cfg.Raw(name))
			}
		}
	}
	if err != nil {
		return err
	}
	for _, o := range usage.UnusedOverrides {
		c.warn("%s/master.cf: unused parameter: %s=%s", c.dir, o.Name, o.Value)
	}
	return nil
}

var errMacro = errors.New("macro processing error")

// showMain prints parameters of main.cf.
func (c *command) showMain(cfg *config.Config, usage config.Usage) error {
	services := map[string]config.Param{}
	if cfg.HasMaster() {
		services = cfg.ServiceParams()
	}
	user := map[string]bool{}
	for _, name := range usage.User {
		user[name] = true
	}
	class := func(name string) string {
		if _, ok := config.LookupParam(name); ok {
			return "builtin"
		}
		if _, ok := services[name]; ok {
			return "service"
		}
		if user[name] {
			return "user"
		}
		return ""
	}
	names := c.args
	if len(names) == 0 {
		for _, p := range config.Params() {
			names = append(names, p.Name)
		}
		names = slices.AppendSeq(names, maps.Keys(services))
		names = append(names, usage.User...)
		slices.Sort(names)
	}
	for _, name := range names {
		switch cl := class(name); {
		case cl == "":
			c.warn("%s: unknown parameter", name)
		case !c.class[cl] && len(c.args) == 0:
		case c.flags['n'] && !cfg.IsSet(name) && (name != "config_directory" || !c.explicitDir):
		default:
			if err := c.printParam(cfg, name); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *command) printParam(cfg *config.Config, name string) error {
	value := cfg.Raw(name)
	if p, _ := cfg.Param(name); c.flags['x'] && p.Type != config.TypeRaw {
		var err error
		if value, err = cfg.Expand(value); err != nil {
			c.warn("%v", err)
			return errMacro
		}
	}
	c.print(name, value)
	return nil
}

// print writes "name = value", or the part of it that -h and -H leave.
func (c *command) print(name, value string) {
	switch {
	case c.flags['h']:
		c.line(value)
	case c.flags['H']:
		c.line(name)
	default:
		c.line(name + " = " + value)
	}
}

// line writes words with one space between them, folded with -f.
func (c *command) line(text string) {
	const limit, indent = 80, 4
	var b strings.Builder
	used := 0
	for i, word := range strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(" \t\r\n", r) }) {
		switch {
		case i == 0:
		case !c.flags['f'] || used+1+len(word) <= limit:
			b.WriteByte(' ')
			used++
		default:
			b.WriteString("\n" + strings.Repeat(" ", indent))
			used = indent
		}
		b.WriteString(word)
		used += len(word)
	}
	fmt.Fprintln(c.out, b.String())
}
