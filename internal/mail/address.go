package mail

import "strings"

// Address is an envelope address in the form that goes between the angle
// brackets of SMTP (RFC 5321 §4.1.2, without source route): the local part is
// quoted where it must be, the domain is as the client wrote it. The empty
// Address is the null sender "<>". Parsing and validation live in package smtp;
// an Address that came from there has at most one unquoted '@'.
type Address string

// NullSender is the reverse-path of notices, which must never be answered
// (RFC 5321 §4.5.5).
const NullSender Address = ""

// Split returns the local part (still quoted) and the domain. The domain is
// empty when the address has none, as in "postmaster".
func (a Address) Split() (local, domain string) {
	if i := strings.LastIndexByte(string(a), '@'); i >= 0 {
		return string(a[:i]), string(a[i+1:])
	}
	return string(a), ""
}

// Domain is the part after the last '@' as written, or "".
func (a Address) Domain() string {
	_, d := a.Split()
	return d
}

// Local is the part before the last '@', still quoted.
func (a Address) Local() string {
	l, _ := a.Split()
	return l
}

// String returns the address without angle brackets.
func (a Address) String() string { return string(a) }
