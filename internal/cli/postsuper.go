package cli

import (
	"bufio"
	"errors"
	"path/filepath"
	"slices"
	"strings"

	"posthouse/internal/cli/getopt"
	"posthouse/internal/mail"
	"posthouse/internal/operator"
	"posthouse/internal/operator/control"
)

const postsuperUsage = "usage: postsuper [-c config_dir] [-d queue_id (delete)] [-e queue_id (expire)] [-f queue_id (expire and/or un-hold)]" +
	" [-h queue_id (hold)] [-H queue_id (un-hold)] [-p (purge temporary files)] [-r queue_id (requeue)]" +
	" [-s (structure fix)] [-S (redundant structure fix)][-v (verbose)] [queue...]"

// superBatch is how many IDs from standard input go into one request.
const superBatch = 1000

// superAction is what one option letter does, in one step or (-f) two.
type superAction struct {
	verb   operator.Verb
	queues []mail.QueueName // that it acts on
	done   string           // "ID: removed"
	total  string           // "Deleted: N messages"
}

// The steps, in the order of their summaries.
const (
	superRequeue = iota
	superDelete
	superExpire
	superHold
	superRelease
	superSteps
)

func superActions() [superSteps]superAction {
	moving := []mail.QueueName{mail.Incoming, mail.Active, mail.Deferred}
	withHold := append(slices.Clone(moving), mail.Hold)
	return [superSteps]superAction{
		superRequeue: {operator.Requeue, withHold, "requeued", "Requeued"},
		superDelete:  {operator.Delete, append([]mail.QueueName{mail.Maildrop}, withHold...), "removed", "Deleted"},
		superExpire:  {operator.Expire, withHold, "expired", "Force-expired"},
		superHold:    {operator.Hold, moving, "placed on hold", "Placed on hold"},
		superRelease: {operator.Release, []mail.QueueName{mail.Hold}, "released from hold", "Released from hold"},
	}
}

// super is one run of postsuper.
type super struct {
	*process
	op      operator.Operator
	actions [superSteps]superAction
	only    []mail.QueueName // queues named on the command line; nil: all
	asked   [superSteps]bool
	count   [superSteps]int
}

// superStep is one option with its argument.
type superStep struct {
	letter byte
	id     string
}

// runPostsuper is postsuper(1): delete, hold, release, requeue and expire.
func runPostsuper(p *process, args []string) int {
	var steps []superStep
	var config string
	verbose, repair := false, false
	opt := getopt.New("c:d:e:f:h:H:pr:sSv", args)
	for opt.Next() {
		switch opt.Opt {
		case 'c':
			if !filepath.IsAbs(opt.Arg) {
				return p.fatal(1, "-c requires absolute pathname")
			}
			config = opt.Arg
		case 'd', 'e', 'f', 'h', 'H', 'r':
			steps = append(steps, superStep{opt.Opt, opt.Arg})
		case 'p', 's', 'S':
			repair = true
		case 'v':
			verbose = true
		default:
			p.info("%s", opt.Complaint)
			return p.fatal(1, postsuperUsage)
		}
	}
	s := p.settings(config)
	if s == nil {
		return 1
	}
	if !p.mayAdminister(s) {
		return p.fatal(1, "use of this command is reserved for the superuser")
	}
	only, bad := superQueues(opt.Operands())
	if bad != "" {
		return p.fatal(1, "invalid directory name: %s", bad)
	}
	if verbose && (repair || len(steps) == 0) {
		p.showQueues(opt.Operands())
	}
	if len(steps) == 0 {
		// -p, -s and -S repair directories of queue files; there are none.
		return 0
	}
	return p.super(s, steps, only)
}

// superQueues checks the queue names. Those of log directories are legal, and
// hold no messages.
func superQueues(names []string) (only []mail.QueueName, bad string) {
	if len(names) == 0 {
		return nil, ""
	}
	only = []mail.QueueName{}
	for _, name := range names {
		switch name {
		case "maildrop", "incoming", "active", "deferred", "hold":
			only = append(only, mail.QueueName(name))
		case "trace", "defer", "bounce", "flush":
		default:
			return nil, name
		}
	}
	return only, ""
}

func (p *process) showQueues(names []string) {
	if len(names) == 0 {
		names = []string{"defer", "bounce", "maildrop", "incoming", "active", "deferred", "hold", "flush"}
	}
	for _, name := range names {
		p.info("queue: %s", name)
	}
}

// super runs the steps, on the server or, without one, on the spool.
func (p *process) super(s *settings, steps []superStep, only []mail.QueueName) int {
	x := &super{process: p, op: s.client(), actions: superActions(), only: only}
	if _, err := x.op.Counts(p.ctx); errors.Is(err, control.ErrUnreachable) {
		op, done, err := p.offline(s)
		if err != nil {
			return p.fatal(1, "open the mail queue: %s", withoutOp(err))
		}
		x.op = op
		defer func() {
			if err := done(); err != nil {
				p.warn("close the mail queue: %v", err)
			}
		}()
	} else if err != nil {
		return p.fatal(1, "%v", err)
	}
	var failed error
	for _, step := range steps {
		if failed = x.step(step); failed != nil {
			break
		}
	}
	// What was done is told, whether or not all of it was.
	x.summary()
	if failed != nil {
		return p.fatal(1, "%v", failed)
	}
	return 0
}

func (x *super) summary() {
	for i, a := range x.actions {
		if x.asked[i] {
			plural := "s"
			if x.count[i] == 1 {
				plural = ""
			}
			x.info("%s: %d message%s", a.total, x.count[i], plural)
		}
	}
}

// kinds are the steps that an option letter stands for.
func kinds(letter byte) []int {
	switch letter {
	case 'r':
		return []int{superRequeue}
	case 'd':
		return []int{superDelete}
	case 'e':
		return []int{superExpire}
	case 'h':
		return []int{superHold}
	case 'H':
		return []int{superRelease}
	default: // -f
		return []int{superExpire, superRelease}
	}
}

func (x *super) step(s superStep) error {
	for _, k := range kinds(s.letter) {
		x.asked[k] = true
	}
	switch s.id {
	case "ALL":
		for _, k := range kinds(s.letter) {
			if _, err := x.act(k, operator.Selection{All: true}); err != nil {
				return err
			}
		}
		return nil
	case "-":
		return x.fromInput(s.letter)
	default:
		return x.ids(s.letter, []string{s.id})
	}
}

// fromInput takes IDs from standard input, one on a line, nothing trimmed.
func (x *super) fromInput(letter byte) error {
	in := bufio.NewReader(x.std.In)
	var batch []string
	for {
		line, err := in.ReadString('\n')
		if line != "" {
			batch = append(batch, strings.TrimSuffix(line, "\n"))
		}
		if len(batch) >= superBatch || err != nil {
			if err := x.ids(letter, batch); err != nil {
				return err
			}
			batch = batch[:0]
		}
		if err != nil {
			return nil
		}
	}
}

// ids acts on messages by ID and tells about each.
func (x *super) ids(letter byte, words []string) error {
	var ids []mail.QueueID
	for _, w := range words {
		if id, err := mail.ParseQueueID(w); err == nil && mail.LegalQueueID(w) {
			ids = append(ids, id)
		}
	}
	steps := kinds(letter)
	done := make([]map[mail.QueueID]operator.Outcome, len(steps))
	for i, k := range steps {
		var err error
		if done[i], err = x.act(k, operator.Selection{IDs: ids}); err != nil {
			return err
		}
	}
	for _, w := range words {
		if !mail.LegalQueueID(w) {
			x.warn("invalid mail queue id: %s", w)
			continue
		}
		id, err := mail.ParseQueueID(w)
		if err != nil {
			continue // legal, but no message ever had it
		}
		for i, k := range steps {
			if _, ok := done[i][id]; ok {
				x.info("%s: %s", w, x.actions[k].done)
				delete(done[i], id)
			}
		}
	}
	return nil
}

// act applies one step within the queues that both the step and the command
// line mean, and counts.
func (x *super) act(k int, sel operator.Selection) (map[mail.QueueID]operator.Outcome, error) {
	a := &x.actions[k]
	sel.Queues = a.queues
	if x.only != nil {
		sel.Queues = nil
		for _, q := range a.queues {
			if slices.Contains(x.only, q) {
				sel.Queues = append(sel.Queues, q)
			}
		}
	}
	// An empty list of queues would mean all of them.
	if len(sel.Queues) == 0 || !sel.All && len(sel.IDs) == 0 {
		return nil, nil
	}
	rep, err := x.op.Act(x.ctx, a.verb, sel, x.actor())
	out := make(map[mail.QueueID]operator.Outcome, len(sel.IDs))
	for _, o := range rep.Outcomes {
		if o.Delivered {
			// Too late: it was past its final dot, and is delivered.
			continue
		}
		x.count[k]++
		if !sel.All {
			out[o.ID] = o
		}
	}
	return out, err
}
