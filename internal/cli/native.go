package cli

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"posthouse/internal/cli/help"
	"posthouse/internal/cli/render"
	"posthouse/internal/operator/control"
)

// The exit statuses of Posthouse's own verbs.
const (
	exitOK          = 0
	exitError       = 1
	exitUsage       = 2
	exitUnreachable = 6
	exitDenied      = 7
)

// native is one run of one of Posthouse's own verbs.
type native struct {
	*process
	config string // -c
	output string // -o
	status int    // to exit with
}

// runNative is posthouse(1) with its own verbs.
func runNative(p *process, args []string) int {
	p.name = "posthouse"
	n := &native{process: p}
	root := n.root()
	root.SetArgs(args)
	root.SetIn(p.std.In)
	root.SetOut(p.std.Out)
	root.SetErr(p.std.Err)
	if cmd, err := root.ExecuteContextC(p.ctx); err != nil {
		// Verbs report their own failures: what comes back is about usage.
		p.errorf("%v", err)
		fmt.Fprintf(p.std.Err, "Try '%s --help'.\n", cmd.CommandPath())
		return exitUsage
	}
	return n.status
}

func (n *native) root() *cobra.Command {
	root := &cobra.Command{
		Use: "posthouse", Short: "a mail relay whose queue its operators can see, steer and trust",
		Long:         help.Root,
		SilenceUsage: true, SilenceErrors: true,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddGroup(&cobra.Group{ID: "own", Title: "Verbs:"}, &cobra.Group{ID: "postfix", Title: "Commands with Postfix's names:"})
	root.AddCommand(
		n.verb("serve", "run the server in the foreground", help.Serve, func() int { return n.serve(n.configDir(n.config)) }),
		n.verb("reload", "make the server read its configuration again", help.Reload, n.reload),
		n.verb("stop", "end the server in good order", help.Stop, n.stopServer),
		n.statusVerb(),
		n.program("demo", "see everything at work on this machine", n.prog.Demo),
		n.program("sink", "run a test destination with a personality", n.prog.Sink),
		n.program("source", "generate load", n.prog.Source),
		n.verb("version", "print the version", help.Version, n.version),
	)
	for _, name := range []string{"postqueue", "mailq", "postsuper", "postcat", "sendmail", "newaliases", "postconf", "postfix", "postlog"} {
		short, long := help.Postfix(name)
		cmd := &cobra.Command{
			Use: name, Short: short, Long: long, GroupID: "postfix", DisableFlagParsing: true,
			Run: func(_ *cobra.Command, args []string) {
				n.name = name
				n.status = postfixCommand(name)(n.process, args)
			},
		}
		cmd.SetHelpTemplate("{{.Long}}\n") // which has the usage: cobra knows nothing of these options
		root.AddCommand(cmd)
	}
	return root
}

// verb is a verb without operands that needs to know the configuration.
func (n *native) verb(use, short, long string, run func() int) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, Long: long, GroupID: "own", Args: noOperands,
		Run: func(*cobra.Command, []string) { n.status = run() },
	}
	if use != "version" {
		cmd.Flags().StringVarP(&n.config, "config", "c", "", "configuration directory (default MAIL_CONFIG, then /etc/postfix)")
	}
	return cmd
}

// noOperands refuses operands; cobra's own words for it speak of commands.
func noOperands(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("unexpected %q: this verb takes no operands", args[0])
	}
	return nil
}

// program is a verb that parses its own arguments.
func (n *native) program(use, short string, run func(context.Context, []string, Stdio) int) *cobra.Command {
	return &cobra.Command{
		Use: use + " [options]", Short: short, GroupID: "own", DisableFlagParsing: true,
		Run: func(_ *cobra.Command, args []string) {
			if run == nil {
				n.status = n.fatal(exitError, "this build has no %s", use)
				return
			}
			n.status = run(n.ctx, args, n.std)
		},
	}
}

func (n *native) version() int {
	fmt.Fprintf(n.std.Out, "posthouse %s (%s %s/%s)\n", n.prog.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return exitOK
}

// failed reports a failure to reach or command the server and returns the
// status that goes with it.
func (n *native) failed(s *settings, err error) int {
	switch {
	case errors.Is(err, control.ErrUnreachable):
		return n.fatal(exitUnreachable, "no server answers at %s: %s; start one with 'posthouse serve -c %s'", s.socket, reason(err), s.dir)
	case errors.Is(err, control.ErrDenied):
		return n.fatal(exitDenied, "%s", strings.TrimPrefix(err.Error(), control.ErrDenied.Error()+": "))
	default:
		return n.fatal(exitError, "%v", err)
	}
}

func (n *native) reload() int {
	s := n.settings(n.config)
	if s == nil {
		return exitError
	}
	if err := s.client().Reload(n.ctx, n.actor()); err != nil {
		return n.failed(s, err)
	}
	return exitOK
}

func (n *native) stopServer() int {
	s := n.settings(n.config)
	if s == nil {
		return exitError
	}
	if err := n.end(s); err != nil {
		return n.failed(s, err)
	}
	return exitOK
}

// statusVerb is `posthouse status`.
func (n *native) statusVerb() *cobra.Command {
	cmd := n.verb("status", "how the server stands", help.Status, n.showStatus)
	cmd.Flags().StringVarP(&n.output, "output", "o", "table", "table or json")
	cmd.PreRunE = func(*cobra.Command, []string) error {
		if n.output != "table" && n.output != "json" {
			return fmt.Errorf("-o %s: the forms are table and json", n.output)
		}
		return nil
	}
	return cmd
}

func (n *native) showStatus() int {
	s := n.settings(n.config)
	if s == nil {
		return exitError
	}
	st, err := s.client().Status(n.ctx)
	if err != nil {
		return n.failed(s, err)
	}
	if n.output == "json" {
		err = render.StatusJSON(n.std.Out, st)
	} else {
		err = render.Status(n.std.Out, st)
	}
	if err != nil && !isBrokenPipe(err) {
		return n.fatal(exitError, "%v", err)
	}
	return exitOK
}
