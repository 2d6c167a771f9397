package differential

import (
	"fmt"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"testing"
)

// rewrite replaces what can never be equal.
type rewrite struct {
	re   *regexp.Regexp
	with string
}

// rewrites are applied in order, after queue IDs have become words.
func rewrites() []rewrite {
	var out []rewrite
	for _, r := range [][2]string{
		{`(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), [ \d]?\d \w{3} \d{4} \d\d:\d\d:\d\d \+0000 \(UTC\)`, "DATE"},
		{`(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) \w{3} [ \d]\d \d\d:\d\d:\d\d \d{4}`, "CTIME"},
		{`"arrival_time": \d{10}\b`, `"arrival_time": EPOCH`},
		{`<20\d{12}\.ID`, "<YYYYMMDDhhmmss.ID"},
		{`\b(ID\w*)\.\d{10}/`, "$1.EPOCH/"},
		{`\b(client_port|log_client_port)=\d+`, "$1=PORT"},
		{`\b(deferred|defer)/[0-9A-F]/(ID\d)`, "$1/H/$2"}, // the hash directory depends on the ID
		{`, conn_use=\d+`, ""},                            // depends on how long a connection had to wait
		{`delay=(?:\d+|0\.\d\d?|\d\.\d), delays=(?:(?:\d+|0\.\d\d?|\d\.\d)/){3}(?:\d+|0\.\d\d?|\d\.\d),`, "delay=D, delays=A/B/C/D,"},
	} {
		out = append(out, rewrite{regexp.MustCompile(r[0]), r[1]})
	}
	return out
}

// transcript joins the sections and makes them comparable.
func (p *play) transcript(sc script) (string, error) {
	n := p.normaliser()
	var b strings.Builder
	for i, s := range p.out {
		fmt.Fprintf(&b, "==== line %d: %s\n", s.line, s.head)
		text := n.normalise(s)
		b.WriteString(text)
		for _, e := range p.expects {
			if e.section == i && !e.re.MatchString(text) {
				return "", fmt.Errorf("line %d: nothing matches %q in what %q said:\n%s", e.line, e.re, s.head, text)
			}
		}
	}
	return b.String(), nil
}

// normaliser knows the queue IDs of a script, and which number each has.
type normaliser struct {
	known  map[string]bool
	twice  map[string]bool   // IDs that are in their own message twice: in Received, and in a made-up Message-Id
	notice map[string]bool   // IDs of notices, which quote other IDs
	origin map[string]string // of a message put back: the ID it had, which is in its first Received
	tokens map[string]string
	ports  map[string]string
	dir    string
	rules  []rewrite
	anyID  *regexp.Regexp
	addr   string
}

var (
	logID       = regexp.MustCompile(`(?m)\]: (?:warning: )?([0-9A-F]{6,}): `)
	logNotice   = regexp.MustCompile(`(?m)notification: ([0-9A-F]{6,})$`)
	logOrigin   = regexp.MustCompile(`(?m)\]: ([0-9A-F]{6,}): .* orig_id=([0-9A-F]{6,})$`)
	logOwnMsgID = regexp.MustCompile(`(?m)\]: ([0-9A-F]{6,}): message-id=<\d+\.([0-9A-F]{6,})@`)
)

func (p *play) normaliser() *normaliser {
	n := &normaliser{
		known: p.ids, twice: map[string]bool{}, notice: map[string]bool{}, origin: map[string]string{}, tokens: map[string]string{},
		ports: p.ports, dir: p.dir, rules: rewrites(), addr: p.srv.Addr(),
	}
	log := p.logSince(p.from)
	for _, m := range logID.FindAllStringSubmatch(log, -1) {
		n.known[m[1]] = true
	}
	for _, m := range logNotice.FindAllStringSubmatch(log, -1) {
		n.notice[m[1]] = true
	}
	for _, m := range logOrigin.FindAllStringSubmatch(log, -1) {
		n.origin[m[1]] = m[2]
	}
	for _, m := range logOwnMsgID.FindAllStringSubmatch(log, -1) {
		if m[1] == m[2] {
			n.twice[m[1]] = true
		}
	}
	var all []string
	for id := range n.known {
		all = append(all, regexp.QuoteMeta(id))
	}
	sort.Slice(all, func(i, j int) bool { return len(all[i]) > len(all[j]) })
	if len(all) > 0 {
		n.anyID = regexp.MustCompile(`\b(?:` + strings.Join(all, "|") + `)\b`)
	}
	return n
}

func (n *normaliser) normalise(s section) string {
	text := n.sizes(s.text)
	if strings.Contains(s.head, "postcat") {
		var b strings.Builder
		for i, file := range strings.Split(text, envelopeMark) {
			if i > 0 {
				file = envelopeMark + file
			}
			b.WriteString(n.offsets(file, offsetOption.MatchString(s.head)))
		}
		text = b.String()
	}
	if s.head == "sink" {
		text = n.announced(text)
	}
	if n.anyID != nil {
		text = n.anyID.ReplaceAllStringFunc(text, func(id string) string {
			if n.tokens[id] == "" {
				n.tokens[id] = fmt.Sprintf("ID%d", len(n.tokens)+1)
			}
			return n.tokens[id]
		})
	}
	text = strings.ReplaceAll(text, n.dir, "DIR")
	for port, word := range n.ports {
		text = regexp.MustCompile(`(:|server_port=)`+port+`\b`).ReplaceAllString(text, "${1}"+word)
	}
	for _, r := range n.rules {
		text = r.re.ReplaceAllString(text, r.with)
	}
	return text
}

// less is a size in bytes without the message's own ID in it.
func (n *normaliser) less(id, size string) string {
	v, err := strconv.Atoi(size)
	switch {
	case err != nil || !n.known[id]:
		return size
	case n.notice[id]:
		return "NOTICE"
	case n.twice[id]:
		v -= len(id)
	}
	return strconv.Itoa(v - len(id) - len(n.origin[id]))
}

var (
	listRow  = regexp.MustCompile(`(?m)^([0-9A-F]{6,})([*!#]*) +(\d+) (\w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d ) (.*)$`)
	jsonSize = regexp.MustCompile(`("queue_id": "(\w+)", "arrival_time": \d+, "message_size": )(\d+)`)
	qmgrSize = regexp.MustCompile(`(?m)^(qmgr: (\w+): from=<.*>, size=)(\d+)`)
)

// sizes takes the length of IDs out of sizes, where these stand beside the ID.
func (n *normaliser) sizes(text string) string {
	text = listRow.ReplaceAllStringFunc(text, func(row string) string {
		m := listRow.FindStringSubmatch(row)
		// A row that breaks the layout stays as it is, and so differs.
		if row != fmt.Sprintf("%-11s %7s %s %s", m[1]+m[2], m[3], m[4], m[5]) {
			return row
		}
		return fmt.Sprintf("%s%s|%s|TIME|%s", m[1], m[2], n.less(m[1], m[3]), m[5])
	})
	text = replace(jsonSize, text, func(m []string) string { return m[1] + n.less(m[2], m[3]) })
	text = replace(qmgrSize, text, func(m []string) string { return m[1] + n.less(m[2], m[3]) })
	return text
}

func replace(re *regexp.Regexp, text string, f func(m []string) string) string {
	return re.ReplaceAllStringFunc(text, func(s string) string { return f(re.FindStringSubmatch(s)) })
}

// announced takes the length of all IDs in a message out of its SIZE= at MAIL.
func (n *normaliser) announced(text string) string {
	if n.anyID == nil {
		return text
	}
	messages := strings.SplitAfter(text, "\n---\n")
	for i, m := range messages {
		ids := 0
		for _, id := range n.anyID.FindAllString(m, -1) {
			ids += len(id)
		}
		messages[i] = replace(sizeWord, m, func(f []string) string {
			v, err := strconv.Atoi(strings.TrimPrefix(f[0], "SIZE="))
			if err != nil {
				return f[0]
			}
			return fmt.Sprintf("SIZE=%d", v-ids)
		})
	}
	return strings.Join(messages, "")
}

var (
	offsetLine   = regexp.MustCompile(`^ {0,8}(\d+)( .*)$`)
	offsetOption = regexp.MustCompile(` -\w*o`)
	sizeRecord   = regexp.MustCompile(`^(.*message_size: +)(\d+)( +)(\d+)( +\d+ +\d+ +)(\d+)( +\d+)$`)
)

// offsets takes the length of IDs out of what postcat says: the record of
// sizes, and the offset of every record behind one with an ID.
func (n *normaliser) offsets(text string, withOffsets bool) string {
	if n.anyID == nil {
		return text
	}
	lines := strings.Split(text, "\n")
	before := 0 // bytes too many, or too few, in the records before this one
	short := shortTime(lines)
	var own string
	for i, l := range lines {
		if own == "" && strings.Contains(l, envelopeMark) {
			own = n.anyID.FindString(l)
		}
		ids := 0
		if !strings.Contains(l, "***") {
			for _, id := range n.anyID.FindAllString(l, -1) {
				ids += len(id)
			}
		}
		if m := sizeRecord.FindStringSubmatch(l); m != nil && own != "" {
			_, records, _ := strings.Cut(envelopeOf(text), "***\n") // behind the heading
			inEnvelope := 0
			for _, id := range n.anyID.FindAllString(records, -1) {
				inEnvelope += len(id)
			}
			start, _ := strconv.Atoi(m[4])
			content := "START" // depends on the time of arrival, which is not shown in full
			if withOffsets {
				content = strconv.Itoa(start - inEnvelope + short)
			}
			lines[i] = fmt.Sprintf("%s%s %s%s%s%s", m[1], n.less(own, m[2]), content, m[5], n.less(own, m[6]), m[7])
		}
		if m := offsetLine.FindStringSubmatch(lines[i]); m != nil && withOffsets {
			if v, err := strconv.Atoi(m[1]); err == nil {
				lines[i] = fmt.Sprintf("%9d%s", v-before, m[2])
			}
		}
		before += ids
		if strings.Contains(l, arrivalRecord) {
			before -= short
		}
	}
	return strings.Join(lines, "\n")
}

const arrivalRecord = " message_arrival_time:"

// shortTime is how many bytes the record of the arrival time is shorter than
// it can be: it holds microseconds without leading zeros.
func shortTime(lines []string) int {
	const full = len("T") + 1 + len("1234567890 123456")
	for i, l := range lines[:len(lines)-1] {
		this, next := offsetLine.FindStringSubmatch(l), offsetLine.FindStringSubmatch(lines[i+1])
		if this == nil || next == nil || !strings.Contains(l, arrivalRecord) {
			continue
		}
		a, errA := strconv.Atoi(this[1])
		b, errB := strconv.Atoi(next[1])
		if errA == nil && errB == nil && b-a > 0 && b-a <= full {
			return full - (b - a)
		}
	}
	return 0
}

// envelopeMark begins what postcat says of a file.
const envelopeMark = "*** ENVELOPE RECORDS"

func envelopeOf(text string) string {
	head, _, _ := strings.Cut(text, "*** MESSAGE CONTENTS")
	return head
}

// apply makes the accepted differences equal, and notes which were needed.
func apply(edits []edit, text string, needed map[int]bool) string {
	var out []string
lines:
	for l := range strings.SplitSeq(text, "\n") {
		for _, e := range edits {
			if !e.re.MatchString(l) {
				continue
			}
			needed[e.line] = true
			if e.drop {
				continue lines
			}
			l = e.re.ReplaceAllString(l, e.with)
		}
		out = append(out, l)
	}
	return strings.Join(out, "\n")
}

// TestNormaliserKeepsDifferences makes sure that the normaliser does not make
// equal what a user would see as different.
func TestNormaliserKeepsDifferences(t *testing.T) {
	n := func(text string) string {
		n := &normaliser{
			known: map[string]bool{"ABCDEF0123": true, "0001234ABCDE": true}, dir: "/nowhere", rules: rewrites(),
			twice: map[string]bool{}, notice: map[string]bool{}, origin: map[string]string{}, tokens: map[string]string{},
		}
		n.anyID = regexp.MustCompile(`\b(?:ABCDEF0123|0001234ABCDE)\b`)
		return n.normalise(section{head: "postqueue -p", text: text})
	}
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{"ABCDEF0123      250 Sun Nov 22 07:33:40  a@b", "0001234ABCDE     252 Mon Nov 23 08:33:40  a@b", true},
		{"ABCDEF0123      250 Sun Nov 22 07:33:40  a@b", "0001234ABCDE     250 Sun Nov 22 07:33:40  a@b", false},  // size
		{"ABCDEF0123      250 Sun Nov 22 07:33:40  a@b", "0001234ABCDE     252 Sun Nov 22 07:33:40 a@b", false},   // one blank
		{"ABCDEF0123      250 Sun Nov 22 07:33:40  a@b", "0001234ABCDE      252 Sun Nov 22 07:33:40  a@b", false}, // width
		{"ABCDEF0123*     250 Sun Nov 22 07:33:40  a@b", "0001234ABCDE!     252 Sun Nov 22 07:33:40  a@b", false}, // mark
		{"delay=0.1, delays=0/0/0.01/2.1, dsn", "delay=12, delays=12/0/0.01/0, dsn", true},
		{"delay=0.1, delays=0/0/0.01/2.1, dsn", "delay=0.123, delays=0/0/0.01/0, dsn", false},
		{"Date: Sun, 22 Nov 2026 07:36:26 +0000 (UTC)", "Date: Sun, 22 Nov 2026 07:36:26 +0000", false},
	} {
		if got := n(c.a) == n(c.b); got != c.same {
			t.Errorf("equal = %v, want %v:\n%s\n%s", got, c.same, n(c.a), n(c.b))
		}
	}
}
