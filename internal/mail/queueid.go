package mail

import (
	"errors"
	"strconv"
	"strings"
	"time"
)

// QueueID names a message for as long as anything remembers it. It is a count
// of 10-microsecond ticks since the Unix epoch, made unique by IDSource: later
// messages have larger IDs, and no ID is ever given twice by one spool.
//
// It is shown in one of two forms (enable_long_queue_ids). Both sort by time
// as text, and ParseQueueID takes either:
//
//	short  upper-case hexadecimal, 12 digits until the year 2059
//	long   Postfix's: seconds in base 52 (at least 6 digits), microseconds in
//	       base 52 (4 digits), "z", and a node number in base 51
type QueueID uint64

const (
	// IDTick is the resolution of a QueueID.
	IDTick = 10 * time.Microsecond

	ticksPerSecond = uint64(time.Second / IDTick)
	usecPerTick    = uint64(IDTick / time.Microsecond)

	// base52 has no vowels, so that no ID spells a word; base 51 is the same
	// without 'z', which is the separator.
	base52 = "0123456789BCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz"

	longSecondDigits = 6
	longUsecDigits   = 4
)

// ErrQueueID is returned for text that no QueueID prints as. It does not say
// that the text is illegal as an ID: see LegalQueueID.
var ErrQueueID = errors.New("not a queue ID of this system")

// Time is when the ID was made; under a burst of more than 100,000 messages a
// second it runs ahead of the clock.
func (id QueueID) Time() time.Time {
	return time.Unix(int64(uint64(id)/ticksPerSecond), int64(uint64(id)%ticksPerSecond)*int64(IDTick)).UTC()
}

// Short is the hexadecimal form.
func (id QueueID) Short() string {
	var b [16]byte
	i := len(b)
	for v := uint64(id); v > 0 || i > len(b)-12; v >>= 4 {
		i--
		b[i] = "0123456789ABCDEF"[v&15]
	}
	return string(b[i:])
}

// Long is Postfix's base-52 form. The part after the 'z' is "0" until there
// is more than one node.
func (id QueueID) Long() string {
	var b [24]byte
	sec, usec := uint64(id)/ticksPerSecond, uint64(id)%ticksPerSecond*usecPerTick
	i := len(b) - 2
	b[i], b[i+1] = 'z', '0'
	for range longUsecDigits {
		i--
		b[i] = base52[usec%52]
		usec /= 52
	}
	for n := 0; sec > 0 || n < longSecondDigits; n++ {
		i--
		b[i] = base52[sec%52]
		sec /= 52
	}
	return string(b[i:])
}

// IDForm chooses how queue IDs are written.
type IDForm bool

// The two forms of a queue ID; see QueueID.
const (
	ShortIDs IDForm = false
	LongIDs  IDForm = true
)

// Format writes id in this form.
func (f IDForm) Format(id QueueID) string {
	if f == LongIDs {
		return id.Long()
	}
	return id.Short()
}

// LegalQueueID tells whether s may be typed where a queue ID is wanted:
// 1 to 255 ASCII letters, digits and underscores. A legal ID need not exist,
// nor be one of ours.
func LegalQueueID(s string) bool {
	if s == "" || len(s) > 255 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if c != '_' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return true
}

// ParseQueueID reads either form. The error is ErrQueueID.
func ParseQueueID(s string) (QueueID, error) {
	// Postfix's rule: a long ID is one whose last 'z' stands at index 10 or later.
	if z := strings.LastIndexByte(s, 'z'); z >= longSecondDigits+longUsecDigits {
		sec, ok1 := parse52(s[:z-longUsecDigits])
		usec, ok2 := parse52(s[z-longUsecDigits : z])
		if !ok1 || !ok2 || s[z+1:] != "0" || usec >= 1e6 || usec%usecPerTick != 0 {
			return 0, ErrQueueID
		}
		return canonical(s, QueueID(sec*ticksPerSecond+usec/usecPerTick), LongIDs)
	}
	if len(s) < 12 || len(s) > 15 || s != strings.ToUpper(s) {
		return 0, ErrQueueID
	}
	v, err := strconv.ParseUint(s, 16, 64)
	if err != nil {
		return 0, ErrQueueID
	}
	return canonical(s, QueueID(v), ShortIDs)
}

// canonical refuses other spellings of an ID (more leading zeros, an overflow):
// an ID has one text in each form. Zero stands for "no ID" everywhere.
func canonical(s string, id QueueID, form IDForm) (QueueID, error) {
	if id == 0 || form.Format(id) != s {
		return 0, ErrQueueID
	}
	return id, nil
}

func parse52(s string) (uint64, bool) {
	if len(s) > 9 {
		return 0, false
	}
	var v uint64
	for i := range len(s) {
		d := strings.IndexByte(base52, s[i])
		if d < 0 {
			return 0, false
		}
		v = v*52 + uint64(d)
	}
	return v, true
}
