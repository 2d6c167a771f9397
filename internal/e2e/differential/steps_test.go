package differential

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"sort"
	"strconv"
	"strings"
)

// play is a script being performed on one side.
type play struct {
	*side
	from    ends
	vars    map[string]string
	changed bool // main.cf or the state of the server
	stopped bool
	ids     map[string]bool // queue IDs met
	out     []section
	expects []expectation
}

// section is what one step said.
type section struct {
	head string
	text string
	line int
}

// expectation is what a section must match once it is normalised.
type expectation struct {
	section int
	line    int
	re      *regexp.Regexp
}

// perform runs all steps and returns the normalised transcript.
func (s *side) perform(sc script) (string, error) {
	p := &play{side: s, from: s.now(), vars: map[string]string{}, ids: map[string]bool{}}
	err := p.steps(sc.steps)
	text := ""
	if err == nil {
		text, err = p.transcript(sc)
	}
	if p.changed {
		err = errors.Join(err, p.restart(nil))
	}
	return text, errors.Join(err, s.clear())
}

func (p *play) steps(steps []step) error {
	for _, st := range steps {
		text, err := p.do(st)
		if err != nil {
			return fmt.Errorf("line %d: %s: %w", st.line, st.text, err)
		}
		if text != "" {
			p.out = append(p.out, section{head: st.text, text: text, line: st.line})
		}
	}
	return nil
}

func (p *play) do(st step) (string, error) {
	switch st.verb {
	case "run":
		return p.run(st)
	case "smtp":
		return p.smtp(st)
	case "id":
		return "", p.id(st.args)
	case "wait":
		return "", p.wait(st.args)
	case "log":
		return p.logLines(st.args), nil
	case "sink":
		return p.received(), nil
	case "expect":
		return "", p.expect(st)
	case "pickup":
		return "", p.pickup()
	case "stop":
		p.changed, p.stopped = true, true
		return "", p.srv.Stop()
	case "start":
		p.stopped = false
		return "", p.srv.Start(context.Background())
	case "restart":
		p.changed = true
		return "", p.restart(st.block)
	}
	return "", fmt.Errorf("%w: %q", errScript, st.verb)
}

func (p *play) restart(lines []string) error {
	if !p.stopped {
		if err := p.srv.Stop(); err != nil {
			return err
		}
	}
	p.stopped = false
	if err := p.srv.WriteMain(p.main + strings.Join(lines, "\n")); err != nil {
		return err
	}
	return p.srv.Start(context.Background())
}

func (p *play) expand(s string) string {
	return os.Expand(s, func(name string) string {
		if v, ok := p.vars[name]; ok {
			return v
		}
		return "$" + name
	})
}

// run runs a command; the transcript shows both outputs line by line, so that
// a missing newline at the end shows too.
func (p *play) run(st step) (string, error) {
	var args []string
	for _, a := range st.args {
		args = append(args, p.expand(a))
	}
	stdin := ""
	if len(st.block) > 0 {
		end := "\n"
		if strings.Contains(st.text, "sendmail -bs") {
			end = "\r\n" // SMTP; Postfix alone would take less
		}
		stdin = p.expand(strings.Join(st.block, end)) + end
	}
	out, err := p.srv.RunInput(context.Background(), stdin, args[0], args[1:]...)
	if err != nil {
		return "", err
	}
	// Some of Postfix's diagnostics begin with the path it was started as.
	out.Stderr = strings.ReplaceAll(out.Stderr, "/usr/sbin/"+args[0], args[0])
	text := out.Stdout
	if args[0] == "mailq" || strings.Contains(st.text, "postqueue -p") || strings.Contains(st.text, "sendmail -bp") {
		text = sortListing(text)
	}
	if strings.Contains(st.text, "postqueue -j") {
		text = sortLines(text)
	}
	for _, m := range queuedAs.FindAllStringSubmatch(out.Stdout, -1) {
		p.ids[m[1]] = true
	}
	var b strings.Builder
	show := func(mark, text string) {
		for l := range strings.SplitAfterSeq(text, "\n") {
			if body, ok := strings.CutSuffix(l, "\n"); ok {
				b.WriteString(mark + body + "\n")
			} else if l != "" {
				b.WriteString(mark + l + " (no newline)\n")
			}
		}
	}
	show("", text)
	show("stderr: ", out.Stderr)
	fmt.Fprintf(&b, "exit status %d\n", out.Code)
	return b.String(), nil
}

// message is what postqueue -j says, as far as scripts need it.
type message struct {
	Queue  string `json:"queue_name"`
	ID     string `json:"queue_id"`
	Sender string `json:"sender"`
}

func (p *play) queue() ([]message, error) {
	out, err := p.srv.RunInput(context.Background(), "", "postqueue", "-j")
	if err != nil {
		return nil, err
	}
	var all []message
	dec := json.NewDecoder(strings.NewReader(out.Stdout))
	for dec.More() {
		var m message
		if err := dec.Decode(&m); err != nil {
			return nil, err
		}
		p.ids[m.ID] = true
		all = append(all, m)
	}
	return all, nil
}

func (p *play) id(args []string) error {
	return poll(func() error {
		all, err := p.queue()
		if err != nil {
			return err
		}
		for _, m := range all {
			if m.Sender == args[1] {
				p.vars[args[0]] = m.ID
				return nil
			}
		}
		return fmt.Errorf("no message from %s in %+v", args[1], all)
	})
}

func (p *play) wait(args []string) error {
	if len(args) < 2 {
		return errScript
	}
	switch args[0] {
	case "queue":
		want, err := strconv.Atoi(args[2])
		if err != nil {
			return err
		}
		return poll(func() error {
			all, err := p.queue()
			if err != nil {
				return err
			}
			n := 0
			for _, m := range all {
				if args[1] == "all" || args[1] == m.Queue {
					n++
				}
			}
			if n != want {
				return fmt.Errorf("%d messages, want %d: %+v\n%s", n, want, all, p.logSince(p.from))
			}
			return nil
		})
	case "log":
		n, err := strconv.Atoi(args[1])
		if err != nil {
			return err
		}
		return p.waitLog(p.from, n, p.expand(strings.Join(args[2:], " ")))
	case "sink":
		n, err := strconv.Atoi(args[1])
		if err != nil {
			return err
		}
		return poll(func() error {
			if got := len(p.acceptedSince(p.from)); got < n {
				return fmt.Errorf("%d messages accepted, want %d\n%s", got, n, p.logSince(p.from))
			}
			return nil
		})
	}
	return errScript
}

func (p *play) expect(st step) error {
	if len(p.out) == 0 {
		return fmt.Errorf("%w: nothing was said before", errScript)
	}
	re, err := regexp.Compile("(?m)" + st.args[0])
	p.expects = append(p.expects, expectation{section: len(p.out) - 1, line: st.line, re: re})
	return err
}

// pickup wakes the one of Postfix, which looks at mail that was put back only
// once a minute. Ours needs no waking.
func (p *play) pickup() error {
	if p.name != "postfix" {
		return nil
	}
	out, err := p.srv.RunInput(context.Background(), "", "postkick", "public", "pickup", "W")
	if err == nil && out.Code != 0 {
		err = fmt.Errorf("postkick: %+v", out)
	}
	return err
}

// logLine splits a line of the mail log: time and host, service, text.
var logLine = regexp.MustCompile(`^\w{3} [ \d]\d \d\d:\d\d:\d\d \S+ postfix/([\w/-]+)\[\d+\]: (.*)$`)

// logLines shows the lines of services, by service and within it by queue ID:
// between them the order depends on how processes are scheduled.
func (p *play) logLines(services []string) string {
	type line struct {
		rank int
		text string
	}
	by := map[string][]line{}
	ranks := map[string]int{}
	for l := range strings.Lines(p.logSince(p.from)) {
		l = strings.TrimSuffix(l, "\n")
		m := logLine.FindStringSubmatch(l)
		if m == nil {
			by["?"] = append(by["?"], line{text: l})
			continue
		}
		id := ""
		if f := lineID.FindStringSubmatch(m[2]); f != nil {
			id = f[1]
		}
		if _, ok := ranks[id]; !ok {
			ranks[id] = len(ranks)
		}
		by[m[1]] = append(by[m[1]], line{ranks[id], m[2]})
	}
	var b strings.Builder
	for _, s := range append([]string{"?"}, services...) {
		sort.SliceStable(by[s], func(i, j int) bool { return by[s][i].rank < by[s][j].rank })
		for _, l := range by[s] {
			b.WriteString(s + ": " + l.text + "\n")
		}
	}
	return b.String() + "end of log\n"
}

var lineID = regexp.MustCompile(`^(?:warning: )?([0-9A-F]{6,}): `)

// received shows the messages that destinations accepted, ordered by
// envelope.
func (p *play) received() string {
	var all []string
	for _, d := range p.acceptedSince(p.from) {
		var b strings.Builder
		sort.Strings(d.Rcpts) // Postfix sorts them in the queue; here they go out as they came
		fmt.Fprintf(&b, "HELO %s\n%s\n%s\n", d.Helo, d.Mail, strings.Join(d.Rcpts, "\n"))
		for l := range strings.SplitAfterSeq(string(d.Content), "\n") {
			if body, ok := strings.CutSuffix(l, "\r\n"); ok {
				b.WriteString("| " + body + "\n")
			} else if l != "" {
				fmt.Fprintf(&b, "| %q\n", l)
			}
		}
		all = append(all, b.String())
	}
	key := func(s string) string { i := strings.Index(s, "\n| "); return s[:max(i, 0)] }
	sort.SliceStable(all, func(i, j int) bool { return sizeless(key(all[i])) < sizeless(key(all[j])) })
	return strings.Join(all, "---\n") + "end of messages\n"
}

var sizeWord = regexp.MustCompile(`SIZE=\d+`)

func sizeless(s string) string { return sizeWord.ReplaceAllString(s, "SIZE=") }

// sortListing orders the messages of a mailq listing: within a queue Postfix
// shows them in directory order, which means nothing.
func sortListing(text string) string {
	head, rest, ok := strings.Cut(text, "\n")
	i := strings.LastIndex(rest, "\n\n-- ")
	if !ok || i < 0 {
		return text
	}
	blocks := strings.Split(rest[:i], "\n\n")
	sort.SliceStable(blocks, func(i, j int) bool { return blockKey(blocks[i]) < blockKey(blocks[j]) })
	return head + "\n" + strings.Join(blocks, "\n\n") + rest[i:]
}

var rowHead = regexp.MustCompile(`^[0-9A-Za-z]+([*!#]*) +\d+ .{20} `)

func blockKey(b string) string { return rowHead.ReplaceAllString(b, "$1 ") }

var jsonHead = regexp.MustCompile(`"queue_id": "\w+", "arrival_time": \d+, "message_size": \d+`)

func sortLines(text string) string {
	lines := strings.SplitAfter(text, "\n")
	key := func(s string) string {
		if s == "" {
			return "~" // what is behind the last newline stays there
		}
		return jsonHead.ReplaceAllString(s, "")
	}
	sort.SliceStable(lines, func(i, j int) bool { return key(lines[i]) < key(lines[j]) })
	return strings.Join(lines, "")
}
