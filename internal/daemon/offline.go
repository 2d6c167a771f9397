package daemon

import (
	"context"
	"errors"
	"fmt"
	"time"

	"posthouse/internal/intake/pickup"
	"posthouse/internal/operator"
	"posthouse/internal/queue"
)

// Offline opens the spool that a configuration names, without a relay, and
// returns an operator over it and how to close it. The error wraps
// spool.ErrLocked while a relay runs.
func Offline(p Program, configDir string) (operator.Operator, func() error, error) {
	s, err := load(configDir, p.Diag)
	if err != nil {
		return nil, nil, err
	}
	if err := s.paths.create(); err != nil {
		return nil, nil, err
	}
	w, err := s.log.open()
	if err != nil {
		return nil, nil, fmt.Errorf("open log: %w", err)
	}
	store, err := openStore(s, w)
	if err != nil {
		return nil, nil, errors.Join(err, w.Close())
	}
	q := queue.New(s.queue, queue.Deps{Store: store, Log: w})
	closeAll := func() error { return errors.Join(store.Close(), w.Close()) }
	if _, err := q.Recover(context.Background()); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("read the spool: %w", err), closeAll())
	}
	op := operator.New(operator.Parts{
		Queue: q, Spool: store, Maildrop: pickup.NewMaildrop(s.paths.queue),
		Version: p.Version, Started: time.Now(), ConfigDir: configDir,
	})
	return op, closeAll, nil
}
