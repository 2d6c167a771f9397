package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"posthouse/internal/cli/help"
	"posthouse/internal/mail"
	"posthouse/internal/operator"
	"posthouse/internal/testkit/oracle"
)

// offline lets commands open the "spool" without a server.
func (w *world) offline() {
	w.prog.Offline = func(string) (operator.Operator, func() error, error) {
		return w.queue, func() error { return nil }, nil
	}
}

// TestPostsuper walks through the dialogues of the captures with our own IDs.
func TestPostsuper(t *testing.T) {
	w := newWorld(t)
	w.serve()
	ids := make([]string, 5)
	for i, q := range []mail.QueueName{mail.Deferred, mail.Deferred, mail.Active, mail.Hold, mail.Maildrop} {
		id := mail.QueueID(0xB1247C00B000 + uint64(i))
		w.add(q, id)
		ids[i] = id.Short()
	}
	for _, c := range []struct {
		line, stdin string
		want        string // lines, each to have "postsuper: " before it
	}{
		{"-h 0 -h 1", "", "0: placed on hold\n1: placed on hold\nPlaced on hold: 2 messages\n"},
		{"-h 0", "", "Placed on hold: 0 messages\n"},
		{"-h 4", "", "Placed on hold: 0 messages\n"},
		{"-H 0", "", "0: released from hold\nReleased from hold: 1 message\n"},
		{"-H ALL deferred", "", "Released from hold: 0 messages\n"},
		{"-H ALL", "", "Released from hold: 2 messages\n"},
		{"-h -", "0\n1\n", "0: placed on hold\n1: placed on hold\nPlaced on hold: 2 messages\n"},
		{"-H -", "0\n\n  \nbad id\nZZZZZ\n", "0: released from hold\nwarning: invalid mail queue id: \nwarning: invalid mail queue id:   \nwarning: invalid mail queue id: bad id\nReleased from hold: 1 message\n"},
		{"-e 0 -e 0", "", "0: expired\nForce-expired: 1 message\n"},
		{"-f 1", "", "1: expired\n1: released from hold\nForce-expired: 1 message\nReleased from hold: 1 message\n"},
		{"-f ALL", "", "Force-expired: 2 messages\nReleased from hold: 0 messages\n"},
		{"-h ALL -d ALL hold", "", "Deleted: 0 messages\nPlaced on hold: 0 messages\n"},
		{"-r 3 -d 2 -d 2", "", "3: requeued\n2: removed\nRequeued: 1 message\nDeleted: 1 message\n"},
		{"-d 0 -h ALL -H ALL", "", "0: removed\nDeleted: 1 message\nPlaced on hold: 1 message\nReleased from hold: 1 message\n"},
		{"-d 4", "", "4: removed\nDeleted: 1 message\n"},
		{"-d ALL", "", "Deleted: 2 messages\n"},
		{"-d ALL", "", "Deleted: 0 messages\n"},
	} {
		name := func(s string) string {
			for i, id := range ids {
				s = strings.ReplaceAll(s, fmt.Sprintf("%d:", i), id+":")
				s = strings.ReplaceAll(s, fmt.Sprintf("%d\n", i), id+"\n")
			}
			return s
		}
		args := strings.Fields(c.line)
		for i, a := range args {
			if len(a) == 1 && a[0] >= '0' && a[0] <= '9' {
				args[i] = ids[a[0]-'0']
			}
		}
		want := ""
		for line := range strings.Lines(name(c.want)) {
			want += "postsuper: " + line
		}
		got := w.run(name(c.stdin), "postsuper", args...)
		if diff := cmp.Diff(oracle.Output{Stderr: want}, got); diff != "" {
			t.Errorf("postsuper %s: %s", c.line, diff)
		}
	}
	w.change(func(q *fakeQueue) {
		if a := q.actors[0]; a.Via != "postsuper" {
			t.Errorf("the audit would say %+v", a)
		}
	})
}

// listed is the listing of one message, in the local time of whoever runs this.
func listed() string {
	return strings.Replace(listedUTC, "Sun Nov 22 07:33:40", time.Unix(1795332820, 0).Format("Mon Jan _2 15:04:05"), 1)
}

const listedUTC = `-Queue ID-  --Size-- ----Arrival Time---- -Sender/Recipient-------
B1247C00B000     512 Sun Nov 22 07:33:40  alice@x.example
                                                             (come back later)
                                         bob@y.example

-- 0 Kbytes in 1 Request.
`

func TestListing(t *testing.T) {
	w := newWorld(t)
	w.add(mail.Deferred, 0xB1247C00B000)
	w.add(mail.Trash, 0xB1247C00B001)
	w.add(mail.Corrupt, 0xB1247C00B002)
	w.offline()
	down := "postqueue: warning: Mail system is down -- accessing queue directly (Connect to the Postfix showq service: No such file or directory)\n"
	if diff := cmp.Diff(oracle.Output{Stdout: listed(), Stderr: down}, w.run("", "mailq")); diff != "" {
		t.Errorf("offline: %s", diff)
	}
	w.serve()
	for _, line := range []string{"mailq", "postqueue -p", "sendmail -bp", "posthouse mailq", "posthouse postqueue -p", "/usr/sbin/postqueue -vp"} {
		f := strings.Fields(line)
		if diff := cmp.Diff(oracle.Output{Stdout: listed()}, w.run("", f[0], f[1:]...)); diff != "" {
			t.Errorf("%s: %s", line, diff)
		}
	}
	want := `{"queue_name": "deferred", "queue_id": "B1247C00B000", "arrival_time": 1795332820, "message_size": 512, "forced_expire": false, "sender": "alice@x.example", "recipients": [{"address": "bob@y.example", "delay_reason": "come back later"}]}` + "\n"
	if diff := cmp.Diff(oracle.Output{Stdout: want}, w.run("", "postqueue", "-j")); diff != "" {
		t.Error(diff)
	}
}

type closedPipe struct{}

func (closedPipe) Write([]byte) (int, error) {
	return 0, &os.PathError{Op: "write", Path: "|1", Err: syscall.EPIPE}
}

func TestReaderThatLeaves(t *testing.T) {
	w := newWorld(t)
	w.serve()
	w.queue.content = "Subject: x\r\n"
	w.add(mail.Deferred, 0xB1247C00B000)
	for _, args := range [][]string{{"postqueue", "-p"}, {"postqueue", "-j"}, {"postcat", "-q", "B1247C00B000"}, {"posthouse", "status"}} {
		var errs strings.Builder
		if status := Main(t.Context(), w.prog, args, w.env, w.uid, Stdio{In: strings.NewReader(""), Out: closedPipe{}, Err: &errs}); status != 0 || errs.Len() > 0 {
			t.Errorf("%v: %d, %s", args, status, &errs)
		}
	}
}

// TestStrangers: what users who are not on the lists are told.
func TestStrangers(t *testing.T) {
	w := newWorld(t, "authorized_mailq_users = nobodyatall", "authorized_flush_users = nobodyatall", "authorized_submit_users = nobodyatall")
	w.uid = 4294967 // no user has this ID
	w.serve()
	for line, want := range map[string]oracle.Output{
		"postqueue -p":           {Stderr: "postqueue: fatal: User unknown(4294967) is not allowed to view the mail queue\n", Status: 69},
		"mailq":                  {Stderr: "postqueue: fatal: User unknown(4294967) is not allowed to view the mail queue\n", Status: 69},
		"postqueue -f":           {Stderr: "postqueue: fatal: User unknown(4294967) is not allowed to flush the mail queue\n", Status: 69},
		"postqueue -i ABCDEF":    {Stderr: "postqueue: fatal: User unknown(4294967) is not allowed to flush the mail queue\n", Status: 69},
		"sendmail bob@y.example": {Stderr: "sendmail: fatal: User unknown(4294967) is not allowed to submit mail\n", Status: 75},
		"postsuper -d ALL":       {Stderr: "postsuper: fatal: use of this command is reserved for the superuser\n", Status: 1},
	} {
		f := strings.Fields(line)
		if diff := cmp.Diff(want, w.run("x", f[0], f[1:]...)); diff != "" {
			t.Errorf("%s: %s", line, diff)
		}
	}
	stopped := newWorld(t)
	stopped.uid = w.uid
	stopped.offline()
	want := oracle.Output{Stderr: "postqueue: fatal: Queue report unavailable - mail system is down (Connect to the Postfix showq service: No such file or directory)\n", Status: 69}
	if diff := cmp.Diff(want, stopped.run("", "postqueue", "-p")); diff != "" {
		t.Error(diff)
	}
}

func TestBorrowedRights(t *testing.T) {
	w := newWorld(t)
	p := &process{ctx: t.Context(), name: "postqueue", env: w.env, uid: 4294967, borrowed: true, std: Stdio{Err: io.Discard}}
	var errs strings.Builder
	p.std.Err = &errs
	if p.settings("") != nil || !strings.HasPrefix(errs.String(), "postqueue: error: unauthorized configuration directory name: "+w.dir+"\npostqueue: fatal: specify \"alternate_config_directories = ") {
		t.Errorf("%s", &errs)
	}
}

func TestFlush(t *testing.T) {
	w := newWorld(t, "fast_flush_domains = y.example")
	w.serve()
	w.add(mail.Deferred, 0xB1247C00B000)
	w.add(mail.Deferred, 0xB1247C00B001).Recipients[0].Address = "x@other.example"
	for line, n := range map[string]int{"postqueue -f": 2, "postqueue -i B1247C00B001": 1, "postqueue -i NOSUCH": 0, "postqueue -s y.example": 1, "sendmail -q": 2} {
		w.change(func(q *fakeQueue) { q.retried = nil })
		f := strings.Fields(line)
		got := w.run("", f[0], f[1:]...)
		w.change(func(q *fakeQueue) {
			if got != (oracle.Output{}) || len(q.retried) != n {
				t.Errorf("%s: %+v, %d retried", line, got, len(q.retried))
			}
		})
	}
}

func TestPostcat(t *testing.T) {
	w := newWorld(t)
	w.queue.content = "Subject: x\r\n\r\n" + strings.Repeat("body\r\n", 1000)
	w.add(mail.Hold, 0xB1247C00B000)
	w.offline()
	for _, start := range []func(){func() {}, func() { w.serve() }} {
		start()
		out := w.run("", "postcat", "-q", "B1247C00B000")
		if !strings.HasPrefix(out.Stdout, "*** ENVELOPE RECORDS hold/B1247C00B000 ***\nmessage_size: ") || !strings.Contains(out.Stdout, "\nrecipient: r@y\n") || out.Status != 0 {
			t.Errorf("%+v", out)
		}
		if out := w.run("", "postcat", "-bhq", "B1247C00B000"); out.Stdout != strings.ReplaceAll(w.queue.content, "\r\n", "\n") {
			t.Errorf("%+v", out)
		}
	}
	if out := w.run("", "sendmail", "-f", "s@x", "r@y"); out.Status != 0 {
		t.Fatalf("%+v", out)
	}
	files, err := filepath.Glob(filepath.Join(w.spool, "maildrop", "*"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	id := filepath.Base(files[0])
	if out := w.run("", "postcat", "-eq", id); !strings.HasPrefix(out.Stdout, "*** ENVELOPE RECORDS maildrop/"+id+" ***\nmessage_arrival_time: ") || out.Status != 0 {
		t.Errorf("from the maildrop: %+v", out)
	}
}

func TestSendmailWakesTheServer(t *testing.T) {
	w := newWorld(t)
	w.serve()
	out := w.run("Subject: x\n\n", "sendmail", "r@y.example")
	w.change(func(q *fakeQueue) {
		if out != (oracle.Output{}) || q.poked != 1 {
			t.Errorf("%+v, poked %d times", out, q.poked)
		}
	})
	full := newWorld(t, "message_size_limit = 1000")
	out = full.run(strings.Repeat("x\n", 100000), "sendmail", "-f", "s@x", "r@y.example")
	if out.Status != 75 || out.Stderr != fmt.Sprintf("sendmail: fatal: s@x(%d): message file too big\n", full.uid) {
		t.Errorf("%+v", out)
	}
	if files, _ := filepath.Glob(filepath.Join(full.spool, "maildrop", "*")); len(files) != 0 {
		t.Errorf("left behind: %v", files)
	}
}

func TestStandaloneSMTP(t *testing.T) {
	w := newWorld(t)
	if out := w.run("", "sendmail", "-bs"); out.Status != 75 {
		t.Errorf("a build without it: %+v", out)
	}
}

func TestPostfixCommand(t *testing.T) {
	const script = "postfix/postfix-script: "
	w := newWorld(t)
	for verb, want := range map[string]oracle.Output{
		"status": {Stderr: script + "the Postfix mail system is not running\n", Status: 1},
		"stop":   {Stderr: script + "fatal: the Postfix mail system is not running\n", Status: 1},
		"reload": {Stderr: script + "fatal: the Postfix mail system is not running\n", Status: 1},
		"flush":  {Stderr: "postqueue: warning: unable to look up public/qmgr: No such file or directory\npostqueue: fatal: Cannot flush mail queue - mail system is down\n", Status: 69},
		"check":  {},
		"foo":    {Stderr: script + "fatal: unknown command: 'foo'. Usage: postfix start (or stop, reload, abort, flush, check, status, start-fg)\n", Status: 1},
	} {
		if diff := cmp.Diff(want, w.run("", "postfix", "-c", w.dir, verb)); diff != "" {
			t.Errorf("stopped, %s: %s", verb, diff)
		}
	}
	for _, name := range []string{"serve", "reload", "stop", "status", "version", "postqueue", "mailq", "postsuper", "postcat", "sendmail", "postconf", "postfix", "postlog"} {
		out := w.run("", "posthouse", name, "--help")
		if out.Status != 0 || out.Stderr != "" || !strings.Contains(out.Stdout, "Example") || !strings.Contains(out.Stdout, "Exit status: ") {
			t.Errorf("%s --help: %+v", name, out)
		}
		if alone := w.run("", name, "--help"); postfixCommand(name) != nil && alone != out {
			t.Errorf("%s --help under that name: %+v", name, alone)
		}
	}
	for line, want := range map[string]string{
		"status extra":           "posthouse: error: unexpected \"extra\": this verb takes no operands\nTry 'posthouse status --help'.\n",
		"serve --nosuch":         "posthouse: error: unknown flag: --nosuch\nTry 'posthouse serve --help'.\n",
		"status -c /nonexistent": "posthouse: fatal: no main.cf in /nonexistent; say where it is with -c DIR or MAIL_CONFIG\n",
	} {
		if out := w.run("", "posthouse", strings.Fields(line)...); out.Stderr != want {
			t.Errorf("%s: %q", line, out.Stderr)
		}
	}
	stop := w.serve()
	w.change(func(q *fakeQueue) { q.onStop = func() { go stop() } })
	for _, c := range []struct {
		verb string
		want oracle.Output
	}{
		{"status", oracle.Output{Stderr: script + "the Postfix mail system is running: PID: 4194999\n"}},
		{"start", oracle.Output{Stderr: script + "fatal: the Postfix mail system is already running\n", Status: 1}},
		{"start-fg", oracle.Output{Stderr: script + "fatal: the Postfix mail system is already running\n", Status: 1}},
		{"reload", oracle.Output{Stderr: script + "refreshing the Postfix mail system\n"}},
		{"flush", oracle.Output{}},
		{"stop", oracle.Output{Stderr: script + "stopping the Postfix mail system\n"}},
		{"status", oracle.Output{Stderr: script + "the Postfix mail system is not running\n", Status: 1}},
	} {
		if diff := cmp.Diff(c.want, w.run("", "postfix", c.verb)); diff != "" {
			t.Errorf("running, %s: %s", c.verb, diff)
		}
	}
	broken := newWorld(t, "minimal_backoff_time = nonsense")
	if out := broken.run("", "postfix", "check"); out.Status != 1 || !strings.Contains(out.Stderr, "minimal_backoff_time") {
		t.Errorf("check: %+v", out)
	}
}

func TestNativeVerbs(t *testing.T) {
	w := newWorld(t)
	w.prog.Version = "1.2"
	for line, status := range map[string]int{
		"status": 6, "reload": 6, "stop": 6, "nosuch": 2, "status extra": 2, "status -o xml": 2, "serve --nosuch": 2,
		"version": 0, "": 0, "help": 0, "help status": 0, "help postsuper": 0, "demo": 1, "serve": 1,
	} {
		if out := w.run("", "posthouse", strings.Fields(line)...); out.Status != status {
			t.Errorf("posthouse %s: %+v, want status %d", line, out, status)
		}
	}
	if out := w.run("", "posthouse", "version"); !strings.HasPrefix(out.Stdout, "posthouse 1.2 (go") {
		t.Errorf("%+v", out)
	}
	for _, name := range []string{"postqueue", "mailq", "postsuper", "postcat", "sendmail", "newaliases", "postconf", "postfix", "postlog"} {
		if short, long := help.Postfix(name); short == "" || !strings.HasPrefix(long, name) && name != "newaliases" {
			t.Errorf("help of %s: %q, %q", name, short, long)
		}
	}
	stop := w.serve()
	w.change(func(q *fakeQueue) { q.onStop = func() { go stop() } })
	w.add(mail.Hold, 1)
	out := w.run("", "posthouse", "status", "-c", w.dir)
	lines := strings.Split(out.Stdout, "\n")
	if !strings.HasPrefix(lines[0], "posthouse 1.2  PID 4194999") || !strings.Contains(out.Stdout, "\nhold ") ||
		strings.Index(out.Stdout, "smtp:busy.example") > strings.Index(out.Stdout, "smtp:quiet.example") {
		t.Errorf("%s", out.Stdout)
	}
	var doc struct {
		PID          int   `json:"pid"`
		Queues       []any `json:"queues"`
		Destinations []any `json:"destinations"`
	}
	if err := json.Unmarshal([]byte(w.run("", "posthouse", "status", "-o", "json").Stdout), &doc); err != nil || doc.PID != noProcess || len(doc.Queues) != 7 || len(doc.Destinations) != 2 {
		t.Errorf("%+v, %v", doc, err)
	}
	w.change(func(q *fakeQueue) { q.reload = errors.New("main.cf, line 3: nonsense") })
	if out := w.run("", "posthouse", "reload"); out.Status != 1 || out.Stderr != "posthouse: fatal: main.cf, line 3: nonsense\n" {
		t.Errorf("%+v", out)
	}
	if out := w.run("", "posthouse", "stop"); out != (oracle.Output{}) {
		t.Errorf("%+v", out)
	}
}

func TestPostlog(t *testing.T) {
	w := newWorld(t)
	log := filepath.Join(w.spool, "log")
	if err := os.WriteFile(filepath.Join(w.dir, "main.cf"), []byte("queue_directory = "+w.spool+"\nmaillog_file = "+log+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if out := w.run("", "postlog", "-p", "warn", "-t", "test", "hello", "world"); out.Status != 0 || out.Stderr != "test: warning: hello world\n" {
		t.Errorf("%+v", out)
	}
	data, err := os.ReadFile(log)
	if err != nil || !strings.HasSuffix(string(data), "]: warning: hello world\n") || !strings.Contains(string(data), " postfix/test[") {
		t.Errorf("%q, %v", data, err)
	}
	if out := w.run("", "postlog", "-p", "loud", "x"); out.Status != 1 {
		t.Errorf("%+v", out)
	}
	// What these commands say of themselves is logged too; an audit of the
	// queue begins with postsuper's lines.
	w.run("", "postsuper", "-d", "ALL", "nosuch")
	w.run("", "postqueue", "-i", "bad!")
	w.run("", "postcat", "-q", "bad!") // Postfix does not log this one
	data, err = os.ReadFile(log)
	if err != nil || !strings.Contains(string(data), " postfix/postsuper[") || !strings.Contains(string(data), "]: fatal: invalid directory name: nosuch\n") ||
		!strings.Contains(string(data), " postfix/postqueue[") || strings.Contains(string(data), "postcat") {
		t.Errorf("%q, %v", data, err)
	}
}
