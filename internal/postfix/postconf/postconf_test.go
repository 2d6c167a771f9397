package postconf

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

const realPostconf = "/usr/sbin/postconf"

// result is what a run of either postconf came to.
type result struct {
	stdout, stderr string
	status         int
}

// directory makes a configuration directory. The files look old, since the
// real postconf reads a file again and again while it was changed in this
// very second.
func directory(t *testing.T, main, master string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "etc")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"main.cf": main, "master.cf": master} {
		path := filepath.Join(dir, name)
		if text == absent {
			continue
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		age(t, path)
	}
	return dir
}

const absent = "\x00"

func age(t *testing.T, path string) {
	t.Helper()
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(path, old, old); err != nil {
		t.Fatal(err)
	}
}

func TestMain(m *testing.M) {
	if _, err := os.Stat(realPostconf); err != nil {
		fmt.Fprintf(os.Stderr, "%s is missing: install the Debian package postfix (apt-get install postfix)\n", realPostconf)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// together runs f for each element, many at a time: the real postconf sleeps
// for a second after a fatal error.
func together[T any](all []T, f func(T)) {
	slots := make(chan struct{}, 32)
	var wg sync.WaitGroup
	for _, one := range all {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			f(one)
		})
	}
	wg.Wait()
}

func runReal(t *testing.T, dir string, args []string) result {
	t.Helper()
	cmd := exec.Command(realPostconf, append([]string{"-c", dir}, args...)...)
	cmd.Args[0] = "postconf" // diagnostics begin with it
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Error(err)
		return result{}
	}
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

func runOurs(dir string, args []string) result {
	var stdout, stderr bytes.Buffer
	status := Run(append([]string{"-c", dir}, args...), &stdout, &stderr, func(string) string { return "" })
	return result{stdout.String(), stderr.String(), status}
}

// talk makes diagnostics comparable: Postfix walks hash tables, and says some
// things once for each time it looks.
func talk(stderr string) string {
	lines := strings.Split(strings.TrimSpace(stderr), "\n")
	slices.Sort(lines)
	return strings.Join(slices.Compact(lines), "\n")
}

func compare(t *testing.T, dir string, args []string) {
	t.Helper()
	want, got := runReal(t, dir, args), runOurs(dir, args)
	if got.status != want.status {
		t.Errorf("postconf %q: status %d, want %d", args, got.status, want.status)
	}
	if got.stdout != want.stdout {
		t.Errorf("postconf %q: %s", args, firstDifference(got.stdout, want.stdout))
	}
	if talk(got.stderr) != talk(want.stderr) {
		t.Errorf("postconf %q: stderr\n%s\nwant\n%s", args, talk(got.stderr), talk(want.stderr))
	}
}

func firstDifference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range max(len(g), len(w)) {
		a, b := "(end)", "(end)"
		if i < len(g) {
			a = g[i]
		}
		if i < len(w) {
			b = w[i]
		}
		if a != b {
			return fmt.Sprintf("line %d: got %q, want %q", i+1, a, b)
		}
	}
	return "same"
}

const sampleMain = `# comment
compatibility_level = 3.6
myhostname = mx.example.org
  # indented comment
mydestination = a,
    b,
# in the middle
    c
relayhost=[192.0.2.4]:25
relayhost = [192.0.2.5]:25
foo = bar
restr = $undefined_thing ${myhostname?x} ${foo:none}
smtpd_recipient_restrictions = $restr check_recipient_access hash:/etc/postfix/x
smtpd_restriction_classes = cls1
cls1 = permit
nosuchparm = 5
delay_warning_time = 4
  continued  here
queue_run_delay = 	 5m   
fallback_relay = fb
newp = a  b	c
virtual_alias_maps = ldap:myl, proxy:mysql:mym
myl_server_host = h
myl_junk = 3
mym_user = u
soft_bounce =
mynetworks = 127.0.0.0/8
default_rbl_reply = $rbl_code x
my_long = aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb ccccccccccccccccccc ddddddddddddddd $bar(
`

const sampleMaster = `# svc type
smtp      inet  n       -       y       -       -       smtpd
  -o smtpd_tls=yes
  -o { smtpd_recipient_restrictions = permit_mynetworks, reject }
  -o syslog_name=postfix/$service_name
127.0.0.1:2525 inet n - n - 10 smtpd -o myopt=$zork -v
smtp unix - - n - - smtp
slow unix - - n - 1 smtp
  -o smtp_helo_timeout=5
# comment
	-o smtp_connect_timeout=9s
disc unix - - n - - discard
virtual unix - - n - - virtual
zz unix - n n - - pipe flags=R user=x argv=/bin/x {a  b} ${sender}
retry unix - - n - - error
sp unix - n n - - spawn user=nobody argv=/bin/cat
qmgr unix n - n 300 1 qmgr
`

func TestShowsWhatPostfixShows(t *testing.T) {
	dir := directory(t, sampleMain, sampleMaster)
	together([]string{
		"-n", "-nx", "-nf", "-nh", "-nH", "-nxf", "-n -C builtin", "-n -Cuser", "-C service", "-C service -x", "-C user,builtin -n",
		"myhostname nosuch foo cls1 restr", "-h myhostname foo", "-H myhostname", "-x mydestination nosuch smtp_fallback_relay default_rbl_reply",
		"-p myhostname", "-d myhostname foo relayhost mydomain", "-dh myhostname", "-x smtpd_relay_restrictions smtpd_timeout smtp_tls_fingerprint_digest",
		"-o stress=y -x smtpd_timeout smtpd_hard_error_limit", "-o relayhost=zz -n relayhost", "-o newer=1 -n", "-o foo=zz -x restr", "-n relayhost queue_directory",
		"-M", "-Mf", "-Mx", "-Mxf", "-M smtp/unix", "-M smtp", "-M */unix", "-M nosuch", "-M smtp/foo", "-F", "-Ff", "-Fx", "-F smtp/inet", "-F 127.0.0.1:2525",
		"-F smtp/unix/command", "-F smtp/unix/foo", "-FH smtp/unix", "-Fh smtp/unix", "-P", "-Px", "-Pf", "-P */*/smtp_helo_timeout", "-hP smtp/inet", "-HP slow", "-P smtp/inet/none",
		"-l", "-q", "-c", "-nd", "-n -d", "-M -n", "-MF", "-F -X", "-FX", "-P -#", "-MH", "-hH x", "-C foo", "-e", "-X", "-#", "-e bogus", "-Me x", "-Fe x", "-Pe x", "-MX x", "-eX a", "-e -# a", "-n a=b", "-h a=b", "-x a=b",
		"-d nosuch", "-- myhostname", "mydomain foo=3",
	}, func(line string) { compare(t, dir, strings.Fields(line)) })
}

func TestSyntaxErrorsAreReportedAlike(t *testing.T) {
	type job struct{ main, master, flag string }
	var jobs []job
	for _, main := range []string{
		"relay host = 3\n", "= x\n", "foo\n", "relayhost = a\n  b\nbad\n more\n", "   cont = x\nrelayhost = y\n", "relayhost = x\r\n", "relayhost =\n\n   \n# c\n  x\n\n  y\n", "relayhost = x",
		"soft_bounce = maybe\nqueue_run_delay=5x\n", "inet_protocols = foo\n",
	} {
		jobs = append(jobs, job{main, "", "-n"})
	}
	for _, master := range []string{
		"smtp inet n - n -\n", "smtp foo n - n - - smtpd\n", "smtp inet q - n - - smtpd\n", "smtp inet n - n - x smtpd\n", "smtp inet n - n -1 5 smtpd\n",
		"smtp inet n - n 1? 5 smtpd -o\n", "smtp inet n - n 1? 5 smtpd -o foo\n", "smtp inet n - n 1? 5 smtpd -o { foo=a b\n",
		"smtp inet n - n 1? 0 smtpd\nsmtp inet n - n - - smtpd\n", "  smtp inet n - n 1? 0 smtpd\n", "smtp inet y n - n 1? 0 smtpd\n", "a/b:25 inet n - n 0 0 smtpd/x\n",
		"qmgr unix n - n 300 1 qmgr -o foo=${bar?{x}:{y}} -o message_size_limit = 3\n", absent,
	} {
		jobs = append(jobs, job{"", master, "-M"})
	}
	jobs = append(jobs, job{absent, "", "-n"}, job{absent, "", "-d"}, job{"", absent, "-n"})
	dirs := map[job]string{}
	for _, j := range jobs {
		dirs[j] = directory(t, j.main, j.master)
	}
	together(jobs, func(j job) { compare(t, dirs[j], []string{j.flag, "relayhost"}) })
}

func TestExpandsAlike(t *testing.T) {
	dir := directory(t, "relayhost = x\n", "")
	together([]string{
		"$relayhost", "$smtpd_banner", "${foo", "$(foo", "${foo?{a}", "${foo?{a}{b}}", "${{a} == {a}?x}", "${{a} ~= {a}?{x}}", "$ x", "$", "$(mail_name)x", "${mail_name)", "$(mail_name}", "${ mail_name }",
		"${mail_name ?{a}:{b}}", "${mail_name? {a} : {b} }", "${mail_name?  ab  }", "${nn: {a} }", "${nn:a}b}", "${mail_name?{ a b }}", "$$x", "$-x", "${a.b}", "$a.b", "${{} == {}?{t}:{f}}", "${{a}<={b}?{t}:{f}}",
		"${{3.10} <level {3.9} ? {t}:{f}}", "${nn?{a}:{${mail_name?{$mail_name}}}}", "${nn?{a}:b}", "${mail_name:{a}:{b}}", "a${empty}b", "${{2} > {10}?{x}:{y}}", "${{2a} > {10}?{x}:{y}}", "${}", "${?a}",
		"${{a} == {b}}", "${{$mail_name} == {Postfix} ? {$$} : {b}}", "${nn?${oo?x}}", "${nn?{$zz}:{$yy}}", "${mail_name:$zz}",
	}, func(value string) { compare(t, dir, []string{"-o", "relayhost=" + value, "-nx", "relayhost"}) })
}

// The defaults are Postfix's but for these: ours, computed ones, and the few
// that differ on purpose (see package config).
func TestDefaultsAreThoseOfPostfix(t *testing.T) {
	dir := directory(t, "", sampleMaster)
	differ := strings.Fields("alias_maps compatibility_level dns_servers http_listen maillog_file_permissions maillog_format mynetworks process_id retry_jitter smtpd_forbid_bare_newline spool_segment_size trash_retention_time")
	for _, flags := range []string{"-d", "-df", "-p"} {
		strip := func(text string) string {
			var kept []string
			skipping := false
			for line := range strings.Lines(text) {
				if !strings.HasPrefix(line, " ") {
					name, _, _ := strings.Cut(line, " ")
					skipping = slices.Contains(differ, name)
				}
				if !skipping {
					kept = append(kept, line)
				}
			}
			return strings.Join(kept, "")
		}
		want, got := strip(runReal(t, dir, []string{flags}).stdout), strip(runOurs(dir, []string{flags}).stdout)
		if got != want || strings.Count(got, "\n") < 800 {
			t.Errorf("postconf %s: %s", flags, firstDifference(got, want))
		}
	}
	// mynetworks and mydomain are computed from the host: compare them with
	// the settings that matter made equal.
	for _, set := range []string{"mynetworks_style=host", "mynetworks_style=subnet", "inet_interfaces=loopback-only", "inet_protocols=ipv4", "myhostname=a.b.c"} {
		compare(t, directory(t, "compatibility_level = 2\n"+set+"\n", ""), []string{"mynetworks", "mydomain", "myhostname"})
	}
}

func TestEditsAlike(t *testing.T) {
	type job struct {
		args []string
		dirs [2]string // the real command's and ours
	}
	var jobs []job
	for _, args := range [][]string{
		{"relayhost = [192.0.2.9]", "foo=baz", "newp =   a  b "},
		{"-e", "mydestination=x"},
		{"-#", "foo", "cls1", "zzzz", "mydestination"},
		{"-X", "foo", "cls1", "zzzz", "mydestination", "relayhost"},
		{"-X", "foo=3"},
		{"-#", "foo=3"},
		{"x y=3"},
		{"-e", "=3"},
		{"-e", "a\nb=c"},
		{"foo="},
		{"-e", " lead = a b  "},
		{"-e", "a=b", "bogus"},
		{"-e", "foo=1", "foo=2"},
		{"-M", "-e", "slow/unix=slow unix - - y - 2 smtp -o a=b -o {c = d e}"},
		{"-M", "new/inet=2626 inet n - n - - smtpd", "b/inet=2627 inet n - n - - smtpd -v"},
		{"-M", "slow/unix=smtp inet n - n - - smtpd"},
		{"-M", "smtp/inet=smtp unix n - n - - smtpd"},
		{"-M", "smtp/inet="},
		{"-M#", "slow/unix"},
		{"-MX", "slow/unix", "nosuch/unix"},
		{"-F", "smtp/inet/chroot=n", "slow/unix/command=smtp -o x=y"},
		{"-F", "*/unix/chroot=n"},
		{"-F", "smtp/inet/chroot=q"},
		{"-F", "nosuch/inet/chroot=n"},
		{"-F", "smtp/inet=3"},
		{"-P", "smtp/inet/smtpd_tls_security_level=encrypt", "slow/unix/smtp_helo_timeout=7s", "qmgr/unix/new=ab"},
		{"-P", "smtp/inet/smtpd_recipient_restrictions=encrypt", "127.0.0.1:2525/inet/zz=1"},
		{"-P", "slow/unix/smtp_helo_timeout=7s x"},
		{"-PX", "smtp/inet/smtpd_tls", "slow/unix/none"},
		{"-PX", "smtp/inet"},
	} {
		jobs = append(jobs, job{args, [2]string{directory(t, sampleMain, sampleMaster), directory(t, sampleMain, sampleMaster)}})
	}
	together(jobs, func(j job) {
		want, got := runReal(t, j.dirs[0], j.args), runOurs(j.dirs[1], j.args)
		got.stderr = strings.ReplaceAll(got.stderr, j.dirs[1], j.dirs[0])
		if got.status != want.status || got.stdout != want.stdout || talk(got.stderr) != talk(want.stderr) {
			t.Errorf("postconf %q: got %+v, want %+v", j.args, got, want)
		}
		for _, name := range []string{"main.cf", "master.cf"} {
			theirs, err1 := os.ReadFile(filepath.Join(j.dirs[0], name))
			ours, err2 := os.ReadFile(filepath.Join(j.dirs[1], name))
			if err := errors.Join(err1, err2); err != nil {
				t.Error(err)
			}
			if !bytes.Equal(ours, theirs) {
				t.Errorf("postconf %q: %s: %s", j.args, name, firstDifference(string(ours), string(theirs)))
			}
		}
	})
}

// Long and odd command lines are folded at the same places.
func TestFoldsAlike(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	word := func(letter string, most int) string { return strings.Repeat(letter, 1+rnd.IntN(most)) }
	var master, main strings.Builder
	for i := range 200 {
		fmt.Fprintf(&master, "%s%d unix - - n - - %s", word("s", 20), i, word("c", 20))
		for range rnd.IntN(6) {
			switch rnd.IntN(5) {
			case 0:
				fmt.Fprintf(&master, " -o n=%s", word("v", 60))
			case 1:
				fmt.Fprintf(&master, " -o {a = %s %s}", word("v", 40), word("w", 40))
			case 2:
				master.WriteString(" -v")
			default:
				fmt.Fprintf(&master, " %s", word("x", 40))
			}
		}
		if rnd.IntN(3) == 0 {
			master.WriteString(" argv=/x {a  b} -o z")
		}
		master.WriteByte('\n')
		fmt.Fprintf(&main, "u%d =", i)
		for range rnd.IntN(12) {
			fmt.Fprintf(&main, " %s", word("y", 30))
		}
		main.WriteByte('\n')
	}
	main.WriteString("relayhost =")
	for i := range 200 {
		fmt.Fprintf(&main, " $u%d", i)
	}
	main.WriteByte('\n')
	dir := directory(t, main.String(), master.String())
	for _, flags := range []string{"-M", "-Mf", "-nf", "-nxf", "-Pf"} {
		want, got := runReal(t, dir, []string{flags}), runOurs(dir, []string{flags})
		if got.stdout != want.stdout || got.status != want.status {
			t.Errorf("postconf %s: status %d, want %d; %s", flags, got.status, want.status, firstDifference(got.stdout, want.stdout))
		}
	}
}

func TestOursAlone(t *testing.T) {
	dir := directory(t, "http_listen = 127.0.0.1:8025\n", "")
	for args, want := range map[string]string{
		"-n http_listen": "http_listen = 127.0.0.1:8025\n", "-dh retry_jitter": "10%\n", "-a": "", "-A": "", "-d smtpd_forbid_bare_newline": "smtpd_forbid_bare_newline = normalize\n",
	} {
		if got := runOurs(dir, strings.Fields(args)); got.stdout != want || got.status != 0 {
			t.Errorf("%s: %+v", args, got)
		}
	}
	if got := runOurs(dir, []string{"-m"}); !strings.Contains(got.stdout, "texthash\n") {
		t.Errorf("-m: %q", got.stdout)
	}
	if got := runOurs(dir, []string{"-T", "nosuch"}); got.status != 1 {
		t.Errorf("-T: %+v", got)
	}
	var out, diag bytes.Buffer
	if status := Run([]string{"-h", "http_listen"}, &out, &diag, func(k string) string { return map[string]string{"MAIL_CONFIG": dir}[k] }); status != 0 || out.String() != "127.0.0.1:8025\n" {
		t.Errorf("MAIL_CONFIG: %d %q %q", status, out.String(), diag.String())
	}
}
