package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"posthouse/internal/mail"
	"posthouse/internal/operator"
)

// Client is an Operator that asks a Server. It keeps no connection between
// calls, so it is as good after the server was restarted as before.
type Client struct {
	path     string
	patience time.Duration
}

var _ operator.Operator = (*Client)(nil)

// NewClient returns a client of the server at path. Nothing is connected yet.
func NewClient(path string) *Client {
	// An answer to Act may take as long as a delivery past its final dot.
	return &Client{path: path, patience: 15 * time.Minute}
}

// call sends a request and hands the parts of the answer to part until the
// last frame comes.
func (c *Client) call(ctx context.Context, req request, part func(kind byte, payload []byte) error) (*result, error) {
	conn, err := dial(ctx, c.path)
	if err != nil {
		return nil, unreachable(err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	res, err := c.exchange(newLink(conn, c.patience), req, part)
	if err != nil && ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return res, err
}

func (c *Client) exchange(l *link, req request, part func(kind byte, payload []byte) error) (*result, error) {
	req.Version = protocolVersion
	if err := l.sendJSON(kindRequest, req); err != nil {
		return nil, gone(err)
	}
	for {
		kind, payload, err := l.receive()
		if err != nil {
			return nil, gone(err)
		}
		switch kind {
		case kindResult:
			var res result
			if err := json.Unmarshal(payload, &res); err != nil {
				return nil, fmt.Errorf("%w: %w", ErrProtocol, err)
			}
			return &res, nil
		case kindError:
			var f failure
			if err := json.Unmarshal(payload, &f); err != nil {
				return nil, fmt.Errorf("%w: %w", ErrProtocol, err)
			}
			return nil, f.err()
		}
		if part == nil {
			return nil, fmt.Errorf("%w: unexpected frame %q", ErrProtocol, kind)
		}
		if err := part(kind, payload); err != nil {
			return nil, err
		}
	}
}

// unreachable marks a failure to connect: there is no socket, no one listens
// there, or the user may not even get at it.
func unreachable(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return fmt.Errorf("%w: %w", ErrUnreachable, errno)
	}
	var pe *os.PathError
	if errors.As(err, &pe) {
		return fmt.Errorf("%w: %w", ErrUnreachable, pe.Err)
	}
	return err
}

// gone says that the server went away in the middle.
func gone(err error) error {
	if errors.Is(err, ErrProtocol) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrLost, err)
}

// errEnough ends a list that the caller wants no more of.
var errEnough = errors.New("enough")

// List streams the queue.
func (c *Client) List(ctx context.Context, each func(*operator.View) bool) error {
	d := newDecoder()
	_, err := c.call(ctx, request{Op: opList}, func(kind byte, payload []byte) error {
		if kind != kindViews {
			return fmt.Errorf("%w: unexpected frame %q", ErrProtocol, kind)
		}
		more, err := d.decode(payload, each)
		if err == nil && !more {
			err = errEnough
		}
		return err
	})
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

// Counts asks for the sizes of the queues.
func (c *Client) Counts(ctx context.Context) (operator.Counts, error) {
	res, err := c.call(ctx, request{Op: opCounts}, nil)
	if err != nil {
		return operator.Counts{}, err
	}
	if res.Counts == nil {
		return operator.Counts{}, fmt.Errorf("%w: no counts", ErrProtocol)
	}
	return *res.Counts, nil
}

// Status asks how the server stands.
func (c *Client) Status(ctx context.Context) (*operator.Status, error) {
	res, err := c.call(ctx, request{Op: opStatus}, nil)
	if err != nil {
		return nil, err
	}
	if res.Status == nil {
		return nil, fmt.Errorf("%w: no status", ErrProtocol)
	}
	return res.Status, nil
}

// Act applies a verb. Of who only Via counts: the server knows the user.
func (c *Client) Act(ctx context.Context, verb operator.Verb, sel operator.Selection, who operator.Actor) (operator.Report, error) {
	var rep operator.Report
	res, err := c.call(ctx, request{Op: opAct, Verb: verb, Selection: sel, Via: who.Via}, func(kind byte, payload []byte) error {
		var part []operator.Outcome
		if kind != kindOutcome {
			return fmt.Errorf("%w: unexpected frame %q", ErrProtocol, kind)
		}
		if err := json.Unmarshal(payload, &part); err != nil {
			return fmt.Errorf("%w: %w", ErrProtocol, err)
		}
		rep.Outcomes = append(rep.Outcomes, part...)
		return nil
	})
	if err != nil {
		return rep, err
	}
	rep.Missed = res.Missed
	return rep, nil
}

// Message fetches a message; its content is read piece by piece as it is asked for.
func (c *Client) Message(ctx context.Context, id mail.QueueID) (*operator.Stored, error) {
	res, err := c.call(ctx, request{Op: opMessage, ID: id}, nil)
	if err != nil {
		return nil, err
	}
	if res.Message == nil {
		return nil, fmt.Errorf("%w: no message", ErrProtocol)
	}
	content := &remoteContent{ctx: ctx, client: c, id: id, size: res.Size}
	return &operator.Stored{Message: res.Message, Queue: res.Queue, Content: content}, nil
}

// remoteContent reads content over the socket. The context is that of the
// call that opened it: an io.ReaderAt has none of its own.
type remoteContent struct {
	ctx    context.Context
	client *Client
	id     mail.QueueID
	size   int64
}

func (r *remoteContent) Size() int64  { return r.size }
func (r *remoteContent) Close() error { return nil }

func (r *remoteContent) ReadAt(p []byte, off int64) (n int, err error) {
	for n < len(p) && off+int64(n) < r.size {
		got := 0
		req := request{Op: opRead, ID: r.id, Offset: off + int64(n), Length: min(len(p)-n, maxRead)}
		if _, err := r.client.call(r.ctx, req, func(kind byte, payload []byte) error {
			if kind != kindData {
				return fmt.Errorf("%w: unexpected frame %q", ErrProtocol, kind)
			}
			got += copy(p[n:], payload)
			return nil
		}); err != nil {
			return n, err
		}
		if got == 0 {
			return n, io.ErrUnexpectedEOF
		}
		n += got
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// Pickup makes the server look into the maildrop.
func (c *Client) Pickup(ctx context.Context) error {
	_, err := c.call(ctx, request{Op: opPickup}, nil)
	return err
}

// Reload makes the server read its configuration again.
func (c *Client) Reload(ctx context.Context, who operator.Actor) error {
	_, err := c.call(ctx, request{Op: opReload, Via: who.Via}, nil)
	return err
}

// Stop makes the server end.
func (c *Client) Stop(ctx context.Context, who operator.Actor) error {
	_, err := c.call(ctx, request{Op: opStop, Via: who.Via}, nil)
	if errors.Is(err, ErrLost) {
		return nil // it ended before it could say that it will
	}
	return err
}
