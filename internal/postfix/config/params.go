package config

import (
	_ "embed"
	"sort"
	"strings"
	"sync"
)

// Type says what a parameter's value looks like.
type Type uint8

// The types of values.
const (
	TypeString   Type = iota
	TypeRaw           // text whose $name is expanded only when it is used
	TypeBool          // yes or no
	TypeInt           // a whole number
	TypeTime          // a number and s m h d w
	TypeSize          // a number of bytes, or with K M G
	TypePercent       // a number and %
	TypeMode          // an octal file mode
	TypeEnum          // one of Param.Choices
	TypeList          // words separated by commas or white space, of Param.Choices if there are any
	TypeNetworks      // a list of networks
)

// Param describes a parameter.
type Param struct {
	Name    string
	Type    Type
	Unit    byte     // of a TypeTime without a letter: 's', 'm', 'h', 'd' or 'w'
	Choices []string // of a TypeEnum, and of a TypeList that allows only these
	Default string   // unexpanded; "" for the few that are computed from the host
	Meaning string   // in one line; "" when Posthouse knows the name but does nothing with it
}

//go:embed params.txt
var paramsText string

// paramTable is parsed once; nothing changes it afterwards.
var paramTable = sync.OnceValue(func() map[string]Param {
	table := make(map[string]Param)
	for line := range strings.Lines(paramsText) {
		fields := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		for len(fields) < 4 {
			fields = append(fields, "")
		}
		p := Param{Name: fields[0], Default: fields[2], Meaning: fields[3]}
		word, arg, _ := strings.Cut(fields[1], ":")
		switch word {
		case "raw":
			p.Type = TypeRaw
		case "bool":
			p.Type = TypeBool
		case "int":
			p.Type = TypeInt
		case "time":
			p.Type, p.Unit = TypeTime, arg[0]
		case "size":
			p.Type = TypeSize
		case "percent":
			p.Type = TypePercent
		case "mode":
			p.Type = TypeMode
		case "enum":
			p.Type, p.Choices = TypeEnum, strings.Split(arg, ",")
		case "list":
			p.Type = TypeList
			if arg != "" {
				p.Choices = strings.Split(arg, ",")
			}
		case "networks":
			p.Type = TypeNetworks
		}
		table[p.Name] = p
	}
	return table
})

// Params lists all parameters with a fixed name, sorted by name.
func Params() []Param {
	table := paramTable()
	list := make([]Param, 0, len(table))
	for _, p := range table {
		list = append(list, p)
	}
	sort.Slice(list, func(i, j int) bool { return list[i].Name < list[j].Name })
	return list
}

// LookupParam finds a parameter with a fixed name.
func LookupParam(name string) (Param, bool) {
	p, ok := paramTable()[name]
	return p, ok
}

// transportSuffixes are the names that every transport has of its own, and
// the parameters that they default to: smtp_destination_rate_delay.
func transportSuffixes() map[string]string {
	return map[string]string{
		"_delivery_slot_cost":                          "default_delivery_slot_cost",
		"_delivery_slot_discount":                      "default_delivery_slot_discount",
		"_delivery_slot_loan":                          "default_delivery_slot_loan",
		"_destination_concurrency_failed_cohort_limit": "default_destination_concurrency_failed_cohort_limit",
		"_destination_concurrency_limit":               "default_destination_concurrency_limit",
		"_destination_concurrency_negative_feedback":   "default_destination_concurrency_negative_feedback",
		"_destination_concurrency_positive_feedback":   "default_destination_concurrency_positive_feedback",
		"_destination_rate_delay":                      "default_destination_rate_delay",
		"_destination_recipient_limit":                 "default_destination_recipient_limit",
		"_extra_recipient_limit":                       "default_extra_recipient_limit",
		"_initial_destination_concurrency":             "initial_destination_concurrency",
		"_minimum_delivery_slots":                      "default_minimum_delivery_slots",
		"_recipient_limit":                             "default_recipient_limit",
		"_recipient_refill_delay":                      "default_recipient_refill_delay",
		"_recipient_refill_limit":                      "default_recipient_refill_limit",
		"_transport_rate_delay":                        "default_transport_rate_delay",
	}
}

// serviceParams are the parameters that the services of a master.cf bring
// with them.
func serviceParams(services []Service) map[string]Param {
	found := make(map[string]Param)
	add := func(name, ref string) {
		if _, builtin := LookupParam(name); builtin {
			return
		}
		p, _ := LookupParam(ref)
		p.Name, p.Default, p.Meaning = name, "$"+ref, ""
		found[name] = p
	}
	suffixes := transportSuffixes()
	for _, s := range services {
		switch s.Command {
		case "smtp", "lmtp", "local", "virtual", "error", "pipe":
			for suffix, ref := range suffixes {
				add(s.Name+suffix, ref)
			}
		}
		if s.Command == "pipe" || s.Command == "spawn" {
			add(s.Name+"_time_limit", "command_time_limit")
		}
	}
	return found
}
