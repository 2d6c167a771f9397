package sink

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Stage is a point of a session at which the sink can misbehave.
type Stage uint8

// The stages. HELO, EHLO and LHLO are one; End is the end of the message
// content (the final dot).
const (
	Connect Stage = iota
	Helo
	Mail
	Rcpt
	Data
	End
	Rset
	Noop
	Vrfy
	Quit
	stages
)

// ErrPersonality is wrapped by what ParsePersonality and ParseStage return.
var ErrPersonality = errors.New("bad personality")

func (s Stage) String() string {
	return [...]string{"connect", "helo", "mail", "rcpt", "data", "end", "rset", "noop", "vrfy", "quit", "?"}[min(s, stages)]
}

// ParseStage reads the name of a stage in either case; "." is End, and EHLO
// and LHLO are Helo.
func ParseStage(name string) (Stage, error) {
	switch n := strings.ToLower(name); n {
	case "ehlo", "lhlo":
		return Helo, nil
	case ".", "dot":
		return End, nil
	default:
		for s := range stages {
			if s.String() == n {
				return s, nil
			}
		}
	}
	return 0, fmt.Errorf("%w: unknown stage %q (connect, helo, mail, rcpt, data, end, rset, noop, vrfy, quit)", ErrPersonality, name)
}

// Kind is what the sink does at a stage.
type Kind uint8

// The kinds. Accept is what a well-behaved server does.
const (
	Accept   Kind = iota
	Refuse        // answer with Action.Reply and go on
	HangUp        // answer with Action.Reply and close
	Drop          // close without an answer
	HangMute      // never answer again; keep the connection until the peer leaves
)

// Action is what happens at one stage. The zero Action accepts at once.
type Action struct {
	Kind  Kind          // what to do
	Reply string        // for Refuse and HangUp: one line, "450 4.2.0 text"; "" means a fitting default
	Delay time.Duration // how long to wait before doing it
}

// Personality is how a destination behaves. The zero Personality accepts
// everything at once.
type Personality struct {
	Name  string         // counted under this name
	Steps [stages]Action // by Stage

	// Greylist refuses each new client/sender/recipient triple with 450 until
	// this long after it was first seen; 0 turns it off.
	Greylist time.Duration

	MaxConnections int           // 421 at connect beyond this many at a time; 0 means no limit
	MaxMessages    int           // 421 at MAIL (at RCPT for a domain) beyond this many per Interval; 0 means no limit
	Interval       time.Duration // of MaxMessages; 0 means a second
}

// With returns a copy that does a at stage s.
func (p Personality) With(s Stage, a Action) Personality {
	p.Steps[s] = a
	return p
}

// ParsePersonality reads the one-line form that `posthouse sink` takes: words
// with commas between them, in any order.
//
//	accept                      the default
//	4xx@STAGE  5xx@STAGE        refuse with a default text
//	CODE TEXT@STAGE             refuse with this reply: 452 4.2.2 mailbox full@rcpt
//	421@STAGE                   refuse with 421 and close
//	hang@STAGE  drop@STAGE      fall silent; close without a word
//	slow=DURATION               wait this long before every answer
//	slow@STAGE=DURATION         wait this long there
//	greylist=DURATION           450 on first sight, accept after DURATION
//	conns=N                     421 beyond N connections at a time
//	rate=N/DURATION             421 beyond N messages per DURATION
func ParsePersonality(name, text string) (Personality, error) {
	p := Personality{Name: name}
	for word := range strings.SplitSeq(text, ",") {
		if err := p.parseWord(strings.TrimSpace(word)); err != nil {
			return Personality{}, fmt.Errorf("%s: %w", name, err)
		}
	}
	return p, nil
}

func (p *Personality) parseWord(word string) (err error) {
	key, value, _ := strings.Cut(word, "=")
	switch key {
	case "", "accept":
		return nil
	case "slow":
		d, err := parseDelay(value)
		for s := range stages {
			p.Steps[s].Delay = d
		}
		return err
	case "greylist":
		p.Greylist, err = parseDelay(value)
		return err
	case "conns":
		p.MaxConnections, err = parseCount(value)
		return err
	case "rate":
		n, per, ok := strings.Cut(value, "/")
		if !ok {
			per = "1s"
		}
		if p.Interval, err = parseDelay(per); err != nil {
			return err
		}
		p.MaxMessages, err = parseCount(n)
		return err
	}
	return p.parseStep(word)
}

// parseStep reads WHAT@STAGE and WHAT@STAGE=DURATION.
func (p *Personality) parseStep(word string) error {
	i := strings.LastIndexByte(word, '@')
	if i < 0 {
		return fmt.Errorf("%w: %q (want accept, WHAT@STAGE, slow=, greylist=, conns= or rate=)", ErrPersonality, word)
	}
	what, where := word[:i], word[i+1:]
	where, delay, timed := strings.Cut(where, "=")
	s, err := ParseStage(where)
	if err != nil {
		return err
	}
	a := &p.Steps[s]
	if timed {
		if a.Delay, err = parseDelay(delay); err != nil {
			return err
		}
	}
	switch {
	case what == "slow" && timed:
		return nil
	case what == "hang":
		a.Kind = HangMute
	case what == "drop":
		a.Kind = Drop
	case what == "4xx":
		a.Kind, a.Reply = Refuse, softReply
	case what == "5xx":
		a.Kind, a.Reply = Refuse, hardReply
	case isReply(what):
		a.Kind, a.Reply = Refuse, what
		if len(what) == 3 {
			a.Reply = what + " refused by test personality"
		}
		if strings.HasPrefix(what, "421") {
			a.Kind = HangUp
		}
	default:
		return fmt.Errorf("%w: %q", ErrPersonality, word)
	}
	return nil
}

func isReply(s string) bool {
	if len(s) < 3 || s[0] < '2' || s[0] > '5' || (len(s) > 3 && s[3] != ' ') {
		return false
	}
	_, err := strconv.Atoi(s[:3])
	return err == nil
}

func parseDelay(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%w: duration %q (want 500ms, 2s, 1m30s)", ErrPersonality, s)
	}
	return d, nil
}

func parseCount(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		return 0, fmt.Errorf("%w: number %q", ErrPersonality, s)
	}
	return n, nil
}
