package server

import (
	"crypto/tls"
	"net/netip"
	"strconv"
	"time"

	"posthouse/internal/smtp"
)

// TLSLevel says what a server does about TLS.
type TLSLevel uint8

// The levels.
const (
	TLSNone    TLSLevel = iota // STARTTLS is not offered
	TLSMay                     // STARTTLS is offered
	TLSEncrypt                 // mail is taken after STARTTLS only
)

// Ext is a set of EHLO keywords.
type Ext uint16

// The keywords, in the order they are offered. STARTTLS follows from TLSLevel.
const (
	ExtPipelining Ext = 1 << iota
	ExtSize
	ExtVRFY
	ExtETRN
	ExtEnhancedStatusCodes
	ExtEightBitMIME
	ExtDSN
	ExtSMTPUTF8
	ExtChunking

	AllExt Ext = 1<<iota - 1
)

// BareNewlines says what happens to mail with a CR or LF that is not part of
// a CRLF. Neither choice ever takes one for a part of the end of the data.
type BareNewlines uint8

// The choices.
const (
	NormalizeNewlines BareNewlines = iota // each becomes CRLF
	RejectNewlines                        // the message, or the session, is refused
)

// Config is how sessions behave. DefaultConfig has the values that the
// comments name; a zero field means what the comment says zero means, and not
// the default.
type Config struct {
	Hostname string // our name, in banner, EHLO and 421 replies
	Banner   string // text of the greeting after "220 "; default "HOSTNAME ESMTP Postfix", which some clients look for

	MaxMessageSize     int64         // bytes of content; 10240000; 0 is no limit
	MaxRecipients      int           // per message; 1000; 0 is no limit
	RecipientOvershoot int           // refused recipients beyond the limit before each counts as an error; 1000
	Timeout            time.Duration // for a command line as a whole, for progress of content, and for writing; 300 s
	TLSTimeout         time.Duration // for a TLS handshake; 300 s
	MinDataRate        int64         // bytes per second of content, on average after Timeout; 500; 0 is no limit
	MaxLine            int           // bytes of a command line; 2048; at most 8000

	ErrorSleep       time.Duration // pause before each reply once SoftErrorLimit is reached; 1 s
	SoftErrorLimit   int           // errors without a message delivered between; 10
	HardErrorLimit   int           // errors that end the session; 20
	JunkCommandLimit int           // NOOP, RSET, VRFY, ETRN, HELO, EHLO without a message between, before each is an error; 100

	MaxSessions  int            // sessions at a time; further clients wait to be accepted; 0 is no limit; 1000
	MaxPerClient int            // sessions at a time from one address; 50; 0 is no limit
	ExemptNets   []netip.Prefix // clients without MaxPerClient

	TLS         TLSLevel    // TLSNone
	TLSConfig   *tls.Config // certificates and the like; nil makes STARTTLS fail; versions before 1.2 are never used
	ImplicitTLS bool        // TLS from the first byte (smtps); needs TLSConfig
	TLSLog      int         // 0 logs failures only, 1 also "TLS connection established"

	Offer        Ext          // AllExt
	Newlines     BareNewlines // NormalizeNewlines
	LMTP         bool         // speak LMTP (RFC 2033): LHLO, and a reply per recipient
	LookupNames  bool         // find out clients' host names; true
	DisableVRFY  bool         // false
	RequireHELO  bool         // MAIL and ETRN need a greeting first; false
	StrictPaths  bool         // addresses need angle brackets; false
	ForbidEarly  bool         // hang up on clients that do not wait where they must (RFC 2920 §3.1); true
	ForbidWords  []string     // commands that end the session, upper case; CONNECT, GET, POST
	ShutdownText string       // of the 421 at shutdown, after the host name; "Service shutting down"
}

// DefaultConfig returns Postfix's defaults for a host of this name.
func DefaultConfig(hostname string) Config {
	return Config{
		Hostname:           hostname,
		Banner:             hostname + " ESMTP Postfix",
		MaxMessageSize:     10240000,
		MaxRecipients:      1000,
		RecipientOvershoot: 1000,
		Timeout:            300 * time.Second,
		TLSTimeout:         300 * time.Second,
		MinDataRate:        500,
		MaxLine:            2048,
		ErrorSleep:         time.Second,
		SoftErrorLimit:     10,
		HardErrorLimit:     20,
		JunkCommandLimit:   100,
		MaxSessions:        1000,
		MaxPerClient:       50,
		Offer:              AllExt,
		LookupNames:        true,
		ForbidEarly:        true,
		ForbidWords:        []string{"CONNECT", "GET", "POST"},
		ShutdownText:       "Service shutting down",
	}
}

// settings is a Config with what follows from it, made once per Reconfigure.
type settings struct {
	Config
	banner    []byte // whole reply
	ehloClear []byte // reply to EHLO before TLS
	ehloTLS   []byte // and after
	args      smtp.ArgOptions
	tls       *tls.Config // nil when there is none
}

func newSettings(c Config) *settings {
	st := &settings{Config: c}
	st.MaxLine = min(max(st.MaxLine, 512), readBuffer-192) // RFC 5321 §4.5.3.1.4 wants at least 512
	st.banner = append(append([]byte("220 "), c.Banner...), "\r\n"...)
	st.args = smtp.ArgOptions{
		EightBitMIME: c.Offer&ExtEightBitMIME != 0,
		SMTPUTF8:     c.Offer&ExtSMTPUTF8 != 0,
		DSN:          c.Offer&ExtDSN != 0,
		Strict:       c.StrictPaths,
	}
	if c.TLSConfig != nil {
		st.tls = c.TLSConfig.Clone()
		st.tls.MinVersion = max(st.tls.MinVersion, tls.VersionTLS12)
	}
	st.ehloClear = ehlo(&st.Config, c.TLS != TLSNone && !c.ImplicitTLS)
	st.ehloTLS = ehlo(&st.Config, false)
	return st
}

// ehlo renders the reply to EHLO, keywords in Postfix's order.
func ehlo(c *Config, starttls bool) []byte {
	lines := []string{c.Hostname}
	add := func(e Ext, word string) {
		if c.Offer&e != 0 {
			lines = append(lines, word)
		}
	}
	add(ExtPipelining, "PIPELINING")
	if c.MaxMessageSize > 0 {
		add(ExtSize, "SIZE "+strconv.FormatInt(c.MaxMessageSize, 10))
	} else {
		add(ExtSize, "SIZE")
	}
	if !c.DisableVRFY {
		add(ExtVRFY, "VRFY")
	}
	add(ExtETRN, "ETRN")
	if starttls {
		lines = append(lines, "STARTTLS")
	}
	add(ExtEnhancedStatusCodes, "ENHANCEDSTATUSCODES")
	add(ExtEightBitMIME, "8BITMIME")
	add(ExtDSN, "DSN")
	add(ExtSMTPUTF8, "SMTPUTF8")
	add(ExtChunking, "CHUNKING")
	return (&smtp.Reply{Code: 250, Lines: lines}).Append(nil)
}
