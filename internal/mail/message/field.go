package message

// Field is a header field that intake has business with.
type Field uint8

// The fields. Other is every field not named here.
const (
	Other Field = iota
	Received
	MessageID
	Date
	From
	To
	Cc
	Bcc
	ReturnPath
	ContentLength
	ResentMessageID
	ResentDate
	ResentFrom
	ResentSender
	ResentReplyTo
	ResentTo
	ResentCc
	ResentBcc
	fieldCount
)

// FieldSet is a set of fields.
type FieldSet uint32

// Fields returns the set of the given fields.
func Fields(list ...Field) FieldSet {
	var s FieldSet
	for _, f := range list {
		s |= 1 << f
	}
	return s
}

// Has tells whether f is in the set.
func (s FieldSet) Has(f Field) bool { return s&(1<<f) != 0 }

// Union returns the fields of both sets.
func (s FieldSet) Union(t FieldSet) FieldSet { return s | t }

const (
	// DroppedFields never travel (Postfix: message_drop_headers). Bcc would
	// tell what its author wanted hidden; Return-Path is written by the final
	// delivery (RFC 5321 §4.4); a Content-Length is wrong after any change.
	DroppedFields FieldSet = 1<<Bcc | 1<<ResentBcc | 1<<ReturnPath | 1<<ContentLength

	// ResentFields mark a message that its reader sent on (RFC 5322 §3.6.6).
	// Missing fields are then added in their resent form, and the recipients
	// are those of the resent fields alone.
	ResentFields FieldSet = 1<<ResentMessageID | 1<<ResentDate | 1<<ResentFrom | 1<<ResentSender |
		1<<ResentReplyTo | 1<<ResentTo | 1<<ResentCc | 1<<ResentBcc

	// RecipientFields and ResentRecipientFields name recipients.
	RecipientFields       FieldSet = 1<<To | 1<<Cc | 1<<Bcc
	ResentRecipientFields FieldSet = 1<<ResentTo | 1<<ResentCc | 1<<ResentBcc
)

// lookup finds a field by its name, in any case. The length settles most
// names of real mail before a byte is compared.
func lookup(name []byte) Field {
	switch len(name) {
	case 2:
		return pick(name, "to", To, "cc", Cc)
	case 3:
		return pick(name, "bcc", Bcc, "", Other)
	case 4:
		return pick(name, "from", From, "date", Date)
	case 8:
		return pick(name, "received", Received, "", Other)
	case 9:
		return pick(name, "resent-to", ResentTo, "resent-cc", ResentCc)
	case 10:
		return pick(name, "message-id", MessageID, "resent-bcc", ResentBcc)
	case 11:
		if f := pick(name, "resent-from", ResentFrom, "resent-date", ResentDate); f != Other {
			return f
		}
		return pick(name, "return-path", ReturnPath, "", Other)
	case 13:
		return pick(name, "resent-sender", ResentSender, "", Other)
	case 14:
		return pick(name, "content-length", ContentLength, "", Other)
	case 15:
		return pick(name, "resent-reply-to", ResentReplyTo, "", Other)
	case 17:
		return pick(name, "resent-message-id", ResentMessageID, "", Other)
	}
	return Other
}

func pick(name []byte, a string, fa Field, b string, fb Field) Field {
	switch {
	case equalFold(name, a):
		return fa
	case b != "" && equalFold(name, b):
		return fb
	}
	return Other
}

// equalFold compares a name with a lower-case word of the same length.
func equalFold(name []byte, lower string) bool {
	for i, c := range name {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// nameEnd returns where the field name of line ends and where its colon is;
// colon is -1 when the line is not shaped like a field (RFC 5322 §2.2, with
// the blanks before the colon of §4.5.8).
func nameEnd(line []byte) (end, colon int) {
	for end < len(line) && line[end] > ' ' && line[end] < 127 && line[end] != ':' {
		end++
	}
	if end == 0 {
		return 0, -1
	}
	for colon = end; colon < len(line) && (line[colon] == ' ' || line[colon] == '\t'); colon++ {
	}
	if colon == len(line) || line[colon] != ':' {
		return end, -1
	}
	return end, colon
}
