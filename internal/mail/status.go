package mail

import (
	"fmt"
	"strconv"
)

// EnhancedCode is an enhanced status code (RFC 3463): class, subject, detail.
// The zero value means none is known.
type EnhancedCode [3]uint16

// String is "4.4.1", or "" for the zero value.
func (c EnhancedCode) String() string {
	if c == (EnhancedCode{}) {
		return ""
	}
	return string(c.Append(nil))
}

// Append writes String to b.
func (c EnhancedCode) Append(b []byte) []byte {
	b = strconv.AppendUint(b, uint64(c[0]), 10)
	b = append(b, '.')
	b = strconv.AppendUint(b, uint64(c[1]), 10)
	b = append(b, '.')
	return strconv.AppendUint(b, uint64(c[2]), 10)
}

// ParseEnhancedCode reads "X.Y.Z" at the start of s, X one of 2, 4, 5 and Y, Z
// of one to three digits (RFC 3463 §2), and returns the number of bytes it
// took; 0 when there is none. What follows must be a space or the end.
func ParseEnhancedCode(s string) (c EnhancedCode, n int) {
	part, digits := 0, 0
	for i := 0; ; i++ {
		if i < len(s) && s[i] >= '0' && s[i] <= '9' {
			if digits++; digits > 3 {
				return EnhancedCode{}, 0
			}
			c[part] = c[part]*10 + uint16(s[i]-'0')
			continue
		}
		if digits == 0 {
			return EnhancedCode{}, 0
		}
		switch {
		case part < 2 && i < len(s) && s[i] == '.':
			part, digits = part+1, 0
		case part == 2 && (i == len(s) || s[i] == ' ' || s[i] == '\r' || s[i] == '\n') && (c[0] == 2 || c[0] == 4 || c[0] == 5):
			return c, i
		default:
			return EnhancedCode{}, 0
		}
	}
}

// Status is what an attempt came to for one recipient, or why something was
// refused: a code for programs and words for people.
type Status struct {
	Code EnhancedCode // class 2 done, 4 try again, 5 give up; the class alone decides
	Text string       // the reason, as listings and logs show it in parentheses

	// The rest feeds delivery status notifications (RFC 3464 §2.3).
	RemoteMTA string // the host that replied, "" when none did
	DiagType  string // "smtp" when DiagText is a remote reply, "X-Postfix" (or "") when it is ours
	DiagText  string // the remote reply with its codes, "" when Text says it all
}

// Temporary tells whether the status is one to retry.
func (s Status) Temporary() bool { return s.Code[0] == 4 }

// Permanent tells whether the status is a failure for good.
func (s Status) Permanent() bool { return s.Code[0] == 5 }

// OK tells whether the status is a success.
func (s Status) OK() bool { return s.Code[0] == 2 }

// Error makes a Status usable as an error: "4.4.1 connect to …".
func (s Status) Error() string { return s.Code.String() + " " + s.Text }

// NewStatus returns a Status with our own words. code is "X.Y.Z" and must be
// well formed: it is meant for literals.
func NewStatus(code, format string, args ...any) Status {
	c, _ := ParseEnhancedCode(code)
	text := format
	if len(args) > 0 {
		text = fmt.Sprintf(format, args...)
	}
	return Status{Code: c, Text: text}
}
