package demo

import (
	"fmt"
	"time"

	"posthouse/internal/traffic/sink"
)

// kind is how a destination behaves, in the words of the hints.
type kind uint8

const (
	accepts    kind = iota
	greylists       // refuses the first attempt of each sender and recipient for a minute
	throttles       // 421 beyond a few messages in ten seconds
	dawdles         // two seconds before every answer
	hangs           // never answers MAIL
	full            // 452 to every recipient
	broken          // 451 after the content
	refuses         // 550 to every recipient
	rejects         // 554 in the greeting
	drops           // hangs up in the middle of the content
	closed          // nobody listens
	noDomain        // NXDOMAIN
	noAnswer        // the name server fails
	nullMX          // takes no mail, and says so in the DNS
	backupOnly      // the first MX host is closed, the second accepts
)

// personality is what the sink at a destination of this kind does.
func (k kind) personality(name string) sink.Personality {
	p := sink.Personality{Name: name}
	refuse := func(s sink.Stage, reply string) sink.Personality {
		return p.With(s, sink.Action{Kind: sink.Refuse, Reply: reply})
	}
	switch k {
	case greylists:
		p.Greylist = time.Minute
	case throttles:
		p.MaxMessages, p.Interval, p.MaxConnections = 20, 10*time.Second, 5
	case dawdles:
		for _, s := range []sink.Stage{sink.Connect, sink.Mail, sink.Rcpt, sink.End} {
			p = p.With(s, sink.Action{Delay: 2 * time.Second})
		}
	case hangs:
		return p.With(sink.Mail, sink.Action{Kind: sink.HangMute})
	case full:
		return refuse(sink.Rcpt, "452 4.2.2 The mailbox is full")
	case broken:
		return refuse(sink.End, "451 4.3.0 Temporary lookup failure, try again later")
	case refuses:
		return refuse(sink.Rcpt, "550 5.1.1 No such user here")
	case rejects:
		return p.With(sink.Connect, sink.Action{Kind: sink.HangUp, Reply: "554 5.7.1 Your address is on our blocklist"})
	case drops:
		return p.With(sink.End, sink.Action{Kind: sink.Drop})
	}
	return p
}

// destination is one domain of the pretend internet.
type destination struct {
	domain string
	kind   kind
	weight int // share of the traffic
}

// stars are the destinations that the hints speak of by name.
func stars() []destination {
	return []destination{
		{"bigmail.example", accepts, 150},
		{"postbox.example", accepts, 100},
		{"throttled.example", throttles, 120},
		{"greylist.example", greylists, 40},
		{"slow.example", dawdles, 15},
		{"hanging.example", hangs, 8},
		{"full.example", full, 10},
		{"refusing.example", refuses, 15},
		{"blocklisted.example", rejects, 10},
		{"dropping.example", drops, 4},
		{"closed.example", closed, 12},
		{"nosuchdomain.example", noDomain, 5},
		{"brokendns.example", noAnswer, 4},
		{"nomail.example", nullMX, 4},
		{"backup.example", backupOnly, 15},
	}
}

// cast is the world's destinations: the stars, and small domains until there
// are n.
func cast(n int) []destination {
	all := stars()
	first := []string{"amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "haven", "iris", "juniper", "kestrel", "laurel", "maple", "north", "opal", "prairie", "quartz", "river", "summit", "tulip"}
	second := []string{"mail", "works", "press", "labs", "foods", "travel", "school", "clinic", "motors", "music", "garden", "books", "studio", "bank", "sports", "hotel", "radio", "tools", "legal", "games"}
	// Of forty small domains two thirds simply accept.
	odd := map[int]kind{
		3: greylists, 7: greylists, 13: throttles, 17: dawdles, 19: closed, 23: refuses, 26: full,
		29: broken, 31: hangs, 33: backupOnly, 35: rejects, 37: noDomain, 39: drops,
	}
	for i := 0; len(all) < n; i++ {
		// Twenty and twenty words make 400 names; a number makes more.
		name := first[i%20] + second[(i/20+i)%20]
		if i >= 400 {
			name += fmt.Sprint(i / 400)
		}
		all = append(all, destination{name + ".example", odd[i%40], 2})
	}
	return all
}

// sender is someone who sends through the relay.
type sender struct {
	address    string
	subject    string
	share      float64 // of the traffic
	recipients int     // per message
	length     int     // bytes of body
	skew       uint64  // makes senders prefer different destinations
}

func senders() []sender {
	return []sender{
		{"newsletter@shop.example", "Our spring offers", 0.45, 3, 6000, 1},
		{"invoices@billing.example", "Your invoice", 0.20, 1, 12000, 2},
		{"alerts@monitor.example", "Disk almost full", 0.15, 1, 400, 3},
		{"anna@office.example", "Minutes of the meeting", 0.12, 2, 2000, 4},
		{"winner@office.example", "You have won", 0.08, 5, 900, 5},
	}
}

// homes are the domains of the senders, where bounces go.
func homes() []destination {
	return []destination{
		{"shop.example", accepts, 0},
		{"billing.example", accepts, 0},
		{"monitor.example", accepts, 0},
		{"office.example", accepts, 0},
	}
}
