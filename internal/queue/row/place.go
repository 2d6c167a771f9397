package row

import "posthouse/internal/mail"

// Place is a queue's place in listings.
type Place uint8

// The places, in the order of listings. Nowhere is not counted.
const (
	Maildrop Place = iota
	Active
	Incoming
	Deferred
	Hold
	SetAside // mail.Corrupt
	Trash
	Places
	Nowhere = Places
)

// Name is the queue's name.
func (p Place) Name() mail.QueueName {
	switch p {
	case Maildrop:
		return mail.Maildrop
	case Active:
		return mail.Active
	case Incoming:
		return mail.Incoming
	case Hold:
		return mail.Hold
	case SetAside:
		return mail.Corrupt
	case Trash:
		return mail.Trash
	default:
		return mail.Deferred
	}
}
