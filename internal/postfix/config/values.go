package config

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Bool returns a TypeBool parameter.
func (c *Config) Bool(name string) bool {
	return typed(c, name, func(s string) (bool, error) { return ParseBool(s) })
}

// Int returns a TypeInt parameter.
func (c *Config) Int(name string) int {
	return typed(c, name, func(s string) (int, error) { return ParseInt(s) })
}

// Size returns a TypeSize parameter in bytes.
func (c *Config) Size(name string) int64 {
	return typed(c, name, ParseSize)
}

// Duration returns a TypeTime parameter.
func (c *Config) Duration(name string) time.Duration {
	unit := byte('s')
	if p, ok := c.Param(name); ok && p.Unit != 0 {
		unit = p.Unit
	}
	return typed(c, name, func(s string) (time.Duration, error) { return ParseDuration(s, unit) })
}

// Percent returns a TypePercent parameter as a fraction: 0.1 for 10%.
func (c *Config) Percent(name string) float64 {
	return typed(c, name, ParsePercent)
}

// Float returns a parameter that is a number with decimals, or a fraction
// such as 1/8.
func (c *Config) Float(name string) float64 {
	return typed(c, name, ParseFloat)
}

// Mode returns a TypeMode parameter.
func (c *Config) Mode(name string) os.FileMode {
	return typed(c, name, ParseMode)
}

// List returns a parameter's words, cut at commas and white space outside
// braces. A word "/file" stays: what it includes depends on the parameter.
func (c *Config) List(name string) []string {
	words, _ := splitWords(c.String(name), ",")
	return words
}

// typed parses a value, and the default when that fails: Load has refused bad
// values, so this is only met after Read.
func typed[T any](c *Config, name string, parse func(string) (T, error)) T {
	v, err := parse(c.String(name))
	if err == nil {
		return v
	}
	p, _ := c.Param(name)
	if text, expandErr := c.Expand(p.Default); expandErr == nil {
		v, _ = parse(text)
	}
	return v
}

// transportName finds the parameter that a transport's setting comes from.
func (c *Config) transportName(transport, suffix string) string {
	own := transport + "_" + suffix
	if _, known := c.Param(own); known || c.IsSet(own) {
		return own
	}
	if _, known := LookupParam("default_" + suffix); known {
		return "default_" + suffix
	}
	return suffix
}

// TransportInt returns a transport's own number, such as
// "destination_concurrency_limit", or what it defaults to.
func (c *Config) TransportInt(transport, suffix string) int {
	return c.Int(c.transportName(transport, suffix))
}

// TransportDuration is TransportInt for times.
func (c *Config) TransportDuration(transport, suffix string) time.Duration {
	return c.Duration(c.transportName(transport, suffix))
}

// TransportString is TransportInt for text.
func (c *Config) TransportString(transport, suffix string) string {
	return c.String(c.transportName(transport, suffix))
}

// TransportFloat is TransportInt for numbers with decimals.
func (c *Config) TransportFloat(transport, suffix string) float64 {
	return c.Float(c.transportName(transport, suffix))
}

// ErrValue is wrapped by the errors of the Parse functions. Their text says
// what was expected.
var ErrValue = errors.New("malformed value")

func expected(what string) error { return fmt.Errorf("%w: expected %s", ErrValue, what) }

// ParseBool reads yes or no, in any case.
func ParseBool(s string) (bool, error) {
	switch strings.ToLower(s) {
	case "yes":
		return true, nil
	case "no":
		return false, nil
	}
	return false, expected("yes or no")
}

// ParseInt reads a whole number.
func ParseInt(s string) (int, error) {
	n, err := strconv.ParseInt(s, 10, 32)
	if err != nil {
		return 0, expected("a whole number")
	}
	return int(n), nil
}

// ParseSize reads a number of bytes, or one of K, M, G (powers of 1024).
func ParseSize(s string) (int64, error) {
	digits, shift := s, 0
	if s != "" {
		switch s[len(s)-1] {
		case 'k', 'K':
			shift = 10
		case 'm', 'M':
			shift = 20
		case 'g', 'G':
			shift = 30
		}
		if shift > 0 {
			digits = s[:len(s)-1]
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 || n > (1<<62)>>shift {
		return 0, expected("a number of bytes, or one with K, M or G, as in 10240000 or 10M")
	}
	return n << shift, nil
}

// ParseDuration reads a number and one of s m h d w; unit counts when there
// is no letter.
func ParseDuration(s string, unit byte) (time.Duration, error) {
	digits := s
	if s != "" && (s[len(s)-1] < '0' || s[len(s)-1] > '9') {
		digits, unit = s[:len(s)-1], s[len(s)-1]|0x20
	}
	var one time.Duration
	switch unit {
	case 's':
		one = time.Second
	case 'm':
		one = time.Minute
	case 'h':
		one = time.Hour
	case 'd':
		one = 24 * time.Hour
	case 'w':
		one = 7 * 24 * time.Hour
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || one == 0 || n < 0 || n > int64(100*365*24*time.Hour/one) {
		return 0, expected("a time: a number and one of s m h d w, as in 5m")
	}
	return time.Duration(n) * one, nil
}

// ParsePercent reads "10%".
func ParsePercent(s string) (float64, error) {
	digits, ok := strings.CutSuffix(s, "%")
	n, err := strconv.ParseFloat(digits, 64)
	if !ok || err != nil || !(n >= 0 && n <= 100) {
		return 0, expected("a percentage from 0% to 100%")
	}
	return n / 100, nil
}

// ParseFloat reads "0.5" or "1/8".
func ParseFloat(s string) (float64, error) {
	over, under, fraction := strings.Cut(s, "/")
	n, err := strconv.ParseFloat(strings.TrimSpace(over), 64)
	d := 1.0
	if fraction && err == nil {
		d, err = strconv.ParseFloat(strings.TrimSpace(under), 64)
	}
	if v := n / d; err == nil && v >= 0 && v < 1e9 {
		return v, nil
	}
	return 0, expected("a number, as in 0.5 or 1/8")
}

// ParseMode reads an octal file mode.
func ParseMode(s string) (os.FileMode, error) {
	n, err := strconv.ParseUint(s, 8, 32)
	if err != nil || n == 0 || n > 0o777 {
		return 0, expected("an octal file mode, as in 0600")
	}
	return os.FileMode(n), nil
}

// checkValue tells whether an expanded value is one that p can have.
func checkValue(p Param, value string) error {
	var err error
	switch p.Type {
	case TypeBool:
		_, err = ParseBool(value)
	case TypeInt:
		var n int
		if n, err = ParseInt(value); err == nil && n < 0 && p.Meaning != "" {
			err = expected("a whole number, 0 or more")
		}
	case TypeTime:
		_, err = ParseDuration(value, p.Unit)
	case TypeSize:
		_, err = ParseSize(value)
	case TypePercent:
		_, err = ParsePercent(value)
	case TypeMode:
		_, err = ParseMode(value)
	case TypeEnum:
		if !slices.Contains(p.Choices, strings.ToLower(value)) {
			err = expected("one of " + choices(p.Choices))
		}
	case TypeList, TypeNetworks:
		words, ok := splitWords(value, ",")
		if !ok {
			return expected("as many '{' as '}'")
		}
		for _, w := range words {
			if p.Choices != nil && !slices.Contains(p.Choices, strings.ToLower(w)) {
				return expected(choices(p.Choices) + ", not " + w)
			}
		}
	}
	return err
}

func choices(list []string) string {
	var words []string
	for _, c := range list {
		if c == "" {
			c = "(nothing)"
		}
		words = append(words, c)
	}
	return strings.Join(words, ", ")
}
