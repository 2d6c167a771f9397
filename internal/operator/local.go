package operator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"posthouse/internal/mail"
	"posthouse/internal/spool"
)

// Queue is what is needed of the queue; *queue.Queue has it.
type Queue interface {
	Act(ctx context.Context, verb Verb, sel Selection, who Actor) (Report, error)
	// List calls each with a copy of every message until it returns false.
	// No lock is held during a call.
	List(each func(*View) bool)
	Counts() Counts
	Destinations() []DestinationView
	// Message returns spool.ErrNotFound, wrapped, for an ID that names nothing.
	Message(id mail.QueueID) (*mail.Message, mail.QueueName, error)
}

// Spool is what is needed of the spool; every spool.Store has it.
type Spool interface {
	Content(id mail.QueueID) (spool.Content, error)
	Space() (spool.Space, error)
}

// Maildrop is the messages that local programs left and the server has not
// taken yet.
type Maildrop interface {
	// List calls each for every complete message until it returns false.
	List(each func(*mail.Envelope) bool) error
	// Delete removes a message in a way that can be undone for a while, and
	// tells whether there was one.
	Delete(id mail.QueueID) (bool, error)
}

// Parts are what an Operator over a queue is made of.
type Parts struct {
	Queue    Queue
	Spool    Spool
	Maildrop Maildrop // nil: there is none

	Version   string
	PID       int
	Started   time.Time
	ConfigDir string
	Now       func() time.Time // nil is time.Now

	// The verbs about the process. A nil function answers ErrUnsupported.
	Pickup func()
	Reload func(ctx context.Context) error
	Stop   func(ctx context.Context) error
}

// local is the Operator over a queue in this process.
type local struct {
	Parts
}

// New returns the Operator over a queue of this process: in the server, or in
// a command that opened the spool itself.
func New(p Parts) Operator {
	if p.Now == nil {
		p.Now = time.Now
	}
	return &local{Parts: p}
}

// List shows the maildrop first, as Postfix does.
func (l *local) List(ctx context.Context, each func(*View) bool) error {
	more := true
	if l.Maildrop != nil {
		err := l.Maildrop.List(func(env *mail.Envelope) bool {
			more = ctx.Err() == nil && each(maildropView(env))
			return more
		})
		if err != nil {
			return fmt.Errorf("list maildrop: %w", err)
		}
	}
	if more && ctx.Err() == nil {
		l.Queue.List(func(v *View) bool { return ctx.Err() == nil && each(v) })
	}
	return ctx.Err()
}

func maildropView(env *mail.Envelope) *View {
	v := &View{Queue: mail.Maildrop, ID: env.ID, Arrival: env.Arrival, Size: env.Size, Sender: env.Sender, Origin: mail.FromLocal}
	for i := range env.Recipients {
		v.Recipients = append(v.Recipients, RecipientView{Address: env.Recipients[i].Address})
	}
	return v
}

// Counts adds the maildrop to the queue's own.
func (l *local) Counts(context.Context) (Counts, error) {
	c := l.Queue.Counts()
	if l.Maildrop == nil {
		return c, nil
	}
	n, size := 0, int64(0)
	err := l.Maildrop.List(func(env *mail.Envelope) bool {
		n++
		size += env.Size
		return true
	})
	if err != nil {
		return c, fmt.Errorf("count maildrop: %w", err)
	}
	if n > 0 {
		// The maps belong to the queue's answer; it made them for us.
		c.Messages[mail.Maildrop] += n
		c.Bytes[mail.Maildrop] += size
	}
	return c, nil
}

func (l *local) Status(ctx context.Context) (*Status, error) {
	counts, err := l.Counts(ctx)
	if err != nil {
		return nil, err
	}
	s := &Status{
		Version: l.Version, PID: l.PID, Started: l.Started, Uptime: l.Now().Sub(l.Started),
		ConfigDir: l.ConfigDir, Counts: counts, Destinations: l.Queue.Destinations(),
	}
	space, err := l.Spool.Space()
	if err != nil {
		return nil, fmt.Errorf("status: %w", err)
	}
	s.Space = Space{Free: space.Free, Reserve: space.Reserve, Used: space.Used, Live: space.Live}
	return s, nil
}

// Act applies the verb to the queue and, since deleting is the one thing that
// can happen to a message in the maildrop, Delete to the maildrop as well.
func (l *local) Act(ctx context.Context, verb Verb, sel Selection, who Actor) (Report, error) {
	if verb == Retry && l.Parts.Pickup != nil {
		l.Parts.Pickup()
	}
	rep, err := l.Queue.Act(ctx, verb, sel, who)
	if err != nil || verb != Delete || l.Maildrop == nil || !covers(sel, mail.Maildrop) {
		return rep, err
	}
	return l.deleteMaildrop(sel, rep)
}

func covers(sel Selection, q mail.QueueName) bool {
	return len(sel.Queues) == 0 || slices.Contains(sel.Queues, q)
}

func (l *local) deleteMaildrop(sel Selection, rep Report) (Report, error) {
	ids := sel.IDs
	if sel.All {
		ids = nil
		if err := l.Maildrop.List(func(env *mail.Envelope) bool {
			ids = append(ids, env.ID)
			return true
		}); err != nil {
			return rep, fmt.Errorf("delete from maildrop: %w", err)
		}
	} else if rep.Missed == 0 {
		return rep, nil
	}
	for _, id := range ids {
		found, err := l.Maildrop.Delete(id)
		if err != nil {
			return rep, fmt.Errorf("delete from maildrop: %w", err)
		}
		if !found {
			continue
		}
		rep.Outcomes = append(rep.Outcomes, Outcome{ID: id, From: mail.Maildrop})
		if !sel.All {
			rep.Missed--
		}
	}
	return rep, nil
}

func (l *local) Message(_ context.Context, id mail.QueueID) (*Stored, error) {
	m, name, err := l.Queue.Message(id)
	if err == nil {
		var c spool.Content
		if c, err = l.Spool.Content(id); err == nil {
			return &Stored{Message: m, Queue: name, Content: c}, nil
		}
	}
	if errors.Is(err, spool.ErrNotFound) {
		return nil, fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	return nil, err
}

func (l *local) Pickup(context.Context) error {
	if l.Parts.Pickup == nil {
		return ErrUnsupported
	}
	l.Parts.Pickup()
	return nil
}

func (l *local) Reload(ctx context.Context, _ Actor) error {
	if l.Parts.Reload == nil {
		return ErrUnsupported
	}
	return l.Parts.Reload(ctx)
}

func (l *local) Stop(ctx context.Context, _ Actor) error {
	if l.Parts.Stop == nil {
		return ErrUnsupported
	}
	return l.Parts.Stop(ctx)
}
