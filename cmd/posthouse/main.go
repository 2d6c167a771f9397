// Posthouse is a mail relay whose queue its operators can see, steer and
// trust. One binary is the server, its tools, and the commands that carry
// Postfix's names: which one, says argv[0] or the first word.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"runtime/pprof"
	"syscall"

	"posthouse/internal/cli"
	"posthouse/internal/daemon"
	"posthouse/internal/demo"
	"posthouse/internal/operator"
	"posthouse/internal/traffic/sink"
	"posthouse/internal/traffic/source"
)

func main() {
	// "mailq | head" is no failure: a write to a reader that left is an error
	// for the command to judge, not a signal that ends it.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	code := cli.Main(ctx, programs(), os.Args, os.Environ(), os.Getuid(),
		cli.Stdio{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})
	stop()
	os.Exit(code)
}

// programs joins the command line with what it must not know itself.
func programs() cli.Programs {
	v := version()
	return cli.Programs{
		Version: v,
		Serve:   serve,
		Demo:    runDemo,
		Sink: func(ctx context.Context, args []string, std cli.Stdio) int {
			return sink.Main(ctx, args, std.Out, std.Err)
		},
		Source: func(ctx context.Context, args []string, std cli.Stdio) int {
			return source.Main(ctx, args, std.Out, std.Err)
		},
		StandaloneSMTP: func(ctx context.Context, configDir string, _ int, std cli.Stdio) int {
			if err := daemon.StandaloneSMTP(ctx, configDir, std.In, std.Out); err != nil {
				fmt.Fprintf(std.Err, "sendmail: fatal: %v\n", err)
				return 75
			}
			return 0
		},
		Offline: func(configDir string) (operator.Operator, func() error, error) {
			// A listing is no place for remarks on the configuration: a start makes them.
			return daemon.Offline(daemon.Program{Version: v, Diag: io.Discard}, configDir)
		},
	}
}

// serve runs the relay. GOGC is raised, within a limit, when the environment
// does not set it: the heap is small and garbage short-lived, so collecting
// less often is nearly free.
func serve(ctx context.Context, configDir string, std cli.Stdio) int {
	tuneCollector()
	stopProfile, err := profile(os.Getenv("POSTHOUSE_CPUPROFILE"))
	if err != nil {
		fmt.Fprintf(std.Err, "posthouse: fatal: %v\n", err)
		return 1
	}
	defer stopProfile()
	if err := daemon.Run(ctx, daemon.Program{Version: version(), Diag: std.Err}, configDir); err != nil {
		fmt.Fprintf(std.Err, "posthouse: fatal: %v\n", err)
		return 1
	}
	return 0
}

// profile writes a CPU profile of the whole run to a file, for bench; "" means
// none.
func profile(path string) (stop func(), err error) {
	if path == "" {
		return func() {}, nil
	}
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, err
	}
	return func() {
		pprof.StopCPUProfile()
		f.Close()
	}, nil
}

func runDemo(ctx context.Context, args []string, std cli.Stdio) int {
	return demo.Main(ctx, args, func(ctx context.Context, configDir string) (func() error, error) {
		return daemon.Start(ctx, daemon.Program{Version: version(), Diag: std.Err}, configDir)
	}, std.Out, std.Err)
}

func tuneCollector() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(200)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(4 << 30)
	}
}

// version is the module's, or "devel" and the commit it was built from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "devel"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return "devel-" + s.Value[:12]
		}
	}
	return "devel"
}
