package spool

import "posthouse/internal/mail"

// Tags of an envelope. The numbers are stored: only append.
const (
	tagEnvID = iota + 1
	tagEnvArrival
	tagEnvSender
	tagEnvSize
	tagEnvMessageID
	tagEnvOrigin
	tagEnvClient
	tagEnvFullName
	tagEnvOrigID
	tagEnvBody8Bit
	tagEnvSMTPUTF8
	tagEnvEnvelopeID
	tagEnvRet
	tagEnvRecipientCount
	tagEnvRecipient
)

// Tags of an envelope's client. The numbers are stored: only append.
const (
	tagClientName = iota + 1
	tagClientReverseName
	tagClientAddr
	tagClientPort
	tagClientHelo
	tagClientProtocol
	tagClientTLS
	tagClientServerAddr
	tagClientServerPort
	tagClientSASLMethod
	tagClientSASLUser
	tagClientSASLSender
	tagClientUID
)

// Tags of an envelope's recipient. The numbers are stored: only append.
const (
	tagToAddress = iota + 1
	tagToOrigAddress
	tagToDSNOriginal
	tagToNotify
)

// AppendEnvelope writes an envelope to b.
func AppendEnvelope(b []byte, e *mail.Envelope) []byte {
	b = append(b, codecFormat)
	b = appendUint(b, tagEnvID, uint64(e.ID))
	b = appendTime(b, tagEnvArrival, e.Arrival)
	b = appendString(b, tagEnvSender, e.Sender)
	b = appendInt(b, tagEnvSize, e.Size)
	b = appendString(b, tagEnvMessageID, e.MessageID)
	b = appendUint(b, tagEnvOrigin, uint64(e.Origin))
	b = appendNested(b, tagEnvClient, func(b []byte) []byte { return appendClient(b, &e.Client) })
	b = appendString(b, tagEnvFullName, e.FullName)
	b = appendUint(b, tagEnvOrigID, uint64(e.OrigID))
	b = appendBool(b, tagEnvBody8Bit, e.Body8Bit)
	b = appendBool(b, tagEnvSMTPUTF8, e.SMTPUTF8)
	b = appendString(b, tagEnvEnvelopeID, e.EnvelopeID)
	b = appendUint(b, tagEnvRet, uint64(e.Ret))
	b = appendUint(b, tagEnvRecipientCount, uint64(len(e.Recipients)))
	for i := range e.Recipients {
		r := &e.Recipients[i]
		b = appendNested(b, tagEnvRecipient, func(b []byte) []byte { return appendRecipient(b, r) })
	}
	return b
}

func appendClient(b []byte, c *mail.Client) []byte {
	b = appendString(b, tagClientName, c.Name)
	b = appendString(b, tagClientReverseName, c.ReverseName)
	b = appendString(b, tagClientAddr, c.Addr)
	b = appendUint(b, tagClientPort, uint64(c.Port))
	b = appendString(b, tagClientHelo, c.Helo)
	b = appendString(b, tagClientProtocol, c.Protocol)
	b = appendString(b, tagClientTLS, c.TLS)
	b = appendString(b, tagClientServerAddr, c.ServerAddr)
	b = appendUint(b, tagClientServerPort, uint64(c.ServerPort))
	b = appendString(b, tagClientSASLMethod, c.SASLMethod)
	b = appendString(b, tagClientSASLUser, c.SASLUser)
	b = appendString(b, tagClientSASLSender, c.SASLSender)
	return appendInt(b, tagClientUID, int64(c.UID))
}

func appendRecipient(b []byte, r *mail.Recipient) []byte {
	b = appendString(b, tagToAddress, r.Address)
	b = appendString(b, tagToOrigAddress, r.OrigAddress)
	b = appendString(b, tagToDSNOriginal, r.DSNOriginal)
	return appendUint(b, tagToNotify, uint64(r.Notify))
}

// minRecipientLen is the least a recipient takes inside an envelope: a key and
// a length. It bounds what a damaged recipient count can make us allocate.
const minRecipientLen = 2

// DecodeEnvelope reads what AppendEnvelope wrote. The error is ErrCorrupt or
// ErrFormat; what could be read is returned with it.
func DecodeEnvelope(b []byte) (mail.Envelope, error) {
	var e mail.Envelope
	r, err := open(b, "envelope")
	if err != nil {
		return e, err
	}
	var f field
	for r.next(&f) {
		switch f.tag {
		case tagEnvID:
			e.ID = mail.QueueID(f.num)
		case tagEnvArrival:
			e.Arrival = f.time()
		case tagEnvSender:
			e.Sender = mail.Address(f.text)
		case tagEnvSize:
			e.Size = f.int()
		case tagEnvMessageID:
			e.MessageID = f.text
		case tagEnvOrigin:
			e.Origin = mail.Origin(f.num)
		case tagEnvClient:
			e.Client = decodeClient(&r, f.text)
		case tagEnvFullName:
			e.FullName = f.text
		case tagEnvOrigID:
			e.OrigID = mail.QueueID(f.num)
		case tagEnvBody8Bit:
			e.Body8Bit = f.num != 0
		case tagEnvSMTPUTF8:
			e.SMTPUTF8 = f.num != 0
		case tagEnvEnvelopeID:
			e.EnvelopeID = f.text
		case tagEnvRet:
			e.Ret = mail.Ret(f.num)
		case tagEnvRecipientCount:
			e.Recipients = make([]mail.Recipient, 0, min(f.num, uint64(len(r.rest)/minRecipientLen)))
		case tagEnvRecipient:
			e.Recipients = append(e.Recipients, decodeRecipient(&r, f.text))
		}
	}
	return e, r.err("envelope")
}

func decodeClient(outer *fields, text string) (c mail.Client) {
	r, f := fields{rest: text}, field{}
	for r.next(&f) {
		switch f.tag {
		case tagClientName:
			c.Name = f.text
		case tagClientReverseName:
			c.ReverseName = f.text
		case tagClientAddr:
			c.Addr = f.text
		case tagClientPort:
			c.Port = uint16(f.num)
		case tagClientHelo:
			c.Helo = f.text
		case tagClientProtocol:
			c.Protocol = f.text
		case tagClientTLS:
			c.TLS = f.text
		case tagClientServerAddr:
			c.ServerAddr = f.text
		case tagClientServerPort:
			c.ServerPort = uint16(f.num)
		case tagClientSASLMethod:
			c.SASLMethod = f.text
		case tagClientSASLUser:
			c.SASLUser = f.text
		case tagClientSASLSender:
			c.SASLSender = f.text
		case tagClientUID:
			c.UID = int(f.int())
		}
	}
	outer.bad = outer.bad || r.bad
	return c
}

func decodeRecipient(outer *fields, text string) (to mail.Recipient) {
	r, f := fields{rest: text}, field{}
	for r.next(&f) {
		switch f.tag {
		case tagToAddress:
			to.Address = mail.Address(f.text)
		case tagToOrigAddress:
			to.OrigAddress = mail.Address(f.text)
		case tagToDSNOriginal:
			to.DSNOriginal = f.text
		case tagToNotify:
			to.Notify = mail.Notify(f.num)
		}
	}
	outer.bad = outer.bad || r.bad
	return to
}
