package cli

import "strings"

// options scans short options as getopt(3) does with Postfix's commands:
// options may be clustered (-qbh), an argument may follow its option at once
// or as the next word, an option may repeat, "--" ends the options and so does
// the first word that is not one ("-" is such a word).
type options struct {
	spec string   // letters, each followed by ':' when it takes an argument
	args []string // what is left to scan, operands in the end
	rest string   // letters of the current cluster not yet seen

	opt byte   // the option that next found
	arg string // its argument
	err string // the complaint about it, "" when it is fine
}

func newOptions(spec string, args []string) *options {
	return &options{spec: spec, args: args}
}

// next moves to the next option and tells whether there is one. A bad option
// is reported with opt '?' and a complaint in err.
func (o *options) next() bool {
	o.arg, o.err = "", ""
	if o.rest == "" {
		if len(o.args) == 0 || len(o.args[0]) < 2 || o.args[0][0] != '-' {
			return false
		}
		word := o.args[0]
		o.args = o.args[1:]
		if word == "--" {
			return false
		}
		o.rest = word[1:]
	}
	o.opt = o.rest[0]
	o.rest = o.rest[1:]
	i := strings.IndexByte(o.spec, o.opt)
	switch {
	case i < 0 || o.opt == ':':
		o.err = "invalid option -- '" + string(rune(o.opt)) + "'"
		o.opt = '?'
	case i+1 < len(o.spec) && o.spec[i+1] == ':':
		o.takeArgument()
	}
	return true
}

func (o *options) takeArgument() {
	switch {
	case o.rest != "":
		o.arg, o.rest = o.rest, ""
	case len(o.args) > 0:
		o.arg, o.args = o.args[0], o.args[1:]
	default:
		o.err = "option requires an argument -- '" + string(rune(o.opt)) + "'"
		o.opt = '?'
	}
}

// operands are the words after the options.
func (o *options) operands() []string { return o.args }
