// Package spooltest is the conformance suite of spool.Store: one test for each
// promise of the contract, for every implementation to pass.
//
// It checks what can be seen through the interface, restarts included. What a
// crash may do, and faults of the disk, are for the tests of each
// implementation, which know what lies under it.
package spooltest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"posthouse/internal/mail"
	"posthouse/internal/spool"
)

// Factory makes spools for tests.
type Factory interface {
	// New returns a function that opens one fresh, empty spool, any number of
	// times, each after the Store from the last time was closed.
	New(t *testing.T) func() (spool.Store, error)
	// LargeSize is a content size that is not kept in memory.
	LargeSize() int
}

// Run runs the suite.
func Run(t *testing.T, f Factory) {
	for _, test := range []struct {
		name string
		run  func(*harness)
	}{
		{"NewSpoolIsEmpty", newSpoolIsEmpty},
		{"CommittedMessageIsRecoveredWhole", committedIsRecovered},
		{"CommitRefusesWrongSize", commitRefusesWrongSize},
		{"CommitUsesUpStaged", commitUsesUpStaged},
		{"EmptyContent", emptyContent},
		{"DiscardLeavesNothing", discardLeavesNothing},
		{"ContentOfEverySize", contentOfEverySize},
		{"ContentReadAt", contentReadAt},
		{"ContentNotFound", contentNotFound},
		{"ContentSurvivesRemoval", contentSurvivesRemoval},
		{"RemovedIsNotRecovered", removedIsNotRecovered},
		{"LatestStateIsRecovered", latestStateIsRecovered},
		{"RecipientStatesChangeOneByOne", recipientStates},
		{"MessageReadsCurrentState", messageReadsCurrent},
		{"RecoverYieldsInOrderOfID", recoverInOrder},
		{"RecoverStopsAtError", recoverStopsAtError},
		{"RecoverMayBeCanceled", recoverCanceled},
		{"LastIDSurvivesEmptySpool", lastIDSurvives},
		{"BatchAppliesInOrder", batchInOrder},
		{"ApplyAsyncKeepsOrder", asyncKeepsOrder},
		{"ApplyAsyncReportsOnce", asyncReports},
		{"KVGetPutDelete", kvGetPutDelete},
		{"KVScanIsOrderedAndBounded", kvScan},
		{"KVIsRecovered", kvIsRecovered},
		{"ConcurrentCommitters", concurrentCommitters},
		{"ConcurrentLifeCycles", concurrentLifeCycles},
		{"ContextEndsWait", contextEndsWait},
		{"SpaceCountsContents", spaceCounts},
		{"SecondOpenIsLocked", secondOpenIsLocked},
		{"ClosedStoreRefuses", closedRefuses},
		{"CloseKeepsWhatWasSubmitted", closeKeeps},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := &harness{T: t, large: f.LargeSize(), reopen: f.New(t)}
			h.open()
			t.Cleanup(h.close)
			test.run(h)
		})
	}
}

// harness is one spool under test.
type harness struct {
	*testing.T
	large     int
	reopen    func() (spool.Store, error)
	st        spool.Store
	recovered []*mail.Message // by the last open
	found     spool.Recovered
}

func (h *harness) open() {
	h.Helper()
	st, err := h.reopen()
	if err != nil {
		h.Fatalf("open: %v", err)
	}
	h.st, h.recovered = st, nil
	h.found, err = st.Recover(context.Background(), func(m *mail.Message) error {
		h.recovered = append(h.recovered, m)
		return nil
	})
	if err != nil {
		h.Fatalf("recover: %v", err)
	}
}

func (h *harness) close() {
	if h.st != nil {
		h.must(h.st.Close())
		h.st = nil
	}
}

func (h *harness) restart() {
	h.Helper()
	h.close()
	h.open()
}

func (h *harness) must(err error) {
	h.Helper()
	if err != nil {
		h.Fatal(err)
	}
}

// Envelope returns an envelope with every field set, for content of a size.
func Envelope(id mail.QueueID, size int, recipients int) mail.Envelope {
	e := mail.Envelope{
		ID: id, Arrival: time.Unix(1_700_000_000, int64(id)), Sender: "sender@example.com", Size: int64(size),
		MessageID: fmt.Sprintf("<%d@example.com>", id), Origin: mail.FromSMTP,
		Client: mail.Client{Name: "client.example.com", Addr: "192.0.2.1", Helo: "client", Protocol: "ESMTP", UID: -1},
	}
	for i := range recipients {
		e.Recipients = append(e.Recipients, mail.Recipient{Address: mail.Address(fmt.Sprintf("rcpt%d@example.net", i)), Notify: mail.NotifyFailure})
	}
	return e
}

// Body returns content of a size that differs by ID.
func Body(id mail.QueueID, size int) []byte {
	line := fmt.Appendf(nil, "Subject: %d\r\n\r\nbody of %d.\r\n", id, id)
	return bytes.Repeat(line, size/len(line)+1)[:size]
}

// Commit stages and commits content for an envelope.
func Commit(ctx context.Context, st spool.Store, env *mail.Envelope, content []byte) error {
	s, err := st.Stage(int64(len(content)))
	if err != nil {
		return err
	}
	for part := range slices.Chunk(content, 3000) {
		if _, err := s.Write(part); err != nil {
			s.Discard()
			return err
		}
	}
	return st.Commit(ctx, env, s)
}

func (h *harness) commit(id mail.QueueID, size, recipients int) mail.Envelope {
	h.Helper()
	env := Envelope(id, size, recipients)
	h.must(Commit(context.Background(), h.st, &env, Body(id, size)))
	return env
}

func (h *harness) apply(ops ...spool.Op) {
	h.Helper()
	h.must(h.st.Apply(context.Background(), (&spool.Batch{}).Add(ops...)))
}

// read returns a message's content.
func read(st spool.Store, id mail.QueueID) ([]byte, error) {
	c, err := st.Content(id)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.NewSectionReader(c, 0, c.Size()))
	if whole := c.Bytes(); err == nil && whole != nil && !bytes.Equal(whole, b) {
		err = errors.New("Bytes and ReadAt differ")
	}
	return b, errors.Join(err, c.Close())
}

func (h *harness) wantContent(id mail.QueueID, size int) {
	h.Helper()
	b, err := read(h.st, id)
	if err != nil || !bytes.Equal(b, Body(id, size)) {
		h.Errorf("content of %d: %d bytes, error %v; want %d bytes as written", id, len(b), err, size)
	}
}

var same = cmp.Options{cmpopts.EquateEmpty()}

func (h *harness) wantRecovered(want ...*mail.Message) {
	h.Helper()
	if d := cmp.Diff(want, h.recovered, same); d != "" {
		h.Errorf("recovered (-want +got):\n%s", d)
	}
	if h.found.Messages != len(want) {
		h.Errorf("Recovered.Messages is %d, want %d", h.found.Messages, len(want))
	}
}

func (h *harness) wantKV(key, want string) {
	h.Helper()
	if got, err := h.st.Get([]byte(key)); err != nil || string(got) != want {
		h.Errorf("Get(%q) = %q, %v; want %q", key, got, err, want)
	}
}

func (h *harness) wantNoKV(key string) {
	h.Helper()
	if got, err := h.st.Get([]byte(key)); !errors.Is(err, spool.ErrNotFound) {
		h.Errorf("Get(%q) = %q, %v; want ErrNotFound", key, got, err)
	}
}

// inParallel runs n functions at once.
func inParallel(n int, run func(i int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { run(i) })
	}
	wg.Wait()
}
