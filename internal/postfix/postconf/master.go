package postconf

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"posthouse/internal/postfix/config"
)

// request is "service/type/attribute" of a command line; what is left out is
// "*", which matches anything.
type request struct {
	text    string
	parts   [3]string
	matched bool
}

// requests reads operands; n is how many parts one may have.
func requests(args []string, n int) []*request {
	var list []*request
	for _, a := range args {
		r := &request{text: a, parts: [3]string{"*", "*", "*"}}
		copy(r.parts[:n], strings.SplitN(a, "/", n))
		list = append(list, r)
	}
	return list
}

func glob(pattern, s string) bool { return pattern == "*" || pattern == s }

func (r *request) match(s *config.Service) bool {
	return glob(r.parts[0], s.Name) && glob(r.parts[1], s.Type)
}

// showMaster prints entries (-M), fields (-F) or -o settings (-P).
func (c *command) showMaster(cfg *config.Config) error {
	n := 3
	if c.flags['M'] {
		n = 2
	}
	reqs := requests(c.args, n)
	if len(reqs) == 0 {
		reqs = requests([]string{"*"}, n)
		reqs[0].matched = true
	}
	services := cfg.Services()
	for _, r := range reqs {
		if c.flags['F'] && r.parts[2] != "*" && !slices.Contains(config.FieldNames(), r.parts[2]) {
			return fmt.Errorf("invalid service attribute name: %q", r.parts[2])
		}
		for i := range services {
			if r.match(&services[i]) {
				if err := c.showService(cfg, &services[i], r); err != nil {
					return err
				}
			}
		}
		if !r.matched {
			c.warn("unmatched request: %q", r.text)
		}
	}
	return nil
}

func (c *command) showService(cfg *config.Config, s *config.Service, r *request) error {
	view := s.View(cfg)
	failed := error(nil)
	var expand func(string) string
	if c.flags['x'] {
		expand = func(value string) string {
			v, err := view.Expand(value)
			if err != nil {
				failed = errors.Join(failed, err)
			}
			return v
		}
	}
	prefix := s.Name + "/" + s.Type + "/"
	switch {
	case c.flags['M']:
		r.matched = true
		fmt.Fprintln(c.out, config.FormatService(s, c.flags['f'], expand))
	case c.flags['F']:
		for i, field := range config.FieldNames() {
			if !glob(r.parts[2], field) {
				continue
			}
			r.matched = true
			switch {
			case i < len(s.Fields):
				c.print(prefix+field, s.Fields[i])
			case c.flags['H']:
				c.print(prefix+field, "")
			case c.flags['h']:
				fmt.Fprintln(c.out, config.FormatCommand("", s, c.flags['f'], expand))
			default:
				fmt.Fprintln(c.out, config.FormatCommand(prefix+field+" = ", s, c.flags['f'], expand))
			}
		}
	default:
		for _, name := range overrideNames(s) {
			if !glob(r.parts[2], name) {
				continue
			}
			r.matched = true
			value, _ := s.Override(name)
			if expand != nil {
				value = expand(value)
			}
			c.print(prefix+name, value)
		}
		r.matched = r.matched || r.parts[2] == "*"
	}
	if failed != nil {
		c.warn("%v", failed)
		return errMacro
	}
	return nil
}

// overrideNames are the names of a service's -o settings, sorted, once each.
func overrideNames(s *config.Service) []string {
	var names []string
	for _, o := range s.Overrides {
		names = append(names, o.Name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// edit changes one of the files.
func (c *command) edit() error {
	if len(c.args) == 0 {
		if c.flags['e'] {
			return errors.New("-e requires name=value argument")
		}
		return errors.New("missing service argument")
	}
	for _, a := range c.args {
		if strings.ContainsAny(a, "\r\n") {
			return config.ErrMultiLine
		}
	}
	if c.masterMode() {
		return c.editMaster()
	}
	var changes []config.Change
	for _, a := range c.args {
		change := config.Change{Kind: config.Remove, Name: strings.TrimSpace(a)}
		if c.flags['e'] {
			var err error
			if change, err = config.ParseChange(a); err != nil {
				return err
			}
		} else if c.flags['#'] {
			change.Kind = config.CommentOut
		}
		for _, earlier := range changes {
			if earlier.Name == change.Name && c.flags['e'] {
				c.warn("ignoring earlier request: '%s = %s'", earlier.Name, earlier.Value)
			}
		}
		changes = append(changes, change)
	}
	warnings, err := config.EditMain(c.dir, changes)
	for _, w := range warnings {
		c.warn("%s", w)
	}
	return sysError(err)
}

// masterEdit is one operand of an edit of master.cf.
type masterEdit struct {
	request
	value   string          // after "="
	service *config.Service // of -Me: the new entry
	done    bool            // -Me: the entry has been written
}

func (c *command) editMaster() error {
	edits, err := c.masterEdits()
	if err != nil {
		return err
	}
	err = config.EditMaster(c.dir, func(s *config.Service) config.EditKind {
		kind := config.Keep
		for _, e := range edits {
			// A new entry takes the place of the first that has its old or its
			// new name; there must not be two.
			same := e.service != nil && s.Name == e.service.Name && s.Type == e.service.Type
			if kind == config.Remove || kind == config.CommentOut || !same && !e.match(s) {
				continue
			}
			e.matched = true
			kind = c.editService(s, e)
		}
		return kind
	}, func() []config.Service {
		var added []config.Service
		for _, e := range edits {
			if e.service != nil && !e.done {
				added = append(added, *e.service)
			}
		}
		return added
	})
	if err != nil {
		return sysError(err)
	}
	for _, e := range edits {
		if !e.matched && !c.flags['M'] {
			c.warn("unmatched service_name/type: %q", e.text)
		}
	}
	return nil
}

// editService applies one edit to an entry that it matches.
func (c *command) editService(s *config.Service, e *masterEdit) config.EditKind {
	switch {
	case c.flags['#']:
		return config.CommentOut
	case c.flags['M'] && c.flags['X'], e.service != nil && e.done:
		return config.Remove
	case c.flags['M']:
		*s, e.done = *e.service, true
		return config.Set
	case c.flags['F']:
		// The value has been tried on another entry already.
		_ = s.SetField(e.parts[2], e.value)
	case c.flags['X']:
		s.RemoveOverride(e.parts[2])
	default:
		s.SetOverride(e.parts[2], e.value)
	}
	return config.Rewrite
}

// masterEdits reads the operands of -M, -F and -P with -e, -X or -#.
func (c *command) masterEdits() ([]*masterEdit, error) {
	var edits []*masterEdit
	for _, a := range c.args {
		name, value := strings.TrimSpace(a), ""
		if c.flags['e'] {
			change, err := config.ParseChange(a)
			if err != nil {
				return nil, err
			}
			name, value = change.Name, change.Value
		}
		parts := strings.SplitN(name, "/", 3)
		e := &masterEdit{value: value}
		e.text = a
		copy(e.parts[:], parts)
		want := 3
		if c.flags['M'] {
			want = 2
		}
		if len(parts) != want {
			if c.flags['M'] {
				return nil, errors.New("-Me, -MX or -M# requires service_name/type")
			}
			if c.flags['F'] {
				return nil, errors.New("-Fe or -FX requires service_name/type/field_name")
			}
			return nil, errors.New("-Pe or -PX requires service_name/type/parameter")
		}
		if c.flags['e'] {
			if err := c.checkMasterEdit(e); err != nil {
				return nil, err
			}
		}
		edits = append(edits, e)
	}
	return edits, nil
}

// checkMasterEdit tries the new value before any file is touched.
func (c *command) checkMasterEdit(e *masterEdit) error {
	switch {
	case c.flags['M']:
		s, err := config.ParseService(e.value)
		if err != nil {
			if err.Error() == "bad field count" {
				return fmt.Errorf("bad field count: %q", e.text)
			}
			return err
		}
		e.service = &s
	case c.flags['F']:
		probe, err := config.ParseService("x unix - - n - - x")
		if err != nil {
			return err
		}
		if err := probe.SetField(e.parts[2], e.value); err != nil {
			return err
		}
	case strings.ContainsAny(e.value, " \t"):
		return errors.New("-Pe does not accept whitespace in parameter value")
	}
	return nil
}
